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

/// A size in docker's form for memory and disks: a number with or without a fraction, then one of `k`, `m`,
/// `g`, `t`, `p` (powers of 1024) with `b` or `ib` behind it.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.rfind(|c: char| c.is_ascii_digit())?;
    let (number, unit) = lower.split_at(end + 1);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')) {
        Some("") if unit == "ib" => return None,
        stem => match stem.unwrap_or(unit) {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            "p" => 50,
            _ => return None,
        },
    };
    let plain = number
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| plain)?;
    let bytes = number * (1_u64 << shift) as f64;
    (1.0..=MOST).contains(&bytes).then_some(bytes as u64)
}

/// A size in docker's form for logs: a number with or without a fraction, then `b`, or one of `k`, `m`,
/// `g`, `t`, `p` (powers of 1000) with `b` or `ib` behind it.
pub(super) fn human_bytes(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = text.split_at(end + 1);
    let number: f64 = number.strip_suffix(' ').unwrap_or(number).parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')) {
        // The `b` alone.
        Some("") if unit == "b" => 0,
        stem => match stem.unwrap_or(&unit) {
            "" if unit.is_empty() => 0,
            "k" => 1,
            "m" => 2,
            "g" => 3,
            "t" => 4,
            "p" => 5,
            _ => return None,
        },
    };
    let bytes = number * 1000_f64.powi(power);
    // As the cast of a number that is whole and in range.
    (1.0..=MOST).contains(&bytes).then_some(bytes as u64)
}

/// Largest size that a log is given, in bytes.
const MOST: f64 = 1e18;

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
            "", "x", "0", "-1", "1ib", "1e3", "1..2", "inf", "k", "1kk", "9999p",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
