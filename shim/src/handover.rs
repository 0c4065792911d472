//! The standard streams of a client that has descriptors where containerd has FIFOs.
//!
//! The client (`hull-runtime`) listens on a socket and names it in the Task API's stream fields as
//! `hull-fds://PATH`. The shim connects and gets one packet: JSON that says what the descriptors
//! beside it are. The streams then belong to the shim, and outlive the client.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::fd_stream;
use crate::holder::Request;
use crate::preserved::{Direction, Preserved};
use crate::stdio::Endpoints;

/// Scheme of the stream fields.
const SCHEME: &str = "hull-fds://";
/// Most descriptors in one handover.
const MAX_FDS: usize = 5 + hull_protocol::MAX_PRESERVED;
/// Longest header, in bytes.
const MAX_HEADER_BYTES: usize = 4096;
/// How long a client has for each step of a handover.
const STEP_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stream {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A terminal in raw mode, for all of them.
    Terminal,
    /// The link to the process's holder, which is a child of the client's.
    Holder,
    /// `cgroup.procs` of the cgroup that the container's VM is to be in.
    Cgroup,
    /// What the process has as the next descriptor from 3 on.
    Preserved(Direction),
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    fds: Vec<Stream>,
    #[serde(default)]
    listen_fds: u32,
    #[serde(default)]
    sub_cgroup: String,
    #[serde(default)]
    plain_newlines: bool,
}

/// What a client hands over for one process.
#[derive(Debug, Default)]
pub struct Handover {
    /// The descriptors.
    pub fds: Vec<(Stream, OwnedFd)>,
    /// How many of the preserved ones `LISTEN_FDS` counts.
    pub listen_fds: u32,
    /// The group of an exec, below the container's own; empty: that one.
    pub sub_cgroup: String,
    /// The guest's terminal leaves line feeds as they are.
    pub plain_newlines: bool,
}

/// The value of the stream fields for a client that listens at `path`.
pub fn address(path: &Path) -> String {
    format!("{SCHEME}{}", path.display())
}

/// The socket that stream fields name, if they name one.
pub(crate) fn socket_of(stream: &str) -> Option<PathBuf> {
    stream.strip_prefix(SCHEME).map(PathBuf::from)
}

/// A client's socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, whose directory exists.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        let socket = seqpacket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        let listener = Self { socket, path };
        rustix::net::listen(&listener.socket, 1)?;
        Ok(listener)
    }

    /// The value of the stream fields.
    pub fn address(&self) -> String {
        address(&self.path)
    }

    /// Waits for the shim and hands over. Only a process of the same user gets anything.
    pub fn serve(&self, handover: &Handover) -> io::Result<()> {
        let peer = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)?;
        let credentials = rustix::net::sockopt::socket_peercred(&peer)?;
        if credentials.uid != rustix::process::geteuid() {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        send(&peer, handover)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn send(peer: &OwnedFd, handover: &Handover) -> io::Result<()> {
    let header = serde_json::to_vec(&Header {
        fds: handover.fds.iter().map(|(stream, _)| *stream).collect(),
        listen_fds: handover.listen_fds,
        sub_cgroup: handover.sub_cgroup.clone(),
        plain_newlines: handover.plain_newlines,
    })?;
    let fds: Vec<BorrowedFd<'_>> = handover.fds.iter().map(|(_, fd)| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let header = [IoSlice::new(&header)];
    rustix::net::sendmsg(peer, &header, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

impl Handover {
    /// Takes what the client at `path` hands over. Blocks for a bounded time.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(STEP_LIMIT),
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let mut header = [0; MAX_HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut header)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(bad("the handover is too large"));
        }
        let header: Header = serde_json::from_slice(&header[..received.bytes])?;
        if header.fds.len() != fds.len() {
            return Err(bad("the handover names other descriptors than it has"));
        }
        Ok(Self {
            fds: header.fds.into_iter().zip(fds).collect(),
            listen_fds: header.listen_fds,
            sub_cgroup: header.sub_cgroup,
            plain_newlines: header.plain_newlines,
        })
    }

    /// Takes the link to the holder out.
    pub(crate) fn take_holder(&mut self) -> Option<OwnedFd> {
        self.take_out(Stream::Holder)
    }

    /// Takes the way into the VM's cgroup out.
    pub(crate) fn take_cgroup(&mut self) -> Option<OwnedFd> {
        self.take_out(Stream::Cgroup)
    }

    fn take_out(&mut self, what: Stream) -> Option<OwnedFd> {
        let at = self.fds.iter().position(|(stream, _)| *stream == what)?;
        Some(self.fds.remove(at).1)
    }

    /// The size that the terminal has, if it has one.
    pub(crate) fn terminal_size(&self) -> Option<Request> {
        let (_, terminal) = self.fds.iter().find(|(s, _)| *s == Stream::Terminal)?;
        let size = rustix::termios::tcgetwinsize(terminal).ok()?;
        let is_set = 0 < size.ws_col && 0 < size.ws_row;
        is_set.then(|| Request::Resize {
            width: size.ws_col.into(),
            height: size.ws_row.into(),
        })
    }

    /// The streams to forward.
    pub(crate) fn into_endpoints(self) -> io::Result<Endpoints> {
        let mut endpoints = Endpoints {
            listen_fds: self.listen_fds,
            plain_newlines: self.plain_newlines,
            ..Endpoints::default()
        };
        for (stream, fd) in self.fds {
            match stream {
                Stream::Stdin => endpoints.stdin = Some(fd_stream::input(fd)?),
                Stream::Stdout => endpoints.stdout = Some(fd_stream::output(fd)?),
                Stream::Stderr => endpoints.stderr = Some(fd_stream::output(fd)?),
                Stream::Terminal => {
                    endpoints.stdin = Some(fd_stream::input(fd.try_clone()?)?);
                    endpoints.stdout = Some(fd_stream::output(fd)?);
                }
                Stream::Holder | Stream::Cgroup => {}
                Stream::Preserved(direction) => {
                    endpoints.preserved.push(Preserved::new(direction, fd)?);
                }
            }
        }
        Ok(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn descriptors_arrive_under_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(directory.path().join("s")).unwrap();
        let path = socket_of(&listener.address()).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let client = std::thread::spawn(move || {
            let null = std::fs::File::open("/dev/null").unwrap();
            let handover = Handover {
                fds: vec![
                    (Stream::Stdin, null.into()),
                    (Stream::Stdout, writer.into()),
                ],
                ..Handover::default()
            };
            listener.serve(&handover).unwrap();
        });
        let taken = Handover::take(&path).unwrap();
        client.join().unwrap();
        assert!(!path.exists());
        let names: Vec<_> = taken.fds.iter().map(|(stream, _)| *stream).collect();
        assert_eq!(names, [Stream::Stdin, Stream::Stdout]);
        let (_, fd) = taken.fds.into_iter().nth(1).unwrap();
        std::fs::File::from(fd).write_all(b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn paths_of_fifos_are_no_handover() {
        assert_eq!(socket_of("/run/containerd/fifo"), None);
        assert_eq!(socket_of(""), None);
    }
}
