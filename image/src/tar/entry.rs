//! What the parser hands out.

/// One entry of an archive, with its extensions resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the archive has it: not normalized, not trusted.
    pub path: Vec<u8>,
    /// What it is, with what only such an entry has.
    pub kind: EntryKind,
    /// Permission bits, set-id bits and sticky bit.
    pub permissions: u16,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Seconds since the epoch and nanoseconds upwards from there.
    pub mtime: (i64, u32),
    /// Full names and values, no name twice.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// Content of `size` bytes; with a map, only the mapped ranges are in the archive.
    File {
        /// With its holes.
        size: u64,
        /// Where its data goes.
        sparse: Option<SparseMap>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it leads, as the archive has it.
        target: Vec<u8>,
    },
    /// A further name of an earlier entry's file.
    HardLink {
        /// The other name, as the archive has it.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// At most 12 bits.
        major: u32,
        /// At most 20 bits.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// At most 12 bits.
        major: u32,
        /// At most 20 bits.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// Ranges (offset, length) of a sparse file that have data: ascending, apart, not empty, inside
/// the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SparseMap(Vec<(u64, u64)>);

impl SparseMap {
    /// `None` if the ranges are not ascending, overlap, leave the file, or do not add up to
    /// `stored` bytes.
    pub(super) fn new(ranges: &[(u64, u64)], size: u64, stored: u64) -> Option<Self> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in ranges {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length).filter(|end| *end <= size)?;
            sum += length;
        }
        (sum == stored).then(|| {
            Self(
                ranges
                    .iter()
                    .copied()
                    .filter(|(_, length)| *length > 0)
                    .collect(),
            )
        })
    }

    /// Of a file without holes.
    #[cfg(feature = "host")]
    pub(crate) fn whole(size: u64) -> Self {
        Self(if size == 0 {
            Vec::new()
        } else {
            vec![(0, size)]
        })
    }

    /// Bytes that are in the archive.
    #[cfg(feature = "host")]
    pub(crate) fn stored(&self) -> u64 {
        self.0.iter().map(|(_, length)| length).sum()
    }

    /// Offsets and lengths.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }
}
