//! What the host has to have: processor, kernel, control groups, taps.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

/// Oldest long-term kernel that has every call that Hull can't do without (`close_range`, of 5.9).
const OLDEST_KERNEL: (u32, u32) = (5, 10);

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Whether the processor runs virtual machines, also where this machine is one itself.
pub(super) fn processor() -> Result<String, String> {
    let parameter = |module: &str| read(format!("/sys/module/{module}/parameters/nested"));
    let nests = ["kvm_intel", "kvm_amd"].map(parameter);
    let nests = nests.iter().any(|value| value.starts_with(['Y', '1']));
    processor_of(&read("/proc/cpuinfo"), nests)
}

fn processor_of(cpuinfo: &str, nests: bool) -> Result<String, String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags: Vec<&str> = flags.unwrap_or_default().split_whitespace().collect();
    let is_virtual = flags.contains(&"hypervisor");
    let Some(means) = ["vmx", "svm"].into_iter().find(|flag| flags.contains(flag)) else {
        return Err(match is_virtual {
            true => {
                "this machine is virtual, and its processor has neither vmx nor svm: switch on \
                     nested virtualization for it on its host"
                    .to_owned()
            }
            false => {
                "the processor has neither vmx nor svm: switch on virtualization in the firmware"
                    .to_owned()
            }
        });
    };
    let place = match is_virtual {
        true => "this machine is virtual, with nested virtualization: starts are slower",
        false => "virtualization in hardware",
    };
    let nests = if nests { "" } else { "; guests can't nest" };
    Ok(format!("{means}, {place}{nests}"))
}

/// Whether the kernel is new enough.
pub(super) fn kernel() -> Result<String, String> {
    kernel_of(read("/proc/sys/kernel/osrelease").trim())
}

fn kernel_of(release: &str) -> Result<String, String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse().ok());
    let (Some(major), Some(minor)) = (number(), number()) else {
        return Err(format!(
            "{release:?} is no release that is known: want Linux"
        ));
    };
    match (major, minor) < OLDEST_KERNEL {
        true => Err(format!(
            "{release} is too old: upgrade to Linux {}.{} or newer",
            OLDEST_KERNEL.0, OLDEST_KERNEL.1
        )),
        false => Ok(release.to_owned()),
    }
}

/// Which control groups there are: they bound what VMs take of the host.
pub(super) fn control_groups(root: &Path) -> String {
    let there = read(root.join("cgroup.controllers"));
    let wanted = ["cpu", "memory", "pids"];
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|name| !there.split_whitespace().any(|found| found == *name))
        .collect();
    match (there.is_empty(), missing.is_empty()) {
        (true, _) => {
            "not version 2: VMs run without bounds on the host, and hull-runtime can't limit them"
                .to_owned()
        }
        (false, true) => "version 2".to_owned(),
        (false, false) => format!(
            "version 2 without {}: hull-runtime can't limit VMs by them",
            missing.join(", ")
        ),
    }
}

/// Whether the ends of containers on networks can be made.
pub(super) fn taps(path: &Path) -> Result<String, String> {
    let shown = path.display();
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(format!("{shown} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "{shown} does not exist: load tun (modprobe tun); until then only --network none works"
        )),
        Err(error) => Err(format!("{shown} can't be opened: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_says_where_virtualization_is_switched_on() {
        let look = |flags: &str| processor_of(&format!("processor : 0\nflags : {flags}\n"), true);
        assert!(look("fpu vmx").unwrap().starts_with("vmx, virtualization"));
        assert!(look("svm hypervisor").unwrap().contains("nested"));
        assert!(look("fpu").unwrap_err().contains("firmware"));
        assert!(look("fpu hypervisor").unwrap_err().contains("on its host"));
        assert!(processor_of("", true).is_err());
    }

    #[test]
    fn kernels_are_compared_by_number() {
        assert!(kernel_of("6.12.3-amd64").is_ok() && kernel_of("5.10").is_ok());
        assert!(kernel_of("4.19.0-1").unwrap_err().contains("5.10"));
        assert!(kernel_of("5.9.16").is_err() && kernel_of("").is_err());
    }

    #[test]
    fn control_groups_that_are_missing_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(control_groups(dir.path()).starts_with("not version 2"));
        let file = dir.path().join("cgroup.controllers");
        std::fs::write(&file, "cpuset cpu io memory pids\n").unwrap();
        assert_eq!(control_groups(dir.path()), "version 2");
        std::fs::write(&file, "cpuset io pids\n").unwrap();
        assert!(control_groups(dir.path()).contains("without cpu, memory"));
        assert!(taps(&dir.path().join("tun"))
            .unwrap_err()
            .contains("modprobe"));
    }
}
