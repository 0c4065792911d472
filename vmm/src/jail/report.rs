use std::fs;
use std::io;

use hull_vm_config::JailConfig;
use nix::sys::prctl;
use nix::sys::resource::getrlimit;
use nix::sys::signal::Signal;
use nix::sys::statvfs::{statvfs, FsFlags};
use nix::unistd::getpid;

use super::capabilities::SECUREBITS;
use super::error::Attempt;
use super::host::{HostView, NAMESPACES};
use super::identity::Privilege;
use super::landlock::Denied;
use super::limits::BOUNDS;
use super::{sys, JailError};

/// What holds, read back from the kernel after the jail was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailReport {
    holds: Vec<(String, String)>,
}

impl JailReport {
    /// Name and value pairs. A value that starts with `not in this kernel` names a feature that the
    /// kernel lacks; everything else was checked.
    pub fn holds(&self) -> Vec<(String, String)> {
        let mut holds = self.holds.clone();
        holds.push(("seccomp".into(), crate::seccomp::installed().to_string()));
        holds
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.holds.push((name.into(), value.into()));
    }

    /// Adds a value that must be `want`.
    fn require(&mut self, what: &'static str, found: String, want: &str) -> Result<(), JailError> {
        if found == want {
            self.add(what, found);
            Ok(())
        } else {
            Err(JailError::NotHeld {
                what,
                found,
                want: want.into(),
            })
        }
    }

    /// Adds the Landlock domain; where there is one, the root must have become unreadable.
    pub(super) fn add_landlock(&mut self, denied: Denied) -> Result<(), JailError> {
        let Some(abi) = denied.abi else {
            self.add("landlock", "not in this kernel");
            return Ok(());
        };
        let root = match fs::read_dir("/") {
            Ok(_) => "readable".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => "denied".to_owned(),
            Err(error) => error.to_string(),
        };
        self.require("landlock-files", root, "denied")?;
        self.add("landlock", format!("ABI {abi}"));
        let or_absent = |is: bool| if is { "denied" } else { "not in this kernel" };
        self.add("landlock-tcp", or_absent(denied.network));
        self.add("landlock-abstract-sockets", or_absent(denied.scoped));
        self.add("landlock-signals", or_absent(denied.scoped));
        Ok(())
    }
}

/// Asks the kernel for everything but Landlock.
pub(super) fn read_back(
    host: &HostView,
    config: &JailConfig,
    privilege: Privilege,
    write_xor_execute: bool,
) -> Result<JailReport, JailError> {
    let mut report = JailReport { holds: Vec::new() };
    identity(&mut report, host, config, privilege)?;
    namespaces(&mut report, host)?;
    root(&mut report, host)?;
    privileges(&mut report, host, write_xor_execute)?;
    for (name, resource, bound) in BOUNDS {
        let (soft, hard) = getrlimit(resource).attempt("read a resource limit")?;
        if bound < soft.max(hard) {
            return Err(JailError::NotHeld {
                what: "a resource limit",
                found: format!("{name} {soft}:{hard}"),
                want: format!("at most {bound}"),
            });
        }
        report.add(&format!("limit-{name}"), hard.to_string());
    }
    Ok(report)
}

fn identity(
    report: &mut JailReport,
    host: &HostView,
    config: &JailConfig,
    privilege: Privilege,
) -> Result<(), JailError> {
    // Real, effective, saved and file-system id.
    let four = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
    report.require("uid", host.status("Uid")?, &four(config.uid))?;
    report.require("gid", host.status("Gid")?, &four(config.gid))?;
    let groups = host.status("Groups")?;
    match privilege {
        Privilege::Root => report.require("groups", groups, "")?,
        // They mean something only for files that are not open yet, and no file can be opened.
        Privilege::None => report.add(
            "groups",
            format!("{groups} (the starter's: only root can drop them)"),
        ),
    }
    Ok(())
}

fn namespaces(report: &mut JailReport, host: &HostView) -> Result<(), JailError> {
    let now = host.read_namespaces()?;
    for ((name, before), now) in NAMESPACES.iter().zip(host.namespaces_before()).zip(now) {
        if *before == now {
            return Err(JailError::NotHeld {
                what: "a namespace",
                found: now,
                want: format!("another {name} namespace than the starter's"),
            });
        }
        report.add(&format!("namespace-{name}"), now);
    }
    let pid = if getpid().as_raw() == 1 {
        "own"
    } else {
        "the starter's"
    };
    report.add("namespace-pid", pid);
    let map = host.read("uid_map")?;
    report.add(
        "uid-map",
        map.split_whitespace().collect::<Vec<_>>().join(" "),
    );
    Ok(())
}

fn root(report: &mut JailReport, host: &HostView) -> Result<(), JailError> {
    let entries = fs::read_dir("/").attempt("list the new root")?.count();
    report.require("root-entries", entries.to_string(), "0")?;
    let flags = statvfs("/").attempt("look at the new root")?.flags();
    let read_only = flags.contains(FsFlags::ST_RDONLY);
    report.require("root-read-only", read_only.to_string(), "true")?;
    let mounts = host.read("mountinfo")?.lines().count();
    report.require("mounts", mounts.to_string(), "1")
}

fn privileges(
    report: &mut JailReport,
    host: &HostView,
    write_xor_execute: bool,
) -> Result<(), JailError> {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let mask = host.status(set)?;
        if mask.chars().any(|digit| digit != '0') {
            return Err(JailError::NotHeld {
                what: "a capability set",
                found: format!("{set} {mask}"),
                want: "empty".into(),
            });
        }
    }
    report.add("capabilities", "none in any set");
    let securebits = sys::securebits().attempt("read the secure bits")?;
    let name = |bits: u64| format!("{bits:#x}");
    report.require("securebits", name(securebits), &name(SECUREBITS))?;
    report.require("no-new-privs", host.status("NoNewPrivs")?, "1")?;
    let dumpable = prctl::get_dumpable().attempt("read the dumpable flag")?;
    report.require("dumpable", dumpable.to_string(), "false")?;
    let signal = prctl::get_pdeathsig().attempt("read the parent death signal")?;
    let signal = signal.map_or("none", Signal::as_str);
    report.require("parent-death-signal", signal.into(), "SIGKILL")?;
    if write_xor_execute {
        let refuses = sys::refuses_exec_gain().attempt("read the executable memory rule")?;
        report.require("refuses-executable-memory", refuses.to_string(), "true")?;
    } else {
        report.add("refuses-executable-memory", "not in this kernel");
    }
    Ok(())
}
