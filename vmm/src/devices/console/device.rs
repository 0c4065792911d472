//! The device: the driver's transmit queue goes to the tail and the log; its receive queue is
//! never used.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use super::tail::ConsoleTail;
use crate::devices::chain::Buffers;
use crate::devices::source::Sources;
use crate::devices::virtio::{
    DeviceEvent, DeviceFailure, DeviceState, Progress, QueueSet, VirtioDevice, WrongState,
};

/// Size of the receive and the transmit queue. Linux fills the receive queue with a page for each
/// entry, and notifies the device of each, whether or not anything is ever received.
const QUEUE_SIZES: [u16; 2] = [2, 64];
const TRANSMIT: usize = 1;
/// Bytes taken from one chain; a longer one is cut.
const MAX_CHAIN_BYTES: usize = 64 << 10;
/// Bytes copied at a time. A pipe that is ready takes this many without blocking (`PIPE_BUF`).
const CHUNK_BYTES: usize = 4096;
/// Bytes that go to the log at most: a guest must not fill the host's disk.
const MAX_LOG_BYTES: usize = 16 << 20;
/// Chains served before the other devices get their turn.
const BATCH_CHAINS: usize = 16;

/// A console.
pub(crate) struct Console {
    tail: Arc<ConsoleTail>,
    log: Option<Arc<OwnedFd>>,
    logged: usize,
}

impl Console {
    pub(crate) fn new(tail: Arc<ConsoleTail>, log: Option<Arc<OwnedFd>>) -> Self {
        Self {
            tail,
            log,
            logged: 0,
        }
    }

    fn output(&mut self, mut buffers: Buffers<'_>) {
        let mut left = buffers.len().min(MAX_CHAIN_BYTES);
        while left > 0 {
            let Some(part) = buffers.take_front(left.min(CHUNK_BYTES)) else {
                return;
            };
            let mut bytes = [0; CHUNK_BYTES];
            let count = part.copy_to(&mut bytes);
            self.tail.push(&bytes[..count]);
            self.append(&bytes[..count]);
            left -= count;
        }
    }

    /// Writes to the log if it takes output at once; a log that fails is given up.
    fn append(&mut self, bytes: &[u8]) {
        let Some(log) = &self.log else {
            return;
        };
        self.logged += bytes.len();
        let mut ready = [PollFd::new(log, PollFlags::OUT)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut ready, Some(&at_once)) {
            Ok(0) => return,
            Ok(_) if self.logged <= MAX_LOG_BYTES && rustix::io::write(log, bytes).is_ok() => {
                return
            }
            Ok(_) | Err(_) => {}
        }
        self.log = None;
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        3
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_console_config`: without features none of it counts.
    fn config(&self) -> Vec<u8> {
        vec![0; 12]
    }

    fn activate(&mut self, _features: u64) -> Result<(), DeviceFailure> {
        Ok(())
    }

    fn handle(
        &mut self,
        _event: DeviceEvent,
        queues: Option<QueueSet<'_>>,
        _sources: &mut Sources<'_>,
    ) -> Result<Progress, DeviceFailure> {
        let Some(mut queues) = queues else {
            return Ok(Progress::Idle);
        };
        for served in 0..=BATCH_CHAINS {
            if served == BATCH_CHAINS {
                queues.notify(TRANSMIT)?;
                return Ok(Progress::More);
            }
            let Some(chain) = queues.pop(TRANSMIT)? else {
                if served > 0 {
                    queues.notify(TRANSMIT)?;
                }
                break;
            };
            self.output(chain.readable);
            queues.complete(TRANSMIT, chain.head, 0)?;
        }
        Ok(Progress::Idle)
    }

    fn reset(&mut self, _sources: &mut Sources<'_>) {}

    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState> {
        state.is_stateless()
    }
}
