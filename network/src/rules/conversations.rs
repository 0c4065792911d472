//! How many conversations the host keeps in mind for one container.

use std::fs;

/// How many it keeps in mind in all.
const ALL: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// What the kernel has room for unless it is told otherwise, on a machine of 1 GiB or more.
const USUAL: u32 = 65_536;
/// What part of them one container may have.
const SHARES: u32 = 8;
/// What a container needs to do any work.
const LEAST: u32 = 256;

pub(super) fn limit() -> u32 {
    let text = fs::read_to_string(ALL).unwrap_or_default();
    share(text.trim().parse().unwrap_or(USUAL))
}

fn share(all: u32) -> u32 {
    (all / SHARES).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_container_has_a_part_of_all() {
        for (all, one) in [(262_144, 32_768), (65_536, 8_192), (0, LEAST)] {
            assert_eq!(share(all), one, "{all}");
        }
    }
}
