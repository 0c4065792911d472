//! Standard streams: between what the host has for them and vsock streams of the guest.
//!
//! Nothing is buffered here beyond one small buffer per stream: a reader that does not read fills
//! the FIFO, then the sockets, then blocks the process in the guest, as a pipe would.

mod logger;
mod open;
mod target;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use hull_protocol::agent::{self, Stdio};
use hull_protocol::{stdio_preamble, STDIO_PORT};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

pub use logger::Logger;
pub(crate) use logger::Owner;
pub(crate) use open::Named;

use crate::preserved::{Direction, Preserved};
use crate::vmm::{Vm, VmmError};

/// Buffer of one stream, in bytes.
const BUFFER_BYTES: usize = 16 << 10;
/// After a process has ended, its output counts as complete when none came for so long, even if
/// another process keeps the stream open.
const IDLE_LIMIT: Duration = Duration::from_millis(100);
/// Output that never pauses holds the exit back for at most so long.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// When a process is deleted, what its reader has not taken after so long is dropped.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// After a request to close stdin, what is in the FIFO is still forwarded until none came for so
/// long.
const CLOSE_LIMIT: Duration = Duration::from_millis(50);

/// Why standard streams can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// A FIFO or file can't be opened.
    #[error("failed to open {path:?} for {stream}")]
    Open {
        /// Which stream.
        stream: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that says nothing.
    #[error("the URI {uri:?} for {stream}")]
    Uri {
        /// Which stream.
        stream: &'static str,
        /// What was given.
        uri: String,
        /// What is wrong.
        source: target::UriError,
    },
    /// Input from a file or a program.
    #[error("stdin is read from a FIFO: give its path")]
    NoInput,
    /// A logger that would have half of the output.
    #[error("a logger takes both streams: name it for stdout")]
    LoggerOfStderr,
    /// A logger.
    #[error(transparent)]
    Logger(#[from] logger::LoggerError),
    /// No connection to the guest.
    #[error(transparent)]
    Connect(#[from] VmmError),
    /// The token can't be sent.
    #[error("failed to open {stream} in the guest")]
    Preamble {
        /// Which stream.
        stream: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host has no random bytes.
    #[error("failed to get random bytes: {reason}")]
    Entropy {
        /// Why.
        reason: String,
    },
}

/// Where a process's input comes from.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Where a process's output goes.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// The host's ends of the standard streams; `None`: not attached.
#[derive(Default)]
pub struct Endpoints {
    /// Standard input.
    pub stdin: Option<Input>,
    /// Standard output; with a terminal, all output.
    pub stdout: Option<Output>,
    /// Standard error; unused with a terminal.
    pub stderr: Option<Output>,
    /// What takes them, if it is a program.
    pub logger: Option<Logger>,
    /// Descriptors from 3 on.
    pub preserved: Vec<Preserved>,
    /// How many of them `LISTEN_FDS` counts.
    pub listen_fds: u32,
    /// The guest's terminal leaves line feeds as they are.
    pub plain_newlines: bool,
}

/// Standard streams of one process, connected to the guest.
pub struct Connected {
    tokens: Stdio,
    stdin: Option<(Input, UnixStream)>,
    outputs: Vec<(UnixStream, Output)>,
    preserved: Vec<(UnixStream, Preserved)>,
    logger: Option<Logger>,
    terminal: bool,
}

impl Connected {
    /// Connects each attached stream; the guest ties them to the process by their tokens.
    pub async fn new(vm: &Vm, endpoints: Endpoints, terminal: bool) -> Result<Self, StdioError> {
        let mut connected = Self {
            tokens: Stdio::default(),
            stdin: None,
            outputs: Vec::new(),
            preserved: Vec::new(),
            logger: endpoints.logger,
            terminal,
        };
        connected.tokens.listen_fds = endpoints.listen_fds;
        connected.tokens.plain_newlines = endpoints.plain_newlines;
        for preserved in endpoints.preserved {
            let (token, stream) = connect(vm, "a preserved descriptor").await?;
            connected.tokens.preserved.push(agent::Preserved {
                token,
                direction: agent::preserved::Direction::from(preserved.direction).into(),
                ..agent::Preserved::default()
            });
            connected.preserved.push((stream, preserved));
        }
        if let Some(input) = endpoints.stdin {
            let (token, stream) = connect(vm, "stdin").await?;
            connected.tokens.stdin = token;
            connected.stdin = Some((input, stream));
        }
        if let Some(output) = endpoints.stdout {
            let (token, stream) = connect(vm, "stdout").await?;
            connected.tokens.stdout = token;
            connected.outputs.push((stream, output));
        }
        if let Some(output) = endpoints.stderr.filter(|_| !terminal) {
            let (token, stream) = connect(vm, "stderr").await?;
            connected.tokens.stderr = token;
            connected.outputs.push((stream, output));
        }
        Ok(connected)
    }

    /// What the agent is told.
    pub fn tokens(&self) -> Stdio {
        self.tokens.clone()
    }

    /// Begins to forward.
    pub fn start(self) -> ProcessIo {
        let forwarded = Arc::new(AtomicU64::new(0));
        let close = Arc::new(Notify::new());
        let stdin = self.stdin.map(|(input, stream)| {
            let close = Arc::clone(&close);
            tokio::spawn(forward_input(input, stream, close))
        });
        let outputs = self.outputs.into_iter().map(|(stream, output)| {
            let forwarded = Arc::clone(&forwarded);
            tokio::spawn(forward_output(stream, output, forwarded))
        });
        let (mut outputs, mut inputs) = (outputs.collect::<Vec<_>>(), Vec::new());
        for (stream, preserved) in self.preserved {
            let (input, output) = forward_preserved(stream, preserved, &forwarded);
            inputs.extend(input);
            outputs.extend(output);
        }
        ProcessIo {
            outputs,
            inputs,
            stdin,
            logger: self.logger,
            close,
            forwarded,
            terminal: self.terminal,
        }
    }
}

async fn connect(vm: &Vm, stream: &'static str) -> Result<(u64, UnixStream), StdioError> {
    let token = random_token()?;
    let mut socket = vm.connect(STDIO_PORT).await?;
    socket
        .write_all(&stdio_preamble(token))
        .await
        .map_err(|source| StdioError::Preamble { stream, source })?;
    Ok((token, socket))
}

fn random_token() -> Result<u64, StdioError> {
    loop {
        let token = getrandom::u64().map_err(|error| StdioError::Entropy {
            reason: error.to_string(),
        })?;
        if token != 0 {
            return Ok(token);
        }
    }
}

/// Forwarding of one process's streams; dropping it stops it.
#[derive(Debug)]
pub struct ProcessIo {
    stdin: Option<JoinHandle<()>>,
    /// Of preserved descriptors.
    inputs: Vec<JoinHandle<()>>,
    outputs: Vec<JoinHandle<()>>,
    logger: Option<Logger>,
    close: Arc<Notify>,
    terminal: bool,
    /// Bytes of output so far.
    forwarded: Arc<AtomicU64>,
}

impl ProcessIo {
    /// Ends the process's input after what has been written so far.
    pub fn close_stdin(&self) {
        self.close.notify_one();
    }

    /// After the process has ended: waits until its output is forwarded. Streams that stay open
    /// (a background process has them) and readers that don't read hold it up only shortly.
    ///
    /// A terminal's input ends then: whoever has its other side waits for this one to be closed.
    pub async fn settle(&self) {
        self.settle_outputs().await;
        if let Some(stdin) = self.stdin.as_ref().filter(|_| self.terminal) {
            stdin.abort();
        }
    }

    async fn settle_outputs(&self) {
        let until = Instant::now() + SETTLE_LIMIT;
        while !self.outputs_done() && Instant::now() < until {
            let before = self.forwarded.load(Ordering::Relaxed);
            let idle_until = Instant::now() + IDLE_LIMIT;
            while !self.outputs_done() && Instant::now() < idle_until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if self.forwarded.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Waits for the rest of the output, for a bounded time, closes the FIFOs and ends the logger.
    pub async fn finish(mut self) {
        let outputs = std::mem::take(&mut self.outputs);
        let until = Instant::now() + DRAIN_LIMIT;
        for mut output in outputs {
            if tokio::time::timeout_at(until, &mut output).await.is_err() {
                output.abort();
                // Its end of what it wrote to is closed then.
                let _ = output.await;
            }
        }
        if let Some(logger) = self.logger.take() {
            logger.end().await;
        }
    }

    /// Waits for the rest of all, side by side.
    pub async fn finish_all(all: Vec<Self>) {
        let mut finishing: JoinSet<()> = all.into_iter().map(Self::finish).collect();
        while finishing.join_next().await.is_some() {}
    }

    /// With one output, that the process's end of keeps open.
    #[cfg(test)]
    pub(crate) fn of_open_stream() -> (UnixStream, Self) {
        let Ok((guest, host)) = UnixStream::pair() else {
            panic!("no sockets");
        };
        let output: Output = Box::new(tokio::io::sink());
        let connected = Connected {
            tokens: Stdio::default(),
            stdin: None,
            outputs: vec![(host, output)],
            preserved: Vec::new(),
            logger: None,
            terminal: false,
        };
        (guest, connected.start())
    }

    fn outputs_done(&self) -> bool {
        self.outputs.iter().all(JoinHandle::is_finished)
    }
}

impl Drop for ProcessIo {
    fn drop(&mut self) {
        let inputs = self.inputs.iter().chain(&self.stdin);
        for task in self.outputs.iter().chain(inputs) {
            task.abort();
        }
    }
}

async fn forward_input(mut input: Input, mut stream: UnixStream, close: Arc<Notify>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut closing = false;
    loop {
        let read = if closing {
            match tokio::time::timeout(CLOSE_LIMIT, input.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                read = input.read(&mut buffer) => read,
                () = close.notified() => {
                    closing = true;
                    continue;
                }
            }
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
    // The process may be gone already.
    let _ = stream.shutdown().await;
    // The stream stays open until its other end is closed: closing it now could reset it before
    // the guest has read everything.
    let mut rest = [0; 64];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}

/// Both ways of a preserved descriptor, as far as it has them. A socket is not shut down where the
/// process has ended its side: others may have it too.
fn forward_preserved(
    stream: UnixStream,
    preserved: Preserved,
    forwarded: &Arc<AtomicU64>,
) -> (Option<JoinHandle<()>>, Option<JoinHandle<()>>) {
    let Preserved {
        direction,
        input,
        output,
    } = preserved;
    let forwarded = Arc::clone(forwarded);
    match (direction, input, output) {
        (Direction::Both, Some(mut input), Some(output)) => {
            let (from_guest, mut to_guest) = stream.into_split();
            let input = async move {
                // However it ends, the process reads to the end then.
                let _ = tokio::io::copy(&mut input, &mut to_guest).await;
                let _ = to_guest.shutdown().await;
            };
            let output = forward_output(from_guest, output, forwarded);
            (Some(tokio::spawn(input)), Some(tokio::spawn(output)))
        }
        (_, Some(input), _) => {
            let input = forward_input(input, stream, Arc::default());
            (Some(tokio::spawn(input)), None)
        }
        (_, None, Some(output)) => {
            let output = forward_output(stream, output, forwarded);
            (None, Some(tokio::spawn(output)))
        }
        (_, None, None) => (None, None),
    }
}

async fn forward_output(
    mut stream: impl AsyncRead + Unpin,
    mut output: Output,
    forwarded: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut lost = false;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                match output.write_all(&buffer[..length]).await {
                    // A file has no room: what does not fit is lost, and the process goes on.
                    Err(error) if is_full(&error) && !lost => {
                        lost = true;
                        tracing::warn!(%error, "output of a process is lost");
                    }
                    Err(error) if is_full(&error) => {}
                    Err(_) => return,
                    Ok(()) => lost = false,
                }
                forwarded.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    }
    let _ = output.flush().await;
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_of(outputs: Vec<(UnixStream, Output)>) -> ProcessIo {
        Connected {
            tokens: Stdio::default(),
            stdin: None,
            outputs,
            preserved: Vec::new(),
            logger: None,
            terminal: false,
        }
        .start()
    }

    #[tokio::test]
    async fn output_is_complete_when_its_stream_ends() {
        let (mut guest, host) = UnixStream::pair().unwrap();
        let (output, mut reader) = tokio::io::duplex(1 << 20);
        let io = io_of(vec![(host, Box::new(output))]);
        guest.write_all(b"hello").await.unwrap();
        drop(guest);
        io.settle().await;
        assert!(io.outputs_done());
        io.finish().await;
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn streams_that_stay_open_are_waited_for_side_by_side() {
        let (_guests, all): (Vec<_>, Vec<_>) = (0..3).map(|_| ProcessIo::of_open_stream()).unzip();
        let start = Instant::now();
        ProcessIo::finish_all(all).await;
        assert!(start.elapsed() < DRAIN_LIMIT * 2);
    }

    #[tokio::test]
    async fn an_open_stream_holds_the_exit_up_only_shortly() {
        let (_guest, host) = UnixStream::pair().unwrap();
        let (output, _reader) = tokio::io::duplex(64);
        let io = io_of(vec![(host, Box::new(output))]);
        let start = Instant::now();
        io.settle().await;
        assert!(start.elapsed() < SETTLE_LIMIT);
    }

    #[tokio::test]
    async fn closing_stdin_forwards_what_was_written_first() {
        let (mut guest, host) = UnixStream::pair().unwrap();
        let (mut writer, input) = tokio::io::duplex(64);
        let io = Connected {
            tokens: Stdio::default(),
            stdin: Some((Box::new(input), host)),
            outputs: Vec::new(),
            preserved: Vec::new(),
            logger: None,
            terminal: false,
        }
        .start();
        writer.write_all(b"last words").await.unwrap();
        io.close_stdin();
        let mut text = String::new();
        guest.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "last words");
    }
}
