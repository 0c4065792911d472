//! A ring's two ends: operations go to the host's kernel, which works on guest memory while nobody
//! here waits for it, and their ends come back.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{fence, Ordering};

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{opcode, squeue, EnterFlags, IoUring};
use vm_memory::GuestMemoryMmap;

use super::engine::Finished;
use super::operation::{Action, Operation};
use crate::devices::sys::iovecs;

/// An open ring.
pub(crate) struct Ring {
    ring: IoUring,
    slots: Vec<Option<UnderWay>>,
    free: Vec<usize>,
    /// Slots that the kernel has not taken yet, in the order of the ring.
    pushed: VecDeque<usize>,
    /// What did not even get into the ring.
    refused: VecDeque<Finished>,
}

/// An operation that the kernel has, with all that it works on.
struct UnderWay {
    ticket: usize,
    operation: Operation,
    /// The kernel reads the list while it takes the operation.
    _vectors: Vectors,
    /// Keeps mapped what they point to.
    _memory: GuestMemoryMmap,
}

/// Pieces of guest memory, for the kernel.
struct Vectors(Vec<libc::iovec>);

// SAFETY: the pointers lead into guest memory, which belongs to no thread; nothing here follows
// them, and the kernel may from any thread.
unsafe impl Send for Vectors {}

impl Ring {
    /// For at most so many operations at once, which is what `ring` has room for.
    pub(super) fn new(ring: IoUring, most: usize) -> Self {
        Self {
            ring,
            slots: (0..most).map(|_| None).collect(),
            free: (0..most).rev().collect(),
            pushed: VecDeque::with_capacity(most),
            refused: VecDeque::new(),
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) fn under_way(&self) -> usize {
        self.slots.len() - self.free.len() + self.refused.len()
    }

    /// Puts an operation into the ring; there must be room.
    pub(crate) fn push(&mut self, ticket: usize, operation: Operation, memory: &GuestMemoryMmap) {
        let vectors = Vectors(match &operation.action {
            Action::Read(ranges) | Action::Write(ranges) => ranges
                .buffers(memory)
                .map(|buffers| iovecs(buffers.slices()))
                .unwrap_or_default(),
            Action::Sync | Action::Zero { .. } => Vec::new(),
        });
        let entry = entry(&operation, &vectors);
        let pushed = self.free.pop().and_then(|index| {
            let entry = entry.user_data(index as u64);
            // SAFETY: the entry points at the list of vectors, and that into guest memory. The slot
            // that is filled below keeps both, unmoved, until the kernel has told that this
            // operation is over: only `next` empties it then, `retire` does where the kernel never
            // saw it, and `drop` waits.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed
                .map(|()| index)
                .map_err(|_| self.free.push(index))
                .ok()
        });
        let Some(index) = pushed else {
            let answer = Err(io::ErrorKind::OutOfMemory.into());
            return self.refused.push_back(Finished {
                ticket,
                operation,
                answer,
            });
        };
        self.pushed.push_back(index);
        self.slots[index] = Some(UnderWay {
            ticket,
            operation,
            _vectors: vectors,
            _memory: memory.clone(),
        });
    }

    /// Hands what was pushed over to the kernel.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        while !self.pushed.is_empty() {
            match self.ring.submit() {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => drop(self.pushed.drain(..taken.min(self.pushed.len()))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// For the last time, after a submission that failed: waits for what the kernel has taken. Returns
    /// what is over, and what the kernel never saw. It never will: nothing is submitted any more.
    pub(crate) fn retire(&mut self) -> (VecDeque<Finished>, Vec<(usize, Operation)>) {
        let mut left = Vec::new();
        for index in self.pushed.drain(..) {
            if let Some(slot) = self.slots[index].take() {
                self.free.push(index);
                left.push((slot.ticket, slot.operation));
            }
        }
        let mut finished = VecDeque::new();
        while self.under_way() > 0 {
            self.wait();
            finished.extend(std::iter::from_fn(|| self.next()));
        }
        (finished, left)
    }

    /// The next operation that is over.
    pub(crate) fn next(&mut self) -> Option<Finished> {
        if let Some(refused) = self.refused.pop_front() {
            return Some(refused);
        }
        let mut completions = self.ring.completion();
        // Until `watch` there is no use in being told.
        completions.disable_eventfd();
        let completion = completions.next()?;
        drop(completions);
        let index = usize::try_from(completion.user_data()).ok()?;
        let slot = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        let result = completion.result();
        let error = || io::Error::from_raw_os_error(result.saturating_neg());
        Some(Finished {
            ticket: slot.ticket,
            operation: slot.operation,
            answer: usize::try_from(result).map_err(|_| error()),
        })
    }

    /// Has the eventfd written for what is over from here on; `false` if something is already.
    pub(crate) fn watch(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        fence(Ordering::SeqCst);
        self.refused.is_empty() && self.ring.completion().is_empty()
    }

    /// Waits until something is over, if anything is under way. It submits nothing, so any thread may.
    pub(crate) fn wait(&mut self) {
        let (nothing, one) = (0, 1);
        let flags = EnterFlags::GETEVENTS.bits();
        while self.refused.is_empty() && self.under_way() > 0 && self.ring.completion().is_empty() {
            let submitter = self.ring.submitter();
            // SAFETY: nothing is submitted, and no argument is passed.
            let entered = unsafe { submitter.enter::<libc::sigset_t>(nothing, one, flags, None) };
            if entered.is_err() {
                // The kernel completes what it has, whether it lets us sleep meanwhile or not.
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        drop(self.retire());
    }
}

fn entry(operation: &Operation, vectors: &Vectors) -> squeue::Entry {
    // A disk has no more files than a process may open.
    let file = Fixed(u32::try_from(operation.file).unwrap_or(u32::MAX));
    let (vectors, count) = (vectors.0.as_ptr(), vectors.0.len() as u32);
    let offset = operation.offset;
    match &operation.action {
        Action::Read(_) => opcode::Readv::new(file, vectors, count)
            .offset(offset)
            .build(),
        Action::Write(_) => opcode::Writev::new(file, vectors, count)
            .offset(offset)
            .build(),
        Action::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        Action::Zero { length, how, .. } => opcode::Fallocate::new(file, *length)
            .offset(offset)
            .mode(how.bits().cast_signed())
            .build(),
    }
}
