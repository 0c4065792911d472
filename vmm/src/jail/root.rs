use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::unistd::{chdir, pivot_root};

use super::error::Attempt;
use super::JailError;

/// A directory that exists, as it was just read from; in the own mount namespace only.
const MOUNT_POINT: &str = "/proc";

/// Changes the root to an empty read-only file system and detaches everything else.
pub(super) fn pivot_to_empty() -> Result<(), JailError> {
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )
    .attempt("make all mounts private")?;
    mount(
        Some("empty"),
        MOUNT_POINT,
        Some("tmpfs"),
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0555,size=4k,nr_inodes=1"),
    )
    .attempt("mount the empty root")?;
    chdir(MOUNT_POINT).attempt("enter the empty root")?;
    // With both arguments the same directory the old root ends up on top of the new one, from
    // where it is detached: no directory for it is needed in the new root.
    pivot_root(".", ".").attempt("change to the empty root")?;
    umount2(".", MntFlags::MNT_DETACH).attempt("detach the host's file systems")?;
    chdir("/").attempt("enter the empty root")
}
