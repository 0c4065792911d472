//! containerd's events service, which shims report to.

use std::path::Path;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::shim_async::{create_events, Events};
use containerd_shim_protos::ttrpc;
use tokio::sync::mpsc;

use crate::error::{EngineError, Result};

/// An event of a shim that the engine acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShimEvent {
    /// The kernel's OOM killer struck in this container.
    Oom(String),
    /// A process of this container ended; an empty exec id means init.
    Exit { id: String, exec_id: String },
}

struct EventService {
    sender: mpsc::UnboundedSender<ShimEvent>,
}

#[async_trait]
impl Events for EventService {
    async fn forward(
        &self,
        _: &ttrpc::r#async::TtrpcContext,
        request: containerd_shim_protos::shim::events::ForwardRequest,
    ) -> ttrpc::Result<api::Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let body = envelope.event.unwrap_or_default().value;
        let event = match envelope.topic.as_str() {
            "/tasks/oom" => containerd_shim_protos::events::task::TaskOOM::parse_from_bytes(&body)
                .ok()
                .map(|event| ShimEvent::Oom(event.container_id)),
            "/tasks/exit" => {
                containerd_shim_protos::events::task::TaskExit::parse_from_bytes(&body)
                    .ok()
                    .map(|event| ShimEvent::Exit {
                        exec_id: if event.id == event.container_id {
                            String::new()
                        } else {
                            event.id
                        },
                        id: event.container_id,
                    })
            }
            _ => None,
        };
        if let Some(event) = event {
            // The receiver lives as long as the engine.
            let _ = self.sender.send(event);
        }
        Ok(api::Empty::default())
    }
}

/// Serves containerd's events service for the shims.
pub(crate) async fn serve_events(
    socket: &Path,
) -> Result<(
    ttrpc::asynchronous::Server,
    mpsc::UnboundedReceiver<ShimEvent>,
)> {
    let failed = |error: ttrpc::Error| {
        EngineError::io(
            "listen on",
            socket,
            std::io::Error::other(error.to_string()),
        )
    };
    let _ = std::fs::remove_file(socket);
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut server = ttrpc::asynchronous::Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .map_err(failed)?
        .register_service(create_events(std::sync::Arc::new(EventService { sender })));
    server.start().await.map_err(failed)?;
    Ok((server, receiver))
}
