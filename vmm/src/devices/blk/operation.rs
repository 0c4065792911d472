//! What requests come down to: operations on one file each, and what the kernel's answer to one
//! means. Whoever carries them out, the answers mean the same.

use std::io;

use rustix::fs::FallocateFlags;
use vm_memory::GuestMemoryMmap;

use super::disk::{Disk, Piece};
use super::request::{Span, Status, Work};
use crate::devices::chain::Ranges;

/// One operation.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Index of the file among those of the disk.
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// Bytes past the end of the file are zero.
    Read(Ranges),
    Write(Ranges),
    /// All that was written to the file reaches stable storage.
    Sync,
    /// Makes `length` bytes read as zero.
    Zero {
        length: u64,
        how: FallocateFlags,
        otherwise: Otherwise,
    },
}

/// Where a file system can't do it in this way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Otherwise {
    /// In this one.
    Try(FallocateFlags),
    /// It need not be done.
    LeaveIt,
    /// The driver is told.
    Refuse,
}

/// How an operation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Done,
    /// What is left of it is to be carried out.
    Again,
    Failed(Status),
}

/// The operations of a request, in no order.
pub(crate) fn lower(work: Work, disk: &Disk) -> Vec<Operation> {
    match work {
        Work::Read { start, into } => transfer(disk, start, into, Action::Read),
        Work::Write { start, from } => transfer(disk, start, from, Action::Write),
        Work::Flush => sync(disk),
        Work::Discard(spans) => each(disk, spans, |_| (PUNCH_HOLE, Otherwise::LeaveIt)),
        Work::WriteZeroes(spans) => each(disk, spans, |unmap| match unmap {
            true => (PUNCH_HOLE, Otherwise::Try(ZERO_RANGE)),
            false => (ZERO_RANGE, Otherwise::Try(PUNCH_HOLE)),
        }),
        Work::Identified => Vec::new(),
    }
}

const PUNCH_HOLE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO_RANGE: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

/// Puts all that was written on stable storage.
pub(crate) fn sync(disk: &Disk) -> Vec<Operation> {
    let sync = |file| Operation {
        file,
        offset: 0,
        action: Action::Sync,
    };
    match disk.read_only() {
        // Nothing ever was.
        true => Vec::new(),
        false => (0..disk.files().len()).map(sync).collect(),
    }
}

fn transfer(
    disk: &Disk,
    start: u64,
    mut ranges: Ranges,
    action: fn(Ranges) -> Action,
) -> Vec<Operation> {
    let length = ranges.len() as u64;
    let part = |piece: Piece| {
        Some(Operation {
            file: piece.file,
            offset: piece.offset,
            action: action(ranges.take_front(piece.length as usize)?),
        })
    };
    disk.pieces(start, length).map_while(part).collect()
}

fn each(
    disk: &Disk,
    spans: Vec<Span>,
    how: impl Fn(bool) -> (FallocateFlags, Otherwise),
) -> Vec<Operation> {
    let zero = |span: Span| {
        let (how, otherwise) = how(span.unmap);
        disk.pieces(span.start, span.length)
            .map(move |piece| Operation {
                file: piece.file,
                offset: piece.offset,
                action: Action::Zero {
                    length: piece.length,
                    how,
                    otherwise,
                },
            })
    };
    spans.into_iter().flat_map(zero).collect()
}

impl Operation {
    /// Takes the kernel's answer: bytes moved, or why not.
    pub(crate) fn answered(&mut self, memory: &GuestMemoryMmap, answer: io::Result<usize>) -> Step {
        let answer = match answer {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Step::Again,
            answer => answer,
        };
        match &mut self.action {
            Action::Read(into) => match answer {
                Ok(0) => {
                    if let Some(rest) = into.buffers(memory) {
                        rest.zero();
                    }
                    Step::Done
                }
                Ok(moved) => go_on(&mut self.offset, into, moved),
                Err(_) => Step::Failed(Status::IoErr),
            },
            Action::Write(from) => match answer {
                Ok(0) | Err(_) => Step::Failed(Status::IoErr),
                Ok(moved) => go_on(&mut self.offset, from, moved),
            },
            Action::Sync => match answer {
                Ok(_) => Step::Done,
                Err(_) => Step::Failed(Status::IoErr),
            },
            Action::Zero { how, otherwise, .. } => match answer {
                Ok(_) => Step::Done,
                Err(error) if error.kind() == io::ErrorKind::Unsupported => match *otherwise {
                    Otherwise::Try(second) => {
                        (*how, *otherwise) = (second, Otherwise::Refuse);
                        Step::Again
                    }
                    Otherwise::LeaveIt => Step::Done,
                    Otherwise::Refuse => Step::Failed(Status::Unsupported),
                },
                Err(_) => Step::Failed(Status::IoErr),
            },
        }
    }
}

fn go_on(offset: &mut u64, ranges: &mut Ranges, moved: usize) -> Step {
    match ranges.take_front(moved) {
        Some(_) if ranges.is_empty() => Step::Done,
        Some(_) => {
            *offset += moved as u64;
            Step::Again
        }
        // More than was asked for.
        None => Step::Failed(Status::IoErr),
    }
}
