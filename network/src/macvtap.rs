//! Taps on an interface of the host (macvtap): what a guest sends leaves by that interface, under a
//! hardware address of the guest's own. Their descriptor, and that of [`crate::ipvtap`], is used as
//! a tap's is.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::netlink::{Netlink, NetlinkError};
use crate::tap::{self, TapError};

/// Who hears whom (the kernel's modes of macvlan).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Those of one parent hear each other.
    Bridge,
    /// All goes out by the parent; a switch there may send it back.
    Vepa,
    /// As `Vepa`, and what comes back is not taken.
    Private,
    /// The parent is this one's alone, which has the parent's hardware address.
    Passthru,
}

/// What is made.
#[derive(Debug, Clone, Copy)]
pub struct Macvtap<'a> {
    /// Its name.
    pub name: &'a str,
    /// Index of the interface that it is on.
    pub parent: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Bytes of a packet, at most the parent's.
    pub mtu: u32,
    /// Who hears it.
    pub mode: Mode,
}

/// Makes one, which is up and stays until [`tap::remove`].
pub fn create(netlink: &Netlink, wanted: &Macvtap<'_>) -> Result<(), NetlinkError> {
    let index = netlink.add_macvtap(wanted)?;
    let up = netlink.set_up(index);
    if up.is_err() {
        let _ = netlink.delete_link(index);
    }
    up
}

/// Where the kernel shows the device of the interface of this name, if it is on one of the host's.
pub(crate) fn class_folder(name: &str) -> Option<PathBuf> {
    let interface = Path::new("/sys/class/net").join(name);
    let folders = ["macvtap", "ipvtap"].map(|class| interface.join(class));
    folders.into_iter().find(|folder| folder.is_dir())
}

/// The other end of the interface whose device is shown in `folder`; see [`tap::open`].
pub(crate) fn open(name: &str, folder: &Path) -> Result<OwnedFd, TapError> {
    let failed = |source| TapError::Tap {
        action: "find the device of",
        name: name.to_owned(),
        source,
    };
    let mut devices = fs::read_dir(folder).map_err(failed)?;
    let entry = devices
        .next()
        .unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into()));
    let entry = entry.map_err(failed)?;
    let path = Path::new("/dev").join(entry.file_name());
    // The names of devices are given by interface index, which is used again.
    let number = fs::read_to_string(entry.path().join("dev")).map_err(failed)?;
    let metadata = fs::metadata(&path).map_err(failed)?;
    let device = metadata.rdev();
    let found = format!("{}:{}", libc::major(device), libc::minor(device));
    if !metadata.file_type().is_char_device() || found != number.trim() {
        return Err(failed(std::io::Error::other(format!(
            "{} is the device {found}, not {}",
            path.display(),
            number.trim()
        ))));
    }
    tap::open_device(&path, name)
}
