//! One request, as the driver writes it: its header, what it asks for, and where its status byte
//! goes (virtio 1.2, 5.2.6).

use vm_memory::GuestMemoryMmap;

use super::disk::{Disk, SECTOR};
use crate::devices::chain::{Chain, Ranges};

/// The guest chooses descriptor lengths. Data never passes through a buffer of ours, but an operation
/// may hold the event loop while it lasts: this bounds it.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// Most segments of one discard or write-zeroes request; more are refused.
pub(crate) const MAX_SEGMENTS: usize = 16;
/// Most sectors of one such segment.
pub(crate) const MAX_SEGMENT_SECTORS: u32 = 1 << 22;

const HEADER_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 16;
/// Bytes of the serial number (`VIRTIO_BLK_ID_BYTES`).
pub(crate) const ID_BYTES: usize = 20;

/// Request types.
pub(crate) mod kind {
    pub(crate) const IN: u32 = 0;
    pub(crate) const OUT: u32 = 1;
    pub(crate) const FLUSH: u32 = 4;
    pub(crate) const GET_ID: u32 = 8;
    pub(crate) const DISCARD: u32 = 11;
    pub(crate) const WRITE_ZEROES: u32 = 13;
}

/// Status bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupported = 2,
}

/// What a request asks for. All ranges lie on the disk, and it may be done to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Read {
        start: u64,
        into: Ranges,
    },
    Write {
        start: u64,
        from: Ranges,
    },
    Flush,
    Discard(Vec<Span>),
    WriteZeroes(Vec<Span>),
    /// The serial number, which is where it belongs already.
    Identified,
}

/// A range of the disk, in bytes; it is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Its space may be given back.
    pub(crate) unmap: bool,
}

impl Work {
    /// Whether it puts data into the chain.
    pub(crate) fn gives_data(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Identified)
    }

    /// Whether something may be other than before.
    pub(crate) fn changes_the_disk(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::Discard(_) | Self::WriteZeroes(_)
        )
    }
}

/// Where the answer to a request goes.
#[derive(Debug)]
pub(crate) struct Reply {
    head: u16,
    status: Ranges,
    /// Bytes of the writable part before the status.
    room: usize,
}

/// A chain that is done with: its head, and how many bytes of it were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completed {
    pub(crate) head: u16,
    pub(crate) written: u32,
}

impl Reply {
    /// Writes the status.
    pub(crate) fn give(&self, memory: &GuestMemoryMmap, status: Status, data: bool) -> Completed {
        if let Some(buffers) = self.status.buffers(memory) {
            buffers.copy_from(&[status as u8]);
        }
        // The status byte follows the data, so a short answer still spans the data's room. Of a
        // request that failed the driver can't tell how much is valid: none is.
        let spanned = match (status, data) {
            (Status::Ok, true) => self.room,
            _ => 0,
        };
        Completed {
            head: self.head,
            written: u32::try_from(spanned + 1).unwrap_or(u32::MAX),
        }
    }
}

/// A chain read as a request.
pub(crate) enum Parsed {
    /// It has no room for a status.
    Unanswerable(Completed),
    /// What is wrong with it is the answer.
    Wrong(Reply, Status),
    Asks(Reply, Work),
}

/// Reads a chain for this disk.
pub(crate) fn parse(
    memory: &GuestMemoryMmap,
    chain: Chain<'_>,
    disk: &Disk,
    serial: &[u8; ID_BYTES],
) -> Parsed {
    let Chain {
        head,
        readable_ranges: readable,
        writable_ranges: mut writable,
        ..
    } = chain;
    let Some(status) = writable.take_back(1) else {
        return Parsed::Unanswerable(Completed { head, written: 0 });
    };
    let reply = Reply {
        head,
        status,
        room: writable.len(),
    };
    let request = Request {
        memory,
        disk,
        serial,
    };
    match request.parse(readable, writable) {
        Ok(work) => Parsed::Asks(reply, work),
        Err(status) => Parsed::Wrong(reply, status),
    }
}

/// What a request is read with.
struct Request<'a> {
    memory: &'a GuestMemoryMmap,
    disk: &'a Disk,
    serial: &'a [u8; ID_BYTES],
}

impl Request<'_> {
    fn parse(&self, mut readable: Ranges, writable: Ranges) -> Result<Work, Status> {
        let mut header = [0; HEADER_BYTES];
        let from = readable.take_front(HEADER_BYTES).ok_or(Status::IoErr)?;
        self.copy(&from, &mut header)?;
        let (kind, sector) = (le32(&header, 0), le64(&header, 8));
        match kind {
            kind::IN => Ok(Work::Read {
                start: self.range(sector, writable.len())?,
                into: writable,
            }),
            kind::OUT => Ok(Work::Write {
                start: self.writable_range(sector, readable.len())?,
                from: readable,
            }),
            kind::FLUSH => Ok(Work::Flush),
            kind::GET_ID => {
                let buffers = writable.buffers(self.memory).ok_or(Status::IoErr)?;
                buffers.copy_from(self.serial);
                Ok(Work::Identified)
            }
            // `unmap` is reserved for a discard (virtio 1.2, 5.2.6.2).
            kind::DISCARD => self.segments(&readable, 0).map(Work::Discard),
            kind::WRITE_ZEROES => self.segments(&readable, 1).map(Work::WriteZeroes),
            _ => Err(Status::Unsupported),
        }
    }

    fn copy(&self, from: &Ranges, to: &mut [u8]) -> Result<usize, Status> {
        let buffers = from.buffers(self.memory).ok_or(Status::IoErr)?;
        Ok(buffers.copy_to(to))
    }

    /// The first byte of a request for whole sectors that the disk holds.
    fn range(&self, sector: u64, length: usize) -> Result<u64, Status> {
        let whole = length.is_multiple_of(SECTOR as usize) && length <= MAX_REQUEST_BYTES;
        let start = sector.checked_mul(SECTOR);
        start
            .filter(|start| whole && self.disk.holds(*start, length as u64))
            .ok_or(Status::IoErr)
    }

    fn writable_range(&self, sector: u64, length: usize) -> Result<u64, Status> {
        match self.disk.read_only() {
            true => Err(Status::IoErr),
            false => self.range(sector, length),
        }
    }

    /// The segments of a discard or write-zeroes request, whose flags are at most `most`.
    fn segments(&self, data: &Ranges, most: u32) -> Result<Vec<Span>, Status> {
        let mut bytes = [0; SEGMENT_BYTES * MAX_SEGMENTS];
        let whole =
            (1..=bytes.len()).contains(&data.len()) && data.len().is_multiple_of(SEGMENT_BYTES);
        if !whole || self.disk.read_only() {
            return Err(Status::IoErr);
        }
        let count = self.copy(data, &mut bytes)?;
        let mut segments = Vec::with_capacity(MAX_SEGMENTS);
        for segment in bytes[..count].chunks_exact(SEGMENT_BYTES) {
            let (sector, sectors, flags) = (le64(segment, 0), le32(segment, 8), le32(segment, 12));
            let (start, length) = (sector.checked_mul(SECTOR), u64::from(sectors) * SECTOR);
            match start.filter(|start| self.disk.holds(*start, length)) {
                Some(start) if sectors <= MAX_SEGMENT_SECTORS => {
                    segments.push((start, length, flags))
                }
                _ => return Err(Status::IoErr),
            }
        }
        segments.retain(|(_, length, _)| *length > 0);
        if segments.iter().any(|(.., flags)| most < *flags) {
            return Err(Status::Unsupported);
        }
        let span = |(start, length, flags)| Span {
            start,
            length,
            unmap: flags == 1,
        };
        Ok(segments.into_iter().map(span).collect())
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
