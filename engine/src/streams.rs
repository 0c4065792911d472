//! Standard streams of a process: FIFOs to its shim, fan-out to attached clients and to the log.
//!
//! A client that does not read stops the process once its queue is full, as Docker does: output is
//! neither dropped nor kept without bound.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use crate::error::{EngineError, Result};
use crate::logs::{Log, Stream};

/// Bytes read from a FIFO at once.
const CHUNK_BYTES: usize = 32 << 10;
/// Chunks on their way to one client.
const CLIENT_QUEUE: usize = 32;
/// How long a client may take nothing once the process has ended: others wait for the end, and the log for
/// the rest of the output.
const PATIENCE: Duration = Duration::from_secs(2);
/// Chunks of input on their way to the process.
const STDIN_QUEUE: usize = 32;

/// A piece of output.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) stream: Stream,
    pub(crate) data: Bytes,
}

/// What goes to standard input.
#[derive(Debug)]
pub(crate) enum Input {
    Data(Bytes),
    Close,
}

/// Where clients attach, whether or not the process runs.
#[derive(Debug)]
pub(crate) struct Hub {
    clients: Mutex<Vec<Client>>,
    /// The process has ended, and its last output is passed on.
    ending: watch::Sender<bool>,
    stdin: mpsc::Sender<Input>,
    stdin_end: tokio::sync::Mutex<mpsc::Receiver<Input>>,
}

#[derive(Debug, Clone)]
struct Client {
    stdout: bool,
    stderr: bool,
    sender: mpsc::Sender<Chunk>,
}

impl Hub {
    pub(crate) fn new() -> Arc<Self> {
        let (stdin, stdin_end) = mpsc::channel(STDIN_QUEUE);
        Arc::new(Self {
            clients: Mutex::default(),
            ending: watch::Sender::new(false),
            stdin,
            stdin_end: stdin_end.into(),
        })
    }

    /// Output from now on, until the process ends.
    pub(crate) fn attach(&self, stdout: bool, stderr: bool) -> mpsc::Receiver<Chunk> {
        let (sender, receiver) = mpsc::channel(CLIENT_QUEUE);
        self.lock().push(Client {
            stdout,
            stderr,
            sender,
        });
        receiver
    }

    /// The way to standard input. Waits where the process does not read.
    pub(crate) fn stdin(&self) -> mpsc::Sender<Input> {
        self.stdin.clone()
    }

    /// Ends the streams of all attached clients, and drops input that no process took.
    pub(crate) fn close(&self) {
        self.lock().clear();
        if let Ok(mut input) = self.stdin_end.try_lock() {
            while input.try_recv().is_ok() {}
        }
    }

    async fn send(&self, chunk: &Chunk) {
        let clients: Vec<Client> = self.lock().clone();
        for client in clients {
            let wants = match chunk.stream {
                Stream::Stdout => client.stdout,
                Stream::Stderr => client.stderr,
            };
            if wants && !self.takes(&client, chunk).await {
                self.lock()
                    .retain(|other| !other.sender.same_channel(&client.sender));
            }
        }
    }

    /// Hands a chunk to a client, however long it takes; at the end of the process not if it stands still.
    async fn takes(&self, client: &Client, chunk: &Chunk) -> bool {
        let mut ending = self.ending.subscribe();
        let stands_still = async {
            let _ = ending.wait_for(|ending| *ending).await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::select! {
            biased;
            sent = client.sender.send(chunk.clone()) => sent.is_ok(),
            () = stands_still => {
                tracing::warn!("a client that does not read its output is left behind");
                false
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.clients
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

/// Paths of a process's FIFOs; empty where it has no such stream.
#[derive(Debug, Clone)]
pub(crate) struct Fifos {
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) stdout: Option<PathBuf>,
    pub(crate) stderr: Option<PathBuf>,
}

/// The engine's ends of the FIFOs before the shim has opened its own.
#[derive(Debug)]
pub(crate) struct Opened {
    fifos: Fifos,
    /// Holds the FIFO open, so that neither side waits for the other.
    stdin_keeper: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

impl Fifos {
    /// Paths in `dir`, their names beginning with `prefix`. A terminal has no standard error.
    pub(crate) fn new(dir: &Path, prefix: &str, stdin: bool, stderr: bool) -> Self {
        let path = |name: &str| Some(dir.join(format!("{prefix}{name}")));
        Self {
            stdin: path("stdin").filter(|_| stdin),
            stdout: path("stdout"),
            stderr: path("stderr").filter(|_| stderr),
        }
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
    }

    /// Makes the FIFOs, and opens the engine's ends.
    pub(crate) fn create(self) -> Result<Opened> {
        for path in self.all() {
            match rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from(0o600)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(EngineError::io("create the FIFO", path, error)),
            }
        }
        self.open()
    }

    /// Opens the engine's ends of FIFOs that exist.
    pub(crate) fn open(self) -> Result<Opened> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source: std::io::Error| EngineError::io("open the FIFO", path, source)
        };
        let receiver = |path: &Option<PathBuf>| {
            path.as_deref()
                .map(|path| {
                    pipe::OpenOptions::new()
                        .open_receiver(path)
                        .map_err(io(path))
                })
                .transpose()
        };
        let stdin_keeper = self
            .stdin
            .as_deref()
            .map(|path| {
                pipe::OpenOptions::new()
                    .read_write(true)
                    .open_sender(path)
                    .map_err(io(path))
            })
            .transpose()?;
        Ok(Opened {
            stdin_keeper,
            stdout: receiver(&self.stdout)?,
            stderr: receiver(&self.stderr)?,
            fifos: self,
        })
    }

    /// Removes them.
    pub(crate) fn remove(&self) {
        for path in self.all() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Tells the shim that standard input is at its end.
pub(crate) type CloseStdin =
    Box<dyn FnOnce() -> futures_util::future::BoxFuture<'static, ()> + Send>;

/// The engine's ends of a process's streams.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: Option<pipe::Receiver>,
    pub(crate) stderr: Option<pipe::Receiver>,
}

/// The running pumps of a process.
#[derive(Debug)]
pub(crate) struct Pumps {
    outputs: Vec<JoinHandle<()>>,
    stdin: Option<JoinHandle<()>>,
    hub: Arc<Hub>,
}

impl Opened {
    /// The FIFOs' paths.
    pub(crate) fn fifos(&self) -> &Fifos {
        &self.fifos
    }

    /// The engine's ends, for who moves bytes by itself: where standard input goes, and where the
    /// outputs come from. To be called once the shim has opened its ends.
    pub(crate) fn take(self) -> Taken {
        let stdin = self.fifos.stdin.as_deref();
        let stdin = stdin.and_then(|path| pipe::OpenOptions::new().open_sender(path).ok());
        drop(self.stdin_keeper);
        Taken {
            stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }

    /// Starts to move bytes. To be called once the shim has opened its ends: only then does an
    /// end-of-file mean the end.
    pub(crate) fn pump(self, hub: &Arc<Hub>, log: Option<&Arc<Log>>, close: CloseStdin) -> Pumps {
        hub.ending.send_replace(false);
        let output = |receiver, stream| {
            let pump = pump_output(receiver, stream, Arc::clone(hub), log.cloned());
            tokio::spawn(pump.in_current_span())
        };
        let mut outputs = Vec::new();
        outputs.extend(self.stdout.map(|fifo| output(fifo, Stream::Stdout)));
        outputs.extend(self.stderr.map(|fifo| output(fifo, Stream::Stderr)));
        let stdin = self.fifos.stdin.as_deref().and_then(|path| {
            // Write-only from here on: when the shim is gone, writes fail instead of filling the
            // FIFO for nobody.
            let sender = pipe::OpenOptions::new().open_sender(path).ok();
            drop(self.stdin_keeper);
            sender.map(|sender| tokio::spawn(pump_stdin(sender, Arc::clone(hub), close)))
        });
        Pumps {
            outputs,
            stdin,
            hub: Arc::clone(hub),
        }
    }
}

impl Pumps {
    /// Waits until all output has been passed on, but not longer than `limit`.
    pub(crate) async fn drain(self, limit: Duration) {
        self.hub.ending.send_replace(true);
        if let Some(stdin) = self.stdin {
            stdin.abort();
            let _ = stdin.await;
        }
        let deadline = tokio::time::Instant::now() + limit;
        for mut output in self.outputs {
            if tokio::time::timeout_at(deadline, &mut output)
                .await
                .is_err()
            {
                tracing::warn!("an output stream is still open after its process ended");
                output.abort();
            }
        }
    }
}

/// Writes output down. A disk may take its time, and a log that begins anew waits until the one before
/// is compressed: nobody else waits with it.
async fn keep(log: &Arc<Log>, stream: Stream, data: Bytes) {
    let log = Arc::clone(log);
    let written = tokio::task::spawn_blocking(move || log.write(stream, &data)).await;
    if let Err(error) = written {
        tracing::error!(%error, "output of a container is lost");
    }
}

async fn pump_output(
    mut fifo: pipe::Receiver,
    stream: Stream,
    hub: Arc<Hub>,
    log: Option<Arc<Log>>,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match fifo.read(&mut buffer).await {
            Ok(0) => return,
            Ok(read) => {
                let data = Bytes::copy_from_slice(&buffer[..read]);
                if let Some(log) = &log {
                    keep(log, stream, data.clone()).await;
                }
                hub.send(&Chunk { stream, data }).await;
            }
            Err(error) => {
                tracing::warn!(%error, "reading output failed");
                return;
            }
        }
    }
}

async fn pump_stdin(mut fifo: pipe::Sender, hub: Arc<Hub>, close: CloseStdin) {
    // One run at a time: the next run's pump waits for this one's end.
    let mut input = hub.stdin_end.lock().await;
    loop {
        match input.recv().await {
            Some(Input::Data(data)) => {
                if fifo.write_all(&data).await.is_err() {
                    // The process no longer reads: what else comes is dropped.
                    while let Some(Input::Data(_)) = input.recv().await {}
                    return;
                }
            }
            Some(Input::Close) | None => {
                drop(fifo);
                close().await;
                // Later input has nowhere to go in this run.
                while input.recv().await.is_some() {}
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn nothing() -> CloseStdin {
        Box::new(|| Box::pin(async {}))
    }

    #[tokio::test]
    async fn output_reaches_every_client_and_the_log_whole() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::new();
        let log = Arc::new(Log::new(dir.path().join("log")));
        log.begin(Default::default()).unwrap();
        let opened = Fifos::new(dir.path(), "", false, true).create().unwrap();
        let path = opened.fifos().stdout.clone().unwrap();
        let error_path = opened.fifos().stderr.clone().unwrap();
        let (first, second) = (hub.attach(true, false), hub.attach(true, true));
        let open = |path| std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let (mut fifo, mut error) = (open(path), open(error_path));
        let writer = std::thread::spawn(move || {
            error.write_all(b"oops\n").unwrap();
            for _ in 0..1000 {
                fifo.write_all(&[b'x'; 1023]).unwrap();
                fifo.write_all(b"\n").unwrap();
            }
        });
        let pumps = opened.pump(&hub, Some(&log), nothing());
        let count = |mut client: mpsc::Receiver<Chunk>| async move {
            let mut bytes = 0;
            while let Some(chunk) = client.recv().await {
                bytes += chunk.data.len();
            }
            bytes
        };
        let counts = tokio::spawn(async move { tokio::join!(count(first), count(second)) });
        pumps.drain(Duration::from_secs(10)).await;
        writer.join().unwrap();
        hub.close();
        log.end();
        let (stdout_only, both) = counts.await.unwrap();
        assert_eq!((stdout_only, both), (1_024_000, 1_024_005));
        assert!(1_024_000 < std::fs::metadata(log.path()).unwrap().len());
    }

    #[tokio::test]
    async fn a_client_that_stands_still_holds_up_neither_the_end_nor_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::new();
        let log = Arc::new(Log::new(dir.path().join("log")));
        log.begin(Default::default()).unwrap();
        let opened = Fifos::new(dir.path(), "", false, false).create().unwrap();
        let path = opened.fifos().stdout.clone().unwrap();
        let _deaf = hub.attach(true, true);
        let mut fifo = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let writer = std::thread::spawn(move || {
            for _ in 0..3000 {
                fifo.write_all(&line).unwrap();
            }
        });
        let pumps = opened.pump(&hub, Some(&log), nothing());
        let begun = std::time::Instant::now();
        pumps.drain(Duration::from_secs(60)).await;
        assert!(begun.elapsed() < Duration::from_secs(20));
        writer.join().unwrap();
        log.end();
        let kept = std::fs::read(log.path()).unwrap();
        assert_eq!(kept.iter().filter(|byte| **byte == b'\n').count(), 3000);
    }

    #[tokio::test]
    async fn closing_stdin_ends_the_readers_input_after_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::new();
        let opened = Fifos::new(dir.path(), "", true, false).create().unwrap();
        let path = opened.fifos().stdin.clone().unwrap();
        let mut reader = std::fs::OpenOptions::new().read(true).open(path).unwrap();
        let closed = Arc::new(tokio::sync::Notify::new());
        let notify = Arc::clone(&closed);
        let _pumps = opened.pump(
            &hub,
            None,
            Box::new(move || Box::pin(async move { notify.notify_one() })),
        );
        let stdin = hub.stdin();
        stdin
            .send(Input::Data(Bytes::from_static(b"hi\n")))
            .await
            .unwrap();
        stdin.send(Input::Close).await.unwrap();
        closed.notified().await;
        let text = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(text.await.unwrap(), "hi\n");
    }
}
