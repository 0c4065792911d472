//! A container: its processes and what is known of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::ttrpc;
use hull_vm_config::Slot;
use tokio::sync::{watch, Semaphore};

use super::errors;
use super::host_side::Place;
use super::limits::Limits;
use super::live_network::LiveNetwork;
use super::process::Process;
use crate::hooks::Subject;
use crate::host_sockets::{self, Opened, Relays};
use crate::lower::{PluggedDisk, Share};
use crate::report::chain;
use crate::sandbox::Sandbox;
use crate::spec::Bundle;
use crate::stdio::ProcessIo;

/// Most processes of a container that are being started at once.
const MAX_STARTS: usize = 16;

/// How long the end of a container waits for those of its execs, whose output is waited for.
const TOLD_LIMIT: Duration = Duration::from_secs(3);

/// What booting a VM for a container gives.
#[derive(Debug)]
pub(super) struct Booted {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) init: Arc<Process>,
    /// The namespace whose interfaces the VM has, of the container that it was booted for.
    pub(super) network: Option<Arc<LiveNetwork>>,
    /// What the VM got for it after the boot.
    pub(super) extras: Extras,
    /// Groups of its processes beside those of their user, by name or number.
    pub(super) groups: Vec<String>,
    /// The directory of the host in whose place it has memory of the guest.
    pub(super) memory: Option<PathBuf>,
}

/// What has been told of kills for want of memory.
#[derive(Debug, Default)]
struct Oom {
    told: bool,
    /// The end of a process came before the event of the same kill.
    before_its_event: bool,
}

/// See [`Booted::memory`].
pub(super) fn memory_of(bundle: &Bundle) -> Option<PathBuf> {
    let memory = bundle.memory.as_ref();
    memory.map(|memory| memory.source.clone())
}

/// What a running VM got for a container. It goes with this value, once the guest has let go of it.
#[derive(Debug)]
pub(super) struct Extras {
    sandbox: Arc<Sandbox>,
    /// Names of what was shared.
    shares: Vec<String>,
    /// Slots of disks that were plugged in.
    disks: Vec<Slot>,
    /// Slots that are kept for further ones.
    pub(super) slots: Vec<Slot>,
    /// Sockets of the host that it can connect to.
    sockets: Relays,
}

impl Extras {
    /// Nothing yet, and the places for so many disks, or what there is of them.
    pub(super) fn new(sandbox: &Arc<Sandbox>, disks: usize) -> Self {
        Self {
            sandbox: Arc::clone(sandbox),
            shares: Vec::new(),
            disks: Vec::new(),
            slots: sandbox.take_slots(disks),
            sockets: Relays::default(),
        }
    }

    /// Passes on who connects to the sockets that the agent has made.
    pub(super) fn serve(&mut self, sockets: Vec<Opened>) {
        self.sockets = host_sockets::serve(self.sandbox.vm(), sockets);
    }

    /// Shows the guest a directory of the host.
    pub(super) async fn share(&mut self, share: Share) -> ttrpc::Result<()> {
        self.shares.push(share.subpath.clone());
        let added = self.sandbox.share(share).await;
        added.map_err(|error| errors::failed(&error))
    }

    /// Gives the VM a disk.
    pub(super) async fn plug(&mut self, disk: &PluggedDisk) -> ttrpc::Result<()> {
        let plugged = self.sandbox.attach_disk(disk).await;
        plugged.map_err(|error| errors::failed(&error))?;
        self.slots.retain(|slot| *slot != disk.slot);
        self.disks.push(disk.slot);
        Ok(())
    }

    /// Takes all of it back.
    async fn take_back(sandbox: &Sandbox, shares: Vec<String>, disks: Vec<Slot>) {
        if let Some(server) = sandbox.shares().filter(|_| !shares.is_empty()) {
            server.detach(shares).await;
        }
        for slot in disks {
            match sandbox.detach_disk(slot).await {
                Ok(()) => sandbox.give_slots_back([slot]),
                // It stays, and its files stay open, until the VM ends.
                Err(error) => tracing::warn!(
                    slot = slot.index(),
                    error = chain(&error),
                    "a disk is left in a VM"
                ),
            }
        }
    }

    /// Takes all of it back, and waits for that.
    async fn end(&mut self) {
        self.sockets = Relays::default();
        let (shares, disks) = (
            std::mem::take(&mut self.shares),
            std::mem::take(&mut self.disks),
        );
        Self::take_back(&self.sandbox, shares, disks).await;
    }
}

impl Drop for Extras {
    fn drop(&mut self) {
        self.sandbox
            .give_slots_back(std::mem::take(&mut self.slots));
        let (shares, disks) = (
            std::mem::take(&mut self.shares),
            std::mem::take(&mut self.disks),
        );
        if shares.is_empty() && disks.is_empty() {
            return;
        }
        let sandbox = Arc::clone(&self.sandbox);
        tokio::spawn(async move { Self::take_back(&sandbox, shares, disks).await });
    }
}

/// An exec whose end has not been told.
#[derive(Debug)]
pub(super) struct Untold(Arc<Container>);

impl Drop for Untold {
    fn drop(&mut self) {
        self.0.untold.send_modify(|count| *count -= 1);
    }
}

/// A container in a sandbox.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) init: Arc<Process>,
    /// The namespace whose interfaces the VM has, of the container that it was booted for.
    pub(super) network: Option<Arc<LiveNetwork>>,
    /// What the VM got for it after the boot.
    extras: tokio::sync::Mutex<Extras>,
    pub(super) hooks: Subject,
    /// Groups of its processes beside those of their user, by name or number.
    pub(super) groups: Vec<String>,
    /// The directory of the host in whose place it has memory of the guest.
    pub(super) memory: Option<PathBuf>,
    /// Where the holders of its processes are.
    pub(super) place: Place,
    pub(super) paused: watch::Sender<bool>,
    oom: Mutex<Oom>,
    /// How many execs have been started whose end has not been told.
    untold: watch::Sender<usize>,
    /// What it may use.
    limits: Mutex<Limits>,
    /// For starts under way: the agent keeps a bounded number of streams whose process it does not
    /// know yet.
    pub(super) starts: Semaphore,
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

impl Container {
    pub(super) fn new(
        id: &str,
        bundle: PathBuf,
        booted: Booted,
        hooks: Subject,
        place: Place,
        limits: Limits,
    ) -> Self {
        Self {
            id: id.to_owned(),
            bundle,
            sandbox: booted.sandbox,
            extras: tokio::sync::Mutex::new(booted.extras),
            init: booted.init,
            network: booted.network,
            hooks,
            groups: booted.groups,
            memory: booted.memory,
            place,
            paused: watch::Sender::new(false),
            oom: Mutex::default(),
            untold: watch::Sender::new(0),
            limits: Mutex::new(limits),
            starts: Semaphore::new(MAX_STARTS),
            execs: Mutex::new(HashMap::new()),
        }
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The init process (empty `exec_id`) or an exec.
    pub(super) fn process(&self, exec_id: &str) -> ttrpc::Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        self.execs()
            .get(exec_id)
            .cloned()
            .ok_or_else(|| errors::not_found(format!("process {exec_id:?} of {:?}", self.id)))
    }

    /// Takes an exec id; it must be free.
    pub(super) fn add(&self, process: Arc<Process>) -> ttrpc::Result<()> {
        let mut execs = self.execs();
        if execs.contains_key(&process.exec_id) {
            return Err(errors::already_exists(format!("id {}", process.exec_id)));
        }
        execs.insert(process.exec_id.clone(), process);
        Ok(())
    }

    /// Takes back what the VM got for it; the guest has let go of it.
    pub(super) async fn take_extras_back(&self) {
        self.extras.lock().await.end().await;
    }

    pub(super) fn forget(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    /// Init and all execs.
    pub(super) fn processes(&self) -> Vec<Arc<Process>> {
        let mut all = vec![Arc::clone(&self.init)];
        all.extend(self.execs().values().cloned());
        all
    }

    /// Takes the streams of all its processes out.
    pub(super) async fn take_all_io(&self) -> Vec<ProcessIo> {
        let mut all = Vec::new();
        for process in self.processes() {
            all.extend(process.take_io().await);
        }
        all
    }

    /// An exec was started; its end has been told when the answer is dropped.
    pub(super) fn to_be_told(self: &Arc<Self>) -> Untold {
        self.untold.send_modify(|count| *count += 1);
        Untold(Arc::clone(self))
    }

    /// Waits until the ends of all execs have been told, a bounded time.
    pub(super) async fn execs_told(&self) {
        let mut untold = self.untold.subscribe();
        let told = untold.wait_for(|count| *count == 0);
        // One that outlives the container's first process is told of later.
        let _ = tokio::time::timeout(TOLD_LIMIT, told).await;
    }

    /// What it may use.
    pub(super) fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has been given these.
    pub(super) fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// The guest tells of a kill for want of memory; whether that is news.
    pub(super) fn note_oom(&self) -> bool {
        let mut oom = self.oom.lock().unwrap_or_else(PoisonError::into_inner);
        oom.told = true;
        !std::mem::take(&mut oom.before_its_event)
    }

    /// The end of a process tells that there was one, of which the guest's own event may still be on its
    /// way; whether that is news.
    pub(super) fn note_oom_by_exit(&self) -> bool {
        let mut oom = self.oom.lock().unwrap_or_else(PoisonError::into_inner);
        let news = !std::mem::replace(&mut oom.told, true);
        oom.before_its_event |= news;
        news
    }
}
