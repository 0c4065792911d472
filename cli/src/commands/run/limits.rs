//! Options that docker has for the kernel's sake: passed on, so that the engine says what becomes of
//! each.

use bollard::models::{
    HostConfig, HostConfigCgroupnsModeEnum, HostConfigIsolationEnum, ResourcesBlkioWeightDevice,
    ThrottleDevice,
};

use super::devices;
use crate::error::{CliError, Result};
use crate::units::parse_bytes;

/// Limits, namespaces and devices.
#[derive(Debug, Default, clap::Args)]
pub(super) struct LimitOptions {
    /// Memory that the container keeps when others want it
    #[arg(long, value_parser = parse_bytes)]
    memory_reservation: Option<i64>,
    /// How soon memory is swapped out, 0 to 100; without effect, as guests have no swap
    #[arg(long, allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
    /// Kill nothing when memory runs out; without effect, as with docker on cgroup v2
    #[arg(long)]
    oom_kill_disable: bool,
    /// Share of the CPUs between the container's processes
    #[arg(short, long)]
    cpu_shares: Option<i64>,
    /// Period of the CPU quota in microseconds
    #[arg(long)]
    cpu_period: Option<i64>,
    /// CPU time in each period in microseconds
    #[arg(long)]
    cpu_quota: Option<i64>,
    /// CPUs to use, such as 0-1
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use: a VM has node 0
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Refused: real-time periods are of cgroup v1
    #[arg(long, hide_short_help = true)]
    cpu_rt_period: Option<i64>,
    /// Refused: real-time periods are of cgroup v1
    #[arg(long, hide_short_help = true)]
    cpu_rt_runtime: Option<i64>,
    /// Refused: of Windows
    #[arg(long, hide_short_help = true)]
    cpu_count: Option<i64>,
    /// Refused: of Windows
    #[arg(long, hide_short_help = true)]
    cpu_percent: Option<i64>,
    /// Refused: of Windows
    #[arg(long, hide_short_help = true, value_parser = parse_bytes)]
    io_maxbandwidth: Option<i64>,
    /// Refused: of Windows
    #[arg(long, hide_short_help = true)]
    io_maxiops: Option<i64>,
    /// Weight of its disk accesses, 10 to 1000
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// Refused, as the host's disks are not the container's: PATH:WEIGHT
    #[arg(long, value_name = "PATH:WEIGHT")]
    blkio_weight_device: Vec<String>,
    /// Refused, as the host's disks are not the container's: PATH:RATE
    #[arg(long, value_name = "PATH:RATE")]
    device_read_bps: Vec<String>,
    /// Refused, as the host's disks are not the container's: PATH:RATE
    #[arg(long, value_name = "PATH:RATE")]
    device_write_bps: Vec<String>,
    /// Refused, as the host's disks are not the container's: PATH:RATE
    #[arg(long, value_name = "PATH:RATE")]
    device_read_iops: Vec<String>,
    /// Refused, as the host's disks are not the container's: PATH:RATE
    #[arg(long, value_name = "PATH:RATE")]
    device_write_iops: Vec<String>,
    /// Option of the writable layer, such as size=1G
    #[arg(long, value_name = "KEY=VALUE")]
    storage_opt: Vec<String>,
    /// IPC namespace: private, none, shareable, host (the guest's)
    #[arg(long)]
    ipc: Option<String>,
    /// PID namespace: private, host (the guest's)
    #[arg(long)]
    pid: Option<String>,
    /// UTS namespace: host (the guest's)
    #[arg(long)]
    uts: Option<String>,
    /// User namespace: host (the guest's)
    #[arg(long)]
    userns: Option<String>,
    /// Cgroup namespace: private, host (the guest's)
    #[arg(long)]
    cgroupns: Option<String>,
    /// Cgroup to be below: without effect, as the container's cgroup is in its VM
    #[arg(long)]
    cgroup_parent: Option<String>,
    /// Isolation: default
    #[arg(long)]
    isolation: Option<String>,
    /// Runtime: hull
    #[arg(long)]
    runtime: Option<String>,
    /// Device: what every guest has, such as /dev/fuse; those of the host are refused
    #[arg(long, value_name = "PATH[:PATH-INSIDE][:PERMISSIONS]")]
    device: Vec<String>,
    /// Rule for devices, such as 'c 10:200 rwm': all of the guest's may be used
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// Refused: GPUs can't be passed to a VM yet
    #[arg(long)]
    gpus: Vec<String>,
}

impl LimitOptions {
    /// The configuration with what these options say.
    pub(super) fn fill(&self, host: HostConfig) -> Result<HostConfig> {
        Ok(HostConfig {
            memory_reservation: self.memory_reservation,
            memory_swappiness: self.memory_swappiness,
            oom_kill_disable: self.oom_kill_disable.then_some(true),
            cpu_shares: self.cpu_shares,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            cpu_realtime_period: self.cpu_rt_period,
            cpu_realtime_runtime: self.cpu_rt_runtime,
            cpu_count: self.cpu_count,
            cpu_percent: self.cpu_percent,
            io_maximum_bandwidth: self.io_maxbandwidth,
            io_maximum_iops: self.io_maxiops,
            blkio_weight: self.blkio_weight,
            blkio_weight_device: each(&self.blkio_weight_device, weight)?,
            blkio_device_read_bps: each(&self.device_read_bps, bytes_a_second)?,
            blkio_device_write_bps: each(&self.device_write_bps, bytes_a_second)?,
            blkio_device_read_iops: each(&self.device_read_iops, operations_a_second)?,
            blkio_device_write_iops: each(&self.device_write_iops, operations_a_second)?,
            storage_opt: (!self.storage_opt.is_empty())
                .then(|| super::values::pairs(&self.storage_opt)),
            ipc_mode: self.ipc.clone(),
            pid_mode: self.pid.clone(),
            uts_mode: self.uts.clone(),
            userns_mode: self.userns.clone(),
            cgroupns_mode: self.cgroupns.as_deref().map(cgroup_namespace).transpose()?,
            cgroup_parent: self.cgroup_parent.clone(),
            isolation: self.isolation.as_deref().map(isolation).transpose()?,
            runtime: self.runtime.clone(),
            devices: each(&self.device, devices::mapping)?,
            device_cgroup_rules: each(&self.device_cgroup_rule, devices::cgroup_rule)?,
            device_requests: each(&self.gpus, devices::gpus)?,
            ..host
        })
    }
}

fn each<T>(words: &[String], parse: impl Fn(&str) -> Result<T>) -> Result<Option<Vec<T>>> {
    let all = words.iter().map(|word| parse(word));
    let all = all.collect::<Result<Vec<_>>>()?;
    Ok((!all.is_empty()).then_some(all))
}

/// `PATH:VALUE`, where the path is a device's.
fn device_value(text: &str) -> Result<(&str, &str)> {
    let bad = |why: &str| CliError::usage(format!("bad format: {text}: {why}"));
    let (path, value) = text
        .split_once(':')
        .ok_or_else(|| bad("want <device-path>:<value>"))?;
    match path.starts_with("/dev/") {
        true => Ok((path, value)),
        false => Err(bad("the path of a device begins with /dev/")),
    }
}

fn weight(text: &str) -> Result<ResourcesBlkioWeightDevice> {
    let (path, value) = device_value(text)?;
    let weight = value.parse().ok();
    let weight = weight
        .filter(|weight| *weight == 0 || (10..=1000).contains(weight))
        .ok_or_else(|| CliError::usage(format!("invalid weight for device: {text}")))?;
    Ok(ResourcesBlkioWeightDevice {
        path: Some(path.to_owned()),
        weight: Some(weight),
    })
}

fn bytes_a_second(text: &str) -> Result<ThrottleDevice> {
    let (path, value) = device_value(text)?;
    let rate = parse_bytes(value)
        .map_err(|_| CliError::usage(format!("invalid rate for device: {text}: want a size")))?;
    Ok(ThrottleDevice {
        path: Some(path.to_owned()),
        rate: Some(rate),
    })
}

fn operations_a_second(text: &str) -> Result<ThrottleDevice> {
    let (path, value) = device_value(text)?;
    let rate = value.parse::<u32>().map_err(|_| {
        CliError::usage(format!(
            "invalid rate for device: {text}: want a whole number"
        ))
    })?;
    Ok(ThrottleDevice {
        path: Some(path.to_owned()),
        rate: Some(rate.into()),
    })
}

fn cgroup_namespace(text: &str) -> Result<HostConfigCgroupnsModeEnum> {
    match text {
        "private" => Ok(HostConfigCgroupnsModeEnum::PRIVATE),
        "host" => Ok(HostConfigCgroupnsModeEnum::HOST),
        "" => Ok(HostConfigCgroupnsModeEnum::EMPTY),
        _ => Err(CliError::usage("--cgroupns: invalid CGROUP mode")),
    }
}

fn isolation(text: &str) -> Result<HostConfigIsolationEnum> {
    match text {
        "" | "default" => Ok(HostConfigIsolationEnum::DEFAULT),
        "process" => Ok(HostConfigIsolationEnum::PROCESS),
        "hyperv" => Ok(HostConfigIsolationEnum::HYPERV),
        other => Err(CliError::usage(format!(
            "--isolation: there is no {other:?}, only default"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: LimitOptions,
    }

    fn filled(words: &[&str]) -> Result<HostConfig> {
        let before = HostConfig {
            memory: Some(5),
            ..HostConfig::default()
        };
        let line = Line::try_parse_from([&["run"], words].concat()).unwrap();
        line.options.fill(before)
    }

    #[test]
    fn options_are_passed_on_and_the_rest_stays() {
        let host = filled(&[
            "-c",
            "512",
            "--storage-opt",
            "size=1G",
            "--device",
            "/dev/kvm",
        ]);
        let host = host.unwrap();
        assert_eq!((host.memory, host.cpu_shares), (Some(5), Some(512)));
        assert_eq!(host.storage_opt.unwrap()["size"], "1G");
        assert_eq!(host.devices.unwrap().len(), 1);
        assert_eq!(host.pid_mode, None);
    }

    #[test]
    fn limits_of_disks_are_read() {
        let words = [
            "--device-read-bps",
            "/dev/sda:1mb",
            "--device-write-iops",
            "/dev/sda:100",
            "--blkio-weight-device",
            "/dev/sda:200",
        ];
        let host = filled(&words).unwrap();
        assert_eq!(
            host.blkio_device_read_bps.unwrap()[0].rate,
            Some(1024 * 1024)
        );
        assert_eq!(host.blkio_device_write_iops.unwrap()[0].rate, Some(100));
        assert_eq!(host.blkio_weight_device.unwrap()[0].weight, Some(200));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for words in [
            ["--device-read-bps", "sda:1mb"],
            ["--device-read-bps", "/dev/sda"],
            ["--device-read-iops", "/dev/sda:1mb"],
            ["--blkio-weight-device", "/dev/sda:5"],
            ["--cgroupns", "shared"],
            ["--isolation", "thick"],
            ["--device-cgroup-rule", "x 1:2 rwm"],
        ] {
            assert!(filled(&words).is_err(), "{words:?}");
        }
    }
}
