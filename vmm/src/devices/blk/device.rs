//! The device: features, configuration space and its one queue.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_vm_config::{BlockConfig, FdName};

use super::disk::{Disk, SECTOR};
use super::request::{Target, ID_BYTES, MAX_SEGMENTS, MAX_SEGMENT_SECTORS};
use crate::devices::chain::MAX_DESCRIPTORS;
use crate::devices::source::Sources;
use crate::devices::virtio::{
    DeviceError, DeviceEvent, DeviceFailure, DeviceState, Progress, QueueSet, VirtioDevice,
    WrongState,
};

/// The guest pays some 500 bytes for each, also in the slots that it does not use.
const QUEUE_SIZE: u16 = 64;
/// Bytes moved before the other devices get their turn; a request without data counts as one of
/// this fraction.
const BATCH_BYTES: usize = 4 << 20;
const MIN_COST_BYTES: usize = BATCH_BYTES / 64;
/// Data segments of a request; header and status come on top.
const SEG_MAX: u32 = 254;
const _: () = assert!(SEG_MAX as usize + 2 <= MAX_DESCRIPTORS);

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Sectors that a discard had best be aligned to: the block of usual host file systems.
const DISCARD_ALIGNMENT: u32 = 8;

/// A block device.
pub(crate) struct Blk {
    target: Target,
}

impl Blk {
    pub(crate) fn new(
        config: &BlockConfig,
        open: &mut dyn FnMut(&FdName) -> Result<Arc<OwnedFd>, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let bytes = config.serial.as_bytes();
        let mut serial = [0; ID_BYTES];
        match serial.get_mut(..bytes.len()) {
            Some(target) => target.copy_from_slice(bytes),
            None => {
                let reason = format!("serial {:?} is over {ID_BYTES} bytes", config.serial);
                return Err(DeviceError::BadConfig {
                    device: "blk",
                    reason,
                });
            }
        }
        Ok(Self::on(Disk::open(config, open)?, serial))
    }

    /// The device of an unused slot: a disk without sectors. What is put there later may only be
    /// read if `read_only`.
    pub(crate) fn empty(read_only: bool) -> Self {
        Self::on(Disk::empty(read_only), [0; ID_BYTES])
    }

    fn on(disk: Disk, serial: [u8; ID_BYTES]) -> Self {
        Self {
            target: Target {
                disk,
                serial,
                write_through: false,
            },
        }
    }
}

impl VirtioDevice for Blk {
    /// A slot without a disk shows no device: a driver would spend time and memory on it.
    fn device_type(&self) -> u32 {
        match self.target.disk.sectors() {
            0 => 0,
            _ => 2,
        }
    }

    fn features(&self) -> u64 {
        let access = match self.target.disk.read_only() {
            true => F_RO,
            false => F_DISCARD | F_WRITE_ZEROES,
        };
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | access
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    /// `struct virtio_blk_config` (virtio 1.2, 5.2.4).
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        let segments = (MAX_SEGMENTS as u32).to_le_bytes();
        put(0, &self.target.disk.sectors().to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(34, &1u16.to_le_bytes()); // num_queues
        put(36, &MAX_SEGMENT_SECTORS.to_le_bytes());
        put(40, &segments);
        put(44, &DISCARD_ALIGNMENT.to_le_bytes());
        put(48, &MAX_SEGMENT_SECTORS.to_le_bytes());
        put(52, &segments);
        put(56, &[1]); // write_zeroes_may_unmap
        config
    }

    fn activate(&mut self, features: u64) -> Result<(), DeviceFailure> {
        self.target.write_through = features & F_FLUSH == 0;
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
        let mut progress = Progress::More;
        let mut cost = 0;
        while cost < BATCH_BYTES {
            let Some(chain) = queues.pop(0)? else {
                progress = Progress::Idle;
                break;
            };
            let head = chain.head;
            cost += MIN_COST_BYTES.max(chain.readable.len() + chain.writable.len());
            let written = self.target.execute(chain);
            queues.complete(0, head, written)?;
        }
        if cost > 0 {
            queues.notify(0)?;
        }
        Ok(progress)
    }

    fn reset(&mut self, _sources: &mut Sources<'_>) {
        self.target.write_through = false;
    }

    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState> {
        state.is_stateless()
    }
}
