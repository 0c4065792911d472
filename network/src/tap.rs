//! Taps: interfaces whose other end is a descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::sys;

/// Where taps come from.
const TUN_DEVICE: &str = "/dev/net/tun";
/// Frames, without a protocol header of their own, behind a virtio-net header.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Why a tap can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No taps on this host.
    #[error("failed to open {TUN_DEVICE}; load the module with `modprobe tun`")]
    Device {
        /// Why.
        source: io::Error,
    },
    /// This tap.
    #[error("failed to {action} the tap {name:?}")]
    Tap {
        /// What was tried.
        action: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Makes a tap that stays until [`remove`].
pub fn create(name: &str) -> Result<(), TapError> {
    let tun = attach(name, "make")?;
    persist(&tun, name, true, "keep")
}

/// Removes a tap; one that somebody has open goes with its last descriptor.
pub fn remove(name: &str) -> Result<(), TapError> {
    let tun = attach(name, "find")?;
    persist(&tun, name, false, "remove")
}

/// The other end of a tap.
pub fn open(name: &str) -> Result<OwnedFd, TapError> {
    attach(name, "open").map(OwnedFd::from)
}

fn attach(name: &str, action: &'static str) -> Result<File, TapError> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN_DEVICE)
        .map_err(|source| TapError::Device { source })?;
    sys::set_interface(tun.as_fd(), name, FLAGS).map_err(|source| TapError::Tap {
        action,
        name: name.to_owned(),
        source,
    })?;
    Ok(tun)
}

fn persist(tun: &File, name: &str, stay: bool, action: &'static str) -> Result<(), TapError> {
    sys::set_persistent(tun.as_fd(), stay).map_err(|source| TapError::Tap {
        action,
        name: name.to_owned(),
        source,
    })
}
