//! What a configuration's resources mean as files of a group and what is written to them: pure, so that
//! it is tested without a kernel.

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use crate::limits::DEFAULT_PERIOD;

pub(super) const BURST: &str = "cpu.max.burst";

/// A value to be written to one of the group's files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: String,
    pub(super) value: String,
}

impl Setting {
    fn new(file: impl Into<String>, value: impl ToString) -> Self {
        Self {
            file: file.into(),
            value: value.to_string(),
        }
    }
}

/// The files and values that `resources` mean. What version 2 does not have (kernel memory,
/// real-time CPU time, network classes) is left out, as runc does.
pub(super) fn settings(resources: &LinuxResources) -> Vec<Setting> {
    let mut list = Vec::new();
    let limit = |value: i64| {
        if value < 0 {
            "max".to_string()
        } else {
            value.to_string()
        }
    };
    if let Some(memory) = resources.memory() {
        if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
            // OCI counts memory and swap together, version 2 apart.
            let apart = match memory.limit() {
                _ if swap < 0 => "max".to_string(),
                Some(memory) if memory >= 0 => (swap - memory).max(0).to_string(),
                _ => limit(swap),
            };
            list.push(Setting::new("memory.swap.max", apart));
        }
        if let Some(value) = memory.limit().filter(|value| *value != 0) {
            list.push(Setting::new("memory.max", limit(value)));
        }
        if let Some(value) = memory.reservation().filter(|value| *value != 0) {
            list.push(Setting::new("memory.low", limit(value)));
        }
    }
    if let Some(cpu) = resources.cpu() {
        list.extend(cpu_time(cpu));
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            list.push(Setting::new("cpuset.cpus", cpus));
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            list.push(Setting::new("cpuset.mems", mems));
        }
    }
    if let Some(pids) = resources.pids() {
        let value = pids.limit();
        list.push(Setting::new(
            "pids.max",
            limit(if value == 0 { -1 } else { value }),
        ));
    }
    list.extend(block_io(resources));
    for huge in resources.hugepage_limits().as_deref().unwrap_or_default() {
        for limit in ["max", "rsvd.max"] {
            let file = format!("hugetlb.{}.{limit}", huge.page_size());
            list.push(Setting::new(file, huge.limit()));
        }
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    list.extend(
        unified
            .into_iter()
            .map(|(file, value)| Setting::new(file, value)),
    );
    list
}

/// Being idle goes before a weight, which an idle group cannot have, and a burst before the quota that
/// bounds it: the order in which both can shrink.
fn cpu_time(cpu: &LinuxCpu) -> Vec<Setting> {
    let mut list = Vec::new();
    if let Some(idle) = cpu.idle() {
        list.push(Setting::new("cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        list.push(Setting::new("cpu.weight", cpu_weight(shares)));
    }
    if let Some(burst) = cpu.burst() {
        list.push(Setting::new(BURST, burst));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_string(),
        };
        let period = period.unwrap_or(DEFAULT_PERIOD);
        list.push(Setting::new("cpu.max", format!("{quota} {period}")));
    }
    list
}

/// What devices are throttled to is the host's to keep: the numbers are of its devices.
fn block_io(resources: &LinuxResources) -> Option<Setting> {
    let io = resources.block_io().as_ref()?;
    let weight = io.weight().filter(|weight| *weight != 0)?;
    let weight = 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990;
    Some(Setting::new("io.weight", weight))
}

/// Whether a group without the file is as the setting wants it. Swap accounting and weights need kernel
/// options that a guest may lack; a container without them runs all the same. Who names all sizes of
/// huge pages that the host has, to forbid them, finds fewer in a guest.
pub(super) fn is_of_no_use(setting: &Setting) -> bool {
    let Setting { file, value } = setting;
    let optional = ["memory.swap.max", "io.weight", BURST].contains(&file.as_str());
    let huge = file.starts_with("hugetlb.");
    optional || huge && (value == "0" || file.ends_with(".rsvd.max"))
}

/// Version 1 shares (2..262144) to a version 2 weight (1..10000), by runc's formula since 1.3: the
/// default, 1024, is the default, 100.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The last digits differ between C libraries.
    ((10f64.powf(exponent) - 1e-9).ceil() as u64).clamp(1, 10_000)
}
