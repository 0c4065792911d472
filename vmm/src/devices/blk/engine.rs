//! Who carries operations out: a ring shared with the host's kernel, which does so beside the event
//! loop, or, where the host allows none, this thread, one after the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use hull_vm_config::control::DiskEngine;
use rustix::fs::{fallocate, fdatasync};
use vm_memory::GuestMemoryMmap;

use super::disk::Disk;
use super::operation::{Action, Operation};
use super::sys::Ring;
use crate::devices::sys;

/// An operation that came to an end, or to a part of it.
pub(crate) struct Finished {
    /// As it was started with.
    pub(crate) ticket: usize,
    pub(crate) operation: Operation,
    pub(crate) answer: io::Result<usize>,
}

/// One disk's engine.
pub(crate) enum Engine {
    Ring(Box<Ring>),
    Here(VecDeque<Finished>),
}

impl Engine {
    /// This thread.
    pub(crate) fn here() -> Self {
        Self::Here(VecDeque::new())
    }

    pub(crate) fn kind(&self) -> DiskEngine {
        match self {
            Self::Ring(_) => DiskEngine::IoUring,
            Self::Here(_) => DiskEngine::Synchronous,
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.has_room(),
            Self::Here(_) => true,
        }
    }

    /// Takes an operation on; there must be room.
    pub(crate) fn start(
        &mut self,
        ticket: usize,
        operation: Operation,
        disk: &Disk,
        memory: &GuestMemoryMmap,
    ) {
        match self {
            Self::Ring(ring) => ring.push(ticket, operation, memory),
            Self::Here(finished) => {
                let answer = carry_out(&operation, disk, memory);
                finished.push_back(Finished {
                    ticket,
                    operation,
                    answer,
                });
            }
        }
    }

    /// Lets all that was started begin. What comes back is to be started anew: with this thread,
    /// which has taken the place of a ring that takes no more.
    pub(crate) fn submit(&mut self) -> Vec<(usize, Operation)> {
        let Self::Ring(ring) = self else {
            return Vec::new();
        };
        let Err(error) = ring.submit() else {
            return Vec::new();
        };
        log::warn!("a disk goes on without io_uring: {error}");
        let (finished, left) = ring.retire();
        *self = Self::Here(finished);
        left
    }

    /// The next operation that is over.
    pub(crate) fn next(&mut self) -> Option<Finished> {
        match self {
            Self::Ring(ring) => ring.next(),
            Self::Here(finished) => finished.pop_front(),
        }
    }

    /// Whether nothing is over that [`Engine::next`] did not tell. From here on the event loop is
    /// told of what will be.
    pub(crate) fn watch(&mut self) -> bool {
        match self {
            Self::Ring(ring) => ring.watch(),
            Self::Here(finished) => finished.is_empty(),
        }
    }

    /// Operations that were started and not told to be over.
    pub(crate) fn under_way(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.under_way(),
            Self::Here(finished) => finished.len(),
        }
    }

    /// Waits until there is something for [`Engine::next`], if anything is under way.
    pub(crate) fn wait(&mut self) {
        if let Self::Ring(ring) = self {
            ring.wait();
        }
    }
}

/// Carries an operation out, or the first part of it.
fn carry_out(operation: &Operation, disk: &Disk, memory: &GuestMemoryMmap) -> io::Result<usize> {
    let lost = || io::Error::from(io::ErrorKind::InvalidInput);
    let file = disk.files().get(operation.file).ok_or_else(lost)?;
    let offset = operation.offset;
    match &operation.action {
        Action::Read(into) => {
            let buffers = into.buffers(memory).ok_or_else(lost)?;
            sys::preadv(file.as_fd(), buffers.slices(), offset)
        }
        Action::Write(from) => {
            let buffers = from.buffers(memory).ok_or_else(lost)?;
            sys::pwritev(file.as_fd(), buffers.slices(), offset)
        }
        Action::Sync => Ok(fdatasync(file).map(|()| 0)?),
        Action::Zero { length, how, .. } => Ok(fallocate(file, *how, offset, *length).map(|()| 0)?),
    }
}
