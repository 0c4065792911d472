//! A program that takes the output of a process, as containerd has it: standard output is its
//! descriptor 3, standard error 4, and it closes 5 when it is ready.
//!
//! **Owner:** [`Logger`]. When it is ended or dropped the program has some time to read the rest,
//! then it is told to end, then it is killed. The kernel kills it when this process dies.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{kill_process, kill_process_group, Pid, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Output;
use crate::report::chain;
use crate::sys;

/// How long it may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long it has for what is left when its input has ended, before it is told to end.
const REST_LIMIT: Duration = Duration::from_secs(2);
/// How long it has then, before it is killed.
const TERM_LIMIT: Duration = Duration::from_secs(10);

/// Whose output it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// Of the container, or of the exec.
    pub(crate) id: &'a str,
    /// containerd's.
    pub(crate) namespace: &'a str,
}

/// Why a logger takes no output.
#[derive(Debug, thiserror::Error)]
pub enum LoggerError {
    /// It can't be executed.
    #[error("failed to start the logger {program:?}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not say that it is ready.
    #[error("the logger {program:?} was not ready within {READY_LIMIT:?}: it is to close its descriptor 5 then")]
    NotReady {
        /// The program.
        program: PathBuf,
    },
}

/// A running logger.
#[derive(Debug)]
pub struct Logger {
    /// Ends it when dropped.
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Logger {
    /// Starts one and waits until it is ready; with it, what takes standard output and error.
    pub(super) async fn start(
        command: Command,
        owner: Owner<'_>,
    ) -> Result<(Self, Output, Output), LoggerError> {
        Self::start_within(command, owner, READY_LIMIT).await
    }

    async fn start_within(
        mut command: Command,
        owner: Owner<'_>,
        limit: Duration,
    ) -> Result<(Self, Output, Output), LoggerError> {
        let program = PathBuf::from(command.as_std().get_program());
        let failed = |source| LoggerError::Start {
            program: program.clone(),
            source,
        };
        crate::confine::check_foreign_program().map_err(failed)?;
        command
            .env_clear()
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace);
        let (child, [stdout, stderr], mut ready) = spawn(command).map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(follow(child, stopped, program.clone()));
        let logger = Self { stop, ended };
        // One that has ended is as ready as it will be.
        let read = tokio::time::timeout(limit, ready.read(&mut [0])).await;
        let read = read.map_err(|_elapsed| LoggerError::NotReady {
            program: program.clone(),
        })?;
        read.map_err(failed)?;
        Ok((logger, Box::new(stdout), Box::new(stderr)))
    }

    /// Ends it: its input has ended. Waits for that, a bounded time.
    pub(super) async fn end(self) {
        drop(self.stop);
        // A task that panicked has dropped its child, which kills it.
        let _ = self.ended.await;
    }
}

type Spawned = (Child, [pipe::Sender; 2], pipe::Receiver);

fn spawn(mut command: Command) -> io::Result<Spawned> {
    let (stdout, its_stdout) = pipe::pipe()?;
    let (stderr, its_stderr) = pipe::pipe()?;
    let (its_ready, ready) = pipe::pipe()?;
    let its: [OwnedFd; 3] = [
        its_stdout.into_blocking_fd()?,
        its_stderr.into_blocking_fd()?,
        its_ready.into_blocking_fd()?,
    ];
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    // On this thread, though executing a program of a file system that does not answer takes it up: a
    // child dies with the thread that made it, and other threads end when they are idle.
    let _held = sys::hand_over_from_3(command.as_std_mut(), &its.each_ref().map(OwnedFd::as_fd))?;
    Ok((command.spawn()?, [stdout, stderr], ready))
}

/// Waits for its end, and ends it when it is to be.
async fn follow(mut child: Child, stopped: oneshot::Receiver<()>, program: PathBuf) {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = stopped => end(&mut child, &program).await,
    };
    match status {
        Ok(status) if !status.success() => {
            tracing::warn!(?program, %status, "a logger ended");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(?program, error = chain(&error), "a logger is lost"),
    }
}

async fn end(child: &mut Child, program: &Path) -> io::Result<ExitStatus> {
    if let Ok(ended) = tokio::time::timeout(REST_LIMIT, child.wait()).await {
        return ended;
    }
    // It is not reaped yet, so the number is still its own.
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return child.wait().await;
    };
    let _ = kill_process(pid, Signal::TERM);
    if let Ok(ended) = tokio::time::timeout(TERM_LIMIT, child.wait()).await {
        return ended;
    }
    tracing::warn!(?program, "a logger does not end: it is killed");
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait().await
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const OWNER: Owner<'_> = Owner {
        id: "c1",
        namespace: "ns",
    };

    fn script(text: &str, argument: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text, "sh"]).arg(argument);
        command
    }

    #[tokio::test]
    async fn a_logger_gets_both_streams_until_they_end() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let text = r#"echo "$CONTAINER_NAMESPACE/$CONTAINER_ID" >"$1"; exec 5>&-; cat <&3 >>"$1"; cat <&4 >>"$1""#;
        let started = Logger::start(script(text, &log), OWNER).await.unwrap();
        let (logger, mut stdout, mut stderr) = started;
        stdout.write_all(b"out\n").await.unwrap();
        stderr.write_all(b"err\n").await.unwrap();
        drop((stdout, stderr));
        logger.end().await;
        assert_eq!(fs::read_to_string(&log).unwrap(), "ns/c1\nout\nerr\n");
    }

    #[tokio::test]
    async fn a_logger_that_goes_on_is_told_to_end() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let text =
            r#"trap 'echo told >"$1"; exit 0' TERM; exec 5>&-; while :; do sleep 0.05; done"#;
        let (logger, ..) = Logger::start(script(text, &log), OWNER).await.unwrap();
        tokio::time::timeout(REST_LIMIT + TERM_LIMIT, logger.end())
            .await
            .unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "told\n");
    }

    #[tokio::test]
    async fn what_is_no_logger_is_named() {
        let missing = Command::new("/nonexistent/logger");
        let error = Logger::start(missing, OWNER).await.err().unwrap();
        assert!(error.to_string().contains("/nonexistent/logger"), "{error}");
        let never = script("exec sleep 600", Path::new(""));
        let limit = Duration::from_millis(200);
        let error = Logger::start_within(never, OWNER, limit).await.err();
        assert!(
            matches!(error, Some(LoggerError::NotReady { .. })),
            "{error:?}"
        );
    }
}
