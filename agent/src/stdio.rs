//! Standard streams: host connections on `STDIO_PORT`, known by their tokens, and the pumps
//! between them and a process's pipes or terminal.
//!
//! Each direction of each stream has one buffer and reads only when the last read has been written,
//! so a slow reader at one end slows the writer at the other.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_protocol::agent::Stdio;
use hull_protocol::MAX_PRESERVED;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{oneshot, Notify};

use crate::error::{AgentError, Kind, Result};

/// A connection from the host.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
/// A connection of any transport.
pub(crate) type BoxStream = Box<dyn Stream>;

/// How long a connection may take to say its token.
const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may wait for a process that has it as one of its own.
const UNCLAIMED_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a process waits for its connections.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Most connections that wait for a process that nobody has named yet.
const MAX_UNCLAIMED: usize = 64 + 4 * MAX_PRESERVED;
/// How long the host may take to close a stream after its end.
const LINGER: Duration = Duration::from_secs(10);
/// Bytes moved at once from a process.
const OUT_BUFFER: usize = 64 << 10;
/// Bytes moved at once to a process; held while the stream is idle, so smaller.
const IN_BUFFER: usize = 16 << 10;

#[derive(Default)]
struct Tables {
    /// Of processes that may wait any time for their start.
    reserved: HashSet<u64>,
    wanted: HashMap<u64, oneshot::Sender<BoxStream>>,
    unclaimed: HashMap<u64, BoxStream>,
}

impl Tables {
    fn has_place_for(&self, token: u64) -> bool {
        let is_unnamed = |token: &&u64| !self.reserved.contains(token);
        self.reserved.contains(&token)
            || self.unclaimed.keys().filter(is_unnamed).count() < MAX_UNCLAIMED
    }
}

/// Connections that are kept for a process; dropping it closes those that were not claimed.
pub(crate) struct Reservation {
    registry: Registry,
    tokens: Vec<u64>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut tables = self.registry.tables();
        for token in &self.tokens {
            tables.reserved.remove(token);
            tables.unclaimed.remove(token);
        }
    }
}

/// Brings connections and processes together.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Tables>>);

impl Registry {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a fresh connection: reads its token and hands it on.
    pub(crate) async fn admit(self, mut stream: BoxStream) {
        let mut token = [0; 8];
        let read = tokio::time::timeout(PREAMBLE_TIMEOUT, stream.read_exact(&mut token)).await;
        let token = u64::from_le_bytes(token);
        if !matches!(read, Ok(Ok(_))) || token == 0 {
            return;
        }
        {
            let mut tables = self.tables();
            match tables.wanted.remove(&token) {
                // A process that has stopped waiting drops it, which closes it.
                Some(wanted) => {
                    let _ = wanted.send(stream);
                    return;
                }
                None if tables.has_place_for(token) => {
                    tables.unclaimed.insert(token, stream);
                }
                None => return,
            }
        }
        tokio::time::sleep(UNCLAIMED_TIMEOUT).await;
        let mut tables = self.tables();
        if !tables.reserved.contains(&token) {
            tables.unclaimed.remove(&token);
        }
    }

    /// Keeps the connections of a process until it claims them or is gone.
    pub(crate) fn reserve(&self, stdio: &Stdio) -> Reservation {
        let standard = [stdio.stdin, stdio.stdout, stdio.stderr];
        let preserved = stdio.preserved.iter().map(|one| one.token);
        let tokens: Vec<u64> = standard.into_iter().chain(preserved).collect();
        self.tables().reserved.extend(&tokens);
        Reservation {
            registry: self.clone(),
            tokens,
        }
    }

    /// The connection with a token; `None` for token 0.
    pub(crate) async fn claim(&self, token: u64) -> Result<Option<BoxStream>> {
        if token == 0 {
            return Ok(None);
        }
        let receiver = {
            let mut tables = self.tables();
            if let Some(stream) = tables.unclaimed.remove(&token) {
                return Ok(Some(stream));
            }
            let (sender, receiver) = oneshot::channel();
            tables.wanted.insert(token, sender);
            receiver
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, receiver).await {
            Ok(Ok(stream)) => Ok(Some(stream)),
            Ok(Err(_)) | Err(_) => {
                self.tables().wanted.remove(&token);
                Err(AgentError::new(
                    Kind::FailedPrecondition,
                    format!(
                        "the host did not connect stdio stream {token:#x} within {} s",
                        CONNECT_TIMEOUT.as_secs()
                    ),
                ))
            }
        }
    }
}

/// The agent's end of a pipe or terminal, made non-blocking.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(Arc::new(crate::sys::watch(fd)?))
}

/// Host to process. Ends at the host's end of file, when `close` is asked for, or when the process
/// no longer reads; dropping `to` is the process's end of file (not so with a terminal).
pub(crate) async fn pump_in(mut from: BoxStream, to: Arc<AsyncFd<OwnedFd>>, close: Arc<Notify>) {
    let mut buffer = vec![0; IN_BUFFER];
    let mut closing = false;
    loop {
        let read = if closing {
            // What the host wrote before it asked for the end may still be on its way.
            match tokio::time::timeout(Duration::from_millis(100), from.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                read = from.read(&mut buffer) => read,
                () = close.notified() => {
                    closing = true;
                    continue;
                }
            }
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if write_all(&to, &buffer[..count]).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(to);
    let _ = from.shutdown().await;
}

/// Process to host. Ends when the last holder of the process's end has closed it. Should the host
/// go away, the process does not notice: its output is read and dropped.
pub(crate) async fn pump_out(from: Arc<AsyncFd<OwnedFd>>, mut to: BoxStream) {
    let mut host_is_there = true;
    'stream: loop {
        let Ok(mut ready) = from.readable().await else {
            break;
        };
        let mut buffer = vec![0; OUT_BUFFER];
        loop {
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), &mut buffer)?));
            match read {
                Ok(Ok(0)) => break 'stream,
                Ok(Ok(count)) => {
                    if host_is_there && to.write_all(&buffer[..count]).await.is_err() {
                        host_is_there = false;
                    }
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO is how a terminal says that nobody has it open any more.
                Ok(Err(_)) => break 'stream,
                Err(_would_block) => break,
            }
        }
    }
    if host_is_there && to.shutdown().await.is_ok() {
        // Closing at once could overtake data that the host has not read.
        let mut rest = [0; 64];
        let wait = async { while !matches!(to.read(&mut rest).await, Ok(0) | Err(_)) {} };
        let _ = tokio::time::timeout(LINGER, wait).await;
    }
}

/// Both ways, until both sides have ended theirs.
pub(crate) async fn pump_both(mut host: BoxStream, process: OwnedFd) {
    let stream = std::os::unix::net::UnixStream::from(process);
    let watched = stream.set_nonblocking(true);
    if let Ok(mut stream) = watched.and_then(|()| tokio::net::UnixStream::from_std(stream)) {
        // However it ends, both are closed then.
        let _ = tokio::io::copy_bidirectional(&mut host, &mut stream).await;
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = fd.writable().await?;
        match ready.try_io(|fd| Ok(rustix::io::write(fd.as_fd(), bytes)?)) {
            Ok(Ok(count)) => bytes = &bytes[count..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
    }

    #[tokio::test]
    async fn connection_is_claimed_before_and_after_it_comes() {
        let registry = Registry::default();
        for early in [true, false] {
            let (mut host, guest) = tokio::io::duplex(64);
            host.write_all(&hull_protocol::stdio_preamble(7))
                .await
                .unwrap();
            let claim = registry.claim(7);
            let admit = tokio::spawn(registry.clone().admit(Box::new(guest)));
            if early {
                tokio::task::yield_now().await;
            }
            assert!(claim.await.unwrap().is_some());
            admit.abort();
        }
        assert!(registry.claim(0).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_connections_of_a_process_wait_for_its_start_and_go_with_it() {
        let registry = Registry::default();
        let stdio = Stdio {
            stdout: 7,
            ..Stdio::default()
        };
        let mut hosts = Vec::new();
        let mut connect = |token: u64| {
            let (mut host, guest) = tokio::io::duplex(64);
            let admit = registry.clone().admit(Box::new(guest));
            hosts.push(async move {
                host.write_all(&token.to_le_bytes()).await.unwrap();
                host
            });
            tokio::spawn(admit)
        };
        let kept = registry.reserve(&stdio);
        let admitted = [connect(7), connect(8)];
        let mut ends = Vec::new();
        for host in hosts {
            ends.push(host.await);
        }
        for one in admitted {
            one.await.unwrap();
        }
        // Both are past their time: only the one that is a process's is still there.
        let unclaimed = || -> Vec<u64> { registry.tables().unclaimed.keys().copied().collect() };
        assert_eq!(unclaimed(), [7]);
        drop(kept);
        assert!(unclaimed().is_empty() && registry.tables().reserved.is_empty());
        let kept = registry.reserve(&stdio);
        let (mut host, guest) = tokio::io::duplex(64);
        host.write_all(&7_u64.to_le_bytes()).await.unwrap();
        registry.clone().admit(Box::new(guest)).await;
        assert!(registry.claim(7).await.unwrap().is_some());
        drop(kept);
    }

    #[tokio::test]
    async fn large_output_arrives_whole_after_the_writer_is_gone() {
        let (reader, writer) = pipe();
        let (mut host, guest) = tokio::io::duplex(4096);
        let pump = tokio::spawn(pump_out(watch(reader).unwrap(), Box::new(guest)));
        let thread = std::thread::spawn(move || {
            use std::io::Write;
            std::fs::File::from(writer)
                .write_all(&vec![b'x'; 1 << 20])
                .unwrap();
        });
        let mut all = Vec::new();
        host.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), 1 << 20);
        thread.join().unwrap();
        drop(host);
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_is_half_closed_as_each_side_says() {
        let (mut process, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        let (mut host, guest) = tokio::io::duplex(64);
        let pump = tokio::spawn(pump_both(Box::new(guest), ours.into()));
        host.write_all(b"question").await.unwrap();
        host.shutdown().await.unwrap();
        let peer = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            io::Read::read_to_string(&mut process, &mut text).unwrap();
            io::Write::write_all(&mut process, b"answer").unwrap();
            text
        });
        let mut answer = String::new();
        host.read_to_string(&mut answer).await.unwrap();
        assert_eq!(
            (peer.await.unwrap().as_str(), answer.as_str()),
            ("question", "answer")
        );
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn host_end_of_file_closes_the_pipe() {
        let (reader, writer) = pipe();
        let (mut host, guest) = tokio::io::duplex(64);
        host.write_all(b"abc").await.unwrap();
        host.shutdown().await.unwrap();
        pump_in(Box::new(guest), watch(writer).unwrap(), Arc::default()).await;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(reader), &mut text).unwrap();
        assert_eq!(text, "abc");
    }
}
