//! The agent's RPCs: each handler turns a message into a call of [`Sandbox`] and back.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use hull_protocol::agent::{
    ClockRequest, ClockResponse, ConfigureNetworkRequest, ConfigureSandboxRequest, ContainerRef,
    CreateContainerRequest, CreateProcessResponse, DiagnoseResponse, EditFileRequest, Empty, Event,
    ExecProcessRequest, HelloRequest, HelloResponse, LimitSpaceRequest, ListProcessesResponse,
    NextEventRequest, OpenPortsRequest, OpenPortsResponse, ProcessRef, ReleaseDeviceRequest,
    ResizePtyRequest, SignalProcessRequest, StartProcessResponse, StatsContainerResponse,
    UpdateContainerRequest, WaitProcessResponse,
};
#[cfg(feature = "unpack")]
use hull_protocol::agent::{UnpackProgressResponse, UnpackRequest, UnpackResponse};
use hull_protocol::{agent_ttrpc, TraceMark, PROTOCOL_VERSION};
use ttrpc::r#async::TtrpcContext;

use crate::error::{AgentError, Kind, Result};
use crate::host_ports::HostPorts;
use crate::process::Exit;
use crate::resolver::Names;
use crate::sandbox::Sandbox;
use crate::{device, diagnose, network, open_ports, power, ps, sys};

/// The service.
pub(crate) struct Service {
    sandbox: Sandbox,
    greeted: AtomicBool,
    host_ports: HostPorts,
    names: Names,
}

impl Service {
    /// A service for a sandbox.
    pub(crate) fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            greeted: AtomicBool::new(false),
            host_ports: HostPorts::default(),
            names: Names::default(),
        }
    }
}

/// Runs work that must not stop halfway when the host's connection does: a lost connection cancels
/// its handlers.
async fn to_the_end<T: Send + 'static>(
    work: impl std::future::Future<Output = Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            Err(AgentError::new(Kind::Internal, format!("the agent failed: {error}")).into())
        }
    }
}

fn exit_response(exit: Exit) -> WaitProcessResponse {
    WaitProcessResponse {
        exit_status: exit.status,
        exited_at_ns: exit.at_ns,
        oom_killed: exit.oom_killed,
        ..Default::default()
    }
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn hello(&self, _: &TtrpcContext, request: HelloRequest) -> ttrpc::Result<HelloResponse> {
        if request.protocol_version != PROTOCOL_VERSION {
            return Err(AgentError::new(
                Kind::FailedPrecondition,
                format!(
                    "the host speaks protocol version {}, this agent {PROTOCOL_VERSION}: the \
                     initramfs is of another build; rebuild or reinstall both",
                    request.protocol_version
                ),
            )
            .into());
        }
        if !self.greeted.swap(true, Ordering::Relaxed) {
            sys::mark(TraceMark::AgentFirstReply);
        }
        let kernel = rustix::system::uname();
        Ok(HelloResponse {
            protocol_version: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_string(),
            kernel_release: kernel.release().to_string_lossy().into_owned(),
            ..Default::default()
        })
    }

    async fn configure_sandbox(
        &self,
        _: &TtrpcContext,
        request: ConfigureSandboxRequest,
    ) -> ttrpc::Result<Empty> {
        self.sandbox.configure(&request)?;
        Ok(Empty::default())
    }

    async fn configure_network(
        &self,
        _: &TtrpcContext,
        request: ConfigureNetworkRequest,
    ) -> ttrpc::Result<Empty> {
        network::configure(&request)?;
        self.names.serve(&request.resolvers).await?;
        Ok(Empty::default())
    }

    async fn open_ports(
        &self,
        _: &TtrpcContext,
        request: OpenPortsRequest,
    ) -> ttrpc::Result<OpenPortsResponse> {
        let ports = &self.host_ports;
        ports.set(&request.relay, &request.host_ports).await?;
        Ok(open_ports::changed(&request).await?)
    }

    async fn release_device(
        &self,
        _: &TtrpcContext,
        request: ReleaseDeviceRequest,
    ) -> ttrpc::Result<Empty> {
        device::release(request.slot).await?;
        self.sandbox.spaces.forget(request.slot);
        Ok(Empty::default())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<CreateProcessResponse> {
        let sandbox = self.sandbox.clone();
        let pid = to_the_end(async move { sandbox.create(request).await }).await?;
        Ok(CreateProcessResponse {
            pid,
            ..Default::default()
        })
    }

    async fn exec_process(
        &self,
        _: &TtrpcContext,
        request: ExecProcessRequest,
    ) -> ttrpc::Result<CreateProcessResponse> {
        self.sandbox.exec(&request)?;
        Ok(CreateProcessResponse::default())
    }

    async fn start_process(
        &self,
        _: &TtrpcContext,
        request: ProcessRef,
    ) -> ttrpc::Result<StartProcessResponse> {
        let sandbox = self.sandbox.clone();
        let start = async move { sandbox.start(&request.container_id, &request.exec_id).await };
        Ok(StartProcessResponse {
            pid: to_the_end(start).await?,
            ..Default::default()
        })
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: ProcessRef,
    ) -> ttrpc::Result<WaitProcessResponse> {
        let process = self
            .sandbox
            .process(&request.container_id, &request.exec_id)?;
        Ok(exit_response(process.wait().await?))
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: SignalProcessRequest,
    ) -> ttrpc::Result<Empty> {
        let SignalProcessRequest {
            container_id,
            exec_id,
            signal,
            all,
            ..
        } = request;
        self.sandbox.signal(&container_id, &exec_id, signal, all)?;
        Ok(Empty::default())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let process = self
            .sandbox
            .process(&request.container_id, &request.exec_id)?;
        process.resize(request.width, request.height)?;
        Ok(Empty::default())
    }

    async fn close_stdin(&self, _: &TtrpcContext, request: ProcessRef) -> ttrpc::Result<Empty> {
        self.sandbox
            .process(&request.container_id, &request.exec_id)?
            .close_stdin();
        Ok(Empty::default())
    }

    async fn delete_process(
        &self,
        _: &TtrpcContext,
        request: ProcessRef,
    ) -> ttrpc::Result<WaitProcessResponse> {
        let sandbox = self.sandbox.clone();
        let delete = async move {
            sandbox
                .delete(&request.container_id, &request.exec_id)
                .await
        };
        Ok(exit_response(to_the_end(delete).await?))
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: ContainerRef,
    ) -> ttrpc::Result<ListProcessesResponse> {
        let (cgroup, known) = self.sandbox.group(&request.container_id)?;
        let machine = ps::Machine::read();
        let told = cgroup.processes().into_iter().filter_map(|pid| {
            let mut info = ps::info(pid, &machine)?;
            if let Some(process) = known.iter().find(|process| process.pid() == pid) {
                info.exec_id.clone_from(&process.exec_id);
            }
            Some(info)
        });
        let processes = ps::list(told);
        Ok(ListProcessesResponse {
            processes,
            ..Default::default()
        })
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRef,
    ) -> ttrpc::Result<Empty> {
        self.sandbox
            .group(&request.container_id)?
            .0
            .freeze(true)
            .await?;
        Ok(Empty::default())
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRef,
    ) -> ttrpc::Result<Empty> {
        self.sandbox
            .group(&request.container_id)?
            .0
            .freeze(false)
            .await?;
        Ok(Empty::default())
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: UpdateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.sandbox
            .update(&request.container_id, &request.resources)?;
        Ok(Empty::default())
    }

    async fn stats_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRef,
    ) -> ttrpc::Result<StatsContainerResponse> {
        Ok(self.sandbox.group(&request.container_id)?.0.stats())
    }

    async fn next_event(
        &self,
        _: &TtrpcContext,
        request: NextEventRequest,
    ) -> ttrpc::Result<Event> {
        Ok(self.sandbox.events.next(request.after).await)
    }

    #[cfg(feature = "unpack")]
    async fn unpack(
        &self,
        _: &TtrpcContext,
        request: UnpackRequest,
    ) -> ttrpc::Result<UnpackResponse> {
        to_the_end(crate::unpack::run(request)).await
    }

    #[cfg(feature = "unpack")]
    async fn unpack_progress(
        &self,
        _: &TtrpcContext,
        _: Empty,
    ) -> ttrpc::Result<UnpackProgressResponse> {
        Ok(crate::unpack::progress())
    }

    async fn diagnose(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<DiagnoseResponse> {
        Ok(diagnose::diagnose()?)
    }

    async fn clock(&self, _: &TtrpcContext, request: ClockRequest) -> ttrpc::Result<ClockResponse> {
        Ok(crate::clock::clock(&request)?)
    }

    async fn edit_file(&self, _: &TtrpcContext, request: EditFileRequest) -> ttrpc::Result<Empty> {
        self.sandbox.edit_file(&request)?;
        Ok(Empty::default())
    }

    async fn limit_space(
        &self,
        _: &TtrpcContext,
        request: LimitSpaceRequest,
    ) -> ttrpc::Result<Empty> {
        self.sandbox.spaces.limit(&request.disks);
        Ok(Empty::default())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        let sandbox = self.sandbox.clone();
        to_the_end(async move {
            sandbox.stop_all().await;
            power::prepare();
            Ok(())
        })
        .await?;
        tokio::spawn(power::off_soon());
        Ok(Empty::default())
    }
}
