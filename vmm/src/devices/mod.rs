//! The devices of a VM and what connects them to the guest.
//!
//! A device knows its queues, guest memory and an interrupt; [`mmio`] knows registers; [`Devices`]
//! knows which device sits in which slot. Everything a device does happens on the event-loop
//! thread, in bounded pieces and without blocking on anything but its own files. Only what is
//! handed over to the host's kernel (vhost-net, the disks' rings) goes on meanwhile.
//!
//! **Invariant:** nothing here knows KVM, vCPUs or paths, so all of it is tested in plain memory.

mod blk;
mod chain;
mod console;
mod fs;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod mmio;
mod net;
mod rate;
mod rng;
mod source;
mod sys;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod testutil;
mod virtio;
mod vsock;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use hull_vm_config::control::{disk_files, DiskState, NetState};
use hull_vm_config::{BlockConfig, DeviceConfig, FdName, Slot, SlotKind, MAX_QUEUE_PAIRS};
use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

pub use console::ConsoleTail;
pub use mmio::MmioBus;
pub use source::{SourceChange, SourceId};
pub use virtio::DeviceError;

use mmio::{Transport, TransportState};
use source::Sources;
use virtio::{DeviceEvent, DeviceFailure, DeviceState, Progress, VirtioDevice};

/// Version of [`DeviceStates`]' shape.
const DEVICE_STATES_VERSION: u32 = 1;

/// A guest interrupt line.
pub trait Interrupt: Send + Sync {
    /// Raises the (edge-triggered) interrupt.
    fn trigger(&self) -> io::Result<()>;
    /// Written, it raises the interrupt too: for who does so from outside of this process.
    fn eventfd(&self) -> Option<&EventFd> {
        None
    }
}

/// The descriptors handed to the VMM.
pub trait TakeFd {
    /// Gives a descriptor away.
    fn take(&mut self, name: &FdName) -> Result<OwnedFd, MissingFd>;
}

/// No descriptor of this name was handed over, or it was taken before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no descriptor named {0} was handed over")]
pub struct MissingFd(pub FdName);

/// What [`Devices::build`] needs.
pub struct DeviceInputs<'a> {
    /// Which devices.
    pub config: &'a DeviceConfig,
    /// Their files.
    pub fds: &'a mut dyn TakeFd,
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// Makes the interrupt of a slot.
    pub interrupt: &'a dyn Fn(Slot) -> io::Result<Box<dyn Interrupt>>,
    /// The guest's vsock address, at least 3.
    pub guest_cid: u64,
}

/// All devices of a VM.
pub struct Devices {
    bus: Arc<MmioBus>,
    tail: Arc<ConsoleTail>,
    vsock: Entry<vsock::Vsock>,
    others: Vec<Entry<dyn VirtioDevice>>,
    memory: GuestMemoryMmap,
    paused: bool,
}

/// What virtiofsd is asked for first.
const AGREE: &str = "agree with virtiofsd on its queues";

/// The host's side of a network device, one of each for each pair of queues.
pub struct NetEnds {
    /// Descriptors of one tap, non-blocking, with a vnet header of 12 bytes.
    pub taps: Vec<OwnedFd>,
    /// `/dev/vhost-net`, if the host's kernel is to serve them; else none.
    pub vhosts: Vec<OwnedFd>,
}

/// Where KVM signals kicks to.
pub struct Notifier<'a> {
    /// Of which device.
    pub slot: Slot,
    /// Of which queue; `None`: of any.
    pub queue: Option<u32>,
    /// The eventfd.
    pub event: &'a EventFd,
}

/// The saved devices of a paused VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceStates {
    version: u32,
    slots: Vec<SlotState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotState {
    slot: Slot,
    device_type: u32,
    transport: TransportState,
    device: DeviceState,
}

impl Devices {
    /// Makes the devices that the configuration names, and the empty ones beside them.
    pub fn build(inputs: DeviceInputs<'_>) -> Result<Self, DeviceError> {
        at_most("blk", inputs.config.volumes.len(), Slot::VOLUMES.len())?;
        at_most("net", inputs.config.nets.len(), Slot::NETS.len())?;
        let tail = Arc::new(ConsoleTail::default());
        let mut builder = Builder {
            inputs,
            files: HashMap::new(),
        };
        let mut others = Vec::new();
        for slot in Slot::all() {
            if let Some(device) = builder.device(slot, &tail)? {
                others.push(builder.plug(slot, device)?);
            }
        }
        let cid = builder.inputs.guest_cid;
        let vsock = builder.plug(Slot::VSOCK, Box::new(vsock::Vsock::new(cid)))?;
        let mut windows = [const { None }; hull_vm_config::SLOT_COUNT];
        windows[Slot::VSOCK.index()] = Some(vsock.transport.clone());
        for entry in &others {
            windows[entry.slot.index()] = Some(entry.transport.clone());
        }
        Ok(Self {
            bus: Arc::new(MmioBus::new(windows)),
            tail,
            vsock,
            others,
            memory: builder.inputs.memory,
            paused: false,
        })
    }

    /// Words for the kernel command line: every slot's window and interrupt, in order.
    pub fn cmdline(&self) -> Vec<String> {
        let word = |slot: Slot| {
            let (size, base, gsi) = (Slot::MMIO_STRIDE >> 10, slot.mmio_base(), slot.gsi());
            format!("virtio_mmio.device={size}K@{base:#x}:{gsi}")
        };
        Slot::all().map(word).collect()
    }

    /// What vCPU threads hand their MMIO exits to.
    pub fn bus(&self) -> Arc<MmioBus> {
        Arc::clone(&self.bus)
    }

    /// The eventfds of each device in use, for stores to `QueueNotify` (by ioeventfd). Kicks of the
    /// other devices, and of queues that are not named, come through [`MmioBus::write`].
    pub fn notifiers(&mut self) -> Vec<Notifier<'_>> {
        let others = self.others.iter_mut().filter(|entry| entry.in_use);
        let mut all = self.vsock.notifiers();
        all.extend(others.flat_map(Entry::notifiers));
        all
    }

    /// Those of a slot that came with what was plugged in, and were not named before.
    pub fn new_notifiers(&mut self, slot: Slot) -> Vec<Notifier<'_>> {
        let of_net = slot.kind() == SlotKind::Net;
        let entry = self.others.iter_mut().find(|entry| entry.slot == slot);
        match entry {
            Some(entry) if !of_net && entry.known_kicks == 0 => entry.notifiers(),
            Some(entry) => entry.new_kicks(),
            None => Vec::new(),
        }
    }

    /// What the event loop watches from the start. Event sets are to be passed on as they are:
    /// they may be edge-triggered.
    pub fn sources(&mut self) -> Vec<(RawFd, EventSet, SourceId)> {
        let mut changes = Vec::new();
        self.vsock.start(&mut changes);
        for entry in &mut self.others {
            entry.start(&mut changes);
        }
        let added = |change| match change {
            SourceChange::Add(fd, events, id) => Some((fd, events, id)),
            SourceChange::Modify(..) | SourceChange::Remove(_) => None,
        };
        changes.into_iter().filter_map(added).collect()
    }

    /// Serves an event of a watched descriptor. The changes are to be applied before the loop
    /// waits again. Events of descriptors that are watched no more are ignored.
    pub fn handle(&mut self, source: SourceId, events: EventSet) -> Vec<SourceChange> {
        let mut changes = Vec::new();
        let event = match source.token() {
            SourceId::NOTIFIER => DeviceEvent::Kick,
            token => DeviceEvent::Source(token, events),
        };
        match source.slot() {
            Some(Slot::VSOCK) => self.vsock.handle(event, self.paused, &mut changes),
            Some(slot) => {
                if let Some(entry) = self.others.iter_mut().find(|entry| entry.slot == slot) {
                    entry.handle(event, self.paused, &mut changes);
                }
            }
            None => {}
        }
        changes
    }

    /// When [`Devices::go_on`] is to be called, if no event comes before.
    pub fn due(&self) -> Option<Instant> {
        self.others.iter().filter_map(|entry| entry.due).min()
    }

    /// Lets devices go on that waited for a time which has come.
    pub fn go_on(&self) {
        let now = Instant::now();
        for entry in &self.others {
            if entry.due.is_some_and(|due| due <= now) {
                entry.transport.wake();
            }
        }
    }

    /// Connects a stream socket to a vsock port of the guest. The connection is held back until
    /// the agent listens; one that the guest refuses, or that is one too many, is closed.
    pub fn connect(&mut self, port: u32, socket: UnixStream) -> Vec<SourceChange> {
        let mut changes = Vec::new();
        let mut sources = Sources {
            slot: Slot::VSOCK,
            changes: &mut changes,
        };
        self.vsock.device.connect(port, socket, &mut sources);
        self.vsock.transport.wake();
        changes
    }

    /// Plugs a tap into a network slot while the VM runs. A driver finds the device when it looks
    /// again.
    pub fn attach_net(
        &mut self,
        slot: Slot,
        ends: NetEnds,
        mac: [u8; 6],
        mtu: u16,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let most = usize::from(MAX_QUEUE_PAIRS);
        let pairs = ends.taps.len();
        if !(1..=most).contains(&pairs) || ![0, pairs].contains(&ends.vhosts.len()) {
            return Err(DeviceError::BadConfig {
                device: "net",
                reason: format!(
                    "{pairs} pairs of queues with {} of vhost-net: must be 1 to {most} that are alike",
                    ends.vhosts.len()
                ),
            });
        }
        let plug = net::Plug {
            taps: ends.taps.into_iter().map(net::Tap::prepared).collect(),
            vhosts: kernels(ends.vhosts, &self.memory),
            mac,
            mtu,
        };
        self.replug_net(slot, |net, sources| net.plug(plug, sources))
    }

    /// Plugs a disk into an empty block slot while the VM runs. A driver finds it when it looks
    /// again. The files are those of [`disk_files`].
    pub fn attach_block(
        &mut self,
        slot: Slot,
        config: &BlockConfig,
        files: Vec<OwnedFd>,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let names = disk_files(config).into_iter().cloned();
        let files: HashMap<FdName, _> = names.zip(files.into_iter().map(Arc::new)).collect();
        let mut open = |name: &FdName| {
            let file = files.get(name).map(Arc::clone);
            file.ok_or_else(|| DeviceError::MissingFd {
                device: "blk",
                source: MissingFd(name.clone()),
            })
        };
        self.replug_block(slot, |blk| blk.plug(config, &mut open))
    }

    /// Pulls the disk out of a block slot.
    pub fn detach_block(&mut self, slot: Slot) -> Result<Vec<SourceChange>, DeviceError> {
        self.replug_block(slot, blk::Blk::unplug)
    }

    /// Plugs a shared directory in while the VM runs. A driver finds it when it looks again.
    pub fn attach_fs(
        &mut self,
        tag: &str,
        socket: OwnedFd,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let device = "fs";
        self.replug(device, Slot::FS, |entry, sources| {
            let plugged = entry.as_fs()?.plug(tag, socket, sources);
            Some(plugged.map_err(|source| DeviceError::Host {
                device,
                action: AGREE,
                source,
            }))
        })
    }

    fn replug_block(
        &mut self,
        slot: Slot,
        change: impl FnOnce(&mut blk::Blk) -> Result<(), DeviceError>,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let of_volumes = Slot::VOLUMES.contains(&slot);
        self.replug("blk", slot, |device, _| {
            device.as_blk().filter(|_| of_volumes).map(change)
        })
    }

    /// Plugs in a network device with a pair of queues on each datagram socket.
    #[cfg(feature = "fuzz")]
    fn attach_fake(&mut self, slot: Slot, sockets: Vec<OwnedFd>) -> Result<(), DeviceError> {
        let taps = sockets.into_iter().flat_map(net::Tap::fake).collect();
        let plug = net::Plug {
            taps,
            vhosts: Vec::new(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
        };
        self.replug_net(slot, |net, sources| net.plug(plug, sources))
            .map(drop)
    }

    /// Who serves the network interfaces that are plugged in.
    pub fn nets(&mut self) -> Vec<NetState> {
        let state = |entry: &mut Entry<dyn VirtioDevice>| {
            let (slot, net) = (entry.slot, entry.device.as_net()?);
            let (path, pairs) = net.state()?;
            Some(NetState { slot, path, pairs })
        };
        self.others.iter_mut().filter_map(state).collect()
    }

    /// Who serves the disks.
    pub fn disks(&mut self) -> Vec<DiskState> {
        let state = |entry: &mut Entry<dyn VirtioDevice>| {
            let slot = entry.slot;
            let (engine, reason) = entry.device.as_blk()?.engine()?;
            Some(DiskState {
                slot,
                engine,
                reason: reason.map(str::to_owned),
            })
        };
        self.others.iter_mut().filter_map(state).collect()
    }

    /// Pulls the tap out of a network slot.
    pub fn detach_net(&mut self, slot: Slot) -> Result<Vec<SourceChange>, DeviceError> {
        self.replug_net(slot, net::Net::unplug)
    }

    fn replug_net(
        &mut self,
        slot: Slot,
        change: impl FnOnce(&mut net::Net, &mut Sources<'_>),
    ) -> Result<Vec<SourceChange>, DeviceError> {
        self.replug("net", slot, |device, sources| {
            let net = device.as_net()?;
            change(net, sources);
            Some(Ok(()))
        })
    }

    /// Changes what is in a slot; `None`: that slot is none for such a device.
    fn replug(
        &mut self,
        device: &'static str,
        slot: Slot,
        change: impl FnOnce(&mut dyn VirtioDevice, &mut Sources<'_>) -> Option<Result<(), DeviceError>>,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let mut changes = Vec::new();
        let mut sources = Sources {
            slot,
            changes: &mut changes,
        };
        let entry = self.others.iter_mut().find(|entry| entry.slot == slot);
        let wrong_slot = || DeviceError::BadConfig {
            device,
            reason: format!("slot {} is none for such a device", slot.index()),
        };
        let entry = entry.ok_or_else(wrong_slot)?;
        change(&mut *entry.device, &mut sources).ok_or_else(wrong_slot)??;
        entry.transport.replug(&*entry.device);
        entry.transport.wake();
        Ok(changes)
    }

    /// The end of the guest's console output.
    pub fn console_tail(&self) -> Arc<ConsoleTail> {
        Arc::clone(&self.tail)
    }

    /// Whether the agent has said that it listens. It changes only inside of [`Devices::handle`].
    pub fn ready(&self) -> bool {
        self.vsock.device.ready()
    }

    /// From here on nothing of a device touches guest memory. The vCPUs must have stopped before.
    pub fn pause(&mut self) {
        self.paused = true;
        for entry in &mut self.others {
            entry.pause();
        }
    }

    /// Ends a pause. Every device looks at its queues again, so nothing that came meanwhile is
    /// lost.
    pub fn resume(&mut self) {
        self.paused = false;
        self.vsock.transport.wake();
        for entry in &self.others {
            entry.transport.wake();
        }
    }

    /// The state of all devices. The VM must be paused.
    pub fn save(&self) -> DeviceStates {
        let mut slots: Vec<_> = self.others.iter().map(Entry::save).collect();
        slots.push(self.vsock.save());
        DeviceStates {
            version: DEVICE_STATES_VERSION,
            slots,
        }
    }

    /// Puts a saved state into freshly built devices, before the first event. What is behind a
    /// device may differ from what was saved; its driver is told by a configuration interrupt,
    /// and the guest's vsock sockets by a transport reset.
    pub fn restore(&mut self, states: &DeviceStates) -> Result<(), DeviceError> {
        let fail = |slot: usize, reason: String| DeviceError::Restore { slot, reason };
        if states.version != DEVICE_STATES_VERSION {
            let reason = format!("version {} is not known", states.version);
            return Err(fail(0, reason));
        }
        let count = self.others.len() + 1;
        if states.slots.len() != count {
            let reason = format!("{} slots are saved, {count} exist", states.slots.len());
            return Err(fail(0, reason));
        }
        for saved in &states.slots {
            let index = saved.slot.index();
            if saved.slot == Slot::VSOCK {
                self.vsock.restore(saved)
            } else {
                match self.others.iter_mut().find(|e| e.slot == saved.slot) {
                    Some(entry) => entry.restore(saved),
                    None => Err("no such device exists".into()),
                }
            }
            .map_err(|reason| fail(index, reason))?;
        }
        Ok(())
    }
}

/// A device in its slot.
struct Entry<D: VirtioDevice + ?Sized> {
    slot: Slot,
    transport: Arc<Transport>,
    in_use: bool,
    /// How many of its queues' kicks were named, so that KVM signals them.
    known_kicks: usize,
    active: bool,
    epoch: u64,
    failures: u64,
    /// When the device wants to go on, if nothing happens before.
    due: Option<Instant>,
    device: Box<D>,
}

impl<D: VirtioDevice + ?Sized> Entry<D> {
    fn start(&mut self, changes: &mut Vec<SourceChange>) {
        let slot = self.slot;
        changes.push(SourceChange::Add(
            self.transport.notifier().as_raw_fd(),
            EventSet::IN | EventSet::EDGE_TRIGGERED,
            SourceId::new(slot, SourceId::NOTIFIER),
        ));
        self.device.start(&mut Sources { slot, changes });
    }

    fn notifiers(&mut self) -> Vec<Notifier<'_>> {
        if !self.device.kicks().is_empty() {
            return self.new_kicks();
        }
        // It gets all kicks of this slot from here on.
        self.known_kicks = usize::MAX;
        vec![Notifier {
            slot: self.slot,
            queue: None,
            event: self.transport.notifier(),
        }]
    }

    fn new_kicks(&mut self) -> Vec<Notifier<'_>> {
        let kicks = self.device.kicks();
        let known = self.known_kicks;
        self.known_kicks = known.max(kicks.len());
        let new = (0..).zip(kicks).skip(known);
        new.map(|(queue, kick)| Notifier {
            slot: self.slot,
            queue: Some(queue),
            event: kick,
        })
        .collect()
    }

    fn handle(&mut self, event: DeviceEvent, paused: bool, changes: &mut Vec<SourceChange>) {
        let slot = self.slot;
        let mut sources = Sources { slot, changes };
        let mut state = self.transport.lock();
        if self.epoch != state.epoch() {
            self.epoch = state.epoch();
            if self.active {
                self.active = false;
                self.device.reset(&mut sources);
            }
        }
        self.due = None;
        let mut result = Ok(Progress::Idle);
        if !self.active && state.is_live() {
            self.active = true;
            result = self
                .device
                .activate(state.features())
                .map(|()| Progress::Idle);
        }
        if result.is_ok() {
            let raise = || self.transport.raise_used();
            let queues = match paused {
                true => None,
                false => self.transport.queues(&mut state, &raise),
            };
            result = self.device.handle(event, queues, &mut sources);
            if let Some(config) = self.device.config_of_driver() {
                state.show(config);
            }
        }
        match result {
            Ok(Progress::Idle) => {}
            Ok(Progress::More) => self.transport.wake(),
            Ok(Progress::Until(then)) => self.due = Some(then),
            Err(failure) => {
                drop(state);
                self.failed(&failure);
            }
        }
    }

    fn failed(&mut self, failure: &DeviceFailure) {
        if self.failures == 0 {
            // The guest can make a device fail as often as it likes: once is enough.
            let slot = self.slot.index();
            log::warn!("device in slot {slot} needs a reset: {failure}");
        }
        self.failures += 1;
        self.transport.fail(&mut self.transport.lock());
        // Once more, for the device's own reset.
        self.transport.wake();
    }

    /// Answers what is pending; from here on nothing touches guest memory before the next event. The
    /// vCPUs must have stopped before.
    fn pause(&mut self) {
        let mut state = self.transport.lock();
        let mut settled = Ok(());
        if self.active && self.epoch == state.epoch() {
            let raise = || self.transport.raise_used();
            if let Some(queues) = self.transport.queues(&mut state, &raise) {
                settled = self.device.settle(queues);
            }
        }
        self.transport.withdraw(&mut state);
        drop(state);
        if let Err(failure) = settled {
            self.failed(&failure);
        }
    }

    fn save(&self) -> SlotState {
        SlotState {
            slot: self.slot,
            device_type: self.device.device_type(),
            transport: self.transport.save(),
            device: self.device.save(),
        }
    }

    fn restore(&mut self, saved: &SlotState) -> Result<(), String> {
        let found = self.device.device_type();
        if saved.device_type == 0 {
            // The guest knows of nothing here: what there is now is new to it.
            return Ok(());
        }
        if saved.device_type != found {
            let want = saved.device_type;
            return Err(format!("device type {want} is saved, {found} is there"));
        }
        self.device
            .restore(&saved.device)
            .map_err(|wrong| wrong.to_string())?;
        if let Some(config) = self.device.config_of_driver() {
            self.transport.lock().show(config);
        }
        self.transport.restore(&saved.transport)?;
        self.transport.wake();
        Ok(())
    }
}

struct Builder<'a> {
    inputs: DeviceInputs<'a>,
    /// Files by name: several extents may lie in one file.
    files: HashMap<FdName, Arc<OwnedFd>>,
}

impl Builder<'_> {
    /// The device of a slot, but for vsock's; `None` leaves the slot empty.
    fn device(
        &mut self,
        slot: Slot,
        tail: &Arc<ConsoleTail>,
    ) -> Result<Option<Box<dyn VirtioDevice>>, DeviceError> {
        Ok(match slot.kind() {
            SlotKind::Block => Some(Box::new(self.block(slot)?)),
            SlotKind::Rng => Some(Box::new(rng::Rng::default())),
            SlotKind::Console => Some(Box::new(self.console(tail)?)),
            // vsock is plugged by `Devices::build`, which keeps it under its own type.
            SlotKind::Vsock => None,
            SlotKind::Net => Some(Box::new(self.net(slot)?)),
            SlotKind::Fs => Some(Box::new(self.fs()?)),
            SlotKind::Balloon | SlotKind::Mem => None,
        })
    }

    fn block(&mut self, slot: Slot) -> Result<blk::Blk, DeviceError> {
        let wanted = !self.inputs.config.without_io_uring;
        match block_config(self.inputs.config, slot) {
            Some(config) => {
                let mut open = |name: &FdName| self.open("blk", name);
                blk::Blk::new(config, wanted, &mut open)
            }
            None => Ok(blk::Blk::empty(slot == Slot::IMAGE)),
        }
    }

    fn net(&mut self, slot: Slot) -> Result<net::Net, DeviceError> {
        let index = Slot::NETS.iter().position(|net| *net == slot);
        let rates = self.inputs.config.net_rates;
        let Some(config) = index.and_then(|index| self.inputs.config.nets.get(index)) else {
            return Ok(net::Net::absent().limited(rates));
        };
        let device = "net";
        let mut take = |name| {
            let fd = self.inputs.fds.take(name);
            fd.map_err(|source| DeviceError::MissingFd { device, source })
        };
        let taps = config.pairs.iter().map(|pair| take(&pair.tap));
        let taps = taps.collect::<Result<_, _>>()?;
        let vhosts = config.pairs.iter().filter_map(|pair| pair.vhost.as_ref());
        let vhosts = vhosts.map(take).collect::<Result<_, _>>()?;
        let vhosts = kernels(vhosts, &self.inputs.memory);
        let net = net::Plug::prepare(taps, vhosts, config.mac, config.mtu).and_then(net::Net::new);
        let net = net.map_err(|source| DeviceError::Host {
            device,
            action: "set up its tap",
            source,
        })?;
        Ok(net.limited(rates))
    }

    fn fs(&mut self) -> Result<fs::Fs, DeviceError> {
        let device = "fs";
        let Some(config) = &self.inputs.config.fs else {
            return fs::Fs::absent().map_err(|source| DeviceError::Host {
                device,
                action: "make its memory",
                source,
            });
        };
        let socket = self.inputs.fds.take(&config.socket);
        let socket = socket.map_err(|source| DeviceError::MissingFd { device, source })?;
        fs::Fs::new(config, socket).map_err(|source| DeviceError::Host {
            device,
            action: AGREE,
            source,
        })
    }

    fn console(&mut self, tail: &Arc<ConsoleTail>) -> Result<console::Console, DeviceError> {
        let name = self.inputs.config.console.as_ref();
        let file = name.map(|name| self.open("console", name)).transpose()?;
        Ok(console::Console::new(Arc::clone(tail), file))
    }

    fn open(&mut self, device: &'static str, name: &FdName) -> Result<Arc<OwnedFd>, DeviceError> {
        if let Some(file) = self.files.get(name) {
            return Ok(Arc::clone(file));
        }
        let file = self.inputs.fds.take(name);
        let file = Arc::new(file.map_err(|source| DeviceError::MissingFd { device, source })?);
        self.files.insert(name.clone(), Arc::clone(&file));
        Ok(file)
    }

    fn plug<D: VirtioDevice + ?Sized>(
        &self,
        slot: Slot,
        device: Box<D>,
    ) -> Result<Entry<D>, DeviceError> {
        let host = |action, source| DeviceError::Host {
            device: kind_name(slot.kind()),
            action,
            source,
        };
        let interrupt =
            (self.inputs.interrupt)(slot).map_err(|source| host("make its interrupt", source))?;
        let transport = Transport::new(&*device, self.inputs.memory.clone(), interrupt)
            .map_err(|source| host("make its notifier", source))?;
        let in_use = match slot.kind() {
            SlotKind::Block => block_config(self.inputs.config, slot).is_some(),
            _ => device.device_type() != 0,
        };
        Ok(Entry {
            slot,
            transport: Arc::new(transport),
            in_use,
            known_kicks: 0,
            active: false,
            epoch: 0,
            failures: 0,
            due: None,
            device,
        })
    }
}

fn kernels(vhosts: Vec<OwnedFd>, memory: &GuestMemoryMmap) -> Vec<Box<dyn net::Backend>> {
    let kernel = |fd| Box::new(net::Kernel::new(fd, memory)) as Box<dyn net::Backend>;
    vhosts.into_iter().map(kernel).collect()
}

fn at_most(device: &'static str, count: usize, slots: usize) -> Result<(), DeviceError> {
    if count <= slots {
        return Ok(());
    }
    let reason = format!("{count} are configured, of which at most {slots} fit");
    Err(DeviceError::BadConfig { device, reason })
}

/// What the configuration puts into a block slot.
fn block_config(config: &DeviceConfig, slot: Slot) -> Option<&BlockConfig> {
    match slot {
        Slot::IMAGE => config.image.as_ref(),
        Slot::SCRATCH => config.scratch.as_ref(),
        _ => {
            let volume = Slot::VOLUMES.iter().position(|volume| *volume == slot)?;
            config.volumes.get(volume)
        }
    }
}

fn kind_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Block => "blk",
        SlotKind::Net => "net",
        SlotKind::Fs => "fs",
        SlotKind::Vsock => "vsock",
        SlotKind::Rng => "rng",
        SlotKind::Balloon => "balloon",
        SlotKind::Mem => "mem",
        SlotKind::Console => "console",
    }
}
