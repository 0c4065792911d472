//! A transport in a saved VM.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

use super::state::QueueSetup;
use super::Transport;

/// A transport's part of a saved VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransportState {
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt_status: u32,
    config_generation: u32,
    config: Vec<u8>,
    queues: Vec<QueueSetup>,
    /// `(next_avail, next_used)` of each queue of a live device.
    positions: Option<Vec<(u16, u16)>>,
}

impl Transport {
    /// The transport's part of a saved VM.
    pub(crate) fn save(&self) -> TransportState {
        let state = self.lock();
        let positions = state.live.as_ref().map(|queues| {
            let position = |queue: &Queue| (queue.next_avail(), queue.next_used());
            queues.iter().map(position).collect()
        });
        TransportState {
            status: state.status,
            device_features_sel: state.device_features_sel,
            driver_features_sel: state.driver_features_sel,
            driver_features: state.driver_features,
            queue_sel: state.queue_sel,
            interrupt_status: self.interrupt_status(),
            config_generation: state.config_generation,
            config: state.config.clone(),
            queues: state.setup.clone(),
            positions,
        }
    }

    /// Puts a saved state in place; a configuration that differs from the saved one is announced
    /// to the driver. `Err` says what does not fit.
    pub(crate) fn restore(&self, saved: &TransportState) -> Result<(), &'static str> {
        let mut state = self.lock();
        let sizes = |setup: &[QueueSetup]| setup.iter().map(|q| q.max_size).collect::<Vec<_>>();
        if sizes(&saved.queues) != sizes(&state.setup) {
            return Err("its queues differ");
        }
        if saved.driver_features & !state.offered_features != 0 {
            return Err("the driver uses features that the device no longer offers");
        }
        let positions = saved.positions.as_ref().map(Vec::len);
        if positions.is_some_and(|count| count != saved.queues.len()) {
            return Err("not all positions of its queues are saved");
        }
        state.status = saved.status;
        state.device_features_sel = saved.device_features_sel;
        state.driver_features_sel = saved.driver_features_sel;
        state.driver_features = saved.driver_features;
        state.queue_sel = saved.queue_sel;
        state.setup = saved.queues.clone();
        state.config_generation = saved.config_generation;
        self.interrupt_status
            .store(saved.interrupt_status, Ordering::SeqCst);
        if let Some(positions) = &saved.positions {
            if !state.go_live(&self.memory) {
                return Err("its queues lie outside of guest memory");
            }
            let live = state.live.iter_mut().flatten();
            for (queue, (avail, used)) in live.zip(positions) {
                queue.set_next_avail(*avail);
                queue.set_next_used(*used);
            }
        }
        if state.config != saved.config {
            let config = state.config.clone();
            self.set_config(&mut state, config);
        }
        Ok(())
    }
}
