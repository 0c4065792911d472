use hull_vm_config::JailConfig;
use nix::sched::{unshare, CloneFlags};
use nix::sys::prctl;

use super::error::Attempt;
use super::host::HostView;
use super::JailError;

/// Makes the mount, network, IPC, UTS and cgroup namespaces. The network has no interface but a
/// loopback that is down.
pub(super) fn unshare_all_but_user() -> Result<(), JailError> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .attempt("make the mount, net, ipc, uts and cgroup namespaces")
}

/// Makes the user namespace, in which only the sandbox's own user and group exist.
pub(super) fn unshare_user(host: &HostView, config: &JailConfig) -> Result<(), JailError> {
    unshare(CloneFlags::CLONE_NEWUSER).attempt(
        "make a user namespace (without root the host must allow it: see \
         user.max_user_namespaces, kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns)",
    )?;
    // Having changed its user, the process is undumpable, and its /proc files belong to root.
    prctl::set_dumpable(true).attempt("get at the own id maps")?;
    // Without this the kernel refuses a group map written by an unprivileged process.
    host.write("setgroups", "deny")
        .attempt("forbid setgroups in the user namespace")?;
    host.write("gid_map", &format!("{0} {0} 1", config.gid))
        .attempt("map the sandbox's group")?;
    host.write("uid_map", &format!("{0} {0} 1", config.uid))
        .attempt("map the sandbox's user")
}
