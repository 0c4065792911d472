//! Frames between one descriptor of the tap and its pair of queues, moved by this process.

use std::collections::VecDeque;

use super::tap::{Tap, HEADER_BYTES};
use crate::devices::chain::Buffers;
use crate::devices::rate::Limiter;
use crate::devices::virtio::{DeviceFailure, Progress, QueueSet};

/// Frames per direction before the other devices get their turn.
const BATCH_FRAMES: usize = 64;
/// Most bytes of a segmented frame: header, Ethernet header with a VLAN tag, 64 KiB of packet.
pub(super) const MAX_FRAME_BYTES: usize = HEADER_BYTES + ETHERNET_BYTES + (64 << 10);
/// Ethernet header with a VLAN tag.
const ETHERNET_BYTES: usize = 18;
/// Headers around the MTU.
pub(super) const FRAME_OVERHEAD: usize = HEADER_BYTES + ETHERNET_BYTES;

/// How the driver wants its frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framing {
    /// Whether a frame may span several of the guest's buffers.
    pub(super) mergeable: bool,
    /// Room that a frame may need.
    pub(super) bytes: usize,
}

/// One descriptor of the tap.
pub(super) struct Port {
    pub(super) tap: Tap,
    /// The tap's events are edge-triggered: this holds until a read would block.
    pub(super) readable: bool,
}

/// One of the guest's receive buffers.
struct Slot<'a> {
    head: u16,
    position: u16,
    room: Buffers<'a>,
}

impl Port {
    /// Guest to host.
    pub(super) fn transmit(
        &self,
        queues: &mut QueueSet<'_>,
        queue: usize,
        limit: &mut Limiter,
    ) -> Result<Progress, DeviceFailure> {
        let mut progress = Progress::More;
        let mut served = 0;
        while served < BATCH_FRAMES {
            if let Some(then) = limit.closed_until() {
                progress = Progress::Until(then);
                break;
            }
            let Some(chain) = queues.pop(queue)? else {
                progress = Progress::Idle;
                break;
            };
            let length = chain.readable.len();
            if (HEADER_BYTES + 1..=MAX_FRAME_BYTES).contains(&length) {
                // A frame that the tap does not take (a wrong header, a full queue) is lost, as on
                // any network.
                let _ = self.tap.write(&chain.readable);
                limit.spend(length - HEADER_BYTES, || packets(&chain.readable, length));
            }
            queues.complete(queue, chain.head, 0)?;
            served += 1;
        }
        if served > 0 {
            queues.notify(queue)?;
        }
        Ok(progress)
    }

    /// Host to guest.
    pub(super) fn receive(
        &mut self,
        queues: &mut QueueSet<'_>,
        queue: usize,
        framing: Framing,
        limit: &mut Limiter,
    ) -> Result<Progress, DeviceFailure> {
        let mut slots = VecDeque::new();
        let mut frames = 0;
        let progress = loop {
            if !self.readable {
                break Progress::Idle;
            }
            if frames == BATCH_FRAMES {
                break Progress::More;
            }
            if let Some(then) = limit.closed_until() {
                break Progress::Until(then);
            }
            if !gather(queues, queue, framing, &mut slots)? {
                // The guest kicks when it offers more.
                break Progress::Idle;
            }
            let mut room = Buffers::default();
            for slot in &slots {
                room.append(&slot.room);
            }
            match self.tap.read(&room) {
                Ok(length) if length >= HEADER_BYTES => {
                    limit.spend(length - HEADER_BYTES, || packets(&room, length));
                    deliver(queues, queue, &mut slots, length)?;
                    frames += 1;
                }
                Ok(_) => frames += 1,
                // An interface that is down gives an error; an edge follows when it is up again.
                Err(_) => self.readable = false,
            }
        };
        if let Some(first) = slots.front() {
            queues.rewind(queue, first.position);
        }
        if frames > 0 {
            queues.notify(queue)?;
        }
        Ok(progress)
    }
}

/// Collects buffers until the largest frame fits; `false` if there are too few.
fn gather<'a>(
    queues: &mut QueueSet<'a>,
    queue: usize,
    framing: Framing,
    slots: &mut VecDeque<Slot<'a>>,
) -> Result<bool, DeviceFailure> {
    let mut room: usize = slots.iter().map(|slot| slot.room.len()).sum();
    loop {
        let enough = match framing.mergeable {
            true => room >= framing.bytes,
            // Without merging the driver makes each buffer large enough for a frame.
            false => !slots.is_empty(),
        };
        if enough {
            return Ok(true);
        }
        let Some(chain) = queues.pop(queue)? else {
            return Ok(false);
        };
        if chain.writable.len() > HEADER_BYTES {
            room += chain.writable.len();
            slots.push_back(Slot {
                head: chain.head,
                position: chain.position,
                room: chain.writable,
            });
        } else if slots.is_empty() {
            queues.complete(queue, chain.head, 0)?;
        } else {
            queues.rewind(queue, chain.position);
            return Ok(false);
        }
    }
}

/// Packets on a wire that a frame of `length` bytes with its header becomes: the guest chooses how
/// small its segments are (`gso_size`, virtio 1.2, 5.1.6).
fn packets(frame: &Buffers<'_>, length: usize) -> usize {
    let mut header = [0; HEADER_BYTES];
    frame.copy_to(&mut header);
    let [_, gso_type, _, _, low, high, ..] = header;
    match gso_type {
        0 => 1,
        _ => (length - HEADER_BYTES).div_ceil(u16::from_le_bytes([low, high]).max(1).into()),
    }
}

/// Gives the guest the buffers that a frame of `length` bytes fills.
fn deliver(
    queues: &mut QueueSet<'_>,
    queue: usize,
    slots: &mut VecDeque<Slot<'_>>,
    length: usize,
) -> Result<(), DeviceFailure> {
    let mut rest = length;
    let mut used = Vec::new();
    let mut first = None;
    while rest > 0 {
        let Some(slot) = slots.pop_front() else {
            break;
        };
        let count = rest.min(slot.room.len());
        rest -= count;
        used.push((slot.head, count as u32));
        first.get_or_insert(slot.room);
    }
    // `num_buffers`, the last field of the header (virtio 1.2, 5.1.6.4).
    if let Some(mut header) = first {
        header.take_front(HEADER_BYTES - 2);
        header.copy_from(&(used.len() as u16).to_le_bytes());
    }
    for (head, count) in used {
        queues.complete(queue, head, count)?;
    }
    Ok(())
}
