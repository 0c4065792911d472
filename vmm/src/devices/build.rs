//! Making a VM's devices from its configuration and the files that it came with.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_vm_config::{BlockConfig, DeviceConfig, FdName, Slot, SlotKind};
use vm_memory::GuestMemoryMmap;

use super::entry::Entry;
use super::mmio::{MmioBus, Transport};
use super::virtio::{DeviceError, VirtioDevice};
use super::{balloon, blk, console, fs, net, rng, vsock, ConsoleTail, DeviceInputs, Devices};

/// What virtiofsd is asked for first.
pub(super) const AGREE: &str = "agree with virtiofsd on its queues";

impl Devices {
    /// Makes the devices that the configuration names, and the empty ones beside them.
    pub fn build(inputs: DeviceInputs<'_>) -> Result<Self, DeviceError> {
        at_most("blk", inputs.config.volumes.len(), Slot::VOLUMES.len())?;
        at_most("net", inputs.config.nets.len(), Slot::NETS.len())?;
        let tail = Arc::new(ConsoleTail::default());
        let mut builder = Builder {
            inputs,
            files: HashMap::new(),
        };
        let mut others = Vec::new();
        for slot in Slot::all() {
            if let Some(device) = builder.device(slot, &tail)? {
                others.push(builder.plug(slot, device)?);
            }
        }
        let cid = builder.inputs.guest_cid;
        let vsock = builder.plug(Slot::VSOCK, Box::new(vsock::Vsock::new(cid)))?;
        let mut windows = [const { None }; hull_vm_config::SLOT_COUNT];
        windows[Slot::VSOCK.index()] = Some(vsock.transport.clone());
        for entry in &others {
            windows[entry.slot.index()] = Some(entry.transport.clone());
        }
        Ok(Self {
            bus: Arc::new(MmioBus::new(windows)),
            tail,
            vsock,
            others,
            memory: builder.inputs.memory,
            paused: false,
        })
    }
}

struct Builder<'a> {
    inputs: DeviceInputs<'a>,
    /// Files by name: several extents may lie in one file.
    files: HashMap<FdName, Arc<OwnedFd>>,
}

impl Builder<'_> {
    /// The device of a slot, but for vsock's; `None` leaves the slot empty.
    fn device(
        &mut self,
        slot: Slot,
        tail: &Arc<ConsoleTail>,
    ) -> Result<Option<Box<dyn VirtioDevice>>, DeviceError> {
        Ok(match slot.kind() {
            SlotKind::Block => Some(Box::new(self.block(slot)?)),
            SlotKind::Rng => Some(Box::new(rng::Rng::default())),
            SlotKind::Console => Some(Box::new(self.console(tail)?)),
            // vsock is plugged by `Devices::build`, which keeps it under its own type.
            SlotKind::Vsock => None,
            SlotKind::Net => Some(Box::new(self.net(slot)?)),
            SlotKind::Fs => Some(Box::new(self.fs()?)),
            SlotKind::Balloon => Some(Box::new(balloon::Balloon::default())),
            SlotKind::Mem => None,
        })
    }

    fn block(&mut self, slot: Slot) -> Result<blk::Blk, DeviceError> {
        let wanted = !self.inputs.config.without_io_uring;
        match block_config(self.inputs.config, slot) {
            Some(config) => {
                let mut open = |name: &FdName| self.open("blk", name);
                blk::Blk::new(config, wanted, &mut open)
            }
            None => Ok(blk::Blk::empty(slot == Slot::IMAGE)),
        }
    }

    fn net(&mut self, slot: Slot) -> Result<net::Net, DeviceError> {
        let index = Slot::NETS.iter().position(|net| *net == slot);
        let rates = self.inputs.config.net_rates;
        let Some(config) = index.and_then(|index| self.inputs.config.nets.get(index)) else {
            return Ok(net::Net::absent().limited(rates));
        };
        let device = "net";
        let mut take = |name| {
            let fd = self.inputs.fds.take(name);
            fd.map_err(|source| DeviceError::MissingFd { device, source })
        };
        let taps = config.pairs.iter().map(|pair| take(&pair.tap));
        let taps = taps.collect::<Result<_, _>>()?;
        let vhosts = config.pairs.iter().filter_map(|pair| pair.vhost.as_ref());
        let vhosts = vhosts.map(take).collect::<Result<_, _>>()?;
        let vhosts = kernels(vhosts, &self.inputs.memory);
        let net = net::Plug::prepare(taps, vhosts, config.mac, config.mtu).and_then(net::Net::new);
        let net = net.map_err(|source| DeviceError::Host {
            device,
            action: "set up its tap",
            source,
        })?;
        Ok(net.limited(rates))
    }

    fn fs(&mut self) -> Result<fs::Fs, DeviceError> {
        let device = "fs";
        let Some(config) = &self.inputs.config.fs else {
            return fs::Fs::absent().map_err(|source| DeviceError::Host {
                device,
                action: "make its memory",
                source,
            });
        };
        let socket = self.inputs.fds.take(&config.socket);
        let socket = socket.map_err(|source| DeviceError::MissingFd { device, source })?;
        fs::Fs::new(config, socket).map_err(|source| DeviceError::Host {
            device,
            action: AGREE,
            source,
        })
    }

    fn console(&mut self, tail: &Arc<ConsoleTail>) -> Result<console::Console, DeviceError> {
        let name = self.inputs.config.console.as_ref();
        let file = name.map(|name| self.open("console", name)).transpose()?;
        Ok(console::Console::new(Arc::clone(tail), file))
    }

    fn open(&mut self, device: &'static str, name: &FdName) -> Result<Arc<OwnedFd>, DeviceError> {
        if let Some(file) = self.files.get(name) {
            return Ok(Arc::clone(file));
        }
        let file = self.inputs.fds.take(name);
        let file = Arc::new(file.map_err(|source| DeviceError::MissingFd { device, source })?);
        self.files.insert(name.clone(), Arc::clone(&file));
        Ok(file)
    }

    fn plug<D: VirtioDevice + ?Sized>(
        &self,
        slot: Slot,
        device: Box<D>,
    ) -> Result<Entry<D>, DeviceError> {
        let host = |action, source| DeviceError::Host {
            device: kind_name(slot.kind()),
            action,
            source,
        };
        let interrupt =
            (self.inputs.interrupt)(slot).map_err(|source| host("make its interrupt", source))?;
        let transport = Transport::new(&*device, self.inputs.memory.clone(), interrupt)
            .map_err(|source| host("make its notifier", source))?;
        let in_use = match slot.kind() {
            SlotKind::Block => block_config(self.inputs.config, slot).is_some(),
            _ => device.device_type() != 0,
        };
        Ok(Entry {
            slot,
            transport: Arc::new(transport),
            in_use,
            known_kicks: 0,
            active: false,
            epoch: 0,
            failures: 0,
            due: None,
            device,
        })
    }
}

pub(super) fn kernels(
    vhosts: Vec<OwnedFd>,
    memory: &GuestMemoryMmap,
) -> Vec<Box<dyn net::Backend>> {
    let kernel = |fd| Box::new(net::Kernel::new(fd, memory)) as Box<dyn net::Backend>;
    vhosts.into_iter().map(kernel).collect()
}

fn at_most(device: &'static str, count: usize, slots: usize) -> Result<(), DeviceError> {
    if count <= slots {
        return Ok(());
    }
    let reason = format!("{count} are configured, of which at most {slots} fit");
    Err(DeviceError::BadConfig { device, reason })
}

/// What the configuration puts into a block slot.
fn block_config(config: &DeviceConfig, slot: Slot) -> Option<&BlockConfig> {
    match slot {
        Slot::IMAGE => config.image.as_ref(),
        Slot::SCRATCH => config.scratch.as_ref(),
        _ => {
            let volume = Slot::VOLUMES.iter().position(|volume| *volume == slot)?;
            config.volumes.get(volume)
        }
    }
}

fn kind_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Block => "blk",
        SlotKind::Net => "net",
        SlotKind::Fs => "fs",
        SlotKind::Vsock => "vsock",
        SlotKind::Rng => "rng",
        SlotKind::Balloon => "balloon",
        SlotKind::Mem => "mem",
        SlotKind::Console => "console",
    }
}
