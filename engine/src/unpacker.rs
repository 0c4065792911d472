//! Layers are unpacked by `hull-unpack`, a program that boots a one-off microVM.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use hull_image::{LayerLengths, UnpackJob, UnpackOutcome, UnpackProgress, Unpacker};
use hull_shim::runtime_dir::EXEC_ROOT_ENV;
use hull_shim::unpack::{Compression, Job, Known, Layer, Limits};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Child;

use crate::error::chain;

/// Longest line of the unpacker that is read, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// Runs `hull-unpack` for each image.
pub(crate) struct ProcessUnpacker {
    pub(crate) program: PathBuf,
    pub(crate) exec_root: PathBuf,
}

/// What `hull-unpack` prints, one object a line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum UnpackLine {
    Progress(hull_shim::unpack::Progress),
    Done(hull_shim::unpack::Done),
    Error { error: String },
}

#[derive(Debug, thiserror::Error)]
enum UnpackerError {
    #[error("failed to run {program:?}")]
    Run {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Reported(String),
    #[error("the unpacker printed something else than it should")]
    Garbled { source: serde_json::Error },
    #[error("the unpacker ended without a result: {0}")]
    Ended(String),
}

fn job_of(job: &UnpackJob) -> Job {
    let layers = job.layers.iter().map(|layer| Layer {
        path: layer.path.clone(),
        length: layer.length,
        compression: match layer.compression {
            hull_image::Compression::None => Compression::None,
            hull_image::Compression::Gzip => Compression::Gzip,
            hull_image::Compression::Zstd => Compression::Zstd,
        },
        diff_id: layer.diff_id.to_string(),
        digest: layer.digest.to_string(),
        data: layer.data.clone(),
        index: layer.index.clone(),
    });
    let known = job.known.iter().map(|layer| Known {
        diff_id: layer.diff_id.to_string(),
        digest: layer.digest.to_string(),
        index: layer.index.clone(),
        data_length: layer.data_length,
    });
    Job {
        layers: layers.collect(),
        known: known.collect(),
        diff_ids: job.diff_ids.iter().map(ToString::to_string).collect(),
        output: job.output.clone(),
        output_capacity: job.output_size,
        memory_bytes: None,
        vcpus: None,
        limits: Limits {
            files: job.max_files,
            bytes: job.max_bytes,
            stored: job.max_stored,
            ..Limits::default()
        },
    }
}

#[async_trait]
impl Unpacker for ProcessUnpacker {
    async fn unpack(
        &self,
        job: UnpackJob,
        progress: Arc<dyn UnpackProgress>,
    ) -> std::result::Result<UnpackOutcome, Box<dyn std::error::Error + Send + Sync>> {
        let run = |source| UnpackerError::Run {
            program: self.program.clone(),
            source,
        };
        let text = serde_json::to_string(&job_of(&job))?;
        let mut child = tokio::process::Command::new(&self.program)
            .env(EXEC_ROOT_ENV, &self.exec_root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(run)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let running = RunningUnpacker {
            child: Some(child),
            exec_root: self.exec_root.clone(),
        };
        if let Some(mut stdin) = stdin {
            stdin.write_all(text.as_bytes()).await.map_err(run)?;
        }
        let errors = tokio::spawn(async move { last_words(stderr).await });
        let mut outcome = None;
        if let Some(stdout) = stdout {
            outcome = read_lines(stdout, progress.as_ref()).await?;
        }
        let status = running.end().await.map_err(run)?;
        let text = errors.await.unwrap_or_default();
        match outcome.filter(|_| status.success()) {
            Some(outcome) => Ok(outcome),
            None if text.is_empty() => Err(UnpackerError::Ended(status.to_string()).into()),
            None => Err(UnpackerError::Ended(text).into()),
        }
    }
}

/// A `hull-unpack`. One that nobody waits for any more is killed, and one that was killed leaves
/// nothing of its VM.
struct RunningUnpacker {
    /// `None` when it has ended.
    child: Option<Child>,
    exec_root: PathBuf,
}

impl RunningUnpacker {
    async fn end(mut self) -> std::io::Result<ExitStatus> {
        let Some(child) = &mut self.child else {
            return Ok(ExitStatus::default());
        };
        let pid = child.id();
        let status = child.wait().await?;
        self.child = None;
        if status.code().is_none() {
            remove_unpack_sandbox(&self.exec_root, pid).await;
        }
        Ok(status)
    }
}

impl Drop for RunningUnpacker {
    fn drop(&mut self) {
        // Without a runtime it is killed all the same, as it is dropped.
        let (Some(mut child), Ok(runtime)) =
            (self.child.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (pid, exec_root) = (child.id(), self.exec_root.clone());
        runtime.spawn(async move {
            let _ = child.kill().await;
            remove_unpack_sandbox(&exec_root, pid).await;
        });
    }
}

async fn remove_unpack_sandbox(exec_root: &Path, pid: Option<u32>) {
    let Some(pid) = pid else { return };
    let (root, id) = (exec_root.to_owned(), hull_shim::unpack::sandbox_id(pid));
    let remove = move || hull_shim::runtime_dir::remove_sandbox(&root, &id);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(remove).await {
        tracing::warn!(
            pid,
            error = chain(&error),
            "what a killed unpacker had is left"
        );
    }
}

async fn read_lines(
    stdout: impl tokio::io::AsyncRead + Unpin,
    progress: &dyn UnpackProgress,
) -> std::result::Result<Option<UnpackOutcome>, UnpackerError> {
    let garbled = |source| UnpackerError::Garbled { source };
    let mut outcome = None;
    let mut lines = BufReader::new(stdout);
    let mut line = String::new();
    loop {
        line.clear();
        let read = (&mut lines).take(MAX_LINE).read_line(&mut line).await;
        if !matches!(read, Ok(1..)) {
            return Ok(outcome);
        }
        match serde_json::from_str(line.trim()).map_err(garbled)? {
            UnpackLine::Progress(now) => {
                progress.layer(
                    usize::try_from(now.layer).unwrap_or(usize::MAX),
                    now.bytes_read,
                );
            }
            UnpackLine::Done(done) => {
                let layers = done.layers.iter().map(|layer| LayerLengths {
                    data: layer.data,
                    index: layer.index,
                });
                outcome = Some(UnpackOutcome {
                    image_length: done.image_length,
                    files: done.files,
                    layers: layers.collect(),
                });
            }
            UnpackLine::Error { error } => return Err(UnpackerError::Reported(error)),
        }
    }
}

async fn last_words(stderr: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = stderr {
        // Cut off, not waited for: a child that writes more gets an error.
        let _ = stderr.take(MAX_LINE).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).trim().replace('\n', "; ")
}
