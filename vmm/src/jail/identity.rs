use hull_vm_config::JailConfig;
use nix::unistd::{getegid, geteuid, setgroups, setresgid, setresuid, Gid, Uid};

use super::error::Attempt;
use super::{capabilities, sys, JailError};

/// What the process was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privilege {
    /// The capabilities to become somebody else.
    Root,
    /// Nothing: an unprivileged user namespace must do, and the own ids.
    None,
}

impl Privilege {
    pub(super) fn of_this_process(config: &JailConfig) -> Result<Self, JailError> {
        let JailConfig { uid, gid } = *config;
        if uid == 0 || gid == 0 {
            return Err(JailError::RootIdentity { uid, gid });
        }
        let (effective, _) = sys::capabilities().attempt("read the capabilities")?;
        if effective & capabilities::NEEDED == capabilities::NEEDED {
            return Ok(Self::Root);
        }
        let (own_uid, own_gid) = (geteuid().as_raw(), getegid().as_raw());
        if (own_uid, own_gid) == (uid, gid) {
            Ok(Self::None)
        } else {
            Err(JailError::Unprivileged {
                uid,
                gid,
                own_uid,
                own_gid,
            })
        }
    }
}

/// Becomes the sandbox's user. The capabilities stay: making the user namespace as this user needs
/// `CAP_SYS_ADMIN` on hosts that forbid it to everybody else.
pub(super) fn change_to(config: &JailConfig) -> Result<(), JailError> {
    let (uid, gid) = (Uid::from_raw(config.uid), Gid::from_raw(config.gid));
    setgroups(&[]).attempt("drop the supplementary groups")?;
    setresgid(gid, gid, gid).attempt("become the sandbox's group")?;
    sys::keep_capabilities().attempt("keep the capabilities for the user namespace")?;
    setresuid(uid, uid, uid).attempt("become the sandbox's user")?;
    let (_, permitted) = sys::capabilities().attempt("read the capabilities")?;
    sys::set_capabilities(permitted, permitted).attempt("raise the kept capabilities")
}
