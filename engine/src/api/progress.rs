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
    // None: the operation is over and has dropped its sender without a line.
    let first = lines.recv().await;
    if first.is_none() {
        return match (&mut running).await {
            Ok(Ok(last)) => {
                let body: Vec<u8> = last.iter().flat_map(|value| line(value).to_vec()).collect();
                Ok(stream("application/json", Body::from(body)))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(aborted(error).into()),
        };
    }
    let (sender, body) = body_channel();
    tokio::spawn(async move {
        // A pull goes with its client, as Docker's does.
        let abort = AbortOnDrop(running.abort_handle());
        let mut pending = first;
        while let Some(piece) = pending {
            if !quiet && sender.send(piece).await.is_err() {
                return;
            }
            pending = tokio::select! {
                piece = lines.recv() => piece,
                () = sender.closed() => return,
            };
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

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn aborted(error: tokio::task::JoinError) -> EngineError {
    EngineError::io("finish", "the request", std::io::Error::other(error))
}
