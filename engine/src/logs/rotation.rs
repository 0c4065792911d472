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

/// A size with an optional suffix b, k, m or g (powers of 1024).
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        _ => (lower, 0),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| 0 < *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(bytes("1kb"), Some(1024));
        assert_eq!(bytes("77"), Some(77));
        assert_eq!(bytes("x"), None);
    }
}
