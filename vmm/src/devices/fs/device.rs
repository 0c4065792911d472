//! The device and its two queues.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use hull_vm_config::FsConfig;
use vmm_sys_util::epoll::EventSet;

use super::backend::Backend;
use super::bounce::{Bounce, RINGS_BYTES};
use super::shadow::{copy_out, Answer, Asker, Layout, ShadowError, ShadowQueue};
use crate::devices::source::Sources;
use crate::devices::virtio::{
    DeviceEvent, DeviceFailure, DeviceState, Progress, QueueSet, VirtioDevice, WrongState,
};

/// High-priority and request queue. The size of the latter bounds a request: the guest's driver
/// makes none of more pages.
const QUEUE_SIZES: [u16; 2] = [16, 256];
/// Of the shadows: two descriptors for each request.
const SHADOW_SIZES: [u16; 2] = [32, 512];
const QUEUES: std::ops::Range<usize> = 0..QUEUE_SIZES.len();
/// Token of virtiofsd's connection.
const CONNECTION: u64 = 1;
/// Tokens of the answers to each queue, from here on.
const CALLS: u64 = 2;
/// Bytes of the tag (virtio 1.2, 5.11.4).
const TAG_BYTES: usize = 36;
/// Largest request and its answer, in bytes: 252 pages of data and the headers around them.
const MAX_REQUEST_BYTES: usize = 2 << 20;
/// Bytes moved before the other devices get their turn.
const BATCH_BYTES: usize = 4 << 20;
/// Requests moved before the other devices get their turn.
const BATCH_REQUESTS: usize = 64;

const _: () = assert!(MAX_REQUEST_BYTES * 2 <= Bounce::capacity());

/// What [`Fs::fake`] tells.
#[cfg(feature = "fuzz")]
pub(crate) type Shared = (vm_memory::GuestMemoryMmap, Vec<(u64, u16)>);

/// A shared directory, or the place for one.
pub(crate) struct Fs {
    tag: [u8; TAG_BYTES],
    bounce: Bounce,
    queues: Vec<ShadowQueue>,
    backend: Option<Backend>,
    /// virtiofsd is gone.
    lost: bool,
    /// A driver is there.
    used: bool,
}

impl Fs {
    /// Waits for virtiofsd's side of the handshake.
    pub(crate) fn new(config: &FsConfig, socket: OwnedFd) -> io::Result<Self> {
        let mut fs = Self::without_backend(&config.tag)?;
        fs.backend = Some(Backend::connect(socket, &fs.bounce, &fs.queues)?);
        Ok(fs)
    }

    /// An empty slot. It has its memory already: the jail lets nobody make such.
    pub(crate) fn absent() -> io::Result<Self> {
        Self::without_backend("")
    }

    /// Puts a shared directory into an empty slot. `socket` blocks, and not for ever.
    pub(crate) fn plug(
        &mut self,
        tag: &str,
        socket: OwnedFd,
        sources: &mut Sources<'_>,
    ) -> io::Result<()> {
        if self.device_type() != 0 {
            return Err(io::Error::other("a shared directory is there already"));
        }
        let tag = padded(tag)?;
        let stream = UnixStream::from(socket);
        self.backend = Some(Backend::agree(stream, &self.bounce, &self.queues)?);
        self.tag = tag;
        self.start(sources);
        Ok(())
    }

    pub(super) fn without_backend(tag: &str) -> io::Result<Self> {
        let tag = padded(tag)?;
        let bounce = Bounce::new()?;
        let mut base = 0;
        let mut queues = Vec::new();
        for size in SHADOW_SIZES {
            let (layout, end) = Layout::at(base, size);
            queues.push(ShadowQueue::new(layout)?);
            base = end;
        }
        debug_assert!(base <= RINGS_BYTES as u64);
        Ok(Self {
            tag,
            bounce,
            queues,
            backend: None,
            lost: false,
            used: false,
        })
    }

    /// A shared directory without a server; the memory that is shared with such, and of each queue the place of
    /// its used ring and its size.
    #[cfg(feature = "fuzz")]
    pub(crate) fn fake(&mut self, tag: &str) -> io::Result<Shared> {
        self.tag = padded(tag)?;
        let used = self
            .queues
            .iter()
            .map(|queue| (queue.layout.used, queue.layout.size));
        Ok((self.bounce.memory.clone(), used.collect()))
    }

    #[cfg(test)]
    pub(super) fn parts(&mut self) -> (&mut Bounce, &mut [ShadowQueue]) {
        (&mut self.bounce, &mut self.queues)
    }

    /// virtiofsd to guest.
    fn take_answers(
        &mut self,
        queue: usize,
        guest: &mut QueueSet<'_>,
    ) -> Result<Progress, DeviceFailure> {
        let (mut bytes, mut answers) = (0, 0);
        let progress = loop {
            if BATCH_BYTES <= bytes || BATCH_REQUESTS <= answers {
                break Progress::More;
            }
            let answer = self.queues[queue].answer(&mut self.bounce);
            let Some(answer) = answer.map_err(backend)? else {
                break Progress::Idle;
            };
            bytes += answer.length;
            answers += 1;
            let delivered = self.deliver(queue, guest, &answer);
            if let Some(part) = answer.part {
                self.bounce.give(part);
            }
            delivered?;
        };
        if answers > 0 {
            guest.notify(queue)?;
        }
        Ok(progress)
    }

    fn deliver(
        &self,
        queue: usize,
        guest: &mut QueueSet<'_>,
        answer: &Answer,
    ) -> Result<(), DeviceFailure> {
        let Some(asker) = &answer.asker else {
            return Ok(());
        };
        let room = asker.room.buffers(guest.memory).unwrap_or_default();
        let length = answer.length.min(room.len());
        if let Some(part) = answer.part {
            copy_out(&self.bounce, part, &room, length).map_err(backend)?;
        }
        guest.complete(queue, asker.head, length as u32)
    }

    /// Guest to virtiofsd.
    fn take_requests(
        &mut self,
        queue: usize,
        guest: &mut QueueSet<'_>,
    ) -> Result<Progress, DeviceFailure> {
        let (mut bytes, mut submitted, mut refused) = (0, 0, 0);
        let progress = loop {
            if BATCH_BYTES <= bytes || BATCH_REQUESTS <= submitted + refused {
                break Progress::More;
            }
            let Some(chain) = guest.pop(queue)? else {
                break Progress::Idle;
            };
            let (readable, writable) = (chain.readable.len(), chain.writable.len());
            let fits = readable <= MAX_REQUEST_BYTES && writable <= MAX_REQUEST_BYTES;
            if !fits || readable == 0 {
                // No driver makes such a request; it gets no answer.
                guest.complete(queue, chain.head, 0)?;
                refused += 1;
                continue;
            }
            let shadow = &mut self.queues[queue];
            let asker = Asker {
                head: chain.head,
                room: chain.writable_ranges,
            };
            let taken = shadow.submit(&mut self.bounce, asker, &chain.readable, writable);
            if !taken.map_err(backend)? {
                // Answers make room, and are followed by another look.
                guest.rewind(queue, chain.position);
                break Progress::Idle;
            }
            bytes += readable;
            submitted += 1;
        };
        if submitted > 0 {
            self.queues[queue].kick().map_err(backend)?;
        }
        if refused > 0 {
            guest.notify(queue)?;
        }
        Ok(progress)
    }
}

fn padded(tag: &str) -> io::Result<[u8; TAG_BYTES]> {
    let mut padded = [0; TAG_BYTES];
    let room = padded.get_mut(..tag.len());
    let room = room.ok_or_else(|| io::Error::other("the tag has more than 36 bytes"))?;
    room.copy_from_slice(tag.as_bytes());
    Ok(padded)
}

fn backend(error: ShadowError) -> DeviceFailure {
    DeviceFailure::Backend(error.to_string())
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        match self.tag[0] {
            0 => 0,
            _ => 26,
        }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_fs_config` (virtio 1.2, 5.11.4).
    fn config(&self) -> Vec<u8> {
        let request_queues: u32 = 1;
        let mut config = self.tag.to_vec();
        config.extend(request_queues.to_le_bytes());
        config
    }

    fn start(&mut self, sources: &mut Sources<'_>) {
        if self.device_type() == 0 {
            return;
        }
        for (token, queue) in (CALLS..).zip(&self.queues) {
            let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
            sources.add(&queue.call, events, token);
        }
        if let Some(connection) = &self.backend {
            let events = EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
            sources.add(connection, events, CONNECTION);
        }
    }

    fn activate(&mut self, _features: u64) -> Result<(), DeviceFailure> {
        self.used = true;
        Ok(())
    }

    fn handle(
        &mut self,
        event: DeviceEvent,
        queues: Option<QueueSet<'_>>,
        _sources: &mut Sources<'_>,
    ) -> Result<Progress, DeviceFailure> {
        if let DeviceEvent::Source(CONNECTION, _) = event {
            self.lost = true;
        }
        let Some(mut guest) = queues else {
            return Ok(Progress::Idle);
        };
        if self.lost {
            return Err(DeviceFailure::Backend("virtiofsd has ended".into()));
        }
        let mut progress = Progress::Idle;
        for queue in QUEUES {
            let answers = self.take_answers(queue, &mut guest)?;
            let requests = self.take_requests(queue, &mut guest)?;
            if answers == Progress::More || requests == Progress::More {
                progress = Progress::More;
            }
        }
        Ok(progress)
    }

    fn reset(&mut self, _sources: &mut Sources<'_>) {
        for queue in &mut self.queues {
            queue.orphan_all();
        }
        self.used = false;
    }

    fn as_fs(&mut self) -> Option<&mut Fs> {
        Some(self)
    }

    fn save(&self) -> DeviceState {
        match self.used {
            true => DeviceState::Share,
            false => DeviceState::Stateless,
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState> {
        state.is_stateless()
    }
}
