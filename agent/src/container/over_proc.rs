//! What may be mounted on /proc and below it. What is masked and read-only there confines a container,
//! and its programs believe what they read there: neither may be covered by an image's or a volume's
//! files.

use std::path::Path;

/// Files that stand-ins (lxcfs) may cover: they tell of the machine, and confine nobody.
const STAND_INS: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "uptime",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Whether something may be mounted at `place`, in which no symbolic link is left; `is_proc`: it is a
/// proc file system. Otherwise why not, in runc's words.
pub(super) fn check(place: &Path, is_proc: bool) -> Result<(), String> {
    let refused = |why: &str| Err(format!("{place:?} cannot be mounted because it is {why}"));
    let Ok(below) = place.strip_prefix("/proc") else {
        return Ok(());
    };
    match below.to_str() {
        Some("") if is_proc => Ok(()),
        Some("") => refused("not of type proc"),
        Some(name) if STAND_INS.contains(&name) => Ok(()),
        _ => refused("inside /proc"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(place: &str, is_proc: bool) -> Option<String> {
        check(Path::new(place), is_proc).err()
    }

    #[test]
    fn proc_is_covered_by_a_proc_file_system_alone() {
        assert_eq!(refusal("/proc", true), None);
        assert_eq!(
            refusal("/proc", false).unwrap(),
            "\"/proc\" cannot be mounted because it is not of type proc"
        );
    }

    #[test]
    fn nothing_in_proc_is_covered_but_what_tells_of_the_machine() {
        for place in ["/proc/meminfo", "/proc/sys/kernel/ns_last_pid"] {
            assert_eq!(refusal(place, false), None, "{place}");
        }
        for place in [
            "/proc/sys",
            "/proc/1",
            "/proc/meminfo/x",
            "/proc/sys/kernel",
        ] {
            for is_proc in [true, false] {
                let text = refusal(place, is_proc).unwrap();
                assert!(text.ends_with("because it is inside /proc"), "{text}");
            }
        }
    }

    #[test]
    fn other_places_are_nobodys_concern() {
        for place in ["/", "/procs", "/sys/fs/cgroup", "/sysfiles/proc"] {
            assert_eq!(refusal(place, false), None, "{place}");
        }
    }
}
