//! The calls of the Task API that change something: each goes on to its end, whatever becomes of who
//! has made it.

use std::sync::Arc;

use containerd_shim_protos::api;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskIO, TaskPaused, TaskResumed,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::ttrpc;
use hull_protocol::agent::UpdateContainerRequest;
use hull_protocol::FILES_JOB_TYPE;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::container::Container;
use super::errors;
use super::process::{Exit, Phase, Process, StdioPaths};
use super::service::Service;
use super::steps::{running, status};
use super::update::Update;
use crate::agent::CALL_LIMIT;
use crate::annotations::BEYOND_VM;
use crate::handover;
use crate::hooks::Moment;
use crate::report::chain;

impl Service {
    pub(super) async fn create_task(
        self,
        request: api::CreateTaskRequest,
        mut gone: oneshot::Receiver<()>,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(errors::not_built("restoring a checkpoint"));
        }
        let claim = self.shim.claim(&request.id)?;
        let booting = self.shim.first().is_none();
        let mut ending = self.shim.ending.subscribe();
        let made = tokio::select! {
            made = self.make(&request) => made,
            // Dropping the other future undoes what it has made.
            _ = ending.wait_for(|ending| *ending) => Err(errors::precondition("the shim is ending")),
            _ = &mut gone, if booting => Err(nobody_waits()),
        };
        let made = match made {
            // In a VM that others have, what the guest has made is to be undone by it.
            Ok(container) if gone.try_recv() == Err(TryRecvError::Closed) => {
                self.undo(&container).await;
                Err(nobody_waits())
            }
            made => made,
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

    /// Takes a container back that nobody is told of.
    async fn undo(&self, container: &Arc<Container>) {
        self.free(container, &container.init).await;
        container.take_extras_back().await;
        container.init.set_exit(super::process::KILLED_STATUS);
        container.hooks.run_all(Moment::Poststop, 0).await;
    }

    pub(super) async fn start_process(
        self,
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
        // Counted from here on: the container's end waits for it.
        let is_exec = !process.exec_id.is_empty() && !process.is_job();
        let untold = is_exec.then(|| container.to_be_told());
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
        self.shim.watch(&container, &process, untold);
        if let Some((width, height)) = process.take_first_size() {
            let sized = self.resize(&container, &process, width, height).await;
            if let Err(error) = sized {
                // It may have ended by now.
                tracing::debug!(%error, "the first size of a terminal");
            }
        }
        if process.exec_id.is_empty() {
            self.run_poststart(&container, &process).await?;
        }
        Ok(api::StartResponse {
            pid: process.pid(),
            ..Default::default()
        })
    }

    pub(super) async fn delete_process(
        self,
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
            if !self.shim.remove(&container).await {
                // Another call has deleted it meanwhile.
                return Err(errors::not_found(format!("container {:?}", container.id)));
            }
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
        // Of an exec there is no such event.
        if process.exec_id.is_empty() {
            self.shim.publisher.publish(&TaskDelete {
                container_id: container.id.clone(),
                pid: process.pid(),
                exit_status: exit.status,
                exited_at: MessageField::some(exit.at.clone()),
                ..TaskDelete::default()
            });
        }
        Ok(api::DeleteResponse {
            pid: process.pid(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    pub(super) async fn pause_task(self, request: api::PauseRequest) -> ttrpc::Result<api::Empty> {
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

    pub(super) async fn resume_task(
        self,
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

    pub(super) async fn kill_process(self, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
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

    pub(super) async fn add_exec(
        self,
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

    pub(super) async fn resize_terminal(
        self,
        request: api::ResizePtyRequest,
    ) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        running(&container, &process)?;
        if process.keep_first_size(request.width, request.height) {
            return Ok(api::Empty::default());
        }
        self.resize(&container, &process, request.width, request.height)
            .await?;
        Ok(api::Empty::default())
    }

    pub(super) async fn update_task(
        self,
        request: api::UpdateTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        let container = self.shim.container(&request.id)?;
        let resources = request.resources.into_option().unwrap_or_default().value;
        let update = Update::parse(&resources)
            .map_err(|error| errors::invalid(format!("resources: {}", chain(&error))))?;
        let is_first = self.shim.is_first(&container);
        if !is_first && update.bounds_disks() {
            return Err(errors::invalid(
                "not supported yet: bounds of disks (blockIO.throttle*Device, io.max) of a container \
                 that has joined a VM: its processes on the host are the whole VM's",
            ));
        }
        let Update {
            guest,
            host,
            limits,
        } = update;
        let before = container.limits();
        let limits = before.changed(&limits);
        if !request.annotations.contains_key(BEYOND_VM) {
            let checked = limits.check(before, container.sandbox.size());
            checked.map_err(|error| errors::invalid(error.to_string()))?;
        }
        // The host refuses more often than the guest, and nothing has changed then.
        if is_first {
            let shared = container.sandbox.set_share(&host);
            shared.map_err(|error| errors::failed(&error))?;
        }
        let request = UpdateContainerRequest {
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
                |client, context| async move { client.update_container(context, &request).await },
            )
            .await
            .map_err(|error| errors::of_agent(&error))?;
        container.set_limits(limits);
        Ok(api::Empty::default())
    }
}

fn nobody_waits() -> ttrpc::Error {
    errors::precondition("who has asked for the container has gone away")
}
