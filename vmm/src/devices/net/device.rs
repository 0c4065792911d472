//! The device: what is plugged into it, and who serves its queues.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use hull_vm_config::control::DataPath;
use hull_vm_config::{NetRates, Rate, MAX_QUEUE_PAIRS};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::control::{self, Command};
use super::frames::{Framing, Port, FRAME_OVERHEAD, MAX_FRAME_BYTES};
use super::tap::{offload, Tap};
use super::vhost::{Backend, Lines, VhostNet, QUEUES_EACH};
use crate::devices::rate::Limiter;
use crate::devices::source::Sources;
use crate::devices::virtio::{
    DeviceEvent, DeviceFailure, DeviceState, Progress, QueueSet, VirtioDevice, WrongState,
};

/// Most queues: receive (to the guest) and transmit queue of each pair, and the control queue.
const MAX_QUEUES: usize = QUEUES_EACH * MAX_QUEUE_PAIRS as usize + 1;
const QUEUE_SIZES: [u16; MAX_QUEUES] = [256; MAX_QUEUES];
/// Token of the first tap's first descriptor.
const FIRST_TAP: u64 = 1;
/// Token of the first queue's kicks, behind those of all taps.
const FIRST_KICK: u64 = 1 << 32;
/// Token of vhost-net's errors.
const VHOST_ERROR: u64 = FIRST_KICK - 1;

const F_CSUM: u64 = 1;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
pub(super) const F_MRG_RXBUF: u64 = 1 << 15;
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
const F_CTRL_MAC_ADDR: u64 = 1 << 23;
const F_GUEST_USO4: u64 = 1 << 54;
const F_GUEST_USO6: u64 = 1 << 55;
const F_HOST_USO: u64 = 1 << 56;
/// Segmentation of UDP, which older kernels of hosts have not.
const SEGMENTS_UDP: u64 = F_GUEST_USO4 | F_GUEST_USO6 | F_HOST_USO;
/// What comes with a control queue. Setting one up costs a driver a dozen exits, so there is none
/// where there are no pairs to choose from.
const CONTROLS: u64 = F_CTRL_VQ | F_CTRL_MAC_ADDR | F_MQ;

/// Which tap flags accepted features allow, where all of a line are.
const OFFLOADS: [(u64, u32); 5] = [
    (F_GUEST_CSUM, offload::CSUM),
    (F_GUEST_TSO4, offload::TSO4),
    (F_GUEST_TSO6, offload::TSO6),
    (F_GUEST_ECN, offload::TSO_ECN),
    (F_GUEST_USO4 | F_GUEST_USO6, offload::USO),
];

/// The tap's offloads with a driver that accepted these features.
pub(super) fn offloads(features: u64) -> u32 {
    let accepted = OFFLOADS.iter().filter(|(bits, _)| features & bits == *bits);
    match accepted.fold(0, |flags, (_, flag)| flags | flag) {
        // The others stand on it.
        flags if flags & offload::CSUM == 0 => 0,
        flags => flags,
    }
}

/// A network device.
pub(crate) struct Net {
    /// The tap's descriptors, one for each pair of queues; none: nothing is plugged in.
    ports: Vec<Port>,
    /// The host's kernel takes and gives UDP that is not segmented yet.
    segments_udp: bool,
    /// Token of the first one's events: others for each tap.
    token: u64,
    mac: [u8; 6],
    /// The one that the driver uses instead, which only the configuration shows: what its tap lets
    /// through is the host's business.
    set_mac: Option<[u8; 6]>,
    /// The transport is yet to show it.
    shows_old_mac: bool,
    mtu: u16,
    /// The host's kernel serves the queues, or will when the driver is ready; `None`: this does.
    vhost: Option<Arc<VhostNet>>,
    /// There from the first tap on that vhost-net was to serve.
    lines: Option<Lines>,
    /// What the driver accepted.
    features: u64,
    framing: Framing,
    /// Pairs of queues that the driver uses.
    used_pairs: usize,
    /// The same, of a saved driver that is yet to go on.
    saved_pairs: Option<usize>,
    receive_limit: Limiter,
    transmit_limit: Limiter,
}

/// What is plugged in: a tap's descriptors, and as many instances of vhost-net or none.
pub(crate) struct Plug {
    pub(crate) taps: Vec<Tap>,
    pub(crate) vhosts: Vec<Box<dyn Backend>>,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u16,
}

impl Plug {
    /// A tap that somebody else opened.
    pub(crate) fn prepare(
        taps: Vec<OwnedFd>,
        vhosts: Vec<Box<dyn Backend>>,
        mac: [u8; 6],
        mtu: u16,
    ) -> io::Result<Self> {
        Ok(Self {
            taps: taps.into_iter().map(Tap::new).collect::<io::Result<_>>()?,
            vhosts,
            mac,
            mtu,
        })
    }
}

impl Net {
    pub(crate) fn new(plug: Plug) -> io::Result<Self> {
        let mut net = Self::absent();
        net.put_in(plug)?;
        Ok(net)
    }

    /// A slot into which nothing is plugged.
    pub(crate) fn absent() -> Self {
        Self {
            ports: Vec::new(),
            segments_udp: false,
            token: FIRST_TAP,
            mac: [0; 6],
            set_mac: None,
            shows_old_mac: false,
            mtu: 0,
            vhost: None,
            lines: None,
            features: 0,
            framing: Framing {
                mergeable: false,
                bytes: MAX_FRAME_BYTES,
            },
            used_pairs: 1,
            saved_pairs: None,
            receive_limit: Limiter::new(Rate::default(), Instant::now()),
            transmit_limit: Limiter::new(Rate::default(), Instant::now()),
        }
    }

    /// Holds it to these rates, whatever is plugged in.
    pub(crate) fn limited(mut self, rates: NetRates) -> Self {
        self.set_limits(rates);
        self
    }

    pub(crate) fn set_limits(&mut self, rates: NetRates) {
        let now = Instant::now();
        self.receive_limit = Limiter::new(rates.receive, now);
        self.transmit_limit = Limiter::new(rates.transmit, now);
    }

    /// Plugs a tap in, in the place of another; it has been prepared by who opened it.
    pub(crate) fn plug(&mut self, new: Plug, sources: &mut Sources<'_>) {
        self.unplug(sources);
        self.token += u64::from(MAX_QUEUE_PAIRS);
        let watched = self.lines.as_ref().map(|lines| lines.kicks.len());
        if let Err(error) = self.put_in(new) {
            log::warn!("a network device is served in process: {error}");
        }
        self.add_ports(sources);
        self.add_lines(watched, sources);
        self.watch_kicks(sources);
    }

    /// The tap is in also where vhost-net can't be.
    fn put_in(&mut self, new: Plug) -> io::Result<()> {
        (self.mac, self.set_mac, self.mtu) = (new.mac, None, new.mtu);
        let port = |tap| Port {
            tap,
            readable: false,
        };
        self.segments_udp = new.taps.first().is_some_and(Tap::segments_udp);
        self.ports = new.taps.into_iter().map(port).collect();
        if new.vhosts.is_empty() {
            return Ok(());
        }
        let mut lines = match &self.lines {
            Some(lines) => lines.clone(),
            None => Lines::new()?,
        };
        lines.extend_to(new.vhosts.len() * QUEUES_EACH)?;
        self.vhost = Some(Arc::new(VhostNet::new(new.vhosts, lines.clone())));
        self.lines = Some(lines);
        Ok(())
    }

    /// Pulls the tap out, if one is in.
    pub(crate) fn unplug(&mut self, sources: &mut Sources<'_>) {
        if let Some(vhost) = self.vhost.take() {
            vhost.stop_all();
        }
        for port in self.ports.drain(..) {
            sources.remove(port.tap);
        }
    }

    /// Who moves frames, and over how many pairs of queues; `None` where nothing is plugged in.
    pub(crate) fn state(&self) -> Option<(DataPath, u8)> {
        self.ports.first()?;
        let path = match self.vhost {
            Some(_) => DataPath::VhostNet,
            None => DataPath::InProcess,
        };
        Some((path, u8::try_from(self.used_pairs).ok()?))
    }

    /// Where the kernel tells of broken queues.
    #[cfg(test)]
    pub(super) fn vhost_error(&self) -> &EventFd {
        &self.lines.as_ref().unwrap().error
    }

    /// Pairs of queues that the driver may use.
    fn pairs(&self) -> usize {
        match self.features & F_MQ {
            0 => self.ports.len().min(1),
            _ => self.ports.len(),
        }
    }

    /// The control queue, which lies behind those (virtio 1.2, 5.1.2).
    fn control_queue(&self) -> Option<usize> {
        (self.features & F_CTRL_VQ != 0).then(|| self.pairs() * QUEUES_EACH)
    }

    /// The tap sends to the first pairs, and to no other.
    fn use_pairs(&mut self, count: usize) -> io::Result<()> {
        for (index, port) in self.ports.iter_mut().enumerate().skip(1) {
            let used = index < count;
            port.tap.set_attached(used)?;
            port.readable |= used;
        }
        self.used_pairs = count;
        Ok(())
    }
}

/// What wakes the event loop, and what does not.
impl Net {
    /// Of what the kernel serves: nothing.
    fn events(&self) -> EventSet {
        match self.vhost {
            Some(_) => EventSet::empty(),
            None => EventSet::IN | EventSet::EDGE_TRIGGERED,
        }
    }

    fn add_ports(&self, sources: &mut Sources<'_>) {
        for (port, token) in self.ports.iter().zip(self.token..) {
            sources.add(&port.tap, self.events(), token);
        }
    }

    fn watch_ports(&self, sources: &mut Sources<'_>) {
        for (port, token) in self.ports.iter().zip(self.token..) {
            sources.modify(&port.tap, self.events(), token);
        }
    }

    /// Adds those of the lines that are new; `before`: how many kicks there were, if any lines.
    fn add_lines(&self, before: Option<usize>, sources: &mut Sources<'_>) {
        let Some(lines) = &self.lines else { return };
        if before.is_none() {
            let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
            sources.add(&*lines.error, events, VHOST_ERROR);
        }
        let kicks = lines.kicks.iter().zip(FIRST_KICK..);
        for (kick, token) in kicks.skip(before.unwrap_or(0)) {
            sources.add(&**kick, EventSet::empty(), token);
        }
    }

    /// Kicks that the kernel does not take are taken here.
    fn watch_kicks(&self, sources: &mut Sources<'_>) {
        let kicks = self.lines.iter().flat_map(|lines| &lines.kicks);
        for (index, kick) in kicks.enumerate() {
            let events = match index < self.pairs() * QUEUES_EACH {
                true => self.events(),
                false => EventSet::IN | EventSet::EDGE_TRIGGERED,
            };
            sources.modify(&**kick, events, FIRST_KICK + index as u64);
        }
    }
}

/// Serving queues.
impl Net {
    /// Gives the queues to the kernel, if it is to have them; `false`: they are to be served here.
    fn serve_outside(&mut self, queues: &mut QueueSet<'_>, sources: &mut Sources<'_>) -> bool {
        let Some(vhost) = &self.vhost else {
            return false;
        };
        if queues.outside.server.is_some() {
            // A kick that came by here.
            vhost.kick_all();
            return true;
        }
        let server = Arc::clone(vhost);
        queues.outside.give(server);
        let taps = self.ports.iter().map(|port| port.tap.as_fd());
        let started = vhost.start(queues, taps.take(self.pairs()), self.features);
        if let Err(error) = &started {
            queues.outside.take_back();
            log::warn!("a network device is served in process: {error}");
            self.vhost = None;
            self.watch_ports(sources);
        }
        self.watch_kicks(sources);
        started.is_ok()
    }

    fn serve_here(&mut self, queues: &mut QueueSet<'_>) -> Result<Progress, DeviceFailure> {
        let mut progress = Progress::Idle;
        let pairs = self.pairs();
        for (index, port) in self.ports.iter_mut().enumerate().take(pairs) {
            let (rx, tx) = (index * QUEUES_EACH, index * QUEUES_EACH + 1);
            let sent = port.transmit(queues, tx, &mut self.transmit_limit)?;
            let received = port.receive(queues, rx, self.framing, &mut self.receive_limit)?;
            progress = progress.sooner(sent).sooner(received);
        }
        Ok(progress)
    }

    /// Does what the driver asks for, if it may.
    fn carry_out(&mut self, command: &Command) -> bool {
        match *command {
            Command::QueuePairs(count) => {
                let count = usize::from(count);
                (1..=self.pairs()).contains(&count) && self.use_pairs(count).is_ok()
            }
            Command::Address(mac) => {
                let agreed = self.features & F_CTRL_MAC_ADDR != 0;
                let of_group = mac[0] & 1 != 0;
                let may = agreed && !of_group && mac != [0; 6];
                if may {
                    self.set_mac = Some(mac);
                    self.shows_old_mac = true;
                }
                may
            }
        }
    }

    fn serve_control(&mut self, queues: &mut QueueSet<'_>) -> Result<Progress, DeviceFailure> {
        let Some(queue) = self.control_queue() else {
            return Ok(Progress::Idle);
        };
        let more = control::serve(queues, queue, |command| self.carry_out(&command))?;
        Ok(match more {
            true => Progress::More,
            false => Progress::Idle,
        })
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        u32::from(!self.ports.is_empty())
    }

    fn features(&self) -> u64 {
        let guest = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;
        let host = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
        let pairs = match self.ports.len() {
            0 | 1 => 0,
            _ => CONTROLS,
        };
        let udp = match self.segments_udp {
            true => SEGMENTS_UDP,
            false => 0,
        };
        F_MAC | F_MTU | F_MRG_RXBUF | guest | host | udp | pairs
    }

    fn queue_sizes(&self) -> &'static [u16] {
        match self.ports.len() {
            0 | 1 => &QUEUE_SIZES[..QUEUES_EACH],
            pairs => &QUEUE_SIZES[..MAX_QUEUES.min(QUEUES_EACH * pairs + 1)],
        }
    }

    /// `struct virtio_net_config` up to the MTU (virtio 1.2, 5.1.4).
    fn config(&self) -> Vec<u8> {
        let mut config = self.set_mac.unwrap_or(self.mac).to_vec();
        config.extend([0; 2]); // the status, which needs a feature
        let pairs = match self.ports.len() {
            0 | 1 => 0,
            pairs => pairs as u16,
        };
        config.extend(pairs.to_le_bytes());
        config.extend(self.mtu.to_le_bytes());
        config
    }

    fn config_of_driver(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.shows_old_mac).then(|| self.config())
    }

    fn start(&mut self, sources: &mut Sources<'_>) {
        self.add_ports(sources);
        self.add_lines(None, sources);
        self.watch_kicks(sources);
    }

    fn kicks(&self) -> &[Arc<EventFd>] {
        self.lines.as_ref().map_or(&[], |lines| &lines.kicks)
    }

    fn activate(&mut self, features: u64) -> Result<(), DeviceFailure> {
        // Another tap may be in by now, with fewer descriptors.
        self.features = features & (self.features() | !CONTROLS);
        let flags = offloads(features);
        self.framing = Framing {
            mergeable: features & F_MRG_RXBUF != 0,
            bytes: match flags & (offload::TSO4 | offload::TSO6 | offload::USO) {
                0 => FRAME_OVERHEAD + usize::from(self.mtu),
                _ => MAX_FRAME_BYTES,
            },
        };
        let failed = |error| DeviceFailure::Backend(format!("the tap's settings: {error}"));
        let pairs = self.saved_pairs.take().unwrap_or(1);
        self.use_pairs(pairs.clamp(1, self.pairs().max(1)))
            .map_err(failed)?;
        let Some(first) = self.ports.first_mut() else {
            return Ok(());
        };
        // What waited in the tap was meant for another driver, or came before this one.
        first.readable = true;
        first.tap.set_offload(flags).map_err(failed)
    }

    fn handle(
        &mut self,
        event: DeviceEvent,
        queues: Option<QueueSet<'_>>,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, DeviceFailure> {
        if let DeviceEvent::Source(token, _) = event {
            if token == VHOST_ERROR && self.vhost.is_some() {
                let reason = "vhost-net found a queue broken".to_owned();
                return Err(DeviceFailure::Backend(reason));
            }
            let index = token.checked_sub(self.token);
            let index = index.and_then(|index| usize::try_from(index).ok());
            if let Some(port) = index.and_then(|index| self.ports.get_mut(index)) {
                port.readable = true;
            }
        }
        let Some(mut queues) = queues else {
            return Ok(Progress::Idle);
        };
        let moved = match self.serve_outside(&mut queues, sources) {
            true => Progress::Idle,
            false => self.serve_here(&mut queues)?,
        };
        Ok(moved.sooner(self.serve_control(&mut queues)?))
    }

    fn reset(&mut self, _sources: &mut Sources<'_>) {
        self.features = 0;
        self.set_mac = None;
        self.framing.mergeable = false;
    }

    fn save(&self) -> DeviceState {
        match (u8::try_from(self.used_pairs), self.set_mac) {
            (Ok(1), None) | (Err(_), _) => DeviceState::Stateless,
            (Ok(pairs), mac) => DeviceState::Net { pairs, mac },
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState> {
        match state {
            DeviceState::Net { pairs, mac } => {
                self.saved_pairs = Some(usize::from(*pairs));
                self.set_mac = *mac;
                self.shows_old_mac = mac.is_some();
            }
            other => other.is_stateless()?,
        }
        Ok(())
    }

    fn as_net(&mut self) -> Option<&mut Net> {
        Some(self)
    }
}
