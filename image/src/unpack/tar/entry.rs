//! What the parser hands out.

/// One entry of an archive, with its extensions resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::unpack) struct Entry {
    /// As the archive has it: not normalized, not trusted.
    pub(in crate::unpack) path: Vec<u8>,
    pub(in crate::unpack) kind: EntryKind,
    /// Permission bits, set-id bits and sticky bit.
    pub(in crate::unpack) permissions: u16,
    pub(in crate::unpack) uid: u32,
    pub(in crate::unpack) gid: u32,
    /// Seconds since the epoch and nanoseconds upwards from there.
    pub(in crate::unpack) mtime: (i64, u32),
    /// Full names and values, no name twice.
    pub(in crate::unpack) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::unpack) enum EntryKind {
    /// Content of `size` bytes; with a map, only the mapped ranges are in the archive.
    File {
        size: u64,
        sparse: Option<SparseMap>,
    },
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    HardLink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// Ranges (offset, length) of a sparse file that have data: ascending, apart, not empty, inside
/// the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::unpack) struct SparseMap(Vec<(u64, u64)>);

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

    pub(in crate::unpack) fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }
}
