//! The calls of the Task API.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskIO, TaskPaused, TaskResumed,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::ttrpc;
use hull_protocol::agent::UpdateContainerRequest;
use hull_protocol::FILES_JOB_TYPE;
use ttrpc::r#async::TtrpcContext;

use super::process::{Exit, Phase, Process, StdioPaths};
use super::state::Shim;
use super::steps::{running, status};
use super::update::Update;
use super::{errors, metrics};
use crate::agent::{CALL_LIMIT, MAX_PROCESSES};
use crate::handover;
use crate::holder::Network;
use crate::hooks::Moment;
use crate::report::chain;

/// Version that `Connect` reports.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Type of what `Pids` says of a process.
const PROCESS_INFO_TYPE: &str = "containerd.runc.v1.ProcessDetails";

/// Serves the Task API for one sandbox.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) shim: Arc<Shim>,
}

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(errors::not_built("restoring a checkpoint"));
        }
        let claim = self.shim.claim(&request.id)?;
        let mut ending = self.shim.ending.subscribe();
        let made = tokio::select! {
            made = self.make(&request) => made,
            // Dropping the other future undoes what it has made.
            _ = ending.wait_for(|ending| *ending) => Err(errors::precondition("the shim is ending")),
        };
        let container = match made {
            Ok(container) => container,
            Err(error) => {
                tracing::warn!(container = request.id, %error, "create failed");
                return Err(error);
            }
        };
        self.shim.insert(&container);
        drop(claim);
        let pid = container.init.pid();
        self.shim.publisher.publish(&TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: MessageField::some(TaskIO {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
                ..TaskIO::default()
            }),
            pid,
            ..TaskCreate::default()
        });
        Ok(api::CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> ttrpc::Result<api::StartResponse> {
        let container = self.shim.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        if process.exec_id.is_empty() && status(&container, &process) == api::Status::PAUSED {
            return Err(errors::precondition(
                "cannot start a container in the paused state",
            ));
        }
        if process.exit().is_some() || !process.begin_start() {
            return Err(errors::precondition(
                "cannot start a process that has been started before",
            ));
        }
        match self.run(&container, &process).await {
            Ok(pid) => {
                process.set_phase(Phase::Started);
                if !process.exec_id.is_empty() {
                    process.set_pid(pid);
                }
            }
            Err(error) => {
                tracing::warn!(container = request.id, exec = request.exec_id, %error, "start failed");
                process.set_exit(super::process::NEVER_RAN_STATUS);
                return Err(error);
            }
        }
        if process.exec_id.is_empty() {
            self.keep_trace(&container).await;
        }
        self.publish_start(&container, &process);
        self.shim.watch(&container, &process);
        if process.exec_id.is_empty() {
            self.run_poststart(&container, &process).await?;
        }
        Ok(api::StartResponse {
            pid: process.pid(),
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> ttrpc::Result<api::DeleteResponse> {
        if self.shim.is_making(&request.id) {
            return Err(errors::precondition(format!(
                "container {:?} is being made",
                request.id
            )));
        }
        let container = self.shim.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        if process.exit().is_none() && process.phase() != Phase::Created {
            return Err(errors::precondition(format!(
                "cannot delete a running process {:?} of {:?}",
                request.exec_id, request.id
            )));
        }
        self.free(&container, &process).await;
        if process.exec_id.is_empty() {
            self.shim.remove(&container).await;
            // One that never ran ends here, for whoever waits for it.
            process.set_exit(super::process::KILLED_STATUS);
            container.hooks.run_all(Moment::Poststop, 0).await;
        } else {
            container.forget(&process.exec_id);
        }
        let exit = process.exit().unwrap_or_else(|| Exit {
            status: super::process::KILLED_STATUS,
            at: super::state::now(),
        });
        self.shim.publisher.publish(&TaskDelete {
            container_id: container.id.clone(),
            pid: process.pid(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.clone()),
            id: request.exec_id,
            ..TaskDelete::default()
        });
        Ok(api::DeleteResponse {
            pid: process.pid(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> ttrpc::Result<api::StateResponse> {
        let container = self.shim.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let exit = process.exit();
        Ok(api::StateResponse {
            id: container.id.clone(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.pid(),
            status: EnumOrUnknown::new(status(&container, &process)),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
            exit_status: exit.as_ref().map_or(0, |exit| exit.status),
            exited_at: MessageField::from_option(exit.map(|exit| exit.at)),
            exec_id: request.exec_id,
            ..Default::default()
        })
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        request: api::PidsRequest,
    ) -> ttrpc::Result<api::PidsResponse> {
        let container = self.shim.container(&request.id)?;
        if container.place.network != Network::Inherit {
            // Clients look the PIDs up on the host (dockerd's `top` runs `ps`), where only the
            // holders are the container's: the guest's own numbers are other processes there.
            let mut processes = vec![process_info(container.init.pid(), "")];
            for process in container.processes() {
                if let Some(pid) = process.host_pid() {
                    processes.push(process_info(pid, &process.exec_id));
                }
            }
            return Ok(api::PidsResponse {
                processes,
                ..Default::default()
            });
        }
        let list = self
            .call_container(
                &request.id,
                "ListProcesses",
                |client, context, id| async move { client.list_processes(context, &id).await },
            )
            .await?;
        Ok(api::PidsResponse {
            processes: list
                .processes
                .iter()
                .take(MAX_PROCESSES)
                .map(|process| process_info(process.pid, &process.exec_id))
                .collect(),
            ..Default::default()
        })
    }

    async fn pause(
        &self,
        _: &TtrpcContext,
        request: api::PauseRequest,
    ) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        let status = status(&container, &container.init);
        if !matches!(status, api::Status::RUNNING | api::Status::CREATED) {
            return Err(errors::precondition(
                "only a created or running container can be paused",
            ));
        }
        self.call_container(
            &request.id,
            "PauseContainer",
            |client, context, id| async move { client.pause_container(context, &id).await },
        )
        .await?;
        container.paused.send_replace(true);
        self.shim.publisher.publish(&TaskPaused {
            container_id: request.id,
            ..TaskPaused::default()
        });
        Ok(api::Empty::default())
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: api::ResumeRequest,
    ) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        if status(&container, &container.init) != api::Status::PAUSED {
            return Err(errors::precondition(
                "only a paused container can be resumed",
            ));
        }
        self.call_container(
            &request.id,
            "ResumeContainer",
            |client, context, id| async move { client.resume_container(context, &id).await },
        )
        .await?;
        container.paused.send_replace(false);
        self.shim.publisher.publish(&TaskResumed {
            container_id: request.id,
            ..TaskResumed::default()
        });
        Ok(api::Empty::default())
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        _: api::CheckpointTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        Err(errors::not_built("checkpoints"))
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        running(&container, &process)?;
        let delivered = self.deliver(&container, &process, request.signal, request.all);
        tokio::select! {
            delivered = delivered => delivered?,
            // Whatever its guest answers, or does not.
            _ = process.wait() => {}
        }
        Ok(api::Empty::default())
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        if request.exec_id.is_empty() {
            return Err(errors::invalid("an exec needs an id"));
        }
        let spec = request.spec.into_option().unwrap_or_default();
        let job = spec.type_url == FILES_JOB_TYPE;
        // hull-runtime judges that for itself, by its flags; work on files goes on meanwhile.
        let judged = job || handover::socket_of(&request.stdout).is_some();
        match status(&container, &container.init) {
            api::Status::RUNNING | api::Status::CREATED => {}
            api::Status::PAUSED if judged => {}
            api::Status::PAUSED => {
                return Err(errors::precondition("cannot exec in a paused container"))
            }
            _ => return Err(errors::precondition("cannot exec in a stopped container")),
        }
        let stdio = StdioPaths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let wrong =
            |error: &dyn std::fmt::Display| errors::invalid(format!("the exec's process: {error}"));
        let process = match job {
            true => Process::files(&request.exec_id, stdio, &spec.value)
                .map_err(|error| wrong(&error))?,
            false => Process::exec(&request.exec_id, stdio, &spec.value)
                .map_err(|error| wrong(&error))?,
        };
        container.add(Arc::new(process))?;
        self.shim.publisher.publish(&TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..TaskExecAdded::default()
        });
        Ok(api::Empty::default())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        running(&container, &process)?;
        self.resize(&container, &process, request.width, request.height)
            .await?;
        Ok(api::Empty::default())
    }

    async fn close_io(
        &self,
        _: &TtrpcContext,
        request: api::CloseIORequest,
    ) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(api::Empty::default())
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: api::UpdateTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        let resources = request.resources.into_option().unwrap_or_default().value;
        let Update { guest, host } = Update::parse(&resources)
            .map_err(|error| errors::invalid(format!("resources: {}", chain(&error))))?;
        let update = UpdateContainerRequest {
            container_id: request.id,
            resources: guest,
            ..UpdateContainerRequest::default()
        };
        container
            .sandbox
            .agent()
            .call(
                "UpdateContainer",
                CALL_LIMIT,
                |client, context| async move { client.update_container(context, &update).await },
            )
            .await
            .map_err(|error| errors::of_agent(&error))?;
        if self.shim.is_first(&container) {
            let shared = container.sandbox.set_share(&host);
            shared.map_err(|error| errors::failed(&error))?;
        }
        Ok(api::Empty::default())
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: api::WaitRequest,
    ) -> ttrpc::Result<api::WaitResponse> {
        let process = self
            .shim
            .container(&request.id)?
            .process(&request.exec_id)?;
        let exit = process
            .wait()
            .await
            .ok_or_else(|| errors::precondition("the shim is ending"))?;
        Ok(api::WaitResponse {
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::StatsRequest,
    ) -> ttrpc::Result<api::StatsResponse> {
        let stats = self
            .call_container(
                &request.id,
                "StatsContainer",
                |client, context, id| async move { client.stats_container(context, &id).await },
            )
            .await?;
        Ok(api::StatsResponse {
            stats: MessageField::some(metrics::pack(stats)),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: api::ConnectRequest,
    ) -> ttrpc::Result<api::ConnectResponse> {
        let task_pid = self
            .shim
            .container(&request.id)
            .map_or(0, |container| container.init.pid());
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: VERSION.to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownRequest,
    ) -> ttrpc::Result<api::Empty> {
        if request.now || self.shim.is_empty() {
            self.shim.ending.send_replace(true);
        }
        Ok(api::Empty::default())
    }
}

/// As containerd's own shims do: the exec id, where there is one.
fn process_info(pid: u32, exec_id: &str) -> api::ProcessInfo {
    let info = (!exec_id.is_empty()).then(|| Any {
        type_url: PROCESS_INFO_TYPE.to_owned(),
        value: exec_details(exec_id),
        ..Any::default()
    });
    api::ProcessInfo {
        pid,
        info: MessageField::from_option(info),
        ..Default::default()
    }
}

/// `containerd.runc.v1.ProcessDetails`: its only field, `exec_id`, is a string with number 1.
fn exec_details(exec_id: &str) -> Vec<u8> {
    let mut encoded = Vec::new();
    let mut stream = protobuf::CodedOutputStream::vec(&mut encoded);
    // Writing to memory does not fail.
    let written = stream
        .write_string(1, exec_id)
        .and_then(|()| stream.flush());
    drop(stream);
    written.map(|()| encoded).unwrap_or_default()
}
