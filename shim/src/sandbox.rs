//! Carrying a plan out: open the files, start the VMM, reach the agent.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hull_network::foreign::Namespace;
use hull_protocol::agent::{
    ConfigureNetworkRequest, ConfigureSandboxRequest, ReleaseDeviceRequest,
};
use hull_vm_config::{FdName, NetConfig, QueuePair, Slot, VmConfig};
use tokio::sync::OnceCell;

use crate::agent::{Agent, AgentError, CALL_LIMIT};
use crate::assets::{Assets, AssetsError};
use crate::cgroup::{Bounds, Cgroup, CgroupError, HostShare};
use crate::clock;
use crate::in_memory;
use crate::lower::{
    resource, slot_number, LowerError, Plan, PluggedDisk, Resource, Share, CONSOLE_FD, FS_FD,
    INITRAMFS_FD, KERNEL_FD, SHARE_TAG,
};
use crate::network::{Attachments, NetworkError};
use crate::oom_score::OomScore;
use crate::report::chain;
use crate::resolver;
use crate::runtime_dir::{RuntimeDir, RuntimeDirError};
use crate::share::{self, ShareError, ShareServer};
use crate::space::{self, Disks};
use crate::spec::SpecError;
use crate::user_namespace::IdMaps;
use crate::vmm::{open_kvm, open_vhost_net, Launch, UidLease, Vm, VmEnd, VmmError};
use crate::watch;

/// Name of the console's file in the runtime directory.
pub const CONSOLE_FILE: &str = "console.log";

/// Why a sandbox can't be started.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Hull's own files.
    #[error(transparent)]
    Assets(#[from] AssetsError),
    /// The bundle can't be read.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The bundle has no VM.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The runtime directory.
    #[error(transparent)]
    RuntimeDir(#[from] RuntimeDirError),
    /// The VMM.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A path of the host that the guest must see.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The cgroup that was given.
    #[error("failed to keep the way into the VM's cgroup")]
    Door(#[source] io::Error),
}

/// What a VM is booted from.
#[derive(Debug)]
pub struct Boot<'a> {
    /// Hull's own files.
    pub assets: &'a Assets,
    /// That of them which is the guest's initial file system.
    pub initramfs: &'a Path,
    /// The VM.
    pub config: VmConfig,
    /// Files to open for it, beside kernel and initramfs.
    pub resources: &'a [Resource],
    /// A file for the guest's console, if the configuration has one.
    pub console: Option<&'a Path>,
    /// Host paths that the guest must see.
    pub shares: &'a [Share],
    /// Whose ids those on the shares are; `None`: the host's.
    pub id_maps: Option<&'a IdMaps>,
    /// The guest may make device nodes on them.
    pub device_nodes: bool,
    /// The descriptors of a tap for each network device of the configuration, one for each pair of
    /// queues.
    pub taps: Vec<Vec<OwnedFd>>,
    /// The host's kernel may serve them.
    pub vhost_net: bool,
    /// The namespace that they are in, if it is not the engine's; kept as long as the VM.
    pub namespace: Option<Arc<Namespace>>,
    /// Their interfaces in the guest.
    pub network: ConfigureNetworkRequest,
    /// First request to the agent.
    pub sandbox: ConfigureSandboxRequest,
    /// The cgroups of its processes on the host.
    pub home: Home,
    /// `oom_score_adj` of its processes on the host, if somebody asks for one.
    pub oom_score: Option<i32>,
}

/// In which cgroups a VM's processes are.
#[derive(Debug)]
pub enum Home {
    /// The sandbox's own, which share the host with others like this.
    Own(HostShare),
    /// The one that this process is in, which somebody else manages.
    OfShim,
    /// The one whose `cgroup.procs` this is.
    Given(OwnedFd),
}

/// How large a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSize {
    /// vCPUs.
    pub vcpus: u8,
    /// Guest memory, in bytes.
    pub memory_bytes: u64,
}

/// A running VM with its agent, and what it owns on the host. Dropping it kills the VMM.
#[derive(Debug)]
pub struct Sandbox {
    vm: Vm,
    agent: Agent,
    shares: OnceCell<ShareServer>,
    later: Later,
    size: VmSize,
    dir: RuntimeDir,
    oom_score: OomScore,
    vhost_net: bool,
    namespace: Option<Arc<Namespace>>,
    disks: Disks,
    /// Slots for disks that are empty.
    free: Mutex<Vec<Slot>>,
    /// How many containers came after the first.
    turns: AtomicU64,
    _uid: UidLease,
}

/// What a virtiofsd needs that comes when the VM runs.
#[derive(Debug)]
struct Later {
    virtiofsd: share::Program,
    bounds: Bounds,
    host_share: Option<HostShare>,
}

impl Later {
    fn of(boot: &Boot<'_>) -> Self {
        Self {
            virtiofsd: share::Program {
                path: boot.assets.virtiofsd.clone(),
                guest_memory_bytes: boot.config.memory_bytes,
                device_nodes: boot.device_nodes,
            },
            bounds: bounds_of(boot),
            host_share: match &boot.home {
                Home::Own(share) => Some(share.clone()),
                Home::OfShim | Home::Given(_) => None,
            },
        }
    }
}

impl Sandbox {
    /// Boots the VM of a plan.
    pub async fn boot_plan(
        assets: &Assets,
        plan: &Plan,
        (taps, namespace): (Vec<Vec<OwnedFd>>, Option<Arc<Namespace>>),
        home: Home,
        dir: RuntimeDir,
        uid: UidLease,
    ) -> Result<Self, SandboxError> {
        let console = plan.console.then(|| dir.path().join(CONSOLE_FILE));
        let boot = Boot {
            assets,
            initramfs: &assets.initramfs,
            config: plan.config.clone(),
            resources: &plan.resources,
            console: console.as_deref(),
            shares: &plan.shares,
            id_maps: plan.id_maps.as_ref(),
            device_nodes: plan.device_nodes,
            taps,
            vhost_net: plan.vhost_net,
            namespace,
            network: plan.network.clone(),
            sandbox: plan.sandbox.clone(),
            home,
            oom_score: plan.oom_score,
        };
        Self::boot(boot, dir, uid).await
    }

    /// Boots a VM and waits for its agent.
    pub async fn boot(
        mut boot: Boot<'_>,
        mut dir: RuntimeDir,
        uid: UidLease,
    ) -> Result<Self, SandboxError> {
        let size = VmSize {
            vcpus: boot.config.vcpus,
            memory_bytes: boot.config.memory_bytes,
        };
        let free = Slot::VOLUMES
            .into_iter()
            .skip(boot.config.devices.volumes.len());
        let free = Mutex::new(free.collect());
        let kvm = open_kvm()?;
        let doors = open_cgroups(&boot, &mut dir)?;
        let taps = std::mem::take(&mut boot.taps);
        let mut files = open_files(&boot)?;
        for (index, (net, taps)) in boot.config.devices.nets.iter_mut().zip(taps).enumerate() {
            let vhosts = open_vhosts(boot.vhost_net, taps.len());
            files.extend(name_pairs(index, net, taps, vhosts));
        }
        let later = Later::of(&boot);
        let disks = Disks::of(&boot.config.devices, boot.resources);
        let shares = OnceCell::new();
        let mut virtiofsd = None;
        if !boot.shares.is_empty() {
            let started = ShareServer::start(
                &later.virtiofsd,
                dir.path(),
                boot.shares,
                boot.id_maps,
                doors.virtiofsd,
            )
            .await?;
            files.push((FS_FD.into(), started.socket));
            // Nothing is there yet.
            let _ = shares.set(started.server);
            virtiofsd = Some(started.pidfd);
        }
        let launch = Launch {
            kvm,
            cgroup: doors.vmm,
            files,
            hull_vmm: boot.assets.hull_vmm.clone(),
            config: boot.config,
        };
        let vm = launch.start().await?;
        dir.set_vmm(vm.pid())?;
        if let Some(virtiofsd) = virtiofsd {
            tokio::spawn(end_with(virtiofsd, vm.clone()));
        }
        let agent = Agent::connect(&vm).await?;
        let spaces = disks.spaces();
        boot.sandbox.disks.clone_from(&spaces);
        agent.configure(boot.sandbox).await?;
        tokio::spawn(clock::follow(agent.clone()));
        tokio::spawn(space::follow(disks.clone(), agent.clone(), spaces));
        if boot.network != ConfigureNetworkRequest::default() {
            set_up(&vm, &agent, boot.network, boot.namespace.as_ref()).await?;
        }
        let sandbox = Self {
            vm,
            agent,
            shares,
            later,
            size,
            dir,
            oom_score: OomScore::new(boot.oom_score),
            vhost_net: boot.vhost_net,
            namespace: boot.namespace,
            disks,
            free,
            turns: AtomicU64::new(0),
            _uid: uid,
        };
        sandbox.tell_oom_score();
        Ok(sandbox)
    }

    /// A further container comes, whose processes are to have this `oom_score_adj`.
    pub(crate) fn join_oom_score(&self, id: &str, wanted: Option<i32>) {
        self.oom_score.join(id, wanted);
        self.tell_oom_score();
    }

    /// It is gone.
    pub(crate) fn leave_oom_score(&self, id: &str) {
        self.oom_score.leave(id);
        self.tell_oom_score();
    }

    fn tell_oom_score(&self) {
        self.oom_score.give([self.vm.pid()]);
        if let Some(shares) = self.shares() {
            shares.give_oom_score(&self.oom_score);
        }
    }

    /// Plugs interfaces in while the VM runs, into network slots from the `first` on.
    pub async fn attach_network(
        &self,
        first: usize,
        attachments: &Attachments,
        taps: Vec<Vec<OwnedFd>>,
    ) -> Result<(), SandboxError> {
        let mut lowered = attachments.lower().map_err(LowerError::from)?;
        let interfaces = lowered.request.interfaces.iter_mut();
        let devices = lowered.devices.iter().zip(taps);
        for (slot, ((device, taps), interface)) in Slot::NETS
            .into_iter()
            .skip(first)
            .zip(devices.zip(interfaces))
        {
            let vhosts = open_vhosts(self.vhost_net, taps.len());
            self.vm
                .attach_net(slot, taps, vhosts, device.mac, device.mtu)
                .await?;
            interface.slot = slot_number(slot);
        }
        self.set_up(lowered.request).await
    }

    async fn set_up(&self, request: ConfigureNetworkRequest) -> Result<(), SandboxError> {
        set_up(&self.vm, &self.agent, request, self.namespace.as_ref()).await
    }

    /// Adds addresses and routes to interfaces that are plugged in.
    pub async fn extend_network(&self, attachments: &Attachments) -> Result<(), SandboxError> {
        let lowered = attachments.lower().map_err(LowerError::from)?;
        self.set_up(lowered.request).await
    }

    /// Changes interfaces that are plugged in: what each has `lost`, and, in the same order, what it
    /// has got.
    pub(crate) async fn change_network(
        &self,
        lost: &Attachments,
        got: &Attachments,
    ) -> Result<(), SandboxError> {
        let lost = lost.lower().map_err(LowerError::from)?.request.interfaces;
        let mut request = got.lower().map_err(LowerError::from)?.request;
        for (interface, lost) in request.interfaces.iter_mut().zip(lost) {
            interface.gone_addresses = lost.addresses;
            interface.gone_routes = lost.routes;
            interface.gone_neighbours = lost.neighbours;
        }
        self.set_up(request).await
    }

    /// Pulls the interface in a network slot out.
    pub async fn detach_network(&self, index: usize) -> Result<(), SandboxError> {
        let Some(slot) = Slot::NETS.get(index).copied() else {
            let count = index + 1;
            return Err(LowerError::from(NetworkError::TooMany { count }).into());
        };
        self.release(slot).await;
        Ok(self.vm.detach_net(slot).await?)
    }

    /// A number that no other container of this VM has had.
    pub(crate) fn next_turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps up to `count` empty slots for disks; they are to be given back.
    pub fn take_slots(&self, count: usize) -> Vec<Slot> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let count = count.min(free.len());
        free.drain(..count).collect()
    }

    /// Gives slots back in which no disk is.
    pub fn give_slots_back(&self, slots: impl IntoIterator<Item = Slot>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(slots);
    }

    /// Plugs a disk in while the VM runs, into a slot that was taken.
    pub async fn attach_disk(&self, disk: &PluggedDisk) -> Result<(), SandboxError> {
        let open = disk.resources.iter().map(crate::vmm::open_resource);
        let files: Vec<OwnedFd> = open.collect::<Result<_, _>>()?;
        let attached = self.vm.attach_block(disk.slot, &disk.device, &files);
        attached.await?;
        self.disks.plug(disk);
        space::tell(&self.agent, self.disks.spaces()).await;
        Ok(())
    }

    /// Pulls a disk out that was plugged in. What is in it is not mounted any more.
    pub async fn detach_disk(&self, slot: Slot) -> Result<(), SandboxError> {
        self.release(slot).await;
        self.disks.unplug(slot);
        Ok(self.vm.detach_block(slot).await?)
    }

    /// Has the agent let go of the device in a slot. A guest that can't or won't loses it all the same:
    /// what the host takes back is not the guest's to keep.
    async fn release(&self, slot: Slot) {
        let request = ReleaseDeviceRequest {
            slot: slot_number(slot),
            ..Default::default()
        };
        let released = self
            .agent
            .call("ReleaseDevice", CALL_LIMIT, |client, context| async move {
                client.release_device(context, &request).await
            })
            .await;
        if let Err(error) = released {
            let (slot, error) = (slot.index(), crate::report::chain(&error));
            tracing::warn!(slot, error, "the guest does not let go of a device");
        }
    }

    /// The runtime directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Changes how the VM shares the host with others, where the sandbox has cgroups of its own.
    pub(crate) fn set_share(&self, share: &HostShare) -> Result<(), SandboxError> {
        Ok(self.dir.set_share(share)?)
    }

    /// Whether its interfaces are those of the network namespace at a path.
    pub fn is_in(&self, path: &Path) -> bool {
        let namespace = self.namespace.as_ref();
        namespace.is_some_and(|namespace| namespace.is_at(path))
    }

    /// How large the VM is.
    pub fn size(&self) -> VmSize {
        self.size
    }

    /// The directories that the guest sees, if it sees any.
    pub fn shares(&self) -> Option<&ShareServer> {
        self.shares.get()
    }

    /// Shows the guest one more directory, which may be its first.
    pub async fn share(&self, share: Share) -> Result<(), SandboxError> {
        let server = self.shares.get_or_try_init(|| self.plug_shares()).await?;
        if self.later.host_share.is_some() && in_memory::shares(std::slice::from_ref(&share)) {
            self.dir.unbound_virtiofsd();
        }
        Ok(server.attach(share).await?)
    }

    /// Starts a virtiofsd for a VM that was booted without one.
    async fn plug_shares(&self) -> Result<ShareServer, SandboxError> {
        let Later {
            virtiofsd,
            bounds,
            host_share,
        } = &self.later;
        let cgroup = match host_share {
            Some(share) => self.dir.make_virtiofsd_cgroup(bounds, share)?,
            None => None,
        };
        let door = cgroup.as_ref().map(Cgroup::door).transpose()?;
        let started = ShareServer::start(virtiofsd, self.dir.path(), &[], None, door).await?;
        let socket = share::bounded(started.socket)?;
        self.vm.attach_fs(SHARE_TAG, socket).await?;
        tokio::spawn(end_with(started.pidfd, self.vm.clone()));
        started.server.give_oom_score(&self.oom_score);
        Ok(started.server)
    }

    /// Has the guest be told what becomes of what it watches on shared directories, as long as the
    /// VM lives.
    pub(crate) async fn watch_shares(&self) {
        // An agent that has none lies.
        let Some(shares) = self.shares() else { return };
        match shares.shared().await {
            Ok(shared) => drop(tokio::spawn(watch::serve(self.vm.clone(), shared))),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "changes of the host in shared directories are not told to the container"
            ),
        }
    }

    /// The VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Its agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Ends the VM, orderly if the guest does so within `limit`. All its files are closed after.
    pub async fn shut_down(&self, limit: Duration) -> Arc<VmEnd> {
        self.agent.shut_down(limit).await
    }
}

/// `cgroup.procs` of the sandbox's cgroups.
#[derive(Default)]
struct Doors {
    vmm: Option<OwnedFd>,
    virtiofsd: Option<OwnedFd>,
}

impl Doors {
    /// All processes enter the same.
    fn same(door: &OwnedFd) -> Result<Self, SandboxError> {
        let copy = || door.try_clone().map(Some).map_err(SandboxError::Door);
        Ok(Self {
            vmm: copy()?,
            virtiofsd: copy()?,
        })
    }
}

fn open_cgroups(boot: &Boot<'_>, dir: &mut RuntimeDir) -> Result<Doors, SandboxError> {
    let share = match &boot.home {
        Home::OfShim => return Ok(Doors::default()),
        Home::Given(door) => return Doors::same(door),
        Home::Own(share) => share,
    };
    let bounds = bounds_of(boot);
    let Some(cgroups) = dir.make_cgroups(!boot.shares.is_empty(), &bounds, share)? else {
        return Ok(Doors::default());
    };
    let virtiofsd = cgroups.virtiofsd.as_ref();
    Ok(Doors {
        vmm: Some(cgroups.vmm.door()?),
        virtiofsd: virtiofsd.map(Cgroup::door).transpose()?,
    })
}

fn bounds_of(boot: &Boot<'_>) -> Bounds {
    Bounds {
        vcpus: boot.config.vcpus,
        memory_bytes: boot.config.memory_bytes,
        disks_in_memory: in_memory::disks(boot.resources),
        shares_in_memory: in_memory::shares(boot.shares),
    }
}

/// Lets the agent set its interfaces up, and answers what it asks of the namespace's resolvers.
async fn set_up(
    vm: &Vm,
    agent: &Agent,
    request: ConfigureNetworkRequest,
    namespace: Option<&Arc<Namespace>>,
) -> Result<(), SandboxError> {
    let servers: Vec<_> = request
        .resolvers
        .iter()
        .flat_map(|text| text.parse())
        .collect();
    agent
        .call(
            "ConfigureNetwork",
            CALL_LIMIT,
            |client, context| async move { client.configure_network(context, &request).await },
        )
        .await?;
    if let Some(namespace) = namespace.filter(|_| !servers.is_empty()) {
        tokio::spawn(resolver::serve(vm.clone(), Arc::clone(namespace), servers));
    }
    Ok(())
}

/// A guest whose files are gone would hang for ever: its VM ends with virtiofsd.
async fn end_with(virtiofsd: OwnedFd, vm: Vm) {
    let Ok(virtiofsd) = crate::sys::async_fd(virtiofsd) else {
        return;
    };
    tokio::select! {
        _ = virtiofsd.readable() => {
            if vm.end_so_far().is_none() {
                tracing::warn!("virtiofsd ended, so the VM is ended too");
                vm.kill();
            }
        }
        _ = vm.ended() => {}
    }
}

/// What the host's kernel serves so many pairs of queues by; none, if it may not or can't.
fn open_vhosts(may: bool, pairs: usize) -> Vec<OwnedFd> {
    let all: Option<Vec<_>> = match may {
        true => (0..pairs).map(|_| open_vhost_net()).collect(),
        false => None,
    };
    all.unwrap_or_default()
}

/// Makes the pairs of queues of an interface of its tap's descriptors.
fn name_pairs(
    index: usize,
    net: &mut NetConfig,
    taps: Vec<OwnedFd>,
    vhosts: Vec<OwnedFd>,
) -> Vec<(FdName, OwnedFd)> {
    let name = |kind: &str, pair: usize| FdName::from(format!("{kind}-{index}-{pair}"));
    let pair = |pair| QueuePair {
        tap: name("net", pair),
        vhost: (pair < vhosts.len()).then(|| name("vhost", pair)),
    };
    net.pairs = (0..taps.len()).map(pair).collect();
    let named = |kind: &'static str, fds: Vec<OwnedFd>| {
        let numbered = fds.into_iter().enumerate();
        numbered.map(move |(pair, fd)| (name(kind, pair), fd))
    };
    named("net", taps).chain(named("vhost", vhosts)).collect()
}

fn open_files(boot: &Boot<'_>) -> Result<Vec<(FdName, OwnedFd)>, SandboxError> {
    let own = [
        resource(KERNEL_FD, &boot.assets.vmlinux, false),
        resource(INITRAMFS_FD, boot.initramfs, false),
    ];
    let mut files = Vec::new();
    for resource in own.iter().chain(boot.resources) {
        let file = crate::vmm::open_resource(resource)?;
        files.push((resource.name.clone(), file));
    }
    if let Some(console) = boot.console {
        files.push((CONSOLE_FD.into(), crate::vmm::create_console(console)?));
    }
    Ok(files)
}
