//! What one shim process holds: its sandbox and the containers in it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::ttrpc;
use hull_protocol::agent::{event, NextEventRequest, ProcessRef};
use tokio::sync::watch;

use super::container::{Container, Untold};
use super::errors;
use super::events::Publisher;
use super::process::{Process, KILLED_STATUS};
use super::vm_end;
use crate::cgroup::shim::ShimCgroup;
use crate::cgroup::Cgroup;
use crate::lower::PodMember;
use crate::pace::Pace;
use crate::report::chain;
use crate::sandbox::Sandbox;
use crate::stdio::{Owner, ProcessIo};

/// How long the guest has to sync and power off when its last container goes.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);
/// Events of an agent in a second, after as many at once: there are few, unless it makes them up.
const EVENTS_PER_SECOND: u32 = 20;
/// After an agent's event that can't be read.
const EVENT_RETRY: Duration = Duration::from_secs(1);

/// The present, by the host's clock.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Timestamp::default()
    }
}

/// The state of a shim process.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) namespace: String,
    pub(super) sandbox_id: String,
    pub(super) exec_root: PathBuf,
    pub(super) publisher: Publisher,
    /// The cgroup that it was started in.
    first_cgroup: Option<Cgroup>,
    /// The one that it enters by itself.
    own_cgroup: Option<ShimCgroup>,
    /// Set when the process shall end.
    pub(super) ending: watch::Sender<bool>,
    containers: Mutex<Containers>,
}

#[derive(Debug, Default)]
struct Containers {
    /// Ids whose create is under way.
    making: HashSet<String>,
    by_id: HashMap<String, Arc<Container>>,
    /// The one that the VM was booted for: a pod's first. It is kept as long as the VM.
    first: Option<Arc<Container>>,
}

impl Shim {
    pub(super) fn new(
        namespace: &str,
        sandbox_id: &str,
        exec_root: PathBuf,
        publisher: Publisher,
        own_cgroup: Option<ShimCgroup>,
    ) -> Self {
        Self {
            own_cgroup,
            namespace: namespace.to_owned(),
            sandbox_id: sandbox_id.to_owned(),
            exec_root,
            publisher,
            first_cgroup: Cgroup::own(),
            ending: watch::Sender::new(false),
            containers: Mutex::new(Containers::default()),
        }
    }

    /// Whose output a logger takes: a container's or an exec's.
    pub(super) fn owner<'a>(&'a self, id: &'a str) -> Owner<'a> {
        let namespace = &self.namespace;
        Owner { id, namespace }
    }

    /// Nobody has put this process into another cgroup since it began: who does manages the VM's
    /// cgroup too.
    pub(super) fn is_on_its_own(&self) -> bool {
        let now = Cgroup::own();
        now == self.first_cgroup || now.as_ref() == self.own_cgroup.as_ref().map(ShimCgroup::cgroup)
    }

    fn lock(&self) -> MutexGuard<'_, Containers> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn container(&self, id: &str) -> ttrpc::Result<Arc<Container>> {
        let containers = self.lock();
        match containers.by_id.get(id) {
            Some(container) => Ok(Arc::clone(container)),
            None => Err(errors::not_found(format!("container {id:?}"))),
        }
    }

    /// The sandbox, once it has a container.
    pub(super) fn sandbox(&self) -> ttrpc::Result<Arc<Sandbox>> {
        let containers = self.lock();
        let any = containers.by_id.values().next();
        any.map(|container| Arc::clone(&container.sandbox))
            .ok_or_else(|| errors::not_found("a running VM"))
    }

    pub(super) fn is_empty(&self) -> bool {
        let containers = self.lock();
        containers.by_id.is_empty() && containers.making.is_empty()
    }

    /// The container that the VM was booted for, if it runs.
    pub(super) fn first(&self) -> Option<Arc<Container>> {
        self.lock().first.clone()
    }

    /// Whether it is the container that the VM was booted for.
    pub(super) fn is_first(&self, container: &Arc<Container>) -> bool {
        let first = self.first();
        first.is_some_and(|first| Arc::ptr_eq(&first, container))
    }

    /// The containers whose first process runs.
    pub(super) fn running_members(&self) -> Vec<PodMember> {
        let containers = self.lock();
        let all = containers.by_id.values().map(|container| {
            let init = &container.init;
            let member = PodMember {
                id: container.id.clone(),
                host_pid: init.pid(),
                guest_pid: init.guest_pid(),
                memory: container.memory.clone(),
            };
            let runs = init.exit().is_none() && member.guest_pid != 0;
            runs.then_some(member)
        });
        all.flatten().collect()
    }

    /// Whether a container with this id is being made.
    pub(super) fn is_making(&self, id: &str) -> bool {
        self.lock().making.contains(id)
    }

    /// Claims an id for a container that is being made, until the claim is dropped. A VM boots for
    /// one container; others can come when it is there.
    pub(super) fn claim(self: &Arc<Self>, id: &str) -> ttrpc::Result<Claim> {
        let mut containers = self.lock();
        let booting = containers.first.is_none() && !containers.making.is_empty();
        if booting || containers.making.contains(id) || containers.by_id.contains_key(id) {
            return Err(errors::already_exists(format!("container {id:?}")));
        }
        containers.making.insert(id.to_owned());
        Ok(Claim {
            shim: Arc::clone(self),
            id: id.to_owned(),
        })
    }

    /// The container of a claim is there.
    pub(super) fn insert(self: &Arc<Self>, container: &Arc<Container>) {
        let is_first = {
            let mut containers = self.lock();
            let id = container.id.clone();
            containers.by_id.insert(id, Arc::clone(container));
            let is_first = containers.first.is_none();
            containers
                .first
                .get_or_insert_with(|| Arc::clone(container));
            is_first
        };
        tokio::spawn(Arc::clone(self).follow_vm(Arc::clone(container)));
        if is_first {
            tokio::spawn(Arc::clone(self).follow_events(Arc::clone(&container.sandbox)));
        }
    }

    /// Ends everything: the process is about to.
    pub(super) async fn end_all(&self) {
        // Nothing is taken out of a VM that ends.
        let all: Vec<_> = self.lock().by_id.values().cloned().collect();
        if let Some(container) = all.first() {
            self.end_vm(container).await;
        }
        // What is still on its way to loggers: they die with this process.
        let mut io = Vec::new();
        for container in all {
            io.extend(container.take_all_io().await);
        }
        ProcessIo::finish_all(io).await;
    }

    async fn end_vm(&self, container: &Container) {
        let end = container.sandbox.shut_down(SHUTDOWN_LIMIT).await;
        tracing::info!(sandbox = self.sandbox_id, %end, "the VM ended");
    }

    /// Forgets a container; the VM ends with its last one. `false`: it was forgotten before.
    pub(super) async fn remove(&self, container: &Container) -> bool {
        let last = {
            let mut containers = self.lock();
            if containers.by_id.remove(&container.id).is_none() {
                return false;
            }
            let last = containers.by_id.is_empty();
            if last {
                containers.first = None;
            }
            last
        };
        match last {
            true => self.end_vm(container).await,
            false => {
                container.sandbox.leave_oom_score(&container.id);
                container.take_extras_back().await;
            }
        }
        true
    }

    /// Waits for the end of a started process and tells it.
    /// `untold`: of an exec.
    pub(super) fn watch(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
        untold: Option<Untold>,
    ) {
        let (shim, container) = (Arc::clone(self), Arc::clone(container));
        let process = Arc::clone(process);
        tokio::spawn(async move {
            let status = shim.exit_status(&container, &process).await;
            process.settle().await;
            if untold.is_none() {
                // Whoever sees the end of a container has seen those of its execs.
                container.execs_told().await;
            }
            shim.finish(&container, &process, status);
            drop(untold);
        });
    }

    async fn exit_status(&self, container: &Container, process: &Process) -> u32 {
        let request = ProcessRef {
            container_id: container.id.clone(),
            exec_id: process.exec_id.clone(),
            ..ProcessRef::default()
        };
        let agent = container.sandbox.agent();
        let ended = agent.call_unlimited("WaitProcess", |client, context| async move {
            client.wait_process(context, &request).await
        });
        match ended.await {
            Ok(exit) => {
                if exit.oom_killed && container.note_oom_by_exit() {
                    self.publish_oom(container);
                }
                exit.exit_status
            }
            Err(error) => {
                tracing::warn!(
                    container = container.id,
                    exec = process.exec_id,
                    error = chain(&error),
                    "the end of a process is not known: counted as killed"
                );
                let vm = container.sandbox.vm();
                let end = vm.end_so_far().map(|end| end.to_string());
                vm_end::keep(container, &end.unwrap_or_else(|| chain(&error)));
                // Without an agent the VM is of no use, and must not run on unseen.
                vm.kill();
                KILLED_STATUS
            }
        }
    }

    fn finish(&self, container: &Container, process: &Process, status: u32) {
        let Some(exit) = process.set_exit(status) else {
            return;
        };
        let id = match process.exec_id.is_empty() {
            true => container.id.clone(),
            false => process.exec_id.clone(),
        };
        self.publisher.publish(&TaskExit {
            container_id: container.id.clone(),
            id,
            pid: process.pid(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at),
            ..TaskExit::default()
        });
    }

    fn publish_oom(&self, container: &Container) {
        self.publisher.publish(&TaskOOM {
            container_id: container.id.clone(),
            ..TaskOOM::default()
        });
    }

    /// A VM that ends by itself ends all its processes, also those that never started.
    async fn follow_vm(self: Arc<Self>, container: Arc<Container>) {
        let end = container.sandbox.vm().ended().await;
        // Its first process is told last.
        for process in container.processes().into_iter().rev() {
            if process.exit().is_none() {
                tracing::warn!(container = container.id, %end, "the VM ended under a process");
                vm_end::keep(&container, &end.to_string());
                process.settle().await;
                self.finish(&container, &process, KILLED_STATUS);
            }
        }
    }

    /// Passes on what the agent tells of its own accord, as long as the VM lives.
    async fn follow_events(self: Arc<Self>, sandbox: Arc<Sandbox>) {
        let mut after = 0;
        let mut watching = false;
        let mut pace = Pace::per_second(EVENTS_PER_SECOND);
        while sandbox.vm().end_so_far().is_none() {
            let request = NextEventRequest {
                after,
                ..NextEventRequest::default()
            };
            let next = sandbox
                .agent()
                .call_unlimited("NextEvent", |client, context| async move {
                    client.next_event(context, &request).await
                });
            let event = match next.await {
                // A sequence that does not grow would be read for ever.
                Ok(event) if after < event.sequence => event,
                Ok(_) => return,
                Err(_) => {
                    tokio::time::sleep(EVENT_RETRY).await;
                    continue;
                }
            };
            pace.turn().await;
            after = event.sequence;
            match event.kind {
                Some(event::Kind::Oom(oom)) => {
                    if let Ok(container) = self.container(&oom.container_id) {
                        // Nothing comes after the end.
                        if container.note_oom() && container.init.exit().is_none() {
                            self.publish_oom(&container);
                        }
                    }
                }
                // Once: the connection lasts as long as the VM.
                Some(event::Kind::Watched(_)) if !watching => {
                    watching = true;
                    sandbox.watch_shares().await;
                }
                _ => {}
            }
        }
    }
}

/// The right to make the next container.
#[derive(Debug)]
pub(super) struct Claim {
    shim: Arc<Shim>,
    id: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shim.lock().making.remove(&self.id);
    }
}
