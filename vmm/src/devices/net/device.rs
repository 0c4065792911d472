//! The device and its two queues.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use hull_vm_config::control::DataPath;
use hull_vm_config::{NetConfig, NetRates, Rate};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::tap::{offload, Tap, HEADER_BYTES};
use super::vhost::{Backend, Lines, VhostNet, QUEUES_EACH};
use crate::devices::chain::Buffers;
use crate::devices::rate::Limiter;
use crate::devices::source::Sources;
use crate::devices::virtio::{
    DeviceEvent, DeviceFailure, DeviceState, Progress, QueueSet, VirtioDevice, WrongState,
};

/// Receive (to the guest) and transmit queue.
const QUEUE_SIZES: [u16; 2] = [256, 256];
const RX: usize = 0;
const TX: usize = 1;
/// Token of the first tap.
const FIRST_TAP: u64 = 1;
/// Token of the first queue's kicks, behind those of all taps.
const FIRST_KICK: u64 = 1 << 32;
/// Token of vhost-net's errors.
const VHOST_ERROR: u64 = (1 << 32) - 1;

/// Frames per direction before the other devices get their turn.
const BATCH_FRAMES: usize = 64;
/// Most bytes of a segmented frame: header, Ethernet header with a VLAN tag, 64 KiB of packet.
const MAX_FRAME_BYTES: usize = HEADER_BYTES + ETHERNET_BYTES + (64 << 10);
/// Ethernet header with a VLAN tag.
const ETHERNET_BYTES: usize = 18;
/// Headers around the MTU.
const FRAME_OVERHEAD: usize = HEADER_BYTES + ETHERNET_BYTES;

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

/// Which tap flag each accepted feature allows.
const OFFLOADS: [(u64, u32); 4] = [
    (F_GUEST_CSUM, offload::CSUM),
    (F_GUEST_TSO4, offload::TSO4),
    (F_GUEST_TSO6, offload::TSO6),
    (F_GUEST_ECN, offload::TSO_ECN),
];

/// A network device.
pub(crate) struct Net {
    /// `None`: nothing is plugged in.
    tap: Option<Tap>,
    /// Token of the tap's events: another for each.
    token: u64,
    mac: [u8; 6],
    mtu: u16,
    /// The host's kernel serves the queues, or will when the driver is ready; `None`: this does.
    vhost: Option<Arc<VhostNet>>,
    /// There from the first tap on that vhost-net was to serve.
    lines: Option<Arc<Lines>>,
    /// What the driver accepted.
    features: u64,
    /// The tap's events are edge-triggered: this holds until a read would block.
    readable: bool,
    /// Whether a frame may span several of the guest's buffers.
    mergeable: bool,
    /// Room that a frame may need.
    frame_bytes: usize,
    receive_limit: Limiter,
    transmit_limit: Limiter,
}

/// What is plugged in while the VM runs.
pub(crate) struct Plug {
    pub(crate) tap: Tap,
    pub(crate) vhost: Option<Box<dyn Backend>>,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u16,
}

/// One of the guest's receive buffers.
struct Slot<'a> {
    head: u16,
    position: u16,
    room: Buffers<'a>,
}

impl Net {
    pub(crate) fn new(
        config: &NetConfig,
        tap: OwnedFd,
        vhost: Option<Box<dyn Backend>>,
    ) -> io::Result<Self> {
        let mut net = Self::on(Tap::new(tap)?, config.mac, config.mtu);
        if let Some(backend) = vhost {
            net.serve_by(backend)?;
        }
        Ok(net)
    }

    /// From the next start of a driver on the kernel serves the queues.
    pub(super) fn serve_by(&mut self, backend: Box<dyn Backend>) -> io::Result<()> {
        let lines = match &self.lines {
            Some(lines) => Arc::clone(lines),
            None => Arc::new(Lines::new(QUEUES_EACH)?),
        };
        self.vhost = Some(Arc::new(VhostNet::new(backend, Arc::clone(&lines))));
        self.lines = Some(lines);
        Ok(())
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

    pub(crate) fn on(tap: Tap, mac: [u8; 6], mtu: u16) -> Self {
        Self {
            tap: Some(tap),
            mac,
            mtu,
            ..Self::absent()
        }
    }

    /// A slot into which nothing is plugged.
    pub(crate) fn absent() -> Self {
        Self {
            tap: None,
            token: FIRST_TAP,
            mac: [0; 6],
            mtu: 0,
            vhost: None,
            lines: None,
            features: 0,
            readable: false,
            mergeable: false,
            frame_bytes: MAX_FRAME_BYTES,
            receive_limit: Limiter::new(Rate::default(), Instant::now()),
            transmit_limit: Limiter::new(Rate::default(), Instant::now()),
        }
    }

    /// Plugs a tap in, in the place of another; it has been prepared by who opened it.
    pub(crate) fn plug(&mut self, new: Plug, sources: &mut Sources<'_>) {
        self.unplug(sources);
        self.token += 1;
        (self.mac, self.mtu) = (new.mac, new.mtu);
        let watched = self.lines.is_some();
        if let Some(Err(error)) = new.vhost.map(|backend| self.serve_by(backend)) {
            log::warn!("a network device is served in process: {error}");
        }
        self.tap = Some(new.tap);
        match watched {
            true => self.watch_kicks(sources),
            false => self.add_lines(sources),
        }
        self.add_tap(sources);
    }

    /// Who moves frames; `None` where nothing is plugged in.
    pub(crate) fn path(&self) -> Option<DataPath> {
        self.tap.as_ref()?;
        Some(match self.vhost {
            Some(_) => DataPath::VhostNet,
            None => DataPath::InProcess,
        })
    }

    /// Where the kernel tells of broken queues.
    #[cfg(test)]
    pub(super) fn vhost_error(&self) -> &EventFd {
        &self.lines.as_ref().unwrap().error
    }

    /// What wakes this device: nothing, as long as the kernel does the work.
    fn events(&self) -> EventSet {
        match self.vhost {
            Some(_) => EventSet::empty(),
            None => EventSet::IN | EventSet::EDGE_TRIGGERED,
        }
    }

    fn add_tap(&self, sources: &mut Sources<'_>) {
        if let Some(tap) = &self.tap {
            sources.add(tap, self.events(), self.token);
        }
    }

    fn add_lines(&self, sources: &mut Sources<'_>) {
        let Some(lines) = &self.lines else { return };
        let error = EventSet::IN | EventSet::EDGE_TRIGGERED;
        sources.add(&lines.error, error, VHOST_ERROR);
        for (kick, token) in lines.kicks.iter().zip(FIRST_KICK..) {
            sources.add(kick, self.events(), token);
        }
    }

    fn watch_kicks(&self, sources: &mut Sources<'_>) {
        let kicks = self.lines.iter().flat_map(|lines| &lines.kicks);
        for (kick, token) in kicks.zip(FIRST_KICK..) {
            sources.modify(kick, self.events(), token);
        }
    }

    /// Gives the queues to the kernel, if it is to have them; `false`: they are to be served here.
    fn serve_outside(&mut self, queues: &mut QueueSet<'_>, sources: &mut Sources<'_>) -> bool {
        let (Some(vhost), Some(tap)) = (&self.vhost, &self.tap) else {
            return false;
        };
        if queues.outside.server.is_some() {
            // A kick that came by here.
            vhost.kick_all();
            return true;
        }
        let server = Arc::clone(vhost);
        queues.outside.give(server);
        let Err(error) = vhost.start(queues, tap.as_fd(), self.features) else {
            return true;
        };
        queues.outside.take_back();
        log::warn!("a network device is served in process: {error}");
        self.vhost = None;
        self.watch_kicks(sources);
        if let Some(tap) = &self.tap {
            sources.modify(tap, self.events(), self.token);
        }
        false
    }

    /// Pulls the tap out, if one is in.
    pub(crate) fn unplug(&mut self, sources: &mut Sources<'_>) {
        if let Some(vhost) = self.vhost.take() {
            vhost.stop_all();
        }
        if let Some(tap) = self.tap.take() {
            sources.remove(tap);
        }
        self.readable = false;
    }

    /// Guest to host.
    fn transmit(&mut self, queues: &mut QueueSet<'_>) -> Result<Progress, DeviceFailure> {
        let mut progress = Progress::More;
        let mut served = 0;
        while served < BATCH_FRAMES {
            if let Some(then) = self.transmit_limit.closed_until() {
                progress = Progress::Until(then);
                break;
            }
            let Some(chain) = queues.pop(TX)? else {
                progress = Progress::Idle;
                break;
            };
            let length = chain.readable.len();
            if (HEADER_BYTES + 1..=MAX_FRAME_BYTES).contains(&length) {
                // A frame that the tap does not take (a wrong header, a full queue) is lost, as on
                // any network.
                let _ = self.tap.as_ref().map(|tap| tap.write(&chain.readable));
                self.transmit_limit
                    .spend(length - HEADER_BYTES, || packets(&chain.readable, length));
            }
            queues.complete(TX, chain.head, 0)?;
            served += 1;
        }
        if served > 0 {
            queues.notify(TX)?;
        }
        Ok(progress)
    }

    /// Host to guest.
    fn receive(&mut self, queues: &mut QueueSet<'_>) -> Result<Progress, DeviceFailure> {
        let Some(tap) = &self.tap else {
            return Ok(Progress::Idle);
        };
        let mut slots = VecDeque::new();
        let mut frames = 0;
        let progress = loop {
            if !self.readable {
                break Progress::Idle;
            }
            if frames == BATCH_FRAMES {
                break Progress::More;
            }
            if let Some(then) = self.receive_limit.closed_until() {
                break Progress::Until(then);
            }
            if !self.gather(queues, &mut slots)? {
                // The guest kicks when it offers more.
                break Progress::Idle;
            }
            let mut room = Buffers::default();
            for slot in &slots {
                room.append(&slot.room);
            }
            match tap.read(&room) {
                Ok(length) if length >= HEADER_BYTES => {
                    self.receive_limit
                        .spend(length - HEADER_BYTES, || packets(&room, length));
                    deliver(queues, &mut slots, length)?;
                    frames += 1;
                }
                Ok(_) => frames += 1,
                // An interface that is down gives an error; an edge follows when it is up again.
                Err(_) => self.readable = false,
            }
        };
        if let Some(first) = slots.front() {
            queues.rewind(RX, first.position);
        }
        if frames > 0 {
            queues.notify(RX)?;
        }
        Ok(progress)
    }

    /// Collects buffers until the largest frame fits; `false` if there are too few.
    fn gather<'a>(
        &self,
        queues: &mut QueueSet<'a>,
        slots: &mut VecDeque<Slot<'a>>,
    ) -> Result<bool, DeviceFailure> {
        let mut room: usize = slots.iter().map(|slot| slot.room.len()).sum();
        loop {
            let enough = match self.mergeable {
                true => room >= self.frame_bytes,
                // Without merging the driver makes each buffer large enough for a frame.
                false => !slots.is_empty(),
            };
            if enough {
                return Ok(true);
            }
            let Some(chain) = queues.pop(RX)? else {
                return Ok(false);
            };
            if chain.writable.len() > HEADER_BYTES {
                room += chain.writable.len();
                slots.push_back(Slot {
                    head: chain.head,
                    position: chain.position,
                    room: chain.writable,
                });
            } else if slots.is_empty() {
                queues.complete(RX, chain.head, 0)?;
            } else {
                queues.rewind(RX, chain.position);
                return Ok(false);
            }
        }
    }
}

/// Packets on a wire that a frame of `length` bytes with its header becomes: the guest chooses how
/// small its segments are (`gso_size`, virtio 1.2, 5.1.6).
fn packets(frame: &Buffers<'_>, length: usize) -> usize {
    let mut header = [0; HEADER_BYTES];
    frame.copy_to(&mut header);
    let [_, gso_type, _, _, low, high, ..] = header;
    match gso_type {
        0 => 1,
        _ => (length - HEADER_BYTES).div_ceil(u16::from_le_bytes([low, high]).max(1).into()),
    }
}

/// Gives the guest the buffers that a frame of `length` bytes fills.
fn deliver(
    queues: &mut QueueSet<'_>,
    slots: &mut VecDeque<Slot<'_>>,
    length: usize,
) -> Result<(), DeviceFailure> {
    let mut rest = length;
    let mut used = Vec::new();
    let mut first = None;
    while rest > 0 {
        let Some(slot) = slots.pop_front() else {
            break;
        };
        let count = rest.min(slot.room.len());
        rest -= count;
        used.push((slot.head, count as u32));
        first.get_or_insert(slot.room);
    }
    // `num_buffers`, the last field of the header (virtio 1.2, 5.1.6.4).
    if let Some(mut header) = first {
        header.take_front(HEADER_BYTES - 2);
        header.copy_from(&(used.len() as u16).to_le_bytes());
    }
    for (head, count) in used {
        queues.complete(RX, head, count)?;
    }
    Ok(())
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        u32::from(self.tap.is_some())
    }

    fn features(&self) -> u64 {
        let guest = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;
        let host = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
        F_MAC | F_MTU | F_MRG_RXBUF | guest | host
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_net_config` up to the MTU (virtio 1.2, 5.1.4).
    fn config(&self) -> Vec<u8> {
        let mut config = self.mac.to_vec();
        config.extend([0; 4]); // status and max_virtqueue_pairs, which need features
        config.extend(self.mtu.to_le_bytes());
        config
    }

    fn start(&mut self, sources: &mut Sources<'_>) {
        self.add_tap(sources);
        self.add_lines(sources);
    }

    fn kicks(&self) -> &[EventFd] {
        self.lines.as_ref().map_or(&[], |lines| &lines.kicks)
    }

    fn activate(&mut self, features: u64) -> Result<(), DeviceFailure> {
        let accepted = OFFLOADS.iter().filter(|(bit, _)| features & bit != 0);
        let mut flags = accepted.fold(0, |flags, (_, flag)| flags | flag);
        if flags & offload::CSUM == 0 {
            flags = 0; // The others stand on it.
        }
        self.features = features;
        self.mergeable = features & F_MRG_RXBUF != 0;
        self.frame_bytes = match flags & (offload::TSO4 | offload::TSO6) {
            0 => FRAME_OVERHEAD + usize::from(self.mtu),
            _ => MAX_FRAME_BYTES,
        };
        // What waited in the tap was meant for another driver, or came before this one.
        self.readable = true;
        let Some(tap) = &self.tap else {
            return Ok(());
        };
        tap.set_offload(flags)
            .map_err(|error| DeviceFailure::Backend(format!("the tap's offloads: {error}")))
    }

    fn handle(
        &mut self,
        event: DeviceEvent,
        queues: Option<QueueSet<'_>>,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, DeviceFailure> {
        match event {
            DeviceEvent::Source(token, _) if token == self.token => self.readable = true,
            DeviceEvent::Source(VHOST_ERROR, _) if self.vhost.is_some() => {
                let reason = "vhost-net found a queue broken".to_owned();
                return Err(DeviceFailure::Backend(reason));
            }
            _ => {}
        }
        let Some(mut queues) = queues else {
            return Ok(Progress::Idle);
        };
        if self.serve_outside(&mut queues, sources) {
            return Ok(Progress::Idle);
        }
        let transmit = self.transmit(&mut queues)?;
        let receive = self.receive(&mut queues)?;
        Ok(transmit.sooner(receive))
    }

    fn reset(&mut self, _sources: &mut Sources<'_>) {
        self.mergeable = false;
    }

    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState> {
        state.is_stateless()
    }

    fn as_net(&mut self) -> Option<&mut Net> {
        Some(self)
    }
}
