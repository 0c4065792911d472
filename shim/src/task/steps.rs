//! What the calls of the Task API have in common: making a container, starting a process, freeing
//! one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::events::task::{TaskExecStarted, TaskStart};
use containerd_shim_protos::ttrpc;
use hull_network::foreign::Namespace;
use hull_protocol::agent::{
    ContainerRef, CreateContainerRequest, ProcessRef, ResizePtyRequest, SignalProcessRequest,
};

use super::container::{memory_of, Booted, Container, Extras};
use super::host_side::{self, HostSide, Place};
use super::limits::Limits;
use super::live_network::LiveNetwork;
use super::network::Source;
use super::process::{Phase, Process, StdioPaths};
use super::service::Service;
use super::state::Shim;
use super::{errors, network, rootfs};
use crate::agent::CALL_LIMIT;
use crate::holder::Network;
use crate::hooks::Moment;
use crate::host_sockets;
use crate::loopback;
use crate::lower::{lower, queue_pairs, HostFacts, TaskOptions};
use crate::pod::Role;
use crate::report::chain;
use crate::runtime_dir::RuntimeDir;
use crate::sandbox::{Home, Sandbox};
use crate::spec::Bundle;
use crate::stdio::{Connected, Endpoints, ProcessIo};
use crate::vmm::UidLease;

/// Making a container, whose new volumes are filled, and starting a process: many at once on a busy
/// host wait for each other.
const START_LIMIT: Duration = Duration::from_secs(180);
const SIGKILL: u32 = libc::SIGKILL as u32;
/// How long a container's first process may take to end after SIGKILL. A kernel that writes back what it has
/// first may need a while; one that lies, or stands still, would need for ever.
const KILL_LIMIT: Duration = Duration::from_secs(15);
/// File in the sandbox's runtime directory that takes the boot's timeline.
const TRACE_FILE: &str = "trace.json";

impl Service {
    pub(super) fn new(shim: Arc<Shim>) -> Self {
        Self { shim }
    }

    /// Boots the VM and makes the container in it. What a failure leaves is gone when the values
    /// made so far are dropped.
    pub(super) async fn make(
        &self,
        request: &api::CreateTaskRequest,
    ) -> ttrpc::Result<Arc<Container>> {
        let bundle = Bundle::load(Path::new(&request.bundle), &rootfs::mounts(&request.rootfs))
            .map_err(|error| errors::invalid(chain(&error)))?;
        let stdio = StdioPaths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let first = self.shim.first();
        if let Some(first) = &first {
            self.may_join(&bundle, first)?;
        }
        let place = Place::of(&bundle);
        let own_pid = network::wants_pid(&bundle);
        let hooks = host_side::subject(&request.id, &bundle);
        let needs_pid = hooks.has_any() || own_pid;
        let owner = self.shim.owner(&request.id);
        let mut side = HostSide::open(&stdio, &place, needs_pid, owner).await?;
        let pid = side.pid().unwrap_or_default();
        let made = async {
            for moment in [
                Moment::Prestart,
                Moment::CreateRuntime,
                Moment::CreateContainer,
            ] {
                let ran = hooks.run(moment, pid).await;
                ran.map_err(|error| errors::failed(&error))?;
            }
            match &first {
                None => self.boot(request, &bundle, stdio, &mut side).await,
                Some(first) => self.join(request, &bundle, stdio, &mut side, first).await,
            }
        };
        let booted = match made.await {
            Ok(made) => made,
            Err(error) => {
                drop(side);
                hooks.run_all(Moment::Poststop, 0).await;
                return Err(error);
            }
        };
        // Further processes join the network namespace that the first one has.
        let place = match &side.holder {
            Some(holder) => Place {
                network: Network::Join(holder.netns()),
                ..place
            },
            None => place,
        };
        let container = Arc::new(Container::new(
            &request.id,
            request.bundle.clone().into(),
            booted,
            hooks,
            place,
            Limits::of(&bundle.spec),
        ));
        side.follow(self, &container, &container.init);
        Ok(container)
    }

    /// Boots the VM and makes the container's first process in it.
    pub(super) async fn boot(
        &self,
        request: &api::CreateTaskRequest,
        bundle: &Bundle,
        stdio: StdioPaths,
        side: &mut HostSide,
    ) -> ttrpc::Result<Booted> {
        let fail = |error: &dyn std::error::Error| errors::failed(error);
        let uid = UidLease::take(&self.shim.exec_root).map_err(|error| fail(&error))?;
        let source = Source::of(bundle, side.holder.as_ref())?;
        let host = HostFacts::read();
        let prepared = source.prepare(queue_pairs(bundle, host)).await?;
        let options = TaskOptions {
            sandbox_id: self.shim.sandbox_id.clone(),
            container_id: request.id.clone(),
            terminal: request.terminal,
            jail: uid.jail(),
            host,
            network: prepared.attachments,
            pod: None,
            slots: Vec::new(),
        };
        let plan = lower(bundle, &options).map_err(|error| errors::invalid(chain(&error)))?;
        let sockets = host_sockets::open(&plan.sockets).map_err(|error| fail(&error))?;
        let name = format!("{}-{}", self.shim.namespace, self.shim.sandbox_id);
        let dir = RuntimeDir::create(&self.shim.exec_root, &name).map_err(|error| fail(&error))?;
        let assets = crate::assets::Assets::find().map_err(|error| fail(&error))?;
        let home = match side.cgroup.take() {
            Some(door) => Home::Given(door),
            None if self.shim.is_on_its_own() => Home::Own(plan.host_share.clone()),
            None => Home::OfShim,
        };
        let namespace = prepared.live.as_ref().map(LiveNetwork::namespace);
        let network = (prepared.taps, namespace.clone());
        let sandbox = Sandbox::boot_plan(&assets, &plan, network, home, dir, uid)
            .await
            .map_err(|error| fail(&error))?;

        if Role::of(bundle.spec.annotations().as_ref()) == Role::Sandbox {
            serve_loopback(&sandbox, namespace.as_deref());
        }
        if let Some(namespace) = &namespace {
            self.announce(&sandbox, namespace);
        }
        let groups = plan.create.additional_groups.clone();
        let init = self.create_in(&sandbox, plan.create, stdio, side).await?;
        let sandbox = Arc::new(sandbox);
        let mut extras = Extras::new(&sandbox, 0);
        extras.serve(sockets);
        let network = prepared.live.map(Arc::new);
        if let Some(live) = &network {
            live.follow(&sandbox);
        }
        Ok(Booted {
            groups,
            memory: memory_of(bundle),
            extras,
            sandbox,
            init,
            network,
        })
    }

    /// Asks the agent for a container.
    pub(super) async fn create_in(
        &self,
        sandbox: &Sandbox,
        mut create: CreateContainerRequest,
        stdio: StdioPaths,
        side: &mut HostSide,
    ) -> ttrpc::Result<Arc<Process>> {
        let init = Arc::new(Process::init(stdio));
        let connected = connect(sandbox, side.take_endpoints(), init.stdio.terminal).await?;
        create.stdio = protobuf::MessageField::some(connected.tokens());
        sandbox
            .agent()
            .call(
                "CreateContainer",
                START_LIMIT,
                |client, context| async move { client.create_container(context, &create).await },
            )
            .await
            .map_err(|error| errors::of_agent(&error))?;
        init.set_pid(side.pid().unwrap_or_else(|| sandbox.vm().pid()));
        init.set_io(connected.start());
        Ok(init)
    }

    pub(super) async fn start_exec(
        &self,
        container: &Container,
        process: &Process,
    ) -> ttrpc::Result<HostSide> {
        let request = process.exec_request(&container.id, &container.groups);
        let Some(mut request) = request.map_err(|error| errors::failed(&error))? else {
            return Ok(HostSide::default());
        };
        let owner = self.shim.owner(&process.exec_id);
        let mut side = HostSide::open(&process.stdio, &container.place, false, owner).await?;
        let endpoints = side.take_endpoints();
        let connected = connect(&container.sandbox, endpoints, process.stdio.terminal).await?;
        request.stdio = protobuf::MessageField::some(connected.tokens());
        request.sub_cgroup.clone_from(&side.sub_cgroup);
        container
            .sandbox
            .agent()
            .call("ExecProcess", START_LIMIT, |client, context| async move {
                client.exec_process(context, &request).await
            })
            .await
            .map_err(|error| errors::of_agent(&error))?;
        process.set_io(connected.start());
        Ok(side)
    }

    /// Starts a process; returns its PID: on the host if it has one there, else in the guest.
    pub(super) async fn run(
        &self,
        container: &Arc<Container>,
        process: &Arc<Process>,
    ) -> ttrpc::Result<u32> {
        if !process.exec_id.is_empty() && !process.is_job() {
            // It would be frozen half made.
            let mut paused = container.paused.subscribe();
            let _ = paused.wait_for(|paused| !paused).await;
        }
        let live = container.network.as_ref();
        if let Some(live) = live.filter(|_| process.exec_id.is_empty()) {
            // Engines that want a process first prepare its network between `create` and `start`.
            let completed = live.complete(&container.sandbox).await;
            completed.map_err(|error| errors::failed(&error))?;
        }
        let turn = container.starts.acquire().await;
        let _turn = turn.map_err(|error| errors::failed(&error))?;
        let side = self.start_exec(container, process).await?;
        let request = reference(container, process);
        let started = container
            .sandbox
            .agent()
            .call("StartProcess", START_LIMIT, |client, context| async move {
                client.start_process(context, &request).await
            })
            .await
            .map_err(|error| errors::of_agent(&error))?;
        process.set_guest_pid(started.pid);
        let pid = side.pid().unwrap_or(started.pid);
        if side.pid().is_some() {
            process.set_on_host();
        }
        side.follow(self, container, process);
        Ok(pid)
    }

    /// Runs the poststart hooks. One that fails ends the container.
    pub(super) async fn run_poststart(
        &self,
        container: &Arc<Container>,
        process: &Arc<Process>,
    ) -> ttrpc::Result<()> {
        let ran = container.hooks.run(Moment::Poststart, process.pid()).await;
        let Err(error) = ran else { return Ok(()) };
        tracing::warn!(container = container.id, %error, "the container is ended");
        match self.deliver(container, process, SIGKILL, false).await {
            Ok(()) => drop(process.wait().await),
            // It has ended by itself.
            Err(error) => tracing::debug!(%error, "a container whose poststart hook failed"),
        }
        Err(errors::failed(&error))
    }

    /// Sends a signal to a process, or to all of the container.
    pub(super) async fn deliver(
        &self,
        container: &Arc<Container>,
        process: &Arc<Process>,
        signal: u32,
        all: bool,
    ) -> ttrpc::Result<()> {
        let request = SignalProcessRequest {
            container_id: container.id.clone(),
            exec_id: process.exec_id.clone(),
            signal,
            all,
            ..SignalProcessRequest::default()
        };
        let created = process.phase() == Phase::Created;
        if signal == SIGKILL && process.exec_id.is_empty() {
            insist(container, process);
        }
        container
            .sandbox
            .agent()
            .call("SignalProcess", CALL_LIMIT, |client, context| async move {
                client.signal_process(context, &request).await
            })
            .await
            .map_err(|error| errors::of_agent(&error))?;
        // A process that was never started is not watched yet.
        if created && process.exec_id.is_empty() {
            self.shim.watch(container, process, None);
        }
        Ok(())
    }

    /// Sets the size of a process's terminal, in characters.
    pub(super) async fn resize(
        &self,
        container: &Container,
        process: &Process,
        width: u32,
        height: u32,
    ) -> ttrpc::Result<()> {
        let request = ResizePtyRequest {
            container_id: container.id.clone(),
            exec_id: process.exec_id.clone(),
            width,
            height,
            ..ResizePtyRequest::default()
        };
        container
            .sandbox
            .agent()
            .call("ResizePty", CALL_LIMIT, |client, context| async move {
                client.resize_pty(context, &request).await
            })
            .await
            .map_err(|error| errors::of_agent(&error))?;
        Ok(())
    }

    pub(super) fn publish_start(&self, container: &Container, process: &Process) {
        let pid = process.pid();
        let container_id = container.id.clone();
        match process.exec_id.is_empty() {
            true => self.shim.publisher.publish(&TaskStart {
                container_id,
                pid,
                ..TaskStart::default()
            }),
            false => self.shim.publisher.publish(&TaskExecStarted {
                container_id,
                exec_id: process.exec_id.clone(),
                pid,
                ..TaskExecStarted::default()
            }),
        }
    }

    /// Keeps the boot's timeline beside the sandbox: nobody can ask the VMM once it has ended.
    pub(super) async fn keep_trace(&self, container: &Container) {
        let Ok(marks) = container.sandbox.vm().trace().await else {
            return;
        };
        let path = container.sandbox.dir().join(TRACE_FILE);
        let written = serde_json::to_vec(&marks)
            .map_err(std::io::Error::from)
            .and_then(|json| crate::private::write(&path, json));
        if let Err(error) = written {
            tracing::warn!(?path, %error, "the boot's timeline is lost");
        }
    }

    /// Frees a process in the guest; the container too when it is the init process.
    pub(super) async fn free(&self, container: &Container, process: &Process) {
        let request = reference(container, process);
        let freed = container
            .sandbox
            .agent()
            .call("DeleteProcess", CALL_LIMIT, |client, context| async move {
                client.delete_process(context, &request).await
            })
            .await;
        if let Err(error) = freed {
            // An exec that never ran is not known there, and a VM that ended knows nothing.
            tracing::debug!(error = chain(&error), "delete in the guest");
        }
        // With the container its execs end, which nobody may ever delete.
        let ended = match process.exec_id.is_empty() {
            true => container.take_all_io().await,
            false => process.take_io().await.into_iter().collect(),
        };
        ProcessIo::finish_all(ended).await;
    }

    pub(super) async fn call_container<T, F>(
        &self,
        id: &str,
        call: &'static str,
        make: impl FnOnce(
            hull_protocol::agent_ttrpc::AgentClient,
            ttrpc::context::Context,
            ContainerRef,
        ) -> F,
    ) -> ttrpc::Result<T>
    where
        F: std::future::Future<Output = ttrpc::Result<T>>,
    {
        let container = self.shim.container(id)?;
        let reference = ContainerRef {
            container_id: container.id.clone(),
            ..ContainerRef::default()
        };
        let agent = container.sandbox.agent();
        agent
            .call(call, CALL_LIMIT, |client, context| {
                make(client, context, reference)
            })
            .await
            .map_err(|error| errors::of_agent(&error))
    }
}

/// Ports of a pod are forwarded from the loopback interface of its namespace.
fn serve_loopback(sandbox: &Sandbox, namespace: Option<&Namespace>) {
    let Some(namespace) = namespace else { return };
    if let Err(error) = loopback::serve(sandbox.vm(), namespace) {
        // The pod works without.
        tracing::warn!(
            error = chain(&error),
            "ports of the pod can't be forwarded by its loopback"
        );
    }
}

pub(super) async fn connect(
    sandbox: &Sandbox,
    endpoints: Endpoints,
    terminal: bool,
) -> ttrpc::Result<Connected> {
    Connected::new(sandbox.vm(), endpoints, terminal)
        .await
        .map_err(|error| errors::failed(&error))
}

/// Where SIGKILL has no effect the VM ends, and all that is in it.
fn insist(container: &Arc<Container>, process: &Arc<Process>) {
    let (container, process) = (Arc::clone(container), Arc::clone(process));
    tokio::spawn(async move {
        let ended = tokio::time::timeout(KILL_LIMIT, process.wait()).await;
        if ended.is_err() {
            let id = &container.id;
            tracing::warn!(id, "SIGKILL had no effect: the VM is ended");
            container.sandbox.vm().kill();
        }
    });
}

pub(super) fn reference(container: &Container, process: &Process) -> ProcessRef {
    ProcessRef {
        container_id: container.id.clone(),
        exec_id: process.exec_id.clone(),
        ..ProcessRef::default()
    }
}

pub(super) fn status(container: &Container, process: &Process) -> api::Status {
    if process.exit().is_some() {
        return api::Status::STOPPED;
    }
    let is_paused = *container.paused.borrow();
    let is_init = process.exec_id.is_empty();
    match process.phase() {
        Phase::Created | Phase::Starting if !is_paused || !is_init => api::Status::CREATED,
        Phase::Started if !is_paused => api::Status::RUNNING,
        Phase::Created | Phase::Starting | Phase::Started => api::Status::PAUSED,
    }
}

/// Only a process that runs can be told anything.
pub(super) fn running(container: &Container, process: &Process) -> ttrpc::Result<()> {
    match status(container, process) {
        api::Status::STOPPED => Err(errors::not_found("process already finished: process")),
        _ => Ok(()),
    }
}
