//! Work on containers' files: by the running VM, or by one that is booted for it and gone after.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hull_protocol::agent::FilesJob;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, OwnedMutexGuard};

use crate::container::{is_mounted, live_task, Container};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::ids;
use crate::lifecycle::Status;
use crate::shim::{Ended, Task};
use crate::streams::{Fifos, Taken};

/// Longest error text that is read, in bytes.
const MAX_ERROR_BYTES: u64 = 16 << 10;
/// Longest answer that is kept in memory, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// What is said of a longer one.
const TOO_LONG: &str = "failed: its answer has more than 64 MiB";
/// Bytes moved at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks on their way to a client.
const QUEUE: usize = 8;
/// How long a job may take to end after its output has.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long a job may neither give nor take a byte. It holds a stopped container, and a guest may
/// be silent for ever.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// How long a VM that was booted for a session waits for the next one.
const KEEP: Duration = Duration::from_secs(3);
/// Before its id in the names of a job's FIFOs.
pub(crate) const JOB: &str = "files-";
const SIGKILL: u32 = 9;

/// A job did neither give nor take a byte for [`IDLE_LIMIT`].
#[derive(Debug, PartialEq, Eq)]
struct Silent;

/// What a client reads.
pub(crate) type Output = mpsc::Receiver<std::io::Result<Bytes>>;

/// A VM that works on a container's files.
pub(crate) struct Session {
    engine: Arc<Engine>,
    container: Arc<Container>,
    task: Arc<Task>,
    /// The VM was booted for this; the container can't be started meanwhile.
    own: Option<OwnedMutexGuard<()>>,
    /// A job did not end by itself: the VM serves no further one.
    broken: AtomicBool,
}

/// A job that runs.
struct Running {
    id: String,
    fifos: Fifos,
    streams: Taken,
}

impl Engine {
    /// Opens a session on a container's files. Not cut off half-way when its caller is: a session
    /// that nobody takes ends by itself.
    pub(crate) async fn files(self: &Arc<Self>, container: &Arc<Container>) -> Result<Session> {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        let opened = tokio::spawn(async move { engine.open_files(&container).await });
        opened.await.map_err(|error| {
            EngineError::io("open", "a container's files", std::io::Error::other(error))
        })?
    }

    /// Asks once. Goes on to its end when the client goes away: no job is left behind.
    pub(crate) async fn ask_of_files(
        self: &Arc<Self>,
        container: &Arc<Container>,
        job: FilesJob,
    ) -> Result<Vec<u8>> {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        let asked = tokio::spawn(async move {
            let session = engine.open_files(&container).await?;
            let answer = session.ask(&job).await;
            session.close();
            answer
        });
        asked.await.map_err(|error| {
            EngineError::io(
                "ask about",
                "a container's files",
                std::io::Error::other(error),
            )
        })?
    }

    /// Ends the VMs that are kept for further work, at the end of the daemon: what was copied into them
    /// is on their disks then.
    pub(crate) async fn end_kept_vms(&self, limit: Duration) {
        let all: Vec<_> = self.containers().values().cloned().collect();
        let kept = all.iter().filter(|container| container.turns.has_kept());
        let ended = kept.map(|container| async move {
            // Who waits for the turn has what is kept ended.
            let _turn = container.operate().await;
        });
        let ended = futures_util::future::join_all(ended);
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!("a VM for work on files does not end");
        }
    }

    async fn open_files(self: &Arc<Self>, container: &Arc<Container>) -> Result<Session> {
        let session = |task, own| Session {
            engine: Arc::clone(self),
            container: Arc::clone(container),
            task,
            own,
            broken: AtomicBool::new(false),
        };
        if container.status().is_live() {
            return Ok(session(live_task(container)?, None));
        }
        if let Some((task, operation)) = container.turns.take_kept() {
            let kept = session(task, Some(operation));
            if kept.task.is_running().await.unwrap_or(false) {
                return Ok(kept);
            }
            kept.end_own().await;
        }
        let operation = container.operate().await;
        match container.status() {
            // It was started meanwhile.
            Status::Running | Status::Paused => Ok(session(live_task(container)?, None)),
            Status::Removing | Status::Dead => Err(EngineError::Conflict(format!(
                "container {} is being removed",
                container.id()
            ))),
            Status::Created | Status::Exited | Status::Restarting => {
                let task = self.boot_for_files(container).await?;
                Ok(session(task, Some(operation)))
            }
        }
    }
}

/// A client that goes away drops its session where it is.
impl Drop for Session {
    fn drop(&mut self) {
        // None: hulld itself is ending, and the next one sweeps.
        if let (Some(operation), Ok(runtime)) =
            (self.own.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(self.ending(operation));
        }
    }
}

impl Session {
    /// Ends it. A VM that was booted for it is kept for a while, for the next: a copy is two
    /// requests. It makes way for whatever else is wanted of the container.
    pub(crate) fn close(mut self) {
        let Some(operation) = self.own.take() else {
            return;
        };
        if self.broken.load(Ordering::Relaxed) {
            self.own = Some(operation);
            return;
        }
        let ending = {
            let session = Self {
                engine: Arc::clone(&self.engine),
                container: Arc::clone(&self.container),
                task: Arc::clone(&self.task),
                own: None,
                broken: AtomicBool::new(false),
            };
            move |operation| {
                tokio::spawn(session.ending(operation));
            }
        };
        let turns = &self.container.turns;
        let number = turns.keep(Arc::clone(&self.task), operation, ending);
        if let Some(number) = number {
            let container = Arc::clone(&self.container);
            tokio::spawn(async move {
                tokio::time::sleep(KEEP).await;
                container.turns.end_kept(Some(number));
            });
        }
    }

    /// Ends the VM that was booted for the session, if there is one.
    async fn end_own(mut self) {
        if let Some(operation) = self.own.take() {
            self.ending(operation).await;
        }
    }

    /// The end of a VM that was booted for the session; until it is over, the container can't be
    /// started.
    fn ending(
        &self,
        operation: OwnedMutexGuard<()>,
    ) -> impl std::future::Future<Output = ()> + Send + 'static {
        let (engine, container) = (Arc::clone(&self.engine), Arc::clone(&self.container));
        let task = Arc::clone(&self.task);
        async move {
            let _operation = operation;
            let _ = task.delete("").await;
            let _ = task.shutdown().await;
            engine.clean_runtime(container.id()).await;
            engine.release_volumes(&container).await;
        }
    }

    async fn begin(&self, job: &FilesJob, input: bool) -> Result<Running> {
        let id = ids::new_id();
        let dir = self.engine.paths.bundle(self.container.id());
        let fifos = Fifos::new(&dir, &format!("{JOB}{id}-"), input, true);
        let opened = fifos.clone().create()?;
        let started = async {
            self.task.files_job(&id, job, &fifos).await?;
            let started = self.task.start(&id).await;
            if started.is_err() {
                let _ = self.task.delete(&id).await;
            }
            started
        };
        match started.await {
            Ok(_) => Ok(Running {
                id,
                fifos,
                streams: opened.take(),
            }),
            Err(error) => {
                fifos.remove();
                Err(error)
            }
        }
    }

    /// The end of a job: its error, if it told one.
    async fn end(
        &self,
        id: &str,
        fifos: &Fifos,
        errors: Option<pipe::Receiver>,
        path: &str,
    ) -> Result<()> {
        let mut text = String::new();
        let ended = async {
            if let Some(errors) = errors {
                let _ = errors.take(MAX_ERROR_BYTES).read_to_string(&mut text).await;
            }
            self.task.wait(id).await
        };
        let ended = tokio::time::timeout(END_LIMIT, ended).await;
        if ended.is_err() {
            self.kill(id).await;
        }
        let _ = self.task.delete(id).await;
        fifos.remove();
        match ended {
            Ok(Ended::Exited(0)) => Ok(()),
            Ok(_) => Err(self.error(text.trim(), path)),
            Err(_) => Err(self.stuck("did not end after its last byte", END_LIMIT)),
        }
    }

    /// A job that the guest did not do.
    fn stuck(&self, how: &'static str, limit: Duration) -> EngineError {
        EngineError::Stuck {
            what: "the work on files",
            id: self.container.id().to_owned(),
            how,
            seconds: limit.as_secs(),
        }
    }

    fn silent(&self, _: Silent) -> EngineError {
        self.stuck("gave and took nothing", IDLE_LIMIT)
    }

    /// Ends a job that does not end by itself.
    async fn kill(&self, id: &str) {
        self.broken.store(true, Ordering::Relaxed);
        if let Err(error) = self.task.kill(id, SIGKILL, false).await {
            tracing::debug!(error = error.message(), "ending work on files");
        }
        let _ = tokio::time::timeout(END_LIMIT, self.task.wait(id)).await;
    }

    fn error(&self, text: &str, path: &str) -> EngineError {
        let (word, text) = text.split_once(": ").unwrap_or(("", text));
        match word {
            "not-found" => EngineError::NoSuchFile {
                path: path.to_owned(),
                container: self.container.name(),
            },
            "not-a-directory" => {
                EngineError::BadRequest(format!("extraction point is not a directory: {path}"))
            }
            "read-only" => EngineError::BadRequest(self.read_only(path).to_owned()),
            "invalid" => EngineError::BadRequest(text.to_owned()),
            _ => EngineError::Task {
                call: "the work on files",
                id: self.container.id().to_owned(),
                reason: match text {
                    "" => "it ended without a reason".to_owned(),
                    text => text.to_owned(),
                },
            },
        }
    }

    /// What of the container can't be written at a path, in docker's words.
    fn read_only(&self, path: &str) -> &'static str {
        match is_mounted(&self.container.record(), Path::new(path)) {
            true => "mounted volume is marked read-only",
            false => "container rootfs is marked read-only",
        }
    }

    /// Runs a job with a small answer.
    pub(crate) async fn ask(&self, job: &FilesJob) -> Result<Vec<u8>> {
        let mut running = self.begin(job, false).await?;
        let mut answer = Vec::new();
        let mut failed = None;
        if let Some(mut output) = running.streams.stdout.take() {
            failed = match read_answer(&mut output, &mut answer).await {
                Ok(true) => None,
                Ok(false) => Some(self.error(TOO_LONG, &job.path)),
                Err(silent) => Some(self.silent(silent)),
            };
        }
        if failed.is_some() {
            self.kill(&running.id).await;
        }
        let errors = running.streams.stderr.take();
        let ended = self
            .end(&running.id, &running.fifos, errors, &job.path)
            .await;
        match failed {
            None => ended.map(|()| answer),
            Some(error) => Err(error),
        }
    }

    /// Runs a job with a long answer, and closes the session after it. A failure on the way is the
    /// last thing that the output gives.
    pub(crate) async fn stream(self, job: FilesJob) -> Result<Output> {
        let mut running = match self.begin(&job, false).await {
            Ok(running) => running,
            Err(error) => {
                self.close();
                return Err(error);
            }
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut failed = None;
            if let Some(mut output) = running.streams.stdout.take() {
                let mut buffer = vec![0; CHUNK_BYTES];
                loop {
                    let length = match read_some(&mut output, &mut buffer).await {
                        Ok(0) => break,
                        Ok(length) => length,
                        Err(silent) => {
                            failed = Some(self.silent(silent));
                            self.kill(&running.id).await;
                            break;
                        }
                    };
                    let chunk = Bytes::copy_from_slice(&buffer[..length]);
                    if !self.pass(&sender, chunk).await {
                        // Nobody reads any more. The shim keeps the FIFO open, so no broken pipe
                        // tells the job.
                        self.kill(&running.id).await;
                        break;
                    }
                }
            }
            let errors = running.streams.stderr.take();
            let ended = self
                .end(&running.id, &running.fifos, errors, &job.path)
                .await;
            if let Some(error) = failed.or(ended.err()) {
                tracing::warn!(error = error.message(), "work on files");
                let _ = sender
                    .send(Err(std::io::Error::other(error.message())))
                    .await;
            }
            self.close();
        });
        Ok(receiver)
    }

    /// Gives a client a piece; `false`: it wants no more. Who stands still holds no stopped container for
    /// ever.
    async fn pass(&self, client: &mpsc::Sender<std::io::Result<Bytes>>, piece: Bytes) -> bool {
        let sent = client.send(Ok(piece));
        match self.own {
            Some(_) => matches!(tokio::time::timeout(IDLE_LIMIT, sent).await, Ok(Ok(()))),
            None => sent.await.is_ok(),
        }
    }

    /// Runs a job that takes a stream.
    pub(crate) async fn feed(
        &self,
        job: &FilesJob,
        mut input: impl tokio::io::AsyncRead + Unpin,
    ) -> Result<()> {
        let mut running = self.begin(job, true).await?;
        let mut failed = None;
        if let Some(mut sink) = running.streams.stdin.take() {
            failed = match pass_on(&mut input, &mut sink).await {
                // A job that has failed reads no more, and tells why.
                Ok(()) | Err(Broken::Sink) => None,
                Err(Broken::Input(error)) => Some(EngineError::BadRequest(format!(
                    "the request body can't be read: {error}"
                ))),
                Err(Broken::Silent(silent)) => {
                    self.kill(&running.id).await;
                    Some(self.silent(silent))
                }
            };
        }
        let _ = self.task.close_stdin(&running.id).await;
        let errors = running.streams.stderr.take();
        let ended = self
            .end(&running.id, &running.fifos, errors, &job.path)
            .await;
        match failed {
            Some(error @ EngineError::Stuck { .. }) => Err(error),
            failed => ended.and(failed.map_or(Ok(()), Err)),
        }
    }
}

/// The next bytes of a job; 0: its output has ended.
async fn read_some(
    output: &mut (impl tokio::io::AsyncRead + Unpin),
    buffer: &mut [u8],
) -> Result<usize, Silent> {
    match tokio::time::timeout(IDLE_LIMIT, output.read(buffer)).await {
        Ok(read) => Ok(read.unwrap_or(0)),
        Err(_) => Err(Silent),
    }
}

/// All that a job gives; `false`: it is more than [`MAX_ANSWER_BYTES`].
async fn read_answer(
    output: &mut (impl tokio::io::AsyncRead + Unpin),
    answer: &mut Vec<u8>,
) -> Result<bool, Silent> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = read_some(output, &mut buffer).await?;
        if length == 0 {
            return Ok(true);
        }
        if MAX_ANSWER_BYTES < answer.len() + length {
            return Ok(false);
        }
        answer.extend_from_slice(&buffer[..length]);
    }
}

/// Why a stream was not moved to its end.
#[derive(Debug)]
enum Broken {
    /// It can't be read, or its sender stands still.
    Input(std::io::Error),
    /// Nobody takes it any more.
    Sink,
    /// Who takes it stands still.
    Silent(Silent),
}

/// Moves a stream, as long as something moves.
async fn pass_on(
    input: &mut (impl tokio::io::AsyncRead + Unpin),
    sink: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<(), Broken> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::time::timeout(IDLE_LIMIT, input.read(&mut buffer)).await;
        let read = read.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let length = match read.map_err(Broken::Input)? {
            0 => return Ok(()),
            length => length,
        };
        let mut left = &buffer[..length];
        while !left.is_empty() {
            match tokio::time::timeout(IDLE_LIMIT, sink.write(left)).await {
                Ok(Ok(taken @ 1..)) => left = &left[taken..],
                Ok(_) => return Err(Broken::Sink),
                Err(_) => return Err(Broken::Silent(Silent)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_is_passed_on_whole() {
        let data: Vec<u8> = (0..200_000).map(|n| n as u8).collect();
        let (mut near, mut far) = tokio::io::duplex(1000);
        let wanted = data.clone();
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all == wanted
        });
        pass_on(&mut data.as_slice(), &mut near).await.unwrap();
        drop(near);
        assert!(reading.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_stands_still_ends_the_work() {
        let (mut silent, _far) = tokio::io::duplex(1);
        let passed = pass_on(&mut silent, &mut tokio::io::sink()).await;
        assert!(
            matches!(&passed, Err(Broken::Input(error)) if error.kind() == std::io::ErrorKind::TimedOut),
            "{passed:?}"
        );
        let (mut full, _far) = tokio::io::duplex(1);
        let passed = pass_on(&mut &b"more than one"[..], &mut full).await;
        assert!(matches!(passed, Err(Broken::Silent(_))), "{passed:?}");
        let mut answer = Vec::new();
        let read = read_answer(&mut silent, &mut answer).await;
        assert_eq!(read, Err(Silent));
    }

    /// The limit is for silence: a long answer may take longer.
    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_long_and_may_not_be_too_long() {
        let (mut near, mut far) = tokio::io::duplex(1 << 10);
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(IDLE_LIMIT / 2).await;
                far.write_all(b"a part ").await.unwrap();
            }
        });
        let mut answer = Vec::new();
        assert_eq!(read_answer(&mut near, &mut answer).await, Ok(true));
        assert_eq!(answer, b"a part ".repeat(5));
        let mut endless = tokio::io::repeat(b'x');
        let read = read_answer(&mut endless, &mut Vec::new()).await;
        assert_eq!(read, Ok(false));
    }
}
