//! What a driver has set and a device shows, all under one lock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::registers::{reg, status};
use crate::devices::virtio::{Server, VirtioDevice, F_EVENT_IDX, F_VERSION_1};

/// What the lock covers.
pub(crate) struct State {
    pub(super) offered_features: u64,
    pub(super) status: u32,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) driver_features: u64,
    pub(super) queue_sel: u32,
    pub(super) setup: Vec<QueueSetup>,
    /// The queues from `DRIVER_OK` to the next reset.
    pub(super) live: Option<Vec<Queue>>,
    /// Who serves them in the place of the event loop.
    pub(super) server: Option<Arc<dyn Server>>,
    /// Counts resets and failures, so that the event loop misses none.
    pub(super) epoch: u64,
    pub(super) config: Vec<u8>,
    /// What it was before the driver changed it; a reset brings it back.
    pub(super) given_config: Option<Vec<u8>>,
    pub(super) config_generation: u32,
}

/// What the driver says of a queue before it is live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueSetup {
    pub(super) max_size: u16,
    size: u32,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
    pub(super) ready: bool,
}

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: u32::from(max_size),
            ..Self::default()
        }
    }

    /// The queue, if size and addresses are valid and inside guest memory.
    fn build(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        let address = GuestAddress;
        queue
            .try_set_desc_table_address(address(self.desc_table))
            .ok()?;
        queue
            .try_set_avail_ring_address(address(self.avail_ring))
            .ok()?;
        queue
            .try_set_used_ring_address(address(self.used_ring))
            .ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.is_valid(memory).then_some(queue)
    }
}

impl State {
    pub(super) fn new(device: &(impl VirtioDevice + ?Sized), offered_features: u64) -> Self {
        let setup = device.queue_sizes().iter().copied();
        Self {
            offered_features,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            setup: setup.map(QueueSetup::new).collect(),
            live: None,
            server: None,
            epoch: 0,
            config: device.config(),
            given_config: None,
            config_generation: 0,
        }
    }

    /// Changes whenever the driver resets the device or the device fails.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// What the driver accepted.
    pub(crate) fn features(&self) -> u64 {
        self.driver_features
    }

    pub(super) fn features_acceptable(&self) -> bool {
        let accepted = self.driver_features;
        accepted & !self.offered_features == 0 && accepted & F_VERSION_1 != 0
    }

    /// Forgets what a driver said of queues, and has those of these sizes.
    pub(super) fn set_queues(&mut self, sizes: &[u16]) {
        self.setup = sizes.iter().copied().map(QueueSetup::new).collect();
    }

    /// Shows what the driver has set itself, which is no news to it.
    pub(crate) fn show(&mut self, config: Vec<u8>) {
        let given = std::mem::replace(&mut self.config, config);
        self.given_config.get_or_insert(given);
        self.config_generation = self.config_generation.wrapping_add(1);
    }

    pub(super) fn reset(&mut self) {
        self.status = 0;
        if let Some(given) = self.given_config.take() {
            self.config = given;
            self.config_generation = self.config_generation.wrapping_add(1);
        }
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.live = None;
        self.epoch += 1;
        for queue in &mut self.setup {
            *queue = QueueSetup::new(queue.max_size);
        }
    }

    /// A queue that the driver left out stays unready; one that it made ready must be valid.
    pub(super) fn go_live(&mut self, memory: &GuestMemoryMmap) -> bool {
        let event_idx = self.driver_features & F_EVENT_IDX != 0;
        let build = |setup: &QueueSetup| match setup.ready {
            true => setup.build(memory, event_idx),
            false => Queue::new(setup.max_size).ok(),
        };
        self.live = self.setup.iter().map(build).collect();
        self.live.is_some()
    }

    pub(super) fn selects_live_queue(&self) -> bool {
        let live = self.live.as_ref();
        live.is_some_and(|queues| (self.queue_sel as usize) < queues.len())
    }

    pub(super) fn write_register(&mut self, offset: u64, value: u32, memory: &GuestMemoryMmap) {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.write_features(value),
            reg::QUEUE_SEL => self.queue_sel = value,
            _ => self.write_queue(offset, value, memory),
        }
    }

    fn write_features(&mut self, value: u32) {
        if self.status & (status::FEATURES_OK | status::FAILED) != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = (self.driver_features & !0xffff_ffff) | value,
            1 => self.driver_features = (self.driver_features & 0xffff_ffff) | (value << 32),
            // No such feature is offered, so accepting one is an error: remember that.
            _ if value != 0 => self.driver_features |= 1 << 63,
            _ => {}
        }
    }

    fn write_queue(&mut self, offset: u64, value: u32, memory: &GuestMemoryMmap) {
        let index = self.queue_sel as usize;
        let Some(queue) = self.setup.get_mut(index) else {
            return;
        };
        if offset == reg::QUEUE_READY {
            if value & 1 == 0 {
                queue.ready = false;
                if let Some(live) = self.live.as_mut().and_then(|live| live.get_mut(index)) {
                    if let Some(server) = &self.server {
                        server.stop(index);
                    }
                    live.set_ready(false);
                }
            } else if self.live.is_none() && self.status & status::FEATURES_OK != 0 {
                queue.ready = queue.build(memory, false).is_some();
            }
            return;
        }
        if queue.ready {
            return; // Settings of a ready queue are fixed (virtio 1.2, 4.2.2.2).
        }
        let low = |old: u64| (old & !0xffff_ffff) | u64::from(value);
        let high = |old: u64| (old & 0xffff_ffff) | (u64::from(value) << 32);
        match offset {
            reg::QUEUE_NUM => queue.size = value,
            reg::QUEUE_DESC_LOW => queue.desc_table = low(queue.desc_table),
            reg::QUEUE_DESC_HIGH => queue.desc_table = high(queue.desc_table),
            reg::QUEUE_DRIVER_LOW => queue.avail_ring = low(queue.avail_ring),
            reg::QUEUE_DRIVER_HIGH => queue.avail_ring = high(queue.avail_ring),
            reg::QUEUE_DEVICE_LOW => queue.used_ring = low(queue.used_ring),
            reg::QUEUE_DEVICE_HIGH => queue.used_ring = high(queue.used_ring),
            _ => {}
        }
    }
}
