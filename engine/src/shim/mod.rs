//! The client side of a container's shim: starting it, containerd's Task API, what only a VM has,
//! and its events.

mod events;
mod launch;
mod sandbox;
mod task;

use std::path::PathBuf;
use std::time::Duration;

use containerd_shim_protos::shim_async::{Client, TaskClient};
use containerd_shim_protos::ttrpc;
use hull_protocol::sandbox_ttrpc::SandboxClient;

pub(crate) use events::{serve_events, ShimEvent};
pub(crate) use launch::{delete, launch};
pub(crate) use task::{is_of_user, Ended, RunState};

use crate::error::{EngineError, Result};

/// Longest time for a call that neither boots nor ends anything.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What starting a shim needs to know.
#[derive(Debug, Clone)]
pub(crate) struct ShimConfig {
    /// `containerd-shim-hull-v2`.
    pub program: PathBuf,
    /// Socket of the events service.
    pub events_socket: PathBuf,
    /// Runtime directory, passed on.
    pub exec_root: PathBuf,
}

/// A connection to one container's shim.
pub(crate) struct Task {
    id: String,
    address: String,
    client: TaskClient,
    sandbox: SandboxClient,
    /// The shim is another container's, whose VM this one is in.
    joins: bool,
}

/// A mount of the root file system, as the Task API takes it.
#[derive(Debug, Clone)]
pub(crate) struct RootfsMount {
    pub(crate) kind: &'static str,
    pub(crate) source: PathBuf,
    pub(crate) options: Vec<String>,
}

/// Connects to a shim that runs.
pub(crate) async fn connect(id: &str, address: &str) -> Result<Task> {
    let client = Client::connect(address)
        .await
        .map_err(|error| EngineError::Shim {
            id: id.to_owned(),
            reason: reason(error),
        })?;
    Ok(Task {
        id: id.to_owned(),
        address: address.to_owned(),
        client: TaskClient::new(client.clone()),
        sandbox: SandboxClient::new(client),
        joins: false,
    })
}

fn reason(error: ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message,
        other => other.to_string(),
    }
}

/// Whether the peer, not the connection, gave this error.
fn is_answer(error: &ttrpc::Error) -> bool {
    matches!(error, ttrpc::Error::RpcStatus(_))
}

impl Task {
    /// ttrpc address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Says whether the shim is another container's.
    pub(crate) fn joining(mut self, joins: bool) -> Self {
        self.joins = joins;
        self
    }

    fn failed(&self, call: &'static str) -> impl FnOnce(ttrpc::Error) -> EngineError {
        let id = self.id.clone();
        move |error| EngineError::Task {
            call,
            id,
            reason: reason(error),
        }
    }
}
