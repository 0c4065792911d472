//! What divides the host between cgroups: weights, and sets of CPUs and memory nodes.

use oci_spec::runtime::{LinuxCpu, LinuxResources};

/// Files of a cgroup and what to write.
pub type HostShare = Vec<(&'static str, String)>;

/// What a configuration says about it.
pub(crate) fn share(resources: Option<&LinuxResources>) -> HostShare {
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let mut settings = cpu.map(cpu_settings).unwrap_or_default();
    let io = resources.and_then(|resources| resources.block_io().as_ref());
    if let Some(weight) = io.and_then(|io| io.weight()).filter(|weight| 0 < *weight) {
        settings.push(("io.weight", io_weight(weight).to_string()));
    }
    settings
}

fn cpu_settings(cpu: &LinuxCpu) -> HostShare {
    let mut settings = Vec::new();
    if let Some(shares) = cpu.shares().filter(|shares| 0 < *shares) {
        settings.push(("cpu.weight", cpu_weight(shares).to_string()));
    }
    if let Some(cpus) = cpu.cpus().clone().filter(|cpus| !cpus.is_empty()) {
        settings.push(("cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems().clone().filter(|mems| !mems.is_empty()) {
        settings.push(("cpuset.mems", mems));
    }
    settings
}

/// cgroup v1's shares (2 to 262144) as v2's weight (1 to 10000): the default, 1024, is the default,
/// 100, as with runc since 1.3.
fn cpu_weight(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The last digits differ between C libraries.
    ((10f64.powf(exponent) - 1e-9).ceil() as u64).clamp(1, 10_000)
}

/// cgroup v1's weight (10 to 1000) as v2's (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_in_their_range() {
        assert_eq!(cpu_weight(2), 1);
        assert_eq!(cpu_weight(1024), 100);
        assert_eq!(cpu_weight(u64::MAX), 10_000);
        assert_eq!((io_weight(1), io_weight(10)), (1, 1));
        assert_eq!((io_weight(1000), io_weight(u16::MAX)), (10_000, 10_000));
    }

    #[test]
    fn a_configuration_says_how_the_host_is_divided() {
        let resources = serde_json::from_value(serde_json::json!({
            "cpu": {"shares": 512, "cpus": "0-1", "mems": ""},
            "blockIO": {"weight": 500},
        }));
        let share = share(Some(&resources.unwrap()));
        let want = [
            ("cpu.weight", "59"),
            ("cpuset.cpus", "0-1"),
            ("io.weight", "4950"),
        ];
        assert_eq!(share, want.map(|(file, value)| (file, value.to_owned())));
        assert!(super::share(None).is_empty());
    }
}
