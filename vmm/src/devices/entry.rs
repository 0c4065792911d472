//! A device in its slot: what it is told of events, and what it is when it is saved.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Instant;

use hull_vm_config::Slot;
use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;

use super::mmio::{Transport, TransportState};
use super::source::{SourceChange, SourceId, Sources};
use super::virtio::{DeviceEvent, DeviceFailure, DeviceState, Progress, VirtioDevice};
use super::Notifier;

/// What is saved of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotState {
    pub(super) slot: Slot,
    device_type: u32,
    transport: TransportState,
    device: DeviceState,
}

/// A device in its slot.
pub(super) struct Entry<D: VirtioDevice + ?Sized> {
    pub(super) slot: Slot,
    pub(super) transport: Arc<Transport>,
    pub(super) in_use: bool,
    /// How many of its queues' kicks were named, so that KVM signals them.
    pub(super) known_kicks: usize,
    pub(super) active: bool,
    pub(super) epoch: u64,
    pub(super) failures: u64,
    /// When the device wants to go on, if nothing happens before.
    pub(super) due: Option<Instant>,
    pub(super) device: Box<D>,
}

impl<D: VirtioDevice + ?Sized> Entry<D> {
    pub(super) fn start(&mut self, changes: &mut Vec<SourceChange>) {
        let slot = self.slot;
        changes.push(SourceChange::Add(
            self.transport.notifier().as_raw_fd(),
            EventSet::IN | EventSet::EDGE_TRIGGERED,
            SourceId::new(slot, SourceId::NOTIFIER),
        ));
        self.device.start(&mut Sources { slot, changes });
    }

    pub(super) fn notifiers(&mut self) -> Vec<Notifier<'_>> {
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

    pub(super) fn new_kicks(&mut self) -> Vec<Notifier<'_>> {
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

    pub(super) fn handle(
        &mut self,
        event: DeviceEvent,
        paused: bool,
        changes: &mut Vec<SourceChange>,
    ) {
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
    pub(super) fn pause(&mut self) {
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

    pub(super) fn save(&self) -> SlotState {
        SlotState {
            slot: self.slot,
            device_type: self.device.device_type(),
            transport: self.transport.save(),
            device: self.device.save(),
        }
    }

    pub(super) fn restore(&mut self, saved: &SlotState) -> Result<(), String> {
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
