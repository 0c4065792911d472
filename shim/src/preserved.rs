//! Descriptors that a process has beside its standard streams: what of the host's can be one in a
//! VM, as a stream of bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use hull_protocol::agent;
use rustix::fs::{FileType, OFlags};
use rustix::net::SocketType;
use serde::{Deserialize, Serialize};

use crate::fd_stream;
use crate::stdio::{Input, Output};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// The process reads.
    In,
    /// The process writes.
    Out,
    /// A socket.
    Both,
}

impl From<Direction> for agent::preserved::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::In => Self::IN,
            Direction::Out => Self::OUT,
            Direction::Both => Self::BOTH,
        }
    }
}

/// What a descriptor is, where a VM cannot have it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its connections would have to be accepted on the host.
    #[error("a listening socket")]
    Listening,
    /// Bytes alone do not tell its messages apart.
    #[error("a socket that is no stream")]
    Socket,
    /// It has a tree below it.
    #[error("a directory")]
    Directory,
    /// Reading and writing share a position in the file.
    #[error("open for reading and writing")]
    ReadWrite,
    /// A disk, an epoll instance and the like.
    #[error("no pipe, stream socket or file")]
    Other,
    /// The kernel did not say.
    #[error("unreadable ({0})")]
    Unreadable(rustix::io::Errno),
}

/// How bytes of a descriptor would go.
pub fn direction_of(fd: impl AsFd) -> Result<Direction, Unfit> {
    let fd = fd.as_fd();
    let stat = rustix::fs::fstat(fd).map_err(Unfit::Unreadable)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => {
            let kind = rustix::net::sockopt::socket_type(fd).map_err(Unfit::Unreadable)?;
            let listens = rustix::net::sockopt::socket_acceptconn(fd).map_err(Unfit::Unreadable)?;
            match (listens, kind) {
                (true, _) => Err(Unfit::Listening),
                (false, SocketType::STREAM) => Ok(Direction::Both),
                (false, _) => Err(Unfit::Socket),
            }
        }
        FileType::Fifo | FileType::RegularFile | FileType::CharacterDevice => {
            let flags = rustix::fs::fcntl_getfl(fd).map_err(Unfit::Unreadable)?;
            match flags & OFlags::RWMODE {
                OFlags::RDONLY => Ok(Direction::In),
                OFlags::WRONLY => Ok(Direction::Out),
                _ => Err(Unfit::ReadWrite),
            }
        }
        FileType::Directory => Err(Unfit::Directory),
        _ => Err(Unfit::Other),
    }
}

/// The host's end of one: what the process reads, what it writes, or both.
pub struct Preserved {
    /// Which of the two below are there.
    pub(crate) direction: Direction,
    pub(crate) input: Option<Input>,
    pub(crate) output: Option<Output>,
}

impl Preserved {
    /// Of a descriptor that was handed over.
    pub(crate) fn new(direction: Direction, fd: OwnedFd) -> io::Result<Self> {
        let (input, output) = match direction {
            Direction::In => (Some(fd_stream::input(fd)?), None),
            Direction::Out => (None, Some(fd_stream::output(fd)?)),
            Direction::Both => {
                let input = fd_stream::input(fd.try_clone()?)?;
                (Some(input), Some(fd_stream::output(fd)?))
            }
        };
        Ok(Self {
            direction,
            input,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn pipes_stream_sockets_and_files_of_one_direction_fit() {
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!(direction_of(&reader), Ok(Direction::In));
        assert_eq!(direction_of(&writer), Ok(Direction::Out));
        let (socket, _peer) = UnixStream::pair().unwrap();
        assert_eq!(direction_of(&socket), Ok(Direction::Both));
        let null = File::open("/dev/null").unwrap();
        assert_eq!(direction_of(&null), Ok(Direction::In));
    }

    #[test]
    fn what_a_vm_cannot_have_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        assert_eq!(direction_of(&listener), Err(Unfit::Listening));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(direction_of(&listener), Err(Unfit::Listening));
        let datagrams = UnixDatagram::unbound().unwrap();
        assert_eq!(direction_of(&datagrams), Err(Unfit::Socket));
        let folder = File::open(directory.path()).unwrap();
        assert_eq!(direction_of(&folder), Err(Unfit::Directory));
        let path = directory.path().join("f");
        let both = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        assert_eq!(direction_of(&both), Err(Unfit::ReadWrite));
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let event = rustix::event::eventfd(0, flags).unwrap();
        assert_eq!(direction_of(&event), Err(Unfit::Other));
    }
}
