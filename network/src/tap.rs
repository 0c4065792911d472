//! Taps: interfaces whose other end is a descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::macvtap;
use crate::netlink::{Netlink, NetlinkError};
use crate::sys;

/// Where taps come from.
const TUN_DEVICE: &str = "/dev/net/tun";
/// Frames, without a protocol header of their own, behind a virtio-net header.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Bytes of the header of a device with `VIRTIO_F_VERSION_1` (virtio 1.2, 5.1.6).
const HEADER_BYTES: libc::c_int = 12;

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
    /// Somebody has this tap open.
    #[error("failed to remove the tap {name:?}, which is in use")]
    Busy {
        /// Its name.
        name: String,
        /// Why.
        source: NetlinkError,
    },
}

impl TapError {
    /// Somebody else has it open.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Tap { source, .. } => source.kind() == io::ErrorKind::ResourceBusy,
            Self::Device { .. } | Self::Busy { .. } => false,
        }
    }

    /// It was made for one descriptor, and several are wanted, or the other way round.
    fn is_of_another_kind(&self) -> bool {
        match self {
            Self::Tap { source, .. } => source.raw_os_error() == Some(libc::EINVAL),
            Self::Device { .. } | Self::Busy { .. } => false,
        }
    }
}

/// Makes a tap that stays until [`remove`]; `several`: it can be opened several times.
pub fn create(name: &str, several: bool) -> Result<(), TapError> {
    let flags = if several { libc::IFF_MULTI_QUEUE } else { 0 };
    let tun = attach(name, flags, "make")?;
    persist(&tun, name, true, "keep")
}

/// Removes a tap. A VM that has it open still is left with an end that leads nowhere.
pub fn remove(name: &str) -> Result<(), TapError> {
    if macvtap::class_folder(name).is_some() {
        return delete_link(name).map_err(|source| TapError::Busy {
            name: name.to_owned(),
            source,
        });
    }
    match attach(name, 0, "find") {
        Ok(tun) => persist(&tun, name, false, "remove"),
        Err(error) if error.is_busy() || error.is_of_another_kind() => {
            delete_link(name).map_err(|source| TapError::Busy {
                name: name.to_owned(),
                source,
            })
        }
        Err(error) => Err(error),
    }
}

fn delete_link(name: &str) -> Result<(), NetlinkError> {
    let netlink = Netlink::open()?;
    match netlink.link(name)? {
        Some(link) => netlink.delete_link(link.index),
        None => Ok(()),
    }
}

/// The other end of a tap: non-blocking, with a vnet header of 12 bytes. As many descriptors as are
/// wanted, each with a queue of its own, if the tap was made for several; else one.
pub fn open(name: &str, wanted: usize) -> Result<Vec<OwnedFd>, TapError> {
    if let Some(folder) = macvtap::class_folder(name) {
        return Ok(vec![macvtap::open(name, &folder)?]);
    }
    if 1 < wanted {
        match open_several(name, wanted, 0) {
            Err(error) if error.is_of_another_kind() => {}
            other => return other,
        }
    }
    match attach(name, 0, "open") {
        Err(error) if error.is_of_another_kind() => open_several(name, 1, 0),
        other => Ok(vec![other?.into()]),
    }
}

/// Makes a tap that goes with its last descriptor, and opens it as [`open`] does. An interface of
/// that name is an error ([`TapError::is_busy`]).
pub(crate) fn open_new(name: &str, wanted: usize) -> Result<Vec<OwnedFd>, TapError> {
    match wanted {
        0 | 1 => Ok(vec![attach(name, libc::IFF_TUN_EXCL, "open")?.into()]),
        _ => open_several(name, wanted, libc::IFF_TUN_EXCL),
    }
}

/// `first`: further flags for the first descriptor.
fn open_several(name: &str, count: usize, first: libc::c_int) -> Result<Vec<OwnedFd>, TapError> {
    let flags = std::iter::once(first).chain(std::iter::repeat(0));
    flags
        .take(count)
        .map(|flags| Ok(attach(name, libc::IFF_MULTI_QUEUE | flags, "open")?.into()))
        .collect()
}

/// The other end of the interface `name`, which is behind a device of its own.
pub(crate) fn open_device(device: &Path, name: &str) -> Result<OwnedFd, TapError> {
    let file = open_file(device).map_err(|source| TapError::Tap {
        action: "open the device of",
        name: name.to_owned(),
        source,
    })?;
    set_up(&file, name, 0, "open")?;
    Ok(file.into())
}

fn attach(name: &str, flags: libc::c_int, action: &'static str) -> Result<File, TapError> {
    let tun = open_file(Path::new(TUN_DEVICE)).map_err(|source| TapError::Device { source })?;
    set_up(&tun, name, flags, action)?;
    Ok(tun)
}

fn open_file(device: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(device)
}

fn set_up(
    tun: &File,
    name: &str,
    flags: libc::c_int,
    action: &'static str,
) -> Result<(), TapError> {
    sys::set_interface(tun.as_fd(), name, FLAGS | flags).map_err(|source| TapError::Tap {
        action,
        name: name.to_owned(),
        source,
    })?;
    sys::set_header_size(tun.as_fd(), HEADER_BYTES).map_err(|source| TapError::Tap {
        action: "set the header size of",
        name: name.to_owned(),
        source,
    })
}

fn persist(tun: &File, name: &str, stay: bool, action: &'static str) -> Result<(), TapError> {
    sys::set_persistent(tun.as_fd(), stay).map_err(|source| TapError::Tap {
        action,
        name: name.to_owned(),
        source,
    })
}
