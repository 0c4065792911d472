//! All devices of a VM, built from a configuration.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use hull_vm_config::control::DiskEngine;
use hull_vm_config::{
    BlockConfig, DeviceConfig, Extent, FdName, FsConfig, NetConfig, QueuePair, Slot,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::devices::{
    DeviceError, DeviceInputs, DeviceStates, Devices, Interrupt, MissingFd, NetEnds, TakeFd,
};

struct Silent;

impl Interrupt for Silent {
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Fds(HashMap<FdName, OwnedFd>);

impl TakeFd for Fds {
    fn take(&mut self, name: &FdName) -> Result<OwnedFd, MissingFd> {
        self.0.remove(name).ok_or_else(|| MissingFd(name.clone()))
    }
}

fn build(config: &DeviceConfig, names: &[&str]) -> Result<Devices, DeviceError> {
    let mut fds = Fds::default();
    for name in names {
        let file = tempfile::tempfile().unwrap();
        fds.0.insert(FdName::from(*name), file.into());
    }
    let range = (GuestAddress(0), 1 << 20);
    Devices::build(DeviceInputs {
        config,
        fds: &mut fds,
        memory: GuestMemoryMmap::from_ranges(&[range]).unwrap(),
        interrupt: &|_| Ok(Box::new(Silent)),
        guest_cid: 3,
    })
}

fn block(names: &[&str], read_only: bool) -> BlockConfig {
    let extent = |name: &&str| Extent {
        fd: FdName::from(*name),
        offset: 0,
        length: 4096,
    };
    BlockConfig {
        extents: names.iter().map(extent).collect(),
        read_only,
        serial: "disk".into(),
    }
}

fn usual() -> DeviceConfig {
    DeviceConfig {
        image: Some(block(&["image", "layer", "image"], true)),
        scratch: Some(block(&["scratch"], false)),
        without_io_uring: true,
        ..DeviceConfig::default()
    }
}

#[test]
fn every_slot_is_on_the_command_line_in_order() {
    let devices = build(&DeviceConfig::default(), &[]).unwrap();
    let words = devices.cmdline();
    assert_eq!(words.len(), hull_vm_config::SLOT_COUNT);
    assert_eq!(words[0], "virtio_mmio.device=4K@0xd0000000:5");
    assert_eq!(words[9], "virtio_mmio.device=4K@0xd0009000:14");
}

#[test]
fn empty_slots_are_placeholders() {
    let devices = build(&DeviceConfig::default(), &[]).unwrap();
    let id = |slot: Slot| {
        let mut data = [0; 4];
        devices.bus().read(slot.mmio_base() + 8, &mut data);
        u32::from_le_bytes(data)
    };
    let ids: Vec<u32> = Slot::all().map(id).collect();
    assert_eq!(
        ids,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 19, 4, 5, 0, 3, 0, 0, 0, 0, 0]
    );
    let mut magic = [0; 4];
    devices.bus().read(Slot::FS.mmio_base(), &mut magic);
    assert_eq!(&magic, b"virt");
}

#[test]
fn only_devices_in_use_have_notifiers() {
    let mut devices = build(&usual(), &["image", "layer", "scratch"]).unwrap();
    let slots: Vec<Slot> = devices.notifiers().iter().map(|one| one.slot).collect();
    let want = [
        Slot::VSOCK,
        Slot::IMAGE,
        Slot::SCRATCH,
        Slot::RNG,
        Slot::BALLOON,
        Slot::CONSOLE,
    ];
    assert_eq!(slots, want);
    // The slots into which something may come are watched too: beside those of volumes and nets,
    // image, scratch, fs, vsock, rng, balloon and console.
    let watched = Slot::VOLUMES.len() + Slot::NETS.len() + 7;
    assert_eq!(devices.sources().len(), watched);
    let by_themselves = devices.disks();
    assert!(by_themselves
        .iter()
        .all(|disk| disk.engine == DiskEngine::Synchronous));
    assert_eq!(by_themselves.len(), 2);
    let config = DeviceConfig {
        without_io_uring: false,
        ..usual()
    };
    let mut devices = build(&config, &["image", "layer", "scratch"]).unwrap();
    assert_eq!(devices.disks()[1].slot, Slot::SCRATCH);
    let rings = devices
        .disks()
        .iter()
        .filter(|disk| disk.engine == DiskEngine::IoUring)
        .count();
    assert_eq!(devices.sources().len(), watched + rings);
}

fn id(devices: &Devices, slot: Slot) -> u32 {
    let mut data = [0; 4];
    devices.bus().read(slot.mmio_base() + 8, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn a_disk_comes_and_goes_while_the_vm_runs() {
    let mut devices = build(&usual(), &["image", "layer", "scratch"]).unwrap();
    let slot = Slot::VOLUMES[1];
    let extent = |fd: &str, offset| Extent {
        fd: fd.into(),
        offset,
        length: 4096,
    };
    let disk = BlockConfig {
        extents: vec![extent("a", 0), extent("b", 0), extent("a", 4096)],
        read_only: true,
        serial: "joined".into(),
    };
    let files = |count: usize| -> Vec<OwnedFd> {
        let file = |_| OwnedFd::from(tempfile::tempfile().unwrap());
        (0..count).map(file).collect()
    };
    assert_eq!(id(&devices, slot), 0);
    devices.attach_block(slot, &disk, files(2)).unwrap();
    assert_eq!(id(&devices, slot), 2);
    let mut sectors = [0; 8];
    devices.bus().read(slot.mmio_base() + 0x100, &mut sectors);
    assert_eq!(u64::from_le_bytes(sectors), 24);
    assert_eq!(devices.new_notifiers(slot).len(), 1);
    assert_eq!(devices.disks()[2].slot, slot);
    let twice = devices.attach_block(slot, &disk, files(2)).unwrap_err();
    assert!(twice.to_string().contains("there already"), "{twice}");
    devices.detach_block(slot).unwrap();
    assert_eq!(id(&devices, slot), 0);
    // Without one of its files nothing changes.
    let error = devices.attach_block(slot, &disk, files(1)).unwrap_err();
    assert!(matches!(error, DeviceError::MissingFd { .. }), "{error}");
    assert_eq!(id(&devices, slot), 0);
    devices.attach_block(slot, &disk, files(2)).unwrap();
    assert!(devices.new_notifiers(slot).is_empty());
    for wrong in [Slot::IMAGE, Slot::SCRATCH, Slot::NETS[0], Slot::VSOCK] {
        let error = devices.attach_block(wrong, &disk, files(2)).unwrap_err();
        assert!(error.to_string().contains("is none for"), "{error}");
    }
}

#[test]
fn a_network_device_comes_and_goes_while_the_vm_runs() {
    let mut devices = build(&usual(), &["image", "layer", "scratch"]).unwrap();
    let slot = Slot::NETS[1];
    let mac = [2, 0, 0, 0, 0, 9];
    let file = || OwnedFd::from(tempfile::tempfile().unwrap());
    let ends = |taps, vhosts| NetEnds {
        taps: (0..taps).map(|_| file()).collect(),
        vhosts: (0..vhosts).map(|_| file()).collect(),
    };
    let attached = devices.attach_net(slot, ends(1, 0), mac, 1400);
    assert_eq!(attached.unwrap().len(), 1);
    assert_eq!(id(&devices, slot), 1);
    let mut config = [0; 12];
    devices.bus().read(slot.mmio_base() + 0x100, &mut config);
    assert_eq!(config[..6], mac);
    assert_eq!(u16::from_le_bytes([config[10], config[11]]), 1400);
    assert_eq!(queues(&devices, slot), 2);
    // Another in its place, with several queues: the first is closed.
    let attached = devices.attach_net(slot, ends(3, 0), mac, 1500);
    assert_eq!(attached.unwrap().len(), 4);
    assert_eq!(queues(&devices, slot), 7);
    assert_eq!(devices.nets()[0].slot, slot);
    assert_eq!(devices.detach_net(slot).unwrap().len(), 3);
    assert_eq!(id(&devices, slot), 0);
    assert!(devices.detach_net(slot).unwrap().is_empty());
    assert!(devices.nets().is_empty());
    let error = devices.attach_net(Slot::RNG, ends(1, 0), mac, 1500);
    let error = error.unwrap_err();
    assert!(error.to_string().contains("slot 10"), "{error}");
    for (taps, vhosts) in [(0, 0), (5, 0), (2, 1), (1, 2)] {
        let error = devices.attach_net(slot, ends(taps, vhosts), mac, 1500);
        let error = error.unwrap_err();
        assert!(error.to_string().contains("pairs of queues"), "{error}");
    }
}

/// Queues that a device has: those whose largest size is not zero.
fn queues(devices: &Devices, slot: Slot) -> u32 {
    let bus = devices.bus();
    let there = |queue: &u32| {
        let mut size = [0; 4];
        bus.write(slot.mmio_base() + 0x30, &queue.to_le_bytes());
        bus.read(slot.mmio_base() + 0x34, &mut size);
        size != [0; 4]
    };
    (0..64).take_while(there).count() as u32
}

#[test]
fn missing_descriptors_and_devices_are_named() {
    let text = |result: Result<Devices, DeviceError>| {
        let error = result.err().unwrap();
        let source = std::error::Error::source(&error);
        format!("{error}: {source:?}")
    };
    let missing = text(build(&usual(), &["image", "scratch"]));
    assert!(missing.contains("layer"), "{missing}");
    let mut config = DeviceConfig {
        nets: vec![NetConfig {
            pairs: vec![QueuePair {
                tap: "tap".into(),
                vhost: None,
            }],
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
        }],
        ..DeviceConfig::default()
    };
    let no_tap = text(build(&config, &["tap"]));
    assert!(no_tap.contains("failed to set up its tap"), "{no_tap}");
    config.nets.clear();
    config.fs = Some(FsConfig {
        socket: "fs".into(),
        tag: "shared".into(),
    });
    assert!(text(build(&config, &[])).contains("\"fs\""));
    let no_server = text(build(&config, &["fs"]));
    assert!(no_server.contains("agree with virtiofsd"), "{no_server}");
    config.fs = None;
    let most = Slot::VOLUMES.len();
    config.volumes = vec![block(&["v"], false); most + 1];
    let too_many = text(build(&config, &["v"]));
    assert!(too_many.contains(&format!("at most {most}")), "{too_many}");
}

#[test]
fn a_saved_state_fits_the_same_shape_and_no_other() {
    let names = ["image", "layer", "scratch"];
    let mut devices = build(&DeviceConfig::default(), &[]).unwrap();
    devices.pause();
    let json = serde_json::to_string(&devices.save()).unwrap();
    let states: DeviceStates = serde_json::from_str(&json).unwrap();
    // A template without disks fits every container.
    let mut other = build(&usual(), &names).unwrap();
    other.restore(&states).unwrap();
    // Its driver would miss the disks.
    other.pause();
    let mut empty = build(&DeviceConfig::default(), &[]).unwrap();
    assert!(empty.restore(&other.save()).is_err());
    let twice = json.replacen("{\"slot\":1,", "{\"slot\":2,", 1);
    assert_ne!(twice, json);
    let twice: DeviceStates = serde_json::from_str(&twice).unwrap();
    let error = build(&usual(), &names)
        .unwrap()
        .restore(&twice)
        .unwrap_err();
    assert!(format!("{error:?}").contains("saved twice"), "{error:?}");
    let newer = json.replacen("\"version\":1", "\"version\":2", 1);
    let newer: DeviceStates = serde_json::from_str(&newer).unwrap();
    assert!(build(&usual(), &names).unwrap().restore(&newer).is_err());
}

#[test]
fn connections_are_bounded() {
    let mut devices = build(&DeviceConfig::default(), &[]).unwrap();
    let mut kept = Vec::new();
    for count in 0..1100 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let changes = devices.connect(1024, theirs);
        assert_eq!(changes.len(), usize::from(count < 1024));
        kept.push(ours);
        if count >= 1024 {
            // Refused: the other end is closed.
            let mut byte = [0];
            let read = io::Read::read(kept.last_mut().unwrap(), &mut byte);
            assert_eq!(read.unwrap(), 0);
        }
    }
}
