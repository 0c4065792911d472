//! What the parser hands out.

/// One entry of an archive, with its extensions resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As the archive has it: not normalized, not trusted.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permission bits, set-id bits and sticky bit.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch and nanoseconds upwards from there.
    pub(crate) mtime: (i64, u32),
    /// Full names and values, no name twice.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
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
pub(crate) struct SparseMap(Vec<(u64, u64)>);

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

    pub(crate) fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }
}
