//! `spec` and `features`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use oci_spec::runtime::{Capability, Spec};
use serde::Serialize as _;
use serde_json::{json, Value};

use super::cli::SpecArgs;
use super::create::CONFIG_FILE;
use super::error::{io_error, system, Result, RuntimeError};

/// Oldest version of the specification.
const SPEC_MIN: &str = "1.0.0";
/// Newest version of the specification.
pub(super) const SPEC_MAX: &str = "1.2.1";
/// The template's host name.
const HOST_NAME: &str = "hull";
/// The mount options that the guest's agent knows.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// `spec`.
pub(super) fn spec(args: &SpecArgs) -> Result<u8> {
    let directory = args.bundle.as_deref().unwrap_or(Path::new("."));
    let path = directory.join(CONFIG_FILE);
    let text = template(args.rootless)?;
    let opened = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            RuntimeError::Usage(format!("File {CONFIG_FILE} exists. Remove it first"))
        }
        _ => io_error("make", &path)(error),
    })?;
    file.write_all(&text).map_err(io_error("write", &path))?;
    Ok(0)
}

fn template(rootless: bool) -> Result<Vec<u8>> {
    let mut spec = Spec::default();
    spec.set_version(SPEC_MAX.to_owned());
    spec.set_hostname(Some(HOST_NAME.to_owned()));
    spec.set_annotations(None);
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(true));
        // As in runc: what a process has by its user alone is not inherited by its programs.
        if let Some(mut capabilities) = process.capabilities().clone() {
            capabilities.set_inheritable(None).set_ambient(None);
            process.set_capabilities(Some(capabilities));
        }
    }
    if rootless {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let rootless = Spec::rootless(uid.as_raw(), gid.as_raw());
        spec.set_linux(rootless.linux().clone());
        spec.set_mounts(rootless.mounts().clone());
    }
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, tabs);
    spec.serialize(&mut serializer)
        .map_err(|source| RuntimeError::Json {
            what: CONFIG_FILE.into(),
            source,
        })?;
    text.push(b'\n');
    Ok(text)
}

/// `features`.
pub(super) fn features(out: &mut impl Write) -> Result<u8> {
    let text = serde_json::to_string_pretty(&features_document()).map_err(|source| {
        RuntimeError::Json {
            what: "the answer".into(),
            source,
        }
    })?;
    writeln!(out, "{text}").map_err(system("write to stdout"))?;
    Ok(0)
}

/// What the runtime can do (the runtime specification, features.md).
pub(crate) fn features_document() -> Value {
    json!({
        "ociVersionMin": SPEC_MIN,
        "ociVersionMax": SPEC_MAX,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop",
        ],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": [
                "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
            ],
            "capabilities": capabilities(),
            "cgroup": {"v1": false, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_X86_64"],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                ],
                "supportedFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                ],
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "memoryPolicy": {"modes": [], "flags": []},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
        "annotations": {
            "dev.hull.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.runc.checkpoint.enabled": "false",
        },
        "potentiallyUnsafeConfigAnnotations": ["dev.hull."],
    })
}

/// All that the specification's library knows, in the kernel's spelling.
fn capabilities() -> Vec<String> {
    let mut names: Vec<String> = crate::runtime::capabilities::ALL
        .iter()
        .filter(|name| {
            let known: std::result::Result<Capability, _> =
                serde_json::from_value(serde_json::Value::from(**name));
            known.is_ok()
        })
        .map(|name| (*name).to_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_configurations_with_runcs_layout() {
        let text = String::from_utf8(template(false).unwrap()).unwrap();
        assert!(text.starts_with("{\n\t\"ociVersion\""));
        let spec: Spec = serde_json::from_str(&text).unwrap();
        assert_eq!(
            spec.process().as_ref().unwrap().args().as_ref().unwrap()[0],
            "sh"
        );
        assert_eq!(spec.hostname().as_deref(), Some("hull"));
        assert_eq!(spec.annotations(), &None);
        let process = spec.process().clone().unwrap();
        let capabilities = process.capabilities().clone().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 3);
        assert_eq!(
            (capabilities.inheritable(), capabilities.ambient()),
            (&None, &None)
        );
        let rootless: Spec = serde_json::from_slice(&template(true).unwrap()).unwrap();
        let linux = rootless.linux().clone().unwrap();
        assert!(linux.uid_mappings().is_some());
    }

    #[test]
    fn a_configuration_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let args = SpecArgs {
            bundle: Some(directory.path().to_owned()),
            rootless: false,
        };
        spec(&args).unwrap();
        let error = spec(&args).unwrap_err();
        assert_eq!(
            error.to_string(),
            "File config.json exists. Remove it first"
        );
    }

    #[test]
    fn the_features_are_the_specifications_structure() {
        let mut out = Vec::new();
        features(&mut out).unwrap();
        let parsed: oci_spec::runtime::Features = serde_json::from_slice(&out).unwrap();
        assert_eq!(parsed.oci_version_min(), SPEC_MIN);
        let linux = parsed.linux().clone().unwrap();
        assert_eq!(linux.capabilities().as_ref().unwrap().len(), 41);
    }
}
