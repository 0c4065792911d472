//! containerd's Task API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::ttrpc::{self, context};
use hull_protocol::agent::FilesJob;
use hull_protocol::FILES_JOB_TYPE;
use hull_shim::annotations::BEYOND_VM;
use serde_json::Value;

use super::{is_answer, reason, RootfsMount, Task, CALL_LIMIT};
use crate::error::{EngineError, Result, StartFailure};
use crate::streams::Fifos;

/// Longest time for a call that boots a VM.
const CREATE_LIMIT: Duration = Duration::from_secs(300);
/// Longest time for a call that a dying shim need not answer.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at whether a shim is gone.
const END_POLL: Duration = Duration::from_millis(5);
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this exit code.
    Exited(i64),
    /// Its shim is gone.
    ShimLost,
}

/// What an init process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunState {
    /// It runs, or has not begun yet.
    Running,
    /// It is frozen.
    Paused,
    /// It has ended.
    Ended,
}

impl Task {
    /// Boots the VM and makes the container in it.
    pub(crate) async fn create(
        &self,
        bundle: &Path,
        rootfs: &[RootfsMount],
        terminal: bool,
        fifos: &Fifos,
    ) -> Result<()> {
        let rootfs = rootfs
            .iter()
            .map(|mount| api::Mount {
                type_: mount.kind.to_owned(),
                source: text(&mount.source),
                options: mount.options.clone(),
                ..api::Mount::default()
            })
            .collect();
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: text(bundle),
            rootfs,
            terminal,
            stdin: path_text(&fifos.stdin),
            stdout: path_text(&fifos.stdout),
            stderr: path_text(&fifos.stderr),
            ..api::CreateTaskRequest::default()
        };
        let reply = self
            .client
            .create(context::with_duration(CREATE_LIMIT), &request)
            .await;
        reply
            .map(|_| ())
            .map_err(|error| start_failure("create", error))
    }

    /// Starts the init process (empty `exec_id`) or an exec. Returns its process id.
    pub(crate) async fn start(&self, exec_id: &str) -> Result<u32> {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..api::StartRequest::default()
        };
        let reply = self
            .client
            .start(context::with_duration(CREATE_LIMIT), &request)
            .await;
        reply
            .map(|reply| reply.pid)
            .map_err(|error| start_failure("start", error))
    }

    /// Registers an exec.
    pub(crate) async fn exec(
        &self,
        exec_id: &str,
        process: &Value,
        terminal: bool,
        fifos: &Fifos,
    ) -> Result<()> {
        let spec = Any {
            type_url: PROCESS_TYPE.to_owned(),
            value: process.to_string().into_bytes(),
            ..Any::default()
        };
        self.register(exec_id, spec, terminal, fifos).await
    }

    /// Registers a job on the container's files, which is then started as an exec is.
    pub(crate) async fn files_job(
        &self,
        exec_id: &str,
        job: &FilesJob,
        fifos: &Fifos,
    ) -> Result<()> {
        let value = job.write_to_bytes().map_err(|error| EngineError::Task {
            call: "exec",
            id: self.id.clone(),
            reason: error.to_string(),
        })?;
        let spec = Any {
            type_url: FILES_JOB_TYPE.to_owned(),
            value,
            ..Any::default()
        };
        self.register(exec_id, spec, false, fifos).await
    }

    async fn register(
        &self,
        exec_id: &str,
        spec: Any,
        terminal: bool,
        fifos: &Fifos,
    ) -> Result<()> {
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            terminal,
            stdin: path_text(&fifos.stdin),
            stdout: path_text(&fifos.stdout),
            stderr: path_text(&fifos.stderr),
            spec: Some(spec).into(),
            ..api::ExecProcessRequest::default()
        };
        let reply = self
            .client
            .exec(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply
            .map(|_| ())
            .map_err(|error| start_failure("exec", error))
    }

    /// Waits until a process has ended, as long as it takes.
    pub(crate) async fn wait(&self, exec_id: &str) -> Ended {
        let request = api::WaitRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..api::WaitRequest::default()
        };
        match self
            .client
            .wait(context::Context::default(), &request)
            .await
        {
            Ok(reply) => Ended::Exited(i64::from(reply.exit_status)),
            Err(error) => {
                tracing::warn!(id = self.id, error = %reason(error), "waiting ended early");
                Ended::ShimLost
            }
        }
    }

    /// Sends a signal.
    pub(crate) async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..api::KillRequest::default()
        };
        let reply = self
            .client
            .kill(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(|_| ()).map_err(self.failed("kill"))
    }

    /// Frees an ended process; for the init process, the container.
    pub(crate) async fn delete(&self, exec_id: &str) -> Result<()> {
        let request = api::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..api::DeleteRequest::default()
        };
        let reply = self
            .client
            .delete(context::with_duration(END_LIMIT), &request)
            .await;
        reply.map(|_| ()).map_err(self.failed("delete"))
    }

    /// Ends the shim and its VM, unless they are another container's. A lost connection is what
    /// success looks like.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        if self.joins {
            return Ok(());
        }
        let request = api::ShutdownRequest {
            id: self.id.clone(),
            now: true,
            ..api::ShutdownRequest::default()
        };
        match self
            .client
            .shutdown(context::with_duration(END_LIMIT), &request)
            .await
        {
            Err(error) if is_answer(&error) => return Err(self.failed("shutdown")(error)),
            _ => {}
        }
        self.await_end().await;
        Ok(())
    }

    /// Waits until nobody listens on the shim's socket: the next shim of this container does so
    /// there.
    async fn await_end(&self) {
        let socket = self
            .address
            .strip_prefix("unix://")
            .unwrap_or(&self.address);
        let deadline = tokio::time::Instant::now() + END_LIMIT;
        while tokio::net::UnixStream::connect(socket).await.is_ok()
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(END_POLL).await;
        }
    }

    /// Sets the size of a terminal, in characters.
    pub(crate) async fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            width,
            height,
            ..api::ResizePtyRequest::default()
        };
        let reply = self
            .client
            .resize_pty(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(|_| ()).map_err(self.failed("resize"))
    }

    /// Ends standard input.
    pub(crate) async fn close_stdin(&self, exec_id: &str) -> Result<()> {
        let request = api::CloseIORequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            stdin: true,
            ..api::CloseIORequest::default()
        };
        let reply = self
            .client
            .close_io(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(|_| ()).map_err(self.failed("close of stdin"))
    }

    /// The container's figures.
    pub(crate) async fn stats(&self) -> Result<Metrics> {
        let request = api::StatsRequest {
            id: self.id.clone(),
            ..api::StatsRequest::default()
        };
        let reply = self
            .client
            .stats(context::with_duration(CALL_LIMIT), &request)
            .await
            .map_err(self.failed("stats"))?;
        let packed = reply.stats.into_option().unwrap_or_default();
        Metrics::parse_from_bytes(&packed.value).map_err(|error| EngineError::Task {
            call: "stats",
            id: self.id.clone(),
            reason: error.to_string(),
        })
    }

    /// Changes limits to those of an OCI `resources` object.
    pub(crate) async fn update(&self, resources: &serde_json::Value) -> Result<()> {
        let request = api::UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(Any {
                value: resources.to_string().into_bytes(),
                ..Any::default()
            })
            .into(),
            // Users are told what begins with the next start.
            annotations: [(BEYOND_VM.to_owned(), "true".to_owned())].into(),
            ..api::UpdateTaskRequest::default()
        };
        let reply = self
            .client
            .update(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(|_| ()).map_err(self.failed("update"))
    }

    /// Freezes all processes.
    pub(crate) async fn pause(&self) -> Result<()> {
        let request = api::PauseRequest {
            id: self.id.clone(),
            ..api::PauseRequest::default()
        };
        let reply = self
            .client
            .pause(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(|_| ()).map_err(self.failed("pause"))
    }

    /// Lets them go on.
    pub(crate) async fn resume(&self) -> Result<()> {
        let request = api::ResumeRequest {
            id: self.id.clone(),
            ..api::ResumeRequest::default()
        };
        let reply = self
            .client
            .resume(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(|_| ()).map_err(self.failed("unpause"))
    }

    /// Whether the init process has not ended.
    pub(crate) async fn is_running(&self) -> Result<bool> {
        Ok(self.run_state().await? != RunState::Ended)
    }

    /// What the init process does.
    pub(crate) async fn run_state(&self) -> Result<RunState> {
        let request = api::StateRequest {
            id: self.id.clone(),
            ..api::StateRequest::default()
        };
        let reply = self
            .client
            .state(context::with_duration(END_LIMIT), &request)
            .await
            .map_err(self.failed("state"))?;
        Ok(match reply.status.enum_value() {
            Ok(api::Status::STOPPED) => RunState::Ended,
            Ok(api::Status::PAUSED) => RunState::Paused,
            _ => RunState::Running,
        })
    }
}

/// Whether an agent's text says that a container has no such user or group.
pub(crate) fn is_of_user(text: &str) -> bool {
    let beginnings = [
        "unable to find user ",
        "unable to find group ",
        "uids and gids must be",
    ];
    beginnings.iter().any(|words| text.starts_with(words))
}

fn start_failure(call: &'static str, error: ttrpc::Error) -> EngineError {
    let text = if is_answer(&error) {
        reason(error)
    } else {
        format!("{call}: {}", reason(error))
    };
    let reason = text.replace('\n', " ");
    match is_of_user(&reason) {
        true => EngineError::NoSuchUser(reason),
        false => EngineError::Start(StartFailure { reason }),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn path_text(path: &Option<PathBuf>) -> String {
    path.as_deref().map(text).unwrap_or_default()
}
