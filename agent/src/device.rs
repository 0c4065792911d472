//! Devices by slot. The order in which the kernel names them (`vda`, ...) means nothing.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{AgentError, Context, Kind, Result};

/// How long a disk may be in use after the last mount of it is gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at it.
const RELEASE_POLL: Duration = Duration::from_millis(20);

/// Device node of the block device in a slot, which may have been plugged in just now.
///
/// The kernel numbers devices of its command line in order (`virtio-mmio.N`), and the VMM names
/// all slots there in order.
pub(crate) fn block(slot: u32) -> Result<PathBuf> {
    node(slot).or_else(|_| {
        bind(slot)?;
        node(slot)
    })
}

fn node(slot: u32) -> Result<PathBuf> {
    block_in(Path::new("/sys/bus/platform/devices"), slot).map(|name| Path::new("/dev").join(name))
}

fn block_in(devices: &Path, slot: u32) -> Result<String> {
    let device = devices.join(name(slot));
    let failed = || format!("failed to look for the block device in slot {slot}");
    for entry in fs::read_dir(&device).context(failed)? {
        let entry = entry.context(failed)?;
        if !entry.file_name().to_string_lossy().starts_with("virtio") {
            continue;
        }
        let Ok(mut disks) = fs::read_dir(entry.path().join("block")) else {
            continue;
        };
        if let Some(disk) = disks.next() {
            return Ok(disk
                .context(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned());
        }
    }
    Err(AgentError::not_found(format!(
        "slot {slot} holds no block device"
    )))
}

/// Where drivers are bound by hand.
const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";

/// Lets the kernel look again at a slot, into which something was plugged.
pub(crate) fn bind(slot: u32) -> Result<()> {
    let failed = || format!("failed to find a device in slot {slot}");
    let bind = || fs::write(Path::new(DRIVER).join("bind"), name(slot));
    match bind() {
        // What was there before was pulled out without a word: who had plugged it in has died.
        Err(error) if error.kind() == ErrorKind::ResourceBusy => {
            unbind(slot)?;
            bind().context(failed)
        }
        bound => bound.context(failed),
    }
}

/// Lets the kernel give up what was plugged into a slot. A disk is waited for: a file system goes
/// some moments after its last mount.
pub(crate) async fn release(slot: u32) -> Result<()> {
    crate::rootfs::unmount_disk(slot);
    if let Ok(disk) = node(slot) {
        let unused = tokio::time::timeout(RELEASE_LIMIT, until_unused(&disk)).await;
        unused.map_err(|_| {
            AgentError::new(
                Kind::FailedPrecondition,
                format!("the disk in slot {slot} is in use: {}", disk.display()),
            )
        })??;
    }
    unbind(slot)
}

/// Whoever has a block device mounted has it for himself alone, and so is told from others.
async fn until_unused(disk: &Path) -> Result<()> {
    let failed = || format!("failed to look whether {} is in use", disk.display());
    loop {
        let opened = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(disk);
        match opened {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                tokio::time::sleep(RELEASE_POLL).await;
            }
            opened => return opened.map(drop).context(failed),
        }
    }
}

/// Lets the kernel give up the device in a slot.
fn unbind(slot: u32) -> Result<()> {
    let failed = || format!("failed to give up the device in slot {slot}");
    match fs::write(Path::new(DRIVER).join("unbind"), name(slot)) {
        // It had not come as far as to be bound.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            Ok(())
        }
        unbound => unbound.context(failed),
    }
}

fn name(slot: u32) -> String {
    format!("virtio-mmio.{slot}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_is_found_by_its_slot() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("virtio-mmio.1/virtio0/block/vdb")).unwrap();
        fs::create_dir_all(root.path().join("virtio-mmio.9/virtio3")).unwrap();
        assert_eq!(block_in(root.path(), 1).unwrap(), "vdb");
        assert!(block_in(root.path(), 9).is_err());
        assert!(block_in(root.path(), 2).is_err());
    }
}
