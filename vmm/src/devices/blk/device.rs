//! The device: features, configuration space and its one queue.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_vm_config::control::DiskEngine;
use hull_vm_config::{BlockConfig, FdName};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::disk::{Disk, SECTOR};
use super::engine::Engine;
use super::in_flight::{InFlight, Target};
use super::request::{parse, Completed, Parsed, ID_BYTES, MAX_SEGMENTS, MAX_SEGMENT_SECTORS};
use super::ring;
use crate::devices::chain::{Chain, MAX_DESCRIPTORS};
use crate::devices::source::Sources;
use crate::devices::virtio::{
    DeviceError, DeviceEvent, DeviceFailure, DeviceState, Pending, Progress, QueueSet,
    VirtioDevice, WrongState,
};

/// The guest pays some 500 bytes for each, also in the slots that it does not use.
const QUEUE_SIZE: u16 = 64;
/// Requests that are not answered yet. A driver has no use for more.
const MAX_REQUESTS: usize = QUEUE_SIZE as usize;
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

/// Token of the eventfd that tells of operations that are over.
const COMPLETED: u64 = 1;

/// A block device.
pub(crate) struct Blk {
    disk: Disk,
    serial: [u8; ID_BYTES],
    /// The driver does not flush, so each change must reach stable storage by itself.
    write_through: bool,
    in_flight: Arc<InFlight>,
    /// The ring's, if there is or was one.
    completed: Option<EventFd>,
    /// Why there is no ring, where there might have been one.
    no_ring: Option<String>,
}

impl Blk {
    /// A device whose engine is io_uring, where the host allows that and it is `wanted`.
    pub(crate) fn new(
        config: &BlockConfig,
        wanted: bool,
        open: &mut dyn FnMut(&FdName) -> Result<Arc<OwnedFd>, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let serial = serial_of(config)?;
        let mut blk = Self::on(Disk::open(config, open)?, serial);
        if wanted {
            blk.set_up_ring()?;
        }
        Ok(blk)
    }

    /// Puts a disk into an empty slot. This thread serves it: the jail lets nobody set a ring up.
    pub(crate) fn plug(
        &mut self,
        config: &BlockConfig,
        open: &mut dyn FnMut(&FdName) -> Result<Arc<OwnedFd>, DeviceError>,
    ) -> Result<(), DeviceError> {
        if self.device_type() != 0 {
            return Err(DeviceError::BadConfig {
                device: "blk",
                reason: "a disk is there already".into(),
            });
        }
        let serial = serial_of(config)?;
        (self.disk, self.serial) = (Disk::open(config, open)?, serial);
        Ok(())
    }

    /// Takes out what was plugged in, and closes its files. Nothing of it is under way then.
    pub(crate) fn unplug(&mut self) -> Result<(), DeviceError> {
        if self.completed.is_some() {
            // A ring is for the files that it was set up with.
            return Err(DeviceError::BadConfig {
                device: "blk",
                reason: "this disk is there from the start on".into(),
            });
        }
        self.in_flight.abandon();
        (self.disk, self.serial) = (Disk::empty(false), [0; ID_BYTES]);
        Ok(())
    }

    /// The device of an unused slot: a disk without sectors. What is put there later may only be
    /// read if `read_only`.
    pub(crate) fn empty(read_only: bool) -> Self {
        Self::on(Disk::empty(read_only), [0; ID_BYTES])
    }

    fn on(disk: Disk, serial: [u8; ID_BYTES]) -> Self {
        Self {
            disk,
            serial,
            write_through: false,
            in_flight: Arc::new(InFlight::new(Engine::here(), MAX_REQUESTS)),
            completed: None,
            no_ring: None,
        }
    }

    fn set_up_ring(&mut self) -> Result<(), DeviceError> {
        let completed = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let completed = completed.map_err(|source| DeviceError::Host {
            device: "blk",
            action: "make an eventfd",
            source,
        })?;
        match ring::set_up(&self.disk, &completed) {
            Ok(ring) => {
                let engine = Engine::Ring(Box::new(ring));
                self.in_flight = Arc::new(InFlight::new(engine, MAX_REQUESTS));
                self.completed = Some(completed);
            }
            Err(error) => self.no_ring = Some(error.to_string()),
        }
        Ok(())
    }

    /// Who carries its requests out, and why not io_uring; `None` where no disk is.
    pub(crate) fn engine(&self) -> Option<(DiskEngine, Option<&str>)> {
        let engine = self.in_flight.lock().engine().kind();
        (self.device_type() != 0).then_some((engine, self.no_ring.as_deref()))
    }

    /// Takes a chain on; `Some`: it is answered.
    fn take_on(&self, chain: Chain<'_>, target: Target<'_>) -> Option<Completed> {
        match parse(target.memory, chain, &self.disk, &self.serial) {
            Parsed::Unanswerable(completed) => Some(completed),
            Parsed::Wrong(reply, status) => Some(reply.give(target.memory, status, false)),
            Parsed::Asks(reply, work) => {
                let mut requests = self.in_flight.lock();
                requests.take_on(reply, work, target, self.write_through)
            }
        }
    }
}

fn serial_of(config: &BlockConfig) -> Result<[u8; ID_BYTES], DeviceError> {
    let bytes = config.serial.as_bytes();
    let mut serial = [0; ID_BYTES];
    let target = serial.get_mut(..bytes.len());
    let target = target.ok_or_else(|| DeviceError::BadConfig {
        device: "blk",
        reason: format!("serial {:?} is over {ID_BYTES} bytes", config.serial),
    })?;
    target.copy_from_slice(bytes);
    Ok(serial)
}

/// Gives answered chains back; whether there were any.
fn give_back(queues: &mut QueueSet<'_>, completed: Vec<Completed>) -> Result<bool, DeviceFailure> {
    let any = !completed.is_empty();
    for Completed { head, written } in completed {
        queues.complete(0, head, written)?;
    }
    Ok(any)
}

impl VirtioDevice for Blk {
    /// A slot without a disk shows no device: a driver would spend time and memory on it.
    fn device_type(&self) -> u32 {
        match self.disk.sectors() {
            0 => 0,
            _ => 2,
        }
    }

    fn features(&self) -> u64 {
        let access = match self.disk.read_only() {
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
        put(0, &self.disk.sectors().to_le_bytes());
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

    fn start(&mut self, sources: &mut Sources<'_>) {
        if let Some(completed) = &self.completed {
            sources.add(
                completed,
                EventSet::IN | EventSet::EDGE_TRIGGERED,
                COMPLETED,
            );
        }
    }

    fn activate(&mut self, features: u64) -> Result<(), DeviceFailure> {
        self.write_through = features & F_FLUSH == 0;
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
        let target = Target {
            disk: &self.disk,
            memory: queues.memory,
        };
        // What is over makes room.
        let completed = self.in_flight.lock().run(target);
        let mut any = give_back(&mut queues, completed)?;
        let (mut cost, mut dry) = (0, false);
        while cost < BATCH_BYTES && self.in_flight.lock().has_room() {
            let Some(chain) = queues.pop(0)? else {
                dry = true;
                break;
            };
            cost += MIN_COST_BYTES.max(chain.readable.len() + chain.writable.len());
            let completed = self.take_on(chain, target);
            any |= give_back(&mut queues, completed.into_iter().collect())?;
        }
        let completed = self.in_flight.lock().run(target);
        any |= give_back(&mut queues, completed)?;
        if any || dry && cost > 0 {
            queues.notify(0)?;
        }
        Ok(match !dry && self.in_flight.lock().has_room() {
            true => Progress::More,
            // There is no more, or the next completion makes room for it.
            false => Progress::Idle,
        })
    }

    fn settle(&mut self, mut queues: QueueSet<'_>) -> Result<(), DeviceFailure> {
        let target = Target {
            disk: &self.disk,
            memory: queues.memory,
        };
        let completed = self.in_flight.lock().settle(target);
        match give_back(&mut queues, completed)? {
            true => queues.notify(0),
            false => Ok(()),
        }
    }

    fn pending(&self) -> Option<Arc<dyn Pending>> {
        Some(Arc::clone(&self.in_flight) as Arc<dyn Pending>)
    }

    fn as_blk(&mut self) -> Option<&mut Blk> {
        Some(self)
    }

    fn reset(&mut self, _sources: &mut Sources<'_>) {
        self.in_flight.abandon();
        self.write_through = false;
    }

    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState> {
        state.is_stateless()
    }
}
