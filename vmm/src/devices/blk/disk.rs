//! The composite disk: extents of files shown one after another.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use hull_vm_config::{BlockConfig, FdName};

use crate::devices::DeviceError;

/// Bytes of a sector, in which virtio-blk counts whatever the block size.
pub(crate) const SECTOR: u64 = 512;

/// Which extent and where in its file each byte of the disk is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ExtentTable {
    /// Sorted by `start`, without gaps.
    extents: Vec<TableEntry>,
    length: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TableEntry {
    start: u64,
    length: u64,
    file: usize,
    offset: u64,
}

/// A part of a request that lies in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl ExtentTable {
    /// Puts a range of a file at the end; `Err` says what is wrong with it.
    pub(crate) fn push(&mut self, file: usize, offset: u64, length: u64) -> Result<(), String> {
        if length == 0 || !length.is_multiple_of(SECTOR) || !offset.is_multiple_of(SECTOR) {
            return Err(format!(
                "extent of {length} bytes at {offset} is not made of whole sectors"
            ));
        }
        let fits = |at: u64| at.checked_add(length).filter(|end| *end <= i64::MAX as u64);
        let Some(total) = fits(offset).and(fits(self.length)) else {
            return Err(format!("extent of {length} bytes at {offset} is too long"));
        };
        self.extents.push(TableEntry {
            start: self.length,
            length,
            file,
            offset,
        });
        self.length = total;
        Ok(())
    }

    /// Bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Whether `length` bytes at `start` lie on the disk.
    pub(crate) fn holds(&self, start: u64, length: u64) -> bool {
        start
            .checked_add(length)
            .is_some_and(|end| end <= self.length)
    }

    /// The parts of a range that the disk holds, in order.
    pub(crate) fn pieces(&self, start: u64, length: u64) -> impl Iterator<Item = Piece> + '_ {
        let first = self
            .extents
            .partition_point(|e| e.start + e.length <= start);
        let (mut at, end) = (start, start.saturating_add(length));
        self.extents[first..].iter().map_while(move |extent| {
            let inside = at.checked_sub(extent.start)?;
            let length = (extent.length - inside).min(end.checked_sub(at)?);
            at += length;
            (length > 0).then_some(Piece {
                file: extent.file,
                offset: extent.offset + inside,
                length,
            })
        })
    }
}

/// An open composite disk.
pub(crate) struct Disk {
    table: ExtentTable,
    files: Vec<Arc<OwnedFd>>,
    read_only: bool,
}

impl Disk {
    pub(crate) fn empty(read_only: bool) -> Self {
        Self {
            table: ExtentTable::default(),
            files: Vec::new(),
            read_only,
        }
    }

    pub(crate) fn open(
        config: &BlockConfig,
        open: &mut dyn FnMut(&FdName) -> Result<Arc<OwnedFd>, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let bad = |reason| DeviceError::BadConfig {
            device: "blk",
            reason,
        };
        if config.extents.is_empty() {
            return Err(bad("it has no extents".into()));
        }
        let mut disk = Self::empty(config.read_only);
        for extent in &config.extents {
            let file = open(&extent.fd)?;
            let known = disk.files.iter().position(|f| Arc::ptr_eq(f, &file));
            let index = known.unwrap_or_else(|| {
                disk.files.push(file);
                disk.files.len() - 1
            });
            disk.table
                .push(index, extent.offset, extent.length)
                .map_err(|reason| bad(format!("{}: {reason}", extent.fd)))?;
        }
        Ok(disk)
    }

    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.table.length() / SECTOR
    }

    pub(crate) fn holds(&self, start: u64, length: u64) -> bool {
        self.table.holds(start, length)
    }

    /// The parts of a range that it holds, in order.
    pub(crate) fn pieces(&self, start: u64, length: u64) -> impl Iterator<Item = Piece> + '_ {
        self.table.pieces(start, length)
    }

    /// Each once, whatever the number of its extents.
    pub(crate) fn files(&self) -> &[Arc<OwnedFd>] {
        &self.files
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<_> = self.files.iter().map(|file| file.as_raw_fd()).collect();
        f.debug_struct("Disk")
            .field("table", &self.table)
            .field("files", &files)
            .field("read_only", &self.read_only)
            .finish()
    }
}
