//! Lists of CPUs, such as `0-2,7`, and that of the host's.

use std::fs;
use std::ops::RangeInclusive;

/// CPUs that are at work ("CPU hotplug" of the kernel's documentation).
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// CPUs by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(Vec<RangeInclusive<u32>>);

impl CpuList {
    /// Reads a list as the kernel writes it; `None` if it is none, or empty.
    pub fn parse(text: &str) -> Option<Self> {
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.trim().split(',').map(range).collect();
        ranges.map(Self)
    }

    /// The host's CPUs, whatever this process itself may use of them: its affinity and its cgroup bound
    /// Hull, not the VMs, which have cgroups of their own.
    pub fn of_host() -> Self {
        let online = fs::read_to_string(ONLINE).ok();
        online
            .and_then(|text| Self::parse(&text))
            .unwrap_or_else(|| {
                let count = std::thread::available_parallelism().map_or(1, |count| count.get());
                let last = u32::try_from(count.saturating_sub(1)).unwrap_or(0);
                Self(vec![0..=last])
            })
    }

    /// How many they are, each counted as often as it is named.
    pub fn count(&self) -> u64 {
        let counts = self.0.iter();
        counts
            .map(|range| u64::from(*range.end()) - u64::from(*range.start()) + 1)
            .fold(0, u64::saturating_add)
    }

    /// Whether all of the other's are among these.
    pub fn holds(&self, other: &Self) -> bool {
        // A list of the host's has few ranges, and a foreign one may name four thousand million.
        let within = |part: &RangeInclusive<u32>| {
            let mut next = u64::from(*part.start());
            while next <= u64::from(*part.end()) {
                let around = self.0.iter().find(|range| {
                    (u64::from(*range.start())..=u64::from(*range.end())).contains(&next)
                });
                match around {
                    Some(range) => next = u64::from(*range.end()) + 1,
                    None => return false,
                }
            }
            true
        };
        other.0.iter().all(within)
    }
}

impl std::fmt::Display for CpuList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match range.start() == range.end() {
                true => write!(f, "{comma}{}", range.start())?,
                false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> CpuList {
        CpuList::parse(text).unwrap()
    }

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!(list("0-2,7\n").count(), 4);
        assert_eq!(list(" 0-2, 7").to_string(), "0-2,7");
        assert_eq!(list("0-4294967295").count(), 1 << 32);
        for bad in ["", "3-1", "x", "0,", "-1", "0-18446744073709551615"] {
            assert_eq!(CpuList::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_host_without_some_of_its_cpus_has_not_what_names_them() {
        let host = list("0-3,8,9-11");
        for good in ["0", "1-3", "8-11", "3,8"] {
            assert!(host.holds(&list(good)), "{good}");
        }
        for bad in ["4", "0-8", "3-4", "0-4294967295", "12"] {
            assert!(!host.holds(&list(bad)), "{bad}");
        }
    }

    #[test]
    fn the_host_has_some() {
        assert!(1 <= CpuList::of_host().count());
    }
}
