//! What the host's mounts forbid in a directory stays forbidden where a container sees it: programs,
//! and programs of other users.

use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::{statvfs, StatVfsMountFlags};

use super::is_bind;

/// A flag of a mount, its option, and the one that lifts it.
const FLAGS: [(StatVfsMountFlags, &str, &str); 2] = [
    (StatVfsMountFlags::NOEXEC, "noexec", "exec"),
    (StatVfsMountFlags::NOSUID, "nosuid", "suid"),
];

/// Adds the options to bind mounts whose sources have them, unless they say otherwise. A source that is
/// not there is not judged here.
pub(super) fn add(directory: &Path, mounts: &mut [Mount]) {
    for mount in mounts.iter_mut().filter(|mount| is_bind(mount)) {
        let source = mount.source().as_ref().map(|path| directory.join(path));
        let Some(flags) = source.and_then(|path| Some(statvfs(path).ok()?.f_flag)) else {
            continue;
        };
        let mut options = mount.options().clone().unwrap_or_default();
        options.extend(missing(flags, &options));
        mount.set_options(Some(options));
    }
}

fn missing(flags: StatVfsMountFlags, options: &[String]) -> Vec<String> {
    let said = |name: &str| options.iter().any(|option| option == name);
    let wanted = FLAGS
        .into_iter()
        .filter(|(flag, name, lifts)| flags.contains(*flag) && !said(name) && !said(lifts));
    let mut added: Vec<_> = wanted.map(|(_, name, _)| name.to_owned()).collect();
    // What the guest's own mount of a share has, a mount with flags of its own has no more.
    if !added.is_empty() && !said("nodev") && !said("dev") {
        added.push("nodev".to_owned());
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_source_forbids_is_forbidden_unless_it_is_lifted() {
        let both = StatVfsMountFlags::NOEXEC | StatVfsMountFlags::NOSUID;
        let missing = |options: &[&str]| {
            let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
            missing(both, &options)
        };
        assert_eq!(missing(&["rbind", "rw"]), ["noexec", "nosuid", "nodev"]);
        assert_eq!(missing(&["rbind", "exec", "dev"]), ["nosuid"]);
        assert_eq!(missing(&["noexec", "suid"]), [""; 0]);
    }

    #[test]
    fn only_bind_mounts_have_sources_on_the_host() {
        let mount = |kind: &str, source: &str| {
            let text = serde_json::json!({"destination": "/x", "type": kind, "source": source});
            serde_json::from_value::<Mount>(text).unwrap()
        };
        let mut mounts = [
            mount("bind", "/proc"),
            mount("proc", "/proc"),
            mount("bind", "/not/there"),
        ];
        add(Path::new("/"), &mut mounts);
        let options = mounts.map(|mount| mount.options().clone().unwrap_or_default());
        let flags = statvfs("/proc").unwrap().f_flag;
        assert_eq!(options[0], super::missing(flags, &[]));
        assert!(options[1].is_empty() && options[2].is_empty());
    }
}
