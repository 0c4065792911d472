//! A bind mount of the host's /proc on the container's own: as some engines have it where a container sees
//! all processes of its machine. That of a microVM is the guest, so it gets the guest's.

use std::path::{Component, Path};

use oci_spec::runtime::Mount;
use rustix::fs::{stat, statfs};

use super::is_bind;

/// Of proc (`statfs(2)`), and of its top directory.
const MAGIC: rustix::fs::FsWord = 0x9fa0;
const TOP_INODE: u64 = 1;

/// Makes mounts of a new proc of such bind mounts.
pub(super) fn replace(mounts: &mut [Mount]) {
    for mount in mounts.iter_mut().filter(|mount| is_bind(mount)) {
        let is_top = mount.source().as_deref().is_some_and(is_top_of_proc);
        if !is_top || !is_proc(mount.destination()) {
            continue;
        }
        let mut options = mount.options().clone().unwrap_or_default();
        options.retain(|option| option != "bind" && option != "rbind");
        mount
            .set_typ(Some("proc".to_owned()))
            .set_source(Some("proc".into()))
            .set_options(Some(options));
    }
}

fn is_proc(destination: &Path) -> bool {
    let mut names = destination
        .components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
    names.next() == Some(Component::Normal("proc".as_ref())) && names.next().is_none()
}

fn is_top_of_proc(source: &Path) -> bool {
    let is_proc = statfs(source).is_ok_and(|found| found.f_type == MAGIC);
    is_proc && stat(source).is_ok_and(|found| found.st_ino == TOP_INODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(source: &str, destination: &str) -> bool {
        let mount = serde_json::json!({
            "destination": destination, "source": source, "options": ["rbind", "nosuid"],
        });
        let mut mounts = [serde_json::from_value::<Mount>(mount).unwrap()];
        replace(&mut mounts);
        let [mount] = mounts;
        let is_new = mount.typ().as_deref() == Some("proc");
        let options = mount.options().clone().unwrap();
        assert_eq!(options == ["nosuid"], is_new);
        is_new
    }

    #[test]
    fn only_the_top_of_proc_on_proc_itself_is_the_guests() {
        assert!(replaced("/proc", "/proc") && replaced("/proc", "//proc/."));
        for (source, destination) in [
            ("/proc", "/host/proc"),
            ("/proc/self", "/proc"),
            ("/tmp", "/proc"),
            ("/proc", "/proc/sys"),
        ] {
            assert!(!replaced(source, destination), "{source} {destination}");
        }
    }
}
