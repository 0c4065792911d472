//! Options that docker has for the kernel's sake: passed on, so that the engine says what becomes of
//! each.

use bollard::models::{DeviceMapping, HostConfig};

use crate::units::parse_bytes;

/// Limits and namespaces.
#[derive(Debug, Default, clap::Args)]
pub(super) struct LimitOptions {
    /// Memory that the container keeps when others want it
    #[arg(long, value_parser = parse_bytes)]
    memory_reservation: Option<i64>,
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
    /// Runtime: hull
    #[arg(long)]
    runtime: Option<String>,
    /// Device of the host: refused, as a VM can't have it
    #[arg(long, value_name = "PATH")]
    device: Vec<String>,
}

impl LimitOptions {
    /// The configuration with what these options say.
    pub(super) fn fill(&self, host: HostConfig) -> HostConfig {
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        let device = |path: &String| DeviceMapping {
            path_on_host: Some(path.clone()),
            ..DeviceMapping::default()
        };
        HostConfig {
            memory_reservation: self.memory_reservation,
            cpu_shares: self.cpu_shares,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpuset_cpus: self.cpuset_cpus.clone(),
            storage_opt: (!self.storage_opt.is_empty())
                .then(|| self.storage_opt.iter().map(pair).collect()),
            ipc_mode: self.ipc.clone(),
            pid_mode: self.pid.clone(),
            uts_mode: self.uts.clone(),
            userns_mode: self.userns.clone(),
            runtime: self.runtime.clone(),
            devices: (!self.device.is_empty()).then(|| self.device.iter().map(device).collect()),
            ..host
        }
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

    #[test]
    fn options_are_passed_on_and_the_rest_stays() {
        let words = [
            "run",
            "-c",
            "512",
            "--storage-opt",
            "size=1G",
            "--device",
            "/dev/kvm",
        ];
        let before = HostConfig {
            memory: Some(5),
            ..HostConfig::default()
        };
        let host = Line::try_parse_from(words).unwrap().options.fill(before);
        assert_eq!((host.memory, host.cpu_shares), (Some(5), Some(512)));
        assert_eq!(host.storage_opt.unwrap()["size"], "1G");
        assert_eq!(host.devices.unwrap().len(), 1);
        assert_eq!(host.pid_mode, None);
    }
}
