//! What divides the host between cgroups: weights, sets of CPUs and memory nodes, and how fast its
//! devices may be used.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxResources};

/// How fast devices may be used. That is a promise, and not only a share: what can't be set is an error.
pub(crate) const IO_MAX: &str = "io.max";
/// Files that may be named by `unified` and mean the host's CPUs, memory nodes and devices.
const UNIFIED: [&str; 6] = [
    "cpuset.cpus",
    "cpuset.mems",
    "cpu.weight",
    "cpu.idle",
    "io.weight",
    IO_MAX,
];

/// Whether what the file says is a wish among others' and no promise.
pub(super) fn is_weight(file: &str) -> bool {
    ["cpu.weight", "cpu.idle", "io.weight"].contains(&file)
}

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
    settings.extend(io.map(throttles).unwrap_or_default());
    settings.extend(resources.map(unified).unwrap_or_default());
    settings
}

/// Bounds of what is read and written of the host's devices, by their numbers. Zero takes one back.
pub(crate) fn throttles(io: &LinuxBlockIo) -> HostShare {
    let mut settings = Vec::new();
    for (name, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let value = format!("{}:{} {name}={rate}", device.major(), device.minor());
            settings.push((IO_MAX, value));
        }
    }
    settings
}

/// What is named by the file itself. A line of `io.max` is a write of its own.
fn unified(resources: &LinuxResources) -> HostShare {
    let named = resources.unified().as_ref();
    let of = |file: &'static str| {
        let value = named.and_then(|named| named.get(file));
        let lines = value.into_iter().flat_map(|value| value.lines());
        lines.map(move |line| (file, line.to_owned()))
    };
    UNIFIED.into_iter().flat_map(of).collect()
}

fn cpu_settings(cpu: &LinuxCpu) -> HostShare {
    let mut settings = Vec::new();
    // In this order: a group that was idle takes its weight only when it is idle no more, and one that
    // gives way to all others has no weight.
    if let Some(idle) = cpu.idle() {
        settings.push(("cpu.idle", idle.to_string()));
    }
    if let Some(shares) = cpu.shares().filter(|shares| 0 < *shares) {
        if cpu.idle().is_none_or(|idle| idle == 0) {
            settings.push(("cpu.weight", cpu_weight(shares).to_string()));
        }
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
            "cpu": {"shares": 512, "cpus": "0-1", "mems": "", "idle": 0},
            "blockIO": {"weight": 500},
        }));
        let share = share(Some(&resources.unwrap()));
        let want = [
            ("cpu.idle", "0"),
            ("cpu.weight", "59"),
            ("cpuset.cpus", "0-1"),
            ("io.weight", "4950"),
        ];
        assert_eq!(share, want.map(|(file, value)| (file, value.to_owned())));
        assert!(super::share(None).is_empty());
    }

    #[test]
    fn what_is_idle_has_no_weight() {
        let resources = serde_json::from_value(serde_json::json!({
            "cpu": {"shares": 512, "idle": 1},
        }));
        let share = share(Some(&resources.unwrap()));
        assert_eq!(share, [("cpu.idle", "1".to_owned())]);
    }

    #[test]
    fn devices_of_the_host_are_throttled_there() {
        let one = |rate: u64| serde_json::json!([{"major": 8, "minor": 16, "rate": rate}]);
        let resources = serde_json::from_value(serde_json::json!({
            "blockIO": {
                "throttleReadBpsDevice": one(1000),
                "throttleWriteIOPSDevice": one(0),
            },
            "unified": {
                "io.max": "8:0 rbps=1\n8:16 wbps=2",
                "cpuset.cpus": "1",
                "memory.high": "5",
            },
        }));
        let share = share(Some(&resources.unwrap()));
        let want = [
            ("io.max", "8:16 rbps=1000"),
            ("io.max", "8:16 wiops=max"),
            ("cpuset.cpus", "1"),
            ("io.max", "8:0 rbps=1"),
            ("io.max", "8:16 wbps=2"),
        ];
        assert_eq!(share, want.map(|(file, value)| (file, value.to_owned())));
    }
}
