//! The layers of the jail one by one, for the drill that shows what each holds by itself.

use hull_vm_config::JailConfig;
use nix::sys::prctl;

use super::error::Attempt;
use super::{capabilities, identity, landlock, namespaces, root, JailError};

/// A layer of the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Mount, network, IPC, UTS and cgroup namespaces, and the empty root. The PID namespace is the
    /// starter's work.
    Namespaces,
    /// The sandbox's user and group, without capabilities and ways to get some.
    Identity,
    /// Landlock.
    Landlock,
}

impl Layer {
    /// Enters this layer and no other: never enough for a guest. Tells the ABI for Landlock, 0 where
    /// the kernel has none.
    ///
    /// # Errors
    /// What the kernel refuses. It takes root.
    pub fn enter_alone(self, config: &JailConfig) -> Result<u32, JailError> {
        match self {
            Self::Namespaces => {
                namespaces::unshare_all_but_user()?;
                root::pivot_to_empty()?;
            }
            Self::Identity => {
                identity::change_to(config)?;
                capabilities::drop_all()?;
                prctl::set_no_new_privs().attempt("set no_new_privs")?;
            }
            Self::Landlock => return landlock::deny_all().map(|denied| denied.abi.unwrap_or(0)),
        }
        Ok(0)
    }
}
