//! The driver's side of a virtqueue in shared memory: what the guest asked goes in, what virtiofsd
//! answered comes out.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::bounce::{Bounce, Part};
use crate::devices::chain::{Buffers, Ranges};

/// `VIRTQ_DESC_F_NEXT` and `VIRTQ_DESC_F_WRITE` (virtio 1.2, 2.7.5).
const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_BYTES: u64 = 16;
const USED_BYTES: u64 = 8;
/// `flags` and `idx` before the entries of both rings.
const RING_HEADER: u64 = 4;

/// Where the parts of a ring lie in the shared region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl Layout {
    /// A ring of `size` descriptors from `base` on; with the first address behind it.
    pub(super) fn at(base: u64, size: u16) -> (Self, u64) {
        let entries = u64::from(size);
        let available = base + entries * DESC_BYTES;
        let used = (available + RING_HEADER + entries * 2 + 2).next_multiple_of(64);
        let end = (used + RING_HEADER + entries * USED_BYTES + 2).next_multiple_of(64);
        let layout = Self {
            size,
            descriptors: base,
            available,
            used,
        };
        (layout, end)
    }
}

/// Whom an answer is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asker {
    /// Head of the guest's chain.
    pub(super) head: u16,
    /// Where the answer goes.
    pub(super) room: Ranges,
}

/// A request that virtiofsd has.
#[derive(Debug)]
struct Request {
    /// `None` once the guest has reset the device.
    asker: Option<Asker>,
    descriptors: Vec<u16>,
    readable: Option<Part>,
    writable: Option<Part>,
    writable_bytes: usize,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// `None`: nobody waits for it any more.
    pub(super) asker: Option<Asker>,
    /// Where the answer lies, if there is room for one at all.
    pub(super) part: Option<Part>,
    /// Its length, in bytes, at most the room that the guest gave.
    pub(super) length: usize,
}

/// virtiofsd broke the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShadowError {
    /// More answers than requests, or one for no request.
    #[error("virtiofsd answered request {id}, which it does not have")]
    UnknownRequest {
        /// As virtiofsd wrote it.
        id: u32,
    },
    /// The index of the used ring moved by more than the ring has.
    #[error("virtiofsd moved its ring by {moved} entries")]
    Jump {
        /// Entries.
        moved: u16,
    },
    /// The eventfd of the queue.
    #[error("failed to kick virtiofsd: {0}")]
    Kick(#[source] io::Error),
    /// The shared region is too small for its rings.
    #[error("the shared region: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// A queue in the shared region.
pub(super) struct ShadowQueue {
    pub(super) layout: Layout,
    /// virtiofsd is told of requests by it.
    pub(super) kick: EventFd,
    /// virtiofsd tells of answers by it.
    pub(super) call: EventFd,
    free: Vec<u16>,
    requests: HashMap<u16, Request>,
    next_available: u16,
    last_used: u16,
}

impl ShadowQueue {
    pub(super) fn new(layout: Layout) -> io::Result<Self> {
        Ok(Self {
            layout,
            kick: EventFd::new(EFD_NONBLOCK)?,
            call: EventFd::new(EFD_NONBLOCK)?,
            free: (0..layout.size).rev().collect(),
            requests: HashMap::new(),
            next_available: 0,
            last_used: 0,
        })
    }

    /// Copies a request over and queues it. `false`, and nothing done, if there is no room now.
    pub(super) fn submit(
        &mut self,
        bounce: &mut Bounce,
        asker: Asker,
        readable: &Buffers<'_>,
        writable_bytes: usize,
    ) -> Result<bool, ShadowError> {
        let wanted = usize::from(!readable.is_empty()) + usize::from(writable_bytes > 0);
        if self.free.len() < wanted {
            return Ok(false);
        }
        let Some(readable_part) = take(bounce, readable.len()) else {
            return Ok(false);
        };
        let Some(writable_part) = take(bounce, writable_bytes) else {
            if let Some(part) = readable_part {
                bounce.give(part);
            }
            return Ok(false);
        };
        if let Some(part) = readable_part {
            copy_in(bounce, part, readable)?;
        }
        let mut descriptors = Vec::with_capacity(wanted);
        let parts = [
            (readable_part, readable.len(), 0),
            (writable_part, writable_bytes, DESC_WRITE),
        ];
        let mut parts: Vec<_> = parts
            .into_iter()
            .filter_map(|(part, bytes, flags)| part.map(|part| (part, bytes, flags)))
            .collect();
        // From the last to the first, so that each knows the one behind it.
        let mut next = None;
        while let Some((part, bytes, flags)) = parts.pop() {
            let Some(id) = self.free.pop() else { break };
            self.write_descriptor(bounce, id, part, bytes, flags, next)?;
            descriptors.push(id);
            next = Some(id);
        }
        let Some(head) = next else {
            return Ok(false);
        };
        self.requests.insert(
            head,
            Request {
                asker: Some(asker),
                descriptors,
                readable: readable_part,
                writable: writable_part,
                writable_bytes,
            },
        );
        self.make_available(bounce, head)?;
        Ok(true)
    }

    fn write_descriptor(
        &self,
        bounce: &Bounce,
        id: u16,
        part: Part,
        bytes: usize,
        flags: u16,
        next: Option<u16>,
    ) -> Result<(), ShadowError> {
        let at = self.layout.descriptors + u64::from(id) * DESC_BYTES;
        let flags = flags | if next.is_some() { DESC_NEXT } else { 0 };
        let mut raw = [0; DESC_BYTES as usize];
        raw[..8].copy_from_slice(&part.address().0.to_le_bytes());
        raw[8..12].copy_from_slice(&(bytes as u32).to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.unwrap_or_default().to_le_bytes());
        bounce.memory.write_slice(&raw, GuestAddress(at))?;
        Ok(())
    }

    fn make_available(&mut self, bounce: &Bounce, head: u16) -> Result<(), ShadowError> {
        let place = u64::from(self.next_available % self.layout.size);
        let entry = GuestAddress(self.layout.available + RING_HEADER + place * 2);
        bounce.memory.write_obj(head.to_le(), entry)?;
        self.next_available = self.next_available.wrapping_add(1);
        let index = GuestAddress(self.layout.available + 2);
        // What was written before is seen by whoever sees the new index.
        bounce
            .memory
            .store(self.next_available.to_le(), index, Ordering::Release)?;
        Ok(())
    }

    /// Tells virtiofsd to look.
    pub(super) fn kick(&self) -> Result<(), ShadowError> {
        self.kick.write(1).map_err(ShadowError::Kick)
    }

    /// The next answer. Its part is to be given back to the region by the caller.
    pub(super) fn answer(&mut self, bounce: &mut Bounce) -> Result<Option<Answer>, ShadowError> {
        let index = GuestAddress(self.layout.used + 2);
        let index: u16 = bounce.memory.load(index, Ordering::Acquire)?;
        let moved = u16::from_le(index).wrapping_sub(self.last_used);
        if moved == 0 {
            return Ok(None);
        }
        if moved > self.layout.size {
            return Err(ShadowError::Jump { moved });
        }
        let place = u64::from(self.last_used % self.layout.size);
        let entry = GuestAddress(self.layout.used + RING_HEADER + place * USED_BYTES);
        let mut raw = [0; USED_BYTES as usize];
        bounce.memory.read_slice(&mut raw, entry)?;
        let [a, b, c, d, length @ ..] = raw;
        let id = u32::from_le_bytes([a, b, c, d]);
        let request = u16::try_from(id)
            .ok()
            .and_then(|head| self.requests.remove(&head))
            .ok_or(ShadowError::UnknownRequest { id })?;
        self.last_used = self.last_used.wrapping_add(1);
        self.free.extend(&request.descriptors);
        if let Some(part) = request.readable {
            bounce.give(part);
        }
        let length = u32::from_le_bytes(length) as usize;
        Ok(Some(Answer {
            asker: request.asker,
            part: request.writable,
            length: length.min(request.writable_bytes),
        }))
    }

    /// The guest forgot its requests; their answers, when they come, go nowhere.
    pub(super) fn orphan_all(&mut self) {
        for request in self.requests.values_mut() {
            request.asker = None;
        }
    }
}

/// A part for `bytes`; `Some(None)` for none at all.
#[allow(clippy::option_option)] // "no room" and "no room needed" are different answers
fn take(bounce: &mut Bounce, bytes: usize) -> Option<Option<Part>> {
    match bytes {
        0 => Some(None),
        _ => bounce.take(bytes).map(Some),
    }
}

fn copy_in(bounce: &Bounce, part: Part, readable: &Buffers<'_>) -> Result<(), ShadowError> {
    let mut at = part.address();
    for slice in readable.slices() {
        let target = bounce.memory.get_slice(at, slice.len())?;
        slice.copy_to_volatile_slice(target);
        at = GuestAddress(at.0 + slice.len() as u64);
    }
    Ok(())
}

/// Copies `length` bytes of an answer to the guest's buffers, which hold at least as many.
pub(super) fn copy_out(
    bounce: &Bounce,
    part: Part,
    writable: &Buffers<'_>,
    length: usize,
) -> Result<(), ShadowError> {
    let mut at = part.address();
    let mut rest = length;
    for slice in writable.slices() {
        let count = rest.min(slice.len());
        if count == 0 {
            break;
        }
        let source = bounce.memory.get_slice(at, count)?;
        source.copy_to_volatile_slice(*slice);
        at = GuestAddress(at.0 + count as u64);
        rest -= count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server's index, at every place of its turn and with jumps of every kind.
    #[test]
    fn the_used_index_is_judged_wherever_it_stands() {
        let mut bounce = Bounce::new().unwrap();
        let (layout, _) = Layout::at(0, 32);
        let index = GuestAddress(layout.used + 2);
        let mut queue = ShadowQueue::new(layout).unwrap();
        for last in 0..=u16::MAX {
            queue.last_used = last;
            for moved in [0, 1, 32, 33, 0x8000, u16::MAX] {
                let told = last.wrapping_add(moved).to_le();
                bounce.memory.write_obj(told, index).unwrap();
                let answer = queue.answer(&mut bounce);
                let judged = match moved {
                    0 => matches!(answer, Ok(None)),
                    1..=32 => matches!(answer, Err(ShadowError::UnknownRequest { .. })),
                    _ => matches!(answer, Err(ShadowError::Jump { .. })),
                };
                assert!(judged, "{moved} from {last}");
                assert_eq!(queue.last_used, last);
            }
        }
    }
}
