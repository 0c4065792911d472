//! Descriptor chains as a device sees them: bounded, checked, and with the framing taken away
//! (virtio 1.2, 2.7.4: a device makes no assumption about how a request is cut into descriptors).

use virtio_queue::DescriptorChain;
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice,
};

/// Most descriptors of one chain. The guest chooses the length of an indirect table (up to
/// 65,535); this bounds what a chain may cost.
pub(crate) const MAX_DESCRIPTORS: usize = 512;

/// One request of the driver: all memory of it is inside guest memory, readable part first.
pub(crate) struct Chain<'a> {
    pub(crate) head: u16,
    /// Of its place in the available ring; where to rewind the queue to, to get it again.
    pub(crate) position: u16,
    pub(crate) readable: Buffers<'a>,
    pub(crate) writable: Buffers<'a>,
    /// Where the readable part lies, for a device that reads later.
    pub(crate) readable_ranges: Ranges,
    /// Where the writable part lies, for a device that answers later.
    pub(crate) writable_ranges: Ranges,
}

/// Ranges of guest memory, checked to be inside of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(GuestAddress, u32)>);

impl Ranges {
    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|(_, length)| *length as usize).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first `count` bytes away and returns them; `None`, and nothing taken, if there
    /// are fewer.
    pub(crate) fn take_front(&mut self, count: usize) -> Option<Self> {
        if self.len() < count {
            return None;
        }
        let (mut front, mut rest, mut left) = (Vec::new(), Vec::new(), count);
        for (address, length) in self.0.drain(..) {
            // It is at most `length`, so it fits.
            let taken = left.min(length as usize) as u32;
            left -= taken as usize;
            if taken > 0 {
                front.push((address, taken));
            }
            if taken < length {
                let next = address.unchecked_add(u64::from(taken));
                rest.push((next, length - taken));
            }
        }
        self.0 = rest;
        Some(Self(front))
    }

    /// Takes the last `count` bytes away and returns them; `None`, and nothing taken, if there are
    /// fewer.
    pub(crate) fn take_back(&mut self, count: usize) -> Option<Self> {
        let front = self.take_front(self.len().checked_sub(count)?)?;
        Some(std::mem::replace(self, front))
    }

    /// The memory that they name. `None` for another guest's memory.
    pub(crate) fn buffers<'a>(&self, memory: &'a GuestMemoryMmap) -> Option<Buffers<'a>> {
        let mut buffers = Buffers::default();
        for (address, length) in &self.0 {
            buffers.push_range(memory, *address, *length, Permissions::Write)?;
        }
        Some(buffers)
    }
}

impl<'a> Chain<'a> {
    /// `None` for a chain that breaks the specification: empty, too long, looping, ending in the
    /// middle, readable after writable, or outside guest memory.
    pub(crate) fn parse(
        memory: &'a GuestMemoryMmap,
        descriptors: DescriptorChain<&'a GuestMemoryMmap>,
        position: u16,
    ) -> Option<Self> {
        let mut chain = Self {
            head: descriptors.head_index(),
            position,
            readable: Buffers::default(),
            writable: Buffers::default(),
            readable_ranges: Ranges::default(),
            writable_ranges: Ranges::default(),
        };
        let mut unfinished = true;
        for (count, descriptor) in descriptors.enumerate() {
            if count == MAX_DESCRIPTORS {
                return None;
            }
            unfinished = descriptor.has_next();
            let (part, ranges, access) = if descriptor.is_write_only() {
                let ranges = &mut chain.writable_ranges;
                (&mut chain.writable, ranges, Permissions::Write)
            } else if chain.writable.slices.is_empty() {
                let ranges = &mut chain.readable_ranges;
                (&mut chain.readable, ranges, Permissions::Read)
            } else {
                return None;
            };
            let (address, length) = (descriptor.addr(), descriptor.len());
            part.push_range(memory, address, length, access)?;
            ranges.0.push((address, length));
        }
        (!unfinished).then_some(chain)
    }
}

/// A list of pieces of guest memory, read and written as one.
#[derive(Default)]
pub(crate) struct Buffers<'a> {
    slices: Vec<VolatileSlice<'a>>,
    len: usize,
}

impl<'a> Buffers<'a> {
    fn push(&mut self, slice: VolatileSlice<'a>) {
        if !slice.is_empty() {
            self.len += slice.len();
            self.slices.push(slice);
        }
    }

    /// `None`, and an unknown part of it added, if the range leaves guest memory.
    fn push_range(
        &mut self,
        memory: &'a GuestMemoryMmap,
        address: GuestAddress,
        length: u32,
        access: Permissions,
    ) -> Option<()> {
        let slices = memory.get_slices(address, length as usize, access).ok()?;
        for slice in slices {
            self.push(slice.ok()?);
        }
        Some(())
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn slices(&self) -> &[VolatileSlice<'a>] {
        &self.slices
    }

    /// Adds all of `other` behind what is here.
    pub(crate) fn append(&mut self, other: &Buffers<'a>) {
        for slice in &other.slices {
            self.push(*slice);
        }
    }

    /// Takes the first `count` bytes away and returns them; `None`, and nothing taken, if there
    /// are fewer.
    pub(crate) fn take_front(&mut self, count: usize) -> Option<Buffers<'a>> {
        if self.len < count {
            return None;
        }
        let mut front = Buffers::default();
        let mut rest = Buffers::default();
        for slice in self.slices.drain(..) {
            let wanted = (count - front.len).min(slice.len());
            // The split is inside the slice, so it cannot fail.
            if let Ok((head, tail)) = slice.split_at(wanted) {
                front.push(head);
                rest.push(tail);
            }
        }
        *self = rest;
        Some(front)
    }

    /// Copies from the start of the buffers; returns how many bytes that were.
    pub(crate) fn copy_to(&self, target: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            done += slice.copy_to(&mut target[done..]);
        }
        done
    }

    /// Copies to the start of the buffers; returns how many bytes that were.
    pub(crate) fn copy_from(&self, source: &[u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let count = slice.len().min(source.len() - done);
            slice.copy_from(&source[done..done + count]);
            done += count;
        }
        done
    }

    /// Overwrites all of it with zeroes.
    pub(crate) fn zero(&self) {
        const ZEROES: [u8; 4096] = [0; 4096];
        for slice in &self.slices {
            for offset in (0..slice.len()).step_by(ZEROES.len()) {
                let count = ZEROES.len().min(slice.len() - offset);
                // The range is inside the slice, so it cannot fail.
                let _ = slice.write_slice(&ZEROES[..count], offset);
            }
        }
    }
}
