//! Changed limits: the guest keeps them, but what divides the host is its cgroups' to keep.

use oci_spec::runtime::LinuxResources;

use super::limits::Limits;
use crate::cgroup::{share, HostShare, IO_MAX};
use crate::lower::{check_shares, drop_host_numbers, LowerError};
use crate::spec::JsonError;

/// Why resources can not be an update.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpdateError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Contradiction(#[from] LowerError),
}

/// What an update means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Update {
    /// For the agent, as JSON.
    pub(super) guest: Vec<u8>,
    /// For the cgroups on the host.
    pub(super) host: HostShare,
    /// What is to be compared with the VM's size.
    pub(super) limits: Limits,
}

impl Update {
    /// Reads resources (OCI `LinuxResources`, JSON).
    pub(super) fn parse(text: &[u8]) -> Result<Self, UpdateError> {
        let mut resources: LinuxResources = crate::spec::json::parse(text)?;
        check_shares(&resources)?;
        let host = share(Some(&resources));
        let limits = Limits::of_resources(Some(&resources));
        drop_host_numbers(&mut resources);
        Ok(Self {
            limits,
            guest: serde_json::to_vec(&resources).map_err(JsonError::from)?,
            host,
        })
    }

    /// Whether it says how fast disks of the host may be used: that is the whole VM's to say.
    pub(super) fn bounds_disks(&self) -> bool {
        self.host.iter().any(|(file, _)| *file == IO_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_cpus_are_the_hosts() {
        let text = br#"{"cpu": {"shares": 1024, "cpus": "3-5", "mems": "1", "quota": 7000}, "pids": {"limit": 9}}"#;
        let update = Update::parse(text).unwrap();
        let want = [
            ("cpu.weight", "100"),
            ("cpuset.cpus", "3-5"),
            ("cpuset.mems", "1"),
        ];
        assert_eq!(update.host, want.map(|(file, value)| (file, value.into())));
        let guest: serde_json::Value = serde_json::from_slice(&update.guest).unwrap();
        let want =
            serde_json::json!({"cpu": {"shares": 1024, "quota": 7000}, "pids": {"limit": 9}});
        assert_eq!(guest, want);
    }

    #[test]
    fn bounds_of_disks_are_seen() {
        let bounds = |text: &[u8]| Update::parse(text).unwrap().bounds_disks();
        assert!(bounds(br#"{"unified": {"io.max": "8:0 rbps=1"}}"#));
        let throttle =
            br#"{"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 1}]}}"#;
        assert!(bounds(throttle));
        assert!(!bounds(
            br#"{"blockIO": {"weight": 100}, "cpu": {"shares": 2}}"#
        ));
    }

    #[test]
    fn what_the_host_can_not_do_is_refused() {
        for (text, part) in [
            (r#"{"cpu": {"cpus": "x"}}"#, "cpu.cpus \"x\""),
            (r#"{"cpu": {"idle": 7}}"#, "cpu.idle is 7"),
            (r#"{"blockIO": {"weight": 5}}"#, "blockIO.weight is 5"),
        ] {
            let error = Update::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_no_resource_is_named() {
        let error = Update::parse(br#"{"pids": {"limit": "x"}}"#).unwrap_err();
        assert_eq!(error.to_string(), "pids.limit");
        assert!(Update::parse(b"").is_err());
    }
}
