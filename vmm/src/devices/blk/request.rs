//! One request: its header, what it asks for, and its status byte (virtio 1.2, 5.2.6).

use std::io;

use super::disk::{Disk, SECTOR};
use crate::devices::chain::{Buffers, Chain};

/// The guest chooses descriptor lengths. Data never passes through a buffer of ours, but a request
/// holds the event loop while it lasts: this bounds it.
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

/// What requests are carried out on.
pub(crate) struct Target {
    pub(crate) disk: Disk,
    pub(crate) serial: [u8; ID_BYTES],
    /// The driver does not flush, so each write must reach stable storage by itself.
    pub(crate) write_through: bool,
}

impl Target {
    /// Carries a request out and returns how many bytes of the chain were written, status
    /// included; 0 if the chain has no room for a status.
    pub(crate) fn execute(&self, chain: Chain<'_>) -> u32 {
        let Chain {
            mut readable,
            mut writable,
            ..
        } = chain;
        let Some(status) = writable.take_back(1) else {
            return 0;
        };
        let room = writable.len();
        let (code, written) = match self.run(&mut readable, writable) {
            Ok(Done { written }) => (Status::Ok, written),
            // The driver can't tell how much of the data is valid: none is.
            Err(code) => (code, 0),
        };
        status.copy_from(&[code as u8]);
        // The status byte follows the data, so a short answer still spans the data's room.
        let spanned = if written == 0 { 0 } else { room };
        u32::try_from(spanned + 1).unwrap_or(u32::MAX)
    }

    fn run(&self, readable: &mut Buffers<'_>, writable: Buffers<'_>) -> Result<Done, Status> {
        let header = readable.take_front(HEADER_BYTES).ok_or(Status::IoErr)?;
        let mut bytes = [0; HEADER_BYTES];
        header.copy_to(&mut bytes);
        let (kind, sector) = (le32(&bytes, 0), le64(&bytes, 8));
        let data = readable.take_front(readable.len()).unwrap_or_default();
        match kind {
            kind::IN => self.read(sector, writable),
            kind::OUT => self.write(sector, data),
            kind::FLUSH => self.changed(self.disk.flush()),
            kind::GET_ID => {
                let written = writable.copy_from(&self.serial);
                Ok(Done { written })
            }
            kind::DISCARD => self.segments(&data, |start, length, flags| match flags {
                0 => self.changed(self.disk.discard(start, length)),
                // `unmap` is reserved here (virtio 1.2, 5.2.6.2).
                _ => Err(Status::Unsupported),
            }),
            kind::WRITE_ZEROES => self.segments(&data, |start, length, flags| match flags {
                0 | 1 => self.changed(self.disk.write_zeroes(start, length, flags == 1)),
                _ => Err(Status::Unsupported),
            }),
            _ => Err(Status::Unsupported),
        }
    }

    fn read(&self, sector: u64, buffers: Buffers<'_>) -> Result<Done, Status> {
        let start = self.range(sector, buffers.len())?;
        let written = buffers.len();
        self.disk.read(start, buffers).map_err(|_| Status::IoErr)?;
        Ok(Done { written })
    }

    fn write(&self, sector: u64, buffers: Buffers<'_>) -> Result<Done, Status> {
        let start = self.range(sector, buffers.len())?;
        if self.disk.read_only() {
            return Err(Status::IoErr);
        }
        self.changed(self.disk.write(start, buffers))
    }

    /// The first byte of a request for whole sectors that the disk holds.
    fn range(&self, sector: u64, length: usize) -> Result<u64, Status> {
        let whole = length.is_multiple_of(SECTOR as usize) && length <= MAX_REQUEST_BYTES;
        let start = sector.checked_mul(SECTOR);
        start
            .filter(|start| whole && self.disk.holds(*start, length as u64))
            .ok_or(Status::IoErr)
    }

    fn segments(
        &self,
        data: &Buffers<'_>,
        mut each: impl FnMut(u64, u64, u32) -> Result<Done, Status>,
    ) -> Result<Done, Status> {
        if self.disk.read_only() {
            return Err(Status::IoErr);
        }
        let mut bytes = [0; SEGMENT_BYTES * MAX_SEGMENTS];
        if data.len() > bytes.len() || !data.len().is_multiple_of(SEGMENT_BYTES) || data.is_empty()
        {
            return Err(Status::IoErr);
        }
        let count = data.copy_to(&mut bytes);
        // All are checked before the first is carried out.
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
        for (start, length, flags) in segments {
            if length > 0 {
                each(start, length, flags)?;
            }
        }
        Ok(Done { written: 0 })
    }

    fn changed(&self, result: io::Result<()>) -> Result<Done, Status> {
        let result = match self.write_through {
            true => result.and_then(|()| self.disk.flush()),
            false => result,
        };
        match result {
            Ok(()) => Ok(Done { written: 0 }),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(Status::Unsupported),
            Err(_) => Err(Status::IoErr),
        }
    }
}

struct Done {
    /// Bytes written to the chain's data part.
    written: usize,
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
