//! The Task API: what only tells is answered here, what changes something is in [`super::calls`].

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::ttrpc;
use tokio::sync::oneshot;
use ttrpc::r#async::TtrpcContext;

use super::state::Shim;
use super::steps::status;
use super::{errors, metrics};
use crate::agent::MAX_PROCESSES;
use crate::holder::Network;

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
        // Dropped when who asks goes away, or waits no longer.
        let (_asking, gone) = oneshot::channel();
        to_the_end(self.clone().create_task(request, gone)).await
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> ttrpc::Result<api::StartResponse> {
        to_the_end(self.clone().start_process(request)).await
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> ttrpc::Result<api::DeleteResponse> {
        to_the_end(self.clone().delete_process(request)).await
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
            id: match process.exec_id.as_str() {
                "" => container.id.clone(),
                exec => exec.to_owned(),
            },
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
        to_the_end(self.clone().pause_task(request)).await
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: api::ResumeRequest,
    ) -> ttrpc::Result<api::Empty> {
        to_the_end(self.clone().resume_task(request)).await
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        _: api::CheckpointTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        Err(errors::not_built("checkpoints"))
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        to_the_end(self.clone().kill_process(request)).await
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        to_the_end(self.clone().add_exec(request)).await
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> ttrpc::Result<api::Empty> {
        to_the_end(self.clone().resize_terminal(request)).await
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
        to_the_end(self.clone().update_task(request)).await
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

/// Goes on with what must not stop halfway: a call ends when its client's connection does, or its
/// time is over.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = ttrpc::Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(errors::failed(&error)),
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
