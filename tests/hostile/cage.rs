//! The cgroup around an attacker, with the bounds that the shim gives a VM of this size.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::MEMORY_BYTES;

const ROOT: &str = "/sys/fs/cgroup";
/// As in `shim/src/cgroup/sandbox.rs`, and what the disks and files of this suite have, which may lie in memory.
const BOUND: u64 = MEMORY_BYTES + (MEMORY_BYTES >> 7) + ((64 + 2 + 16) << 20);
/// How long a process that was killed may take to leave.
const LEAVE: Duration = Duration::from_secs(5);

pub(crate) struct Cage(PathBuf);

impl Cage {
    /// Around a process that has just been started. `None` where this host has no cgroup v2 for us.
    pub(crate) fn around(pid: u32) -> Result<Option<Self>, String> {
        match Self::make(pid) {
            Ok(cage) => Ok(Some(cage)),
            Err(error) if std::env::var_os("HULL_SUITES_STRICT").is_some() => {
                Err(format!("no cgroup: {error}"))
            }
            Err(_) => Ok(None),
        }
    }

    fn make(pid: u32) -> io::Result<Self> {
        let root = PathBuf::from(ROOT);
        fs::write(root.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
        let cage = Self(root.join(format!("hull-hostile-{pid}")));
        fs::create_dir(&cage.0)?;
        for (file, value) in [
            ("memory.max", BOUND.to_string()),
            ("cpu.max", "200000 100000".to_owned()),
            ("pids.max", "257".to_owned()),
            ("cgroup.procs", pid.to_string()),
        ] {
            fs::write(cage.0.join(file), value)?;
        }
        Ok(cage)
    }

    /// Nothing in it was killed, or refused a thread, for reaching a bound; what it used.
    pub(crate) fn check(&self) -> Result<String, String> {
        for (file, field) in [("memory.events", "oom_kill"), ("pids.events", "max")] {
            if self.figure(file, field).is_some_and(|count| count != 0) {
                return Err(format!("it reached a bound: {file} counts {field}"));
            }
        }
        let peak = fs::read_to_string(self.0.join("memory.peak")).ok();
        let peak = peak.and_then(|text| text.trim().parse::<u64>().ok());
        let cpu = self.figure("cpu.stat", "usage_usec").unwrap_or_default();
        let peak = peak.map_or_else(String::new, |bytes| format!("{} KiB and ", bytes >> 10));
        Ok(format!("{peak}{} ms of CPU charged", cpu / 1000))
    }

    fn figure(&self, file: &str, field: &str) -> Option<u64> {
        let text = fs::read_to_string(self.0.join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line?.trim().parse().ok()
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let until = Instant::now() + LEAVE;
        while fs::remove_dir(&self.0).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
