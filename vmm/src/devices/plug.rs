//! Devices that come and go while the VM runs.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_vm_config::control::disk_files;
use hull_vm_config::{BlockConfig, FdName, Slot, MAX_QUEUE_PAIRS};

use super::build::{kernels, AGREE};
use super::source::{SourceChange, Sources};
use super::virtio::{DeviceError, VirtioDevice};
use super::{blk, net, Devices, MissingFd};

/// The host's side of a network device, one of each for each pair of queues.
pub struct NetEnds {
    /// Descriptors of one tap, non-blocking, with a vnet header of 12 bytes.
    pub taps: Vec<OwnedFd>,
    /// `/dev/vhost-net`, if the host's kernel is to serve them; else none.
    pub vhosts: Vec<OwnedFd>,
}

impl Devices {
    /// Plugs a tap into a network slot while the VM runs. A driver finds the device when it looks
    /// again.
    pub fn attach_net(
        &mut self,
        slot: Slot,
        ends: NetEnds,
        mac: [u8; 6],
        mtu: u16,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let most = usize::from(MAX_QUEUE_PAIRS);
        let pairs = ends.taps.len();
        if !(1..=most).contains(&pairs) || ![0, pairs].contains(&ends.vhosts.len()) {
            return Err(DeviceError::BadConfig {
                device: "net",
                reason: format!(
                    "{pairs} pairs of queues with {} of vhost-net: must be 1 to {most} that are alike",
                    ends.vhosts.len()
                ),
            });
        }
        let plug = net::Plug {
            taps: ends.taps.into_iter().map(net::Tap::prepared).collect(),
            vhosts: kernels(ends.vhosts, &self.memory),
            mac,
            mtu,
        };
        self.replug_net(slot, |net, sources| net.plug(plug, sources))
    }

    /// Plugs a disk into an empty block slot while the VM runs. A driver finds it when it looks
    /// again. The files are those of [`disk_files`].
    pub fn attach_block(
        &mut self,
        slot: Slot,
        config: &BlockConfig,
        files: Vec<OwnedFd>,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let names = disk_files(config).into_iter().cloned();
        let files: HashMap<FdName, _> = names.zip(files.into_iter().map(Arc::new)).collect();
        let mut open = |name: &FdName| {
            let file = files.get(name).map(Arc::clone);
            file.ok_or_else(|| DeviceError::MissingFd {
                device: "blk",
                source: MissingFd(name.clone()),
            })
        };
        self.replug_block(slot, |blk| blk.plug(config, &mut open))
    }

    /// Pulls the disk out of a block slot.
    pub fn detach_block(&mut self, slot: Slot) -> Result<Vec<SourceChange>, DeviceError> {
        self.replug_block(slot, blk::Blk::unplug)
    }

    /// Plugs a shared directory in while the VM runs. A driver finds it when it looks again.
    pub fn attach_fs(
        &mut self,
        tag: &str,
        socket: OwnedFd,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let device = "fs";
        self.replug(device, Slot::FS, |entry, sources| {
            let plugged = entry.as_fs()?.plug(tag, socket, sources);
            Some(plugged.map_err(|source| DeviceError::Host {
                device,
                action: AGREE,
                source,
            }))
        })
    }

    fn replug_block(
        &mut self,
        slot: Slot,
        change: impl FnOnce(&mut blk::Blk) -> Result<(), DeviceError>,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let of_volumes = Slot::VOLUMES.contains(&slot);
        self.replug("blk", slot, |device, _| {
            device.as_blk().filter(|_| of_volumes).map(change)
        })
    }

    /// Plugs in a network device with a pair of queues on each datagram socket.
    #[cfg(feature = "fuzz")]
    pub(super) fn attach_fake(
        &mut self,
        slot: Slot,
        sockets: Vec<OwnedFd>,
    ) -> Result<(), DeviceError> {
        let taps = sockets.into_iter().flat_map(net::Tap::fake).collect();
        let plug = net::Plug {
            taps,
            vhosts: Vec::new(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
        };
        self.replug_net(slot, |net, sources| net.plug(plug, sources))
            .map(drop)
    }

    /// Makes the slot for shared directories one whose server the caller plays.
    #[cfg(feature = "fuzz")]
    pub(super) fn attach_fake_fs(&mut self) -> Option<super::fs::Shared> {
        let mut shared = None;
        let plugged = self.replug("fs", Slot::FS, |entry, _| {
            shared = entry.as_fs()?.fake("fuzz").ok();
            Some(Ok(()))
        });
        plugged.ok().and(shared)
    }

    /// Pulls the tap out of a network slot.
    pub fn detach_net(&mut self, slot: Slot) -> Result<Vec<SourceChange>, DeviceError> {
        self.replug_net(slot, net::Net::unplug)
    }

    fn replug_net(
        &mut self,
        slot: Slot,
        change: impl FnOnce(&mut net::Net, &mut Sources<'_>),
    ) -> Result<Vec<SourceChange>, DeviceError> {
        self.replug("net", slot, |device, sources| {
            let net = device.as_net()?;
            change(net, sources);
            Some(Ok(()))
        })
    }

    /// Changes what is in a slot; `None`: that slot is none for such a device.
    fn replug(
        &mut self,
        device: &'static str,
        slot: Slot,
        change: impl FnOnce(&mut dyn VirtioDevice, &mut Sources<'_>) -> Option<Result<(), DeviceError>>,
    ) -> Result<Vec<SourceChange>, DeviceError> {
        let mut changes = Vec::new();
        let mut sources = Sources {
            slot,
            changes: &mut changes,
        };
        let entry = self.others.iter_mut().find(|entry| entry.slot == slot);
        let wrong_slot = || DeviceError::BadConfig {
            device,
            reason: format!("slot {} is none for such a device", slot.index()),
        };
        let entry = entry.ok_or_else(wrong_slot)?;
        change(&mut *entry.device, &mut sources).ok_or_else(wrong_slot)??;
        entry.transport.replug(&*entry.device);
        entry.transport.wake();
        Ok(changes)
    }
}
