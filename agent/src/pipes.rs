//! The two ends of each of a process's streams: the process's own, and the agent's.

use std::os::fd::OwnedFd;

use hull_protocol::agent::preserved::Direction;
use hull_protocol::agent::Stdio;
use hull_protocol::MAX_PRESERVED;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use crate::error::{AgentError, Context, Result};
use crate::stdio::{self, BoxStream};

/// What the process gets; only the process may hold these, or nobody would see its end of file.
#[derive(Debug, Default)]
pub(crate) struct ChildEnds {
    /// stdin, stdout and stderr.
    pub(crate) standard: [Option<OwnedFd>; 3],
    /// Descriptors 3 and up.
    pub(crate) preserved: Vec<OwnedFd>,
}

/// What the agent keeps.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) preserved: Vec<PreservedEnd>,
}

/// Of a descriptor beside the standard streams.
#[derive(Debug)]
pub(crate) struct PreservedEnd {
    pub(crate) token: u64,
    direction: Direction,
    fd: OwnedFd,
}

/// Makes the pipes of a process. One with a terminal has its standard streams from that.
pub(crate) fn make(tokens: &Stdio, terminal: bool) -> Result<(ChildEnds, Ends)> {
    let (mut child, mut ours) = (ChildEnds::default(), Ends::default());
    if !terminal {
        let stdin = (tokens.stdin != 0)
            .then(|| pair(Direction::IN))
            .transpose()?;
        let stdout = (tokens.stdout != 0).then(|| pair(Direction::OUT));
        let stderr = (tokens.stderr != 0).then(|| pair(Direction::OUT));
        (child.standard[0], ours.stdin) = stdin.unzip();
        (child.standard[1], ours.stdout) = stdout.transpose()?.unzip();
        (child.standard[2], ours.stderr) = stderr.transpose()?.unzip();
    }
    if MAX_PRESERVED < tokens.preserved.len() {
        return Err(AgentError::invalid(format!(
            "{} descriptors beside the standard streams: at most {MAX_PRESERVED}",
            tokens.preserved.len()
        )));
    }
    for preserved in &tokens.preserved {
        let direction = preserved.direction.enum_value_or_default();
        let (theirs, fd) = pair(direction)?;
        child.preserved.push(theirs);
        ours.preserved.push(PreservedEnd {
            token: preserved.token,
            direction,
            fd,
        });
    }
    Ok((child, ours))
}

/// The process's end and the agent's.
fn pair(direction: Direction) -> Result<(OwnedFd, OwnedFd)> {
    let failed = || "failed to make a pipe".to_string();
    if direction == Direction::BOTH {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        return rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None).context(failed);
    }
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(failed)?;
    Ok(match direction {
        Direction::IN => (reader, writer),
        _ => (writer, reader),
    })
}

impl PreservedEnd {
    /// Moves its bytes from and to the host, until it ends.
    pub(crate) fn pump(self, host: BoxStream) -> std::io::Result<()> {
        match self.direction {
            // It ends with the host's side, which goes when the process is deleted.
            Direction::IN => {
                tokio::spawn(stdio::pump_in(
                    host,
                    stdio::watch(self.fd)?,
                    Default::default(),
                ));
            }
            Direction::OUT => {
                tokio::spawn(stdio::pump_out(stdio::watch(self.fd)?, host));
            }
            Direction::BOTH => {
                tokio::spawn(stdio::pump_both(host, self.fd));
            }
        }
        Ok(())
    }
}

/// What tells a process of descriptors that it is to listen on, as `sd_listen_fds(3)` reads it.
pub(crate) fn listen_environment(tokens: &Stdio) -> Vec<String> {
    match tokens.listen_fds {
        0 => Vec::new(),
        count => vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use hull_protocol::agent::Preserved;

    use super::*;

    fn preserved(direction: Direction) -> Preserved {
        Preserved {
            token: 7,
            direction: direction.into(),
            ..Preserved::default()
        }
    }

    #[test]
    fn a_terminal_takes_the_place_of_the_standard_streams_only() {
        let tokens = Stdio {
            stdin: 1,
            stdout: 2,
            preserved: vec![preserved(Direction::OUT)],
            ..Stdio::default()
        };
        let (child, ours) = make(&tokens, true).unwrap();
        assert!(child.standard.iter().all(Option::is_none) && ours.stdin.is_none());
        assert_eq!((child.preserved.len(), ours.preserved[0].token), (1, 7));
        let (child, ours) = make(&tokens, false).unwrap();
        assert!(child.standard[0].is_some() && ours.stdout.is_some());
        assert!(child.standard[2].is_none() && ours.stderr.is_none());
    }

    #[test]
    fn a_host_that_wants_too_many_is_refused() {
        let tokens = Stdio {
            preserved: vec![preserved(Direction::IN); MAX_PRESERVED + 1],
            ..Stdio::default()
        };
        assert!(make(&tokens, false).is_err());
    }

    #[tokio::test]
    async fn bytes_go_the_way_that_the_direction_says() {
        use std::io::{Read as _, Write as _};
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for direction in [Direction::IN, Direction::OUT, Direction::BOTH] {
            let tokens = Stdio {
                preserved: vec![preserved(direction)],
                ..Stdio::default()
            };
            let (mut child, mut ours) = make(&tokens, false).unwrap();
            let (mut host, guest) = tokio::io::duplex(64);
            let end = ours.preserved.pop().unwrap();
            end.pump(Box::new(guest)).unwrap();
            let mut process = std::fs::File::from(child.preserved.pop().unwrap());
            if direction != Direction::OUT {
                host.write_all(b"in").await.unwrap();
                host.shutdown().await.unwrap();
                let read = tokio::task::spawn_blocking(move || {
                    let mut text = String::new();
                    process.read_to_string(&mut text).unwrap();
                    (text, process)
                });
                let (text, back) = read.await.unwrap();
                process = back;
                assert_eq!(text, "in");
            }
            if direction != Direction::IN {
                process.write_all(b"out").unwrap();
                drop(process);
                let mut text = String::new();
                host.read_to_string(&mut text).await.unwrap();
                assert_eq!(text, "out");
            }
        }
    }

    #[test]
    fn a_process_is_told_of_what_it_listens_on() {
        let tokens = Stdio {
            listen_fds: 2,
            ..Stdio::default()
        };
        assert_eq!(
            listen_environment(&tokens),
            ["LISTEN_FDS=2", "LISTEN_PID=1"]
        );
        assert!(listen_environment(&Stdio::default()).is_empty());
    }
}
