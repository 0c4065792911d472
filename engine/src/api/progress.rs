//! Long operations on images, and their progress as Docker's JSON lines.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hull_image::{Digest, LayerPhase, Progress, ProgressEvent};
use serde_json::{json, Value};
use tokio::sync::mpsc;

use super::respond::{stream, Answer};
use super::streams::body_channel;
use crate::error::{EngineError, Result};

/// Progress on its way to a client. What does not fit is dropped: newer progress follows.
const PROGRESS_QUEUE: usize = 256;

/// Progress as Docker's JSON lines.
pub(super) struct ProgressLines {
    sender: mpsc::Sender<Bytes>,
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

fn error_line(error: &EngineError) -> Bytes {
    let message = error.message();
    line(&json!({ "errorDetail": { "message": message }, "error": message }))
}

fn short_digest(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

impl Progress for ProgressLines {
    fn event(&self, event: ProgressEvent) {
        let value = match event {
            ProgressEvent::PullingFrom { repository, tag } => {
                json!({ "status": format!("Pulling from {repository}"), "id": tag })
            }
            ProgressEvent::Layer { digest, phase } => {
                let detail = match phase {
                    LayerPhase::Downloading { current, total }
                    | LayerPhase::Extracting { current, total }
                    | LayerPhase::Pushing { current, total } => {
                        json!({ "current": current, "total": total })
                    }
                    _ => json!({}),
                };
                json!({
                    "status": phase.status(),
                    "progressDetail": detail,
                    "id": short_digest(&digest),
                })
            }
            ProgressEvent::Digest(digest) => json!({ "status": format!("Digest: {digest}") }),
            // Told once the image is unpacked too.
            ProgressEvent::Complete { .. } => return,
        };
        // A slow client misses steps, never the result.
        let _ = self.sender.try_send(line(&value));
    }
}

/// Runs an operation with progress lines. What fails before the first line has its own status;
/// what fails later is a line.
pub(super) async fn with_progress<F>(
    operation: impl FnOnce(ProgressLines) -> F,
    quiet: bool,
) -> Answer<Response>
where
    F: std::future::Future<Output = Result<Vec<Value>>> + Send + 'static,
{
    let (progress, mut lines) = mpsc::channel::<Bytes>(PROGRESS_QUEUE);
    let mut running = tokio::spawn(operation(ProgressLines { sender: progress }));
    // A pull goes with its client, as Docker's does.
    let abort = AbortOnDrop(running.abort_handle());
    // The first line says only that it begins: what fails right after has its own status, too.
    let mut early = Vec::new();
    while early.len() < 2 {
        match lines.recv().await {
            Some(line) => early.push(line),
            // The operation is over and has dropped its sender.
            None => break,
        }
    }
    if early.len() < 2 {
        return match (&mut running).await {
            Ok(Ok(last)) => {
                let early = early.into_iter().filter(|_| !quiet);
                Ok(all_lines(early.chain(last.iter().map(line)).collect()))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(aborted(error).into()),
        };
    }
    let (sender, body) = body_channel();
    tokio::spawn(async move {
        for piece in early {
            if !quiet && sender.send(piece).await.is_err() {
                return;
            }
        }
        loop {
            let piece = tokio::select! {
                piece = lines.recv() => piece,
                () = sender.closed() => return,
            };
            let Some(piece) = piece else { break };
            if !quiet && sender.send(piece).await.is_err() {
                return;
            }
        }
        let last = match running.await {
            Ok(Ok(last)) => last.iter().map(line).collect(),
            Ok(Err(error)) => vec![error_line(&error)],
            Err(error) => vec![error_line(&aborted(error))],
        };
        drop(abort);
        for piece in last {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    Ok(stream("application/json", body))
}

/// Lines that are all there. They go out as a stream as well: by a length, docker-py takes a body for
/// one JSON value.
fn all_lines(lines: Vec<Bytes>) -> Response {
    let lines = lines.into_iter().map(Ok::<_, std::convert::Infallible>);
    let body = Body::from_stream(futures_util::stream::iter(lines));
    stream("application/json", body)
}

/// What failed at once as the only line of an answer that begins well, as dockerd has it where it
/// reads an archive.
pub(super) fn as_line(error: &EngineError) -> Response {
    all_lines(vec![error_line(error)])
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn aborted(error: tokio::task::JoinError) -> EngineError {
    EngineError::io("finish", "the request", std::io::Error::other(error))
}
