//! The talk between the agent and the process that becomes a container's process: one
//! `SOCK_SEQPACKET` pair, so that each message is one packet.
//!
//! ```text
//! agent                         launcher                    process
//!   | LaunchConfig, descriptors -> |                           |
//!   | <------------- Forked(pid)   | ---- fork --------------> |
//!   | (moves it into its cgroup)                               |
//!   | Order::Go ---------------------------------------------> |
//!   | <------- Console + descriptor (with a terminal), Ready   |
//!   | Order::Start ------------------------------------------> | execve: the socket closes
//!   | <---------------------------- end of file, or Failed     |
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use hull_protocol::MAX_PRESERVED;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::plan::{ContainerPlan, ProcessPlan};
use crate::error::Kind;
use crate::files::Job;

/// What the launcher is to do. It travels in a memory file, since it has no bound on its length.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LaunchConfig {
    pub(crate) role: Role,
    pub(crate) process: ProcessPlan,
    /// Which of stdin, stdout and stderr travel with the first message, in this order.
    pub(crate) stdio: [bool; 3],
    /// How many descriptors follow them: the process's own from 3 on.
    pub(crate) preserved: usize,
}

/// A container's first process, or one more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Makes the container.
    Init(Box<InitRole>),
    /// Joins the container whose first process's pidfd is the last descriptor.
    Exec,
    /// Does a job on files; in the container of that process if it says so.
    Files(Job),
}

/// A small file that the host gave, mounted over one of the container's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MountedFile {
    /// Container path.
    pub(crate) path: PathBuf,
    /// Guest path of the file.
    pub(crate) source: PathBuf,
    pub(crate) read_only: bool,
}

/// What only a container's first process needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitRole {
    pub(crate) plan: ContainerPlan,
    /// Guest path of the mounted root file system.
    pub(crate) rootfs: PathBuf,
    pub(crate) files: Vec<MountedFile>,
    /// It is there for its files only, and ends when it is started.
    pub(crate) files_only: bool,
    /// An init process runs the program.
    pub(crate) init: bool,
}

/// From the launcher and the process to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The process exists and waits for [`Order::Go`].
    Forked(u32),
    /// The pseudo-terminal's master end travels with this message.
    Console,
    /// All is done but the exec.
    Ready,
    /// It is over.
    Failed {
        /// How to report it.
        kind: Kind,
        /// What failed.
        text: String,
    },
}

/// From the agent to the process, one byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    /// It is in its cgroup.
    Go = b'g',
    /// Execute.
    Start = b's',
}

/// Longest message; an error text is cut to fit.
const MAX_MESSAGE: usize = 16 << 10;

/// Most descriptors in one message.
const MAX_FDS: usize = 6 + MAX_PRESERVED;

/// Sends one packet.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Sends a report, its text cut to what a packet holds.
pub(crate) fn report(
    socket: BorrowedFd<'_>,
    report: &Report,
    fds: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(report)?;
    send(socket, &bytes, fds)
}

/// Shortens an error text so that its report fits a packet.
pub(crate) fn fitting(mut text: String) -> String {
    let mut end = text.len().min(MAX_MESSAGE / 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Receives one packet; an empty one is the end.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    bytes.truncate(received.bytes);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((bytes, fds))
}

/// The agent's end.
pub(crate) struct Channel(tokio::io::unix::AsyncFd<OwnedFd>);

impl Channel {
    /// A new pair: the agent's end, and the one that the launcher gets as its standard input.
    pub(crate) fn pair() -> std::io::Result<(Self, OwnedFd)> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Self(crate::sys::watch(ours)?), theirs))
    }

    /// Sends the launch message.
    pub(crate) fn launch(&self, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        send(self.0.as_fd(), b"launch", fds)
    }

    /// Sends an order. A process that is gone is not an error here: its report or exit tells.
    pub(crate) fn order(&self, order: Order) {
        let _ = send(self.0.as_fd(), &[order as u8], &[]);
    }

    /// The next report with its descriptor; `None` at the end: the process executed, or died.
    pub(crate) async fn report(&self) -> std::io::Result<Option<(Report, Option<OwnedFd>)>> {
        loop {
            let mut ready = self.0.readable().await?;
            let received = ready.try_io(|socket| Ok(receive(socket.as_fd())?));
            let (bytes, mut fds) = match received {
                Ok(Ok(received)) => received,
                // What a killed process leaves unread ends the connection so.
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(None)
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => continue,
            };
            if bytes.is_empty() {
                return Ok(None);
            }
            return Ok(Some((serde_json::from_slice(&bytes)?, fds.pop())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_descriptors() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        report(a.as_fd(), &Report::Console, &[a.as_fd()]).unwrap();
        drop(a);
        let (bytes, fds) = receive(b.as_fd()).unwrap();
        assert!(matches!(
            serde_json::from_slice(&bytes).unwrap(),
            Report::Console
        ));
        assert_eq!(fds.len(), 1);
        drop(fds);
        assert!(receive(b.as_fd()).unwrap().0.is_empty());
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let text = fitting("ä".repeat(MAX_MESSAGE));
        assert!(text.len() <= MAX_MESSAGE / 8 && text.chars().all(|c| c == 'ä'));
    }
}
