//! Flags of the mounts that bind mounts show.
//!
//! A bind mount whose options name no flag has those of its source's mount. The guest mounts what
//! virtiofsd shows, which has none of them: so they are named.

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::StatVfsMountFlags;

use super::is_bind;

/// Options that set or clear flags of a mount: with any of them, its flags are those that are named.
const FLAGS: [&str; 20] = [
    "defaults",
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "nosymfollow",
];

/// Adds the options that say what holds for the sources.
pub(super) fn complete(directory: &Path, spec: &mut Spec) {
    let Some(mounts) = spec.mounts_mut() else {
        return;
    };
    for mount in mounts.iter_mut().filter(|mount| inherits(mount)) {
        let source = mount.source().as_ref().map(|source| directory.join(source));
        // One that is not there is judged later.
        let found = source.and_then(|source| rustix::fs::statvfs(source).ok());
        let named = found.map(|found| options(found.f_flag)).unwrap_or_default();
        if !named.is_empty() {
            let mut all = mount.options().clone().unwrap_or_default();
            all.extend(named.iter().map(|&option| option.to_owned()));
            mount.set_options(Some(all));
        }
    }
}

fn inherits(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    is_bind(mount) && !options.any(|option| FLAGS.contains(&option.as_str()))
}

/// Nothing, if the guest's own mount is as it should be: it takes no devices.
fn options(flags: StatVfsMountFlags) -> Vec<&'static str> {
    let mut named = Vec::new();
    for (flag, option) in [
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
    ] {
        if flags.contains(flag) {
            named.push(option);
        }
    }
    if !named.is_empty() {
        named.push("nodev");
    }
    named
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_of_the_source_are_named_where_none_is() {
        let of = |source: &str, options: serde_json::Value| {
            let mut spec: Spec = serde_json::from_value(json!({
                "ociVersion": "1.2.0",
                "mounts": [{"destination": "/x", "type": "bind", "source": source, "options": options}],
            }))
            .unwrap();
            complete(Path::new("/"), &mut spec);
            spec.mounts().as_ref().unwrap()[0]
                .options()
                .clone()
                .unwrap()
        };
        // The kernel's own mounts have these flags everywhere.
        assert_eq!(
            of("/proc", json!(["rbind"])),
            ["rbind", "nosuid", "noexec", "nodev"]
        );
        assert_eq!(of("proc", json!(["bind", "rw"])), ["bind", "rw"]);
        assert_eq!(of("/none", json!(["bind"])), ["bind"]);
    }

    #[test]
    fn a_source_without_flags_names_none() {
        assert!(options(StatVfsMountFlags::RELATIME | StatVfsMountFlags::NODEV).is_empty());
    }
}
