//! The device and its queues.

use crate::devices::source::Sources;
use crate::devices::sys;
use crate::devices::virtio::{
    DeviceEvent, DeviceFailure, DeviceState, Progress, QueueSet, VirtioDevice, WrongState,
};

/// `VIRTIO_BALLOON_F_REPORTING`.
const F_REPORTING: u64 = 1 << 5;
/// The queues that a driver has with it alone: pages that it gives, pages that it takes, and reports of
/// free ones. Nobody asks for the first two, so what comes there is given back as it is.
const QUEUE_SIZES: [u16; 3] = [16, 16, 32];
const REPORTS: usize = 2;
/// Pages wanted, pages given, a command and a pattern: nothing is wanted.
const CONFIG_BYTES: usize = 16;
/// Requests served before the other devices get their turn.
const BATCH_REQUESTS: usize = 8;

/// A balloon that is never blown up.
#[derive(Default)]
pub(crate) struct Balloon {}

impl Balloon {
    /// Serves a queue, as far as its turn goes.
    fn serve(queues: &mut QueueSet<'_>, queue: usize) -> Result<Progress, DeviceFailure> {
        for served in 0..=BATCH_REQUESTS {
            if served == BATCH_REQUESTS {
                queues.notify(queue)?;
                return Ok(Progress::More);
            }
            let Some(chain) = queues.pop(queue)? else {
                if served > 0 {
                    queues.notify(queue)?;
                }
                break;
            };
            if queue == REPORTS {
                for range in chain.writable.slices() {
                    // Memory that stays is no fault of the guest's, and costs the host alone.
                    if let Err(error) = sys::discard(range) {
                        log::warn!("free memory of the guest stays: {error}");
                    }
                }
            }
            queues.complete(queue, chain.head, 0)?;
        }
        Ok(Progress::Idle)
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        5
    }

    fn features(&self) -> u64 {
        F_REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        vec![0; CONFIG_BYTES]
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
        let mut progress = Progress::Idle;
        for queue in 0..QUEUE_SIZES.len() {
            if let Progress::More = Self::serve(&mut queues, queue)? {
                progress = Progress::More;
            }
        }
        Ok(progress)
    }

    fn reset(&mut self, _sources: &mut Sources<'_>) {}

    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState> {
        state.is_stateless()
    }
}
