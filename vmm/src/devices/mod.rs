//! The devices of a VM and what connects them to the guest.
//!
//! A device knows its queues, guest memory and an interrupt; [`mmio`] knows registers; [`Devices`]
//! knows which device sits in which slot. Everything a device does happens on the event-loop
//! thread, in bounded pieces and without blocking on anything but its own files. Only what is
//! handed over to the host's kernel (vhost-net, the disks' rings) goes on meanwhile.
//!
//! **Invariant:** nothing here knows KVM, vCPUs or paths, so all of it is tested in plain memory.

mod balloon;
mod blk;
mod build;
mod chain;
mod console;
mod entry;
mod fs;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod mmio;
mod net;
mod plug;
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

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use hull_vm_config::control::{DiskState, NetState};
use hull_vm_config::{DeviceConfig, FdName, Slot, SlotKind};
use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

pub use console::ConsoleTail;
pub use mmio::MmioBus;
pub use plug::NetEnds;
pub use source::{SourceChange, SourceId};
pub use virtio::DeviceError;

use entry::{Entry, SlotState};
use source::Sources;
use virtio::{DeviceEvent, VirtioDevice};

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

impl Devices {
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
        let mut restored = Vec::with_capacity(count);
        for saved in &states.slots {
            let index = saved.slot.index();
            if restored.contains(&index) {
                return Err(fail(index, "it is saved twice".into()));
            }
            restored.push(index);
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
