//! The device and its one queue.

use rustix::rand::{getrandom, GetRandomFlags};

use crate::devices::source::Sources;
use crate::devices::virtio::{
    DeviceEvent, DeviceFailure, DeviceState, Progress, QueueSet, VirtioDevice, WrongState,
};

const QUEUE_SIZE: u16 = 16;
/// Bytes given for one request, however long it is: a driver asks again for more.
const CHUNK_BYTES: usize = 256;
/// Requests served before the other devices get their turn.
const BATCH_REQUESTS: usize = 16;

/// An entropy source.
#[derive(Default)]
pub(crate) struct Rng {}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
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
        for served in 0..=BATCH_REQUESTS {
            if served == BATCH_REQUESTS {
                queues.notify(0)?;
                return Ok(Progress::More);
            }
            let Some(chain) = queues.pop(0)? else {
                if served > 0 {
                    queues.notify(0)?;
                }
                break;
            };
            let mut bytes = [0; CHUNK_BYTES];
            let wanted = chain.writable.len().min(CHUNK_BYTES);
            let count = getrandom(&mut bytes[..wanted], GetRandomFlags::empty())
                .map_err(|error| DeviceFailure::Backend(format!("getrandom failed: {error}")))?;
            chain.writable.copy_from(&bytes[..count]);
            queues.complete(0, chain.head, count as u32)?;
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
