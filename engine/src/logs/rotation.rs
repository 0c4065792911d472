//! How large a log grows.

/// When a log begins anew, and how many older files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of one file; `None`: it grows for ever.
    pub max_bytes: Option<u64>,
    /// Files, the present one included; at least 1.
    pub files: u32,
    /// The older ones are compressed.
    pub compress: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            max_bytes: None,
            files: 1,
            compress: false,
        }
    }
}

/// Largest size that a log is given, in bytes.
const MOST: u64 = 1_000_000_000_000_000_000;

/// A size in docker's form for memory and disks.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    hull_units::binary(text, 1..=MOST)
}

/// A size in docker's form for logs.
pub(super) fn human_bytes(text: &str) -> Option<u64> {
    hull_units::decimal(text, 1..=MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_logs_are_dockers() {
        for (text, bytes) in [
            ("10m", 10_000_000),
            ("10MiB", 10_000_000),
            ("1.5k", 1500),
            ("10 MB", 10_000_000),
            ("1t", 1_000_000_000_000),
            ("7b", 7),
            ("7", 7),
            ("7 ", 7),
        ] {
            assert_eq!(human_bytes(text), Some(bytes), "{text}");
        }
        for bad in [
            "", "x", "-1", "0", "1x", "1ib", "1mx", "m", "1e", "inf", "nan",
        ] {
            assert_eq!(human_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(bytes("1kb"), Some(1024));
        assert_eq!(bytes("77"), Some(77));
        assert_eq!(bytes("2t"), Some(2 << 40));
        assert_eq!(bytes("1.5G"), Some(3 << 29));
        assert_eq!(bytes("10GiB"), Some(10 << 30));
        assert_eq!(bytes("10 mb"), Some(10 << 20));
        for bad in [
            "", "x", "0", "-1", "1ib", "1..2", "inf", "k", "1kk", "9999p",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
