//! What a VMM costs the host in memory.

use std::io;

/// Shares of host memory (PSS), in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryShare {
    /// Of the guest's memory.
    pub guest_bytes: u64,
    /// Of all else.
    pub overhead_bytes: u64,
}

impl MemoryShare {
    /// Of the process `pid`, whose guest has `guest_bytes` of memory.
    pub(super) fn of(pid: u32, guest_bytes: u64) -> io::Result<Self> {
        let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        Ok(Self::parse(&smaps, guest_bytes))
    }

    /// The guest's memory is in the largest mappings: what is at least a quarter of it (a gap below
    /// 4 GiB may cut it in two).
    fn parse(smaps: &str, guest_bytes: u64) -> Self {
        let mut share = Self::default();
        let mut of_guest = false;
        for line in smaps.lines() {
            if let Some(length) = mapping_length(line) {
                of_guest = guest_bytes / 4 <= length;
            } else if let Some(rest) = line.strip_prefix("Pss:") {
                let kibibytes = rest.split_ascii_whitespace().next();
                let kibibytes: u64 = kibibytes.and_then(|n| n.parse().ok()).unwrap_or_default();
                match of_guest {
                    true => share.guest_bytes += kibibytes << 10,
                    false => share.overhead_bytes += kibibytes << 10,
                }
            }
        }
        share
    }
}

/// Of a line that begins a mapping: `low-high perms ...`, in hexadecimal.
fn mapping_length(line: &str) -> Option<u64> {
    let (low, high) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let low = u64::from_str_radix(low, 16).ok()?;
    u64::from_str_radix(high, 16).ok()?.checked_sub(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_told_from_the_rest() {
        let smaps = "\
1000-9000 rw-p 00000000 00:00 0
Rss: 16 kB
Pss: 12 kB
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Pss: 2048 kB
";
        let share = MemoryShare::parse(smaps, 128 << 20);
        assert_eq!(share.overhead_bytes, 12 << 10);
        assert_eq!(share.guest_bytes, 2 << 20);
    }
}
