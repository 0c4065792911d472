//! The address of a shim: one socket per sandbox, whose name follows from the sandbox's.
//!
//! The socket lies in `<exec root>/shims/`, under a short hash: the path of a UNIX socket has at
//! most 107 bytes, and container ids alone may have 64.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{getpid, pidfd_open, pidfd_send_signal, PidfdFlags, Signal};
use sha2::{Digest as _, Sha256};

use crate::private;

/// Bytes of the hash in a socket's name.
const HASH_BYTES: usize = 16;
/// Connections that may wait to be taken; the kernel has a lower bound.
const BACKLOG: i32 = 4096;
/// How long a server that is killed, or is ending, has to be gone.
const END_LIMIT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// What [`listen`] found.
#[derive(Debug)]
pub(crate) enum Listening {
    /// A new socket.
    New(UnixListener),
    /// A shim that serves this sandbox already.
    Served,
}

/// Path of the socket of a sandbox.
pub(crate) fn socket_path(exec_root: &Path, namespace: &str, sandbox: &str) -> PathBuf {
    let mut hash = Sha256::new();
    hash.update(namespace.as_bytes());
    hash.update([0]);
    hash.update(sandbox.as_bytes());
    let hash = hash.finalize();
    let name: String = hash
        .iter()
        .take(HASH_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    directory(exec_root).join(name)
}

fn directory(exec_root: &Path) -> PathBuf {
    exec_root.join("shims")
}

/// Listens on `path`. A socket that a dead shim left is replaced.
pub(crate) fn listen(path: &Path) -> io::Result<Listening> {
    if let Some(parent) = path.parent() {
        private::directory(parent)?;
    }
    match UnixListener::bind(path) {
        Ok(listener) => Ok(Listening::New(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if is_served(path) {
                return Ok(Listening::Served);
            }
            remove(path);
            UnixListener::bind(path).map(Listening::New)
        }
        Err(error) => Err(error),
    }
}

/// Called by the process that serves from now on: whoever connects finds it by the socket, which
/// `listen` has marked with its starter. A socket that was removed meanwhile is not served: the
/// starter was given up on.
pub(crate) fn take_over(listener: &UnixListener, path: &Path) -> io::Result<()> {
    rustix::net::listen(listener, BACKLOG)?;
    path.symlink_metadata().map(drop)
}

/// Waits until the process that serves `path` has ended, up to a limit.
pub(crate) fn await_end(path: &Path) {
    let server = UnixStream::connect(path)
        .ok()
        .and_then(|peer| server_of(&peer));
    if let Some(server) = server {
        let _ = poll(&mut [PollFd::new(&server, PollFlags::IN)], Some(&END_LIMIT));
    }
}

/// Ends the process that serves `path`, if any, and removes the socket. One that takes no more callers is
/// not known by it.
pub(crate) fn end_server(path: &Path) {
    if let Some(server) = connect_at_once(path).ok().and_then(|peer| server_of(&peer)) {
        // Its VMM ends with it.
        let _ = pidfd_send_signal(&server, Signal::KILL);
        let _ = poll(&mut [PollFd::new(&server, PollFlags::IN)], Some(&END_LIMIT));
    }
    remove(path);
}

/// Connects, or fails where that would take the server's doing.
fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// The process at the other end, if it is another one that runs this program.
fn server_of(peer: &UnixStream) -> Option<OwnedFd> {
    let pid = socket_peercred(peer).ok()?.pid;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Asked behind the descriptor, so that a number that was given anew is seen.
    let program = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    let own = std::fs::metadata("/proc/self/exe").ok()?;
    let same = (program.dev(), program.ino()) == (own.dev(), own.ino());
    (same && pid != getpid()).then_some(pidfd)
}

fn is_served(path: &Path) -> bool {
    match connect_at_once(path) {
        Ok(_) => true,
        // It has more callers than it takes.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Removes a socket; one that is gone already is fine.
pub(crate) fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Removes the sockets that no shim serves any more.
pub(crate) fn sweep(exec_root: &Path) {
    let entries = std::fs::read_dir(directory(exec_root));
    for entry in entries.into_iter().flatten().flatten() {
        let path = entry.path();
        // Only a refusal says that the owner is gone; a full backlog says that it is busy.
        let refused = connect_at_once(&path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if refused {
            remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_served_socket_is_left_alone_and_a_dead_one_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = socket_path(root.path(), "ns", "box");
        let Listening::New(listener) = listen(&path).unwrap() else {
            panic!("nobody serves it");
        };
        assert!(matches!(listen(&path).unwrap(), Listening::Served));
        sweep(root.path());
        assert!(path.exists());
        drop(listener);
        sweep(root.path());
        assert!(!path.exists());
        assert!(matches!(listen(&path).unwrap(), Listening::New(_)));
    }

    #[test]
    fn a_server_that_takes_no_more_callers_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let path = socket_path(root.path(), "ns", "box");
        let Listening::New(listener) = listen(&path).unwrap() else {
            panic!("nobody serves it");
        };
        rustix::net::listen(&listener, 0).unwrap();
        let _first = connect_at_once(&path).unwrap();
        let full = connect_at_once(&path).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        end_server(&path);
        assert!(!path.exists());
    }

    #[test]
    fn addresses_differ_by_namespace_and_fit_a_socket() {
        let id = "a".repeat(64);
        let path = socket_path(Path::new("/run/hull"), "k8s.io", &id);
        assert_ne!(
            path,
            socket_path(Path::new("/run/hull"), "k8s.ioa", &id[1..])
        );
        assert!(path.as_os_str().len() < 100);
    }
}
