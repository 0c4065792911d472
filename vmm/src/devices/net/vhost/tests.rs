//! A kernel that writes down what it is asked, with a driver on real rings.

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::*;
use crate::devices::mmio::{reg, status};
use crate::devices::net::tap::{Tap, HEADER_BYTES};
use crate::devices::net::{Net, Plug};
use crate::devices::testutil::{Guest, Part};
use crate::devices::virtio::VirtioDevice as _;
use hull_vm_config::control::DataPath;

/// What the kernel knows.
#[derive(Debug, Default)]
struct Known {
    owners: usize,
    features: u64,
    /// Size and position of each queue.
    rings: [Option<(u16, u16)>; QUEUES_EACH],
    served: [bool; QUEUES_EACH],
    /// Where it stops.
    positions: [u16; QUEUES_EACH],
    /// What it refuses.
    refuses: Option<&'static str>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Known>>);

impl Fake {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }

    fn served(&self) -> [bool; QUEUES_EACH] {
        self.known().served
    }

    fn asked(&self, attempt: &'static str) -> Result<std::sync::MutexGuard<'_, Known>, VhostError> {
        let known = self.known();
        match known.refuses == Some(attempt) {
            true => Err(VhostError::Refused {
                attempt,
                source: vhost::Error::InvalidOperation,
            }),
            false => Ok(known),
        }
    }
}

impl Backend for Fake {
    fn own(&self) -> Result<(), VhostError> {
        self.asked("own")?.owners += 1;
        Ok(())
    }

    fn set_up(&self, features: u64) -> Result<(), VhostError> {
        let mut known = self.asked("set_up")?;
        assert_eq!(known.served, [false; 2]);
        known.features = features;
        Ok(())
    }

    fn set_ring(&self, index: usize, ring: &Ring<'_>) -> Result<(), VhostError> {
        let mut known = self.asked("set_ring")?;
        assert!(!known.served[index]);
        known.rings[index] = Some((ring.queue.size(), ring.queue.next_avail()));
        Ok(())
    }

    fn set_tap(&self, index: usize, tap: Option<BorrowedFd<'_>>) -> Result<(), VhostError> {
        match tap {
            Some(_) => self.asked("set_tap")?.served[index] = true,
            None => self.known().served[index] = false,
        }
        Ok(())
    }

    fn position(&self, index: usize) -> Result<u16, VhostError> {
        let known = self.known();
        assert!(!known.served[index]);
        Ok(known.positions[index])
    }
}

fn net(fake: &Fake) -> (Net, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let backend = Box::new(fake.clone()) as Box<dyn Backend>;
    (Net::on_sockets(vec![theirs], vec![backend]), ours)
}

fn guest(fake: &Fake) -> (Guest<Net>, UnixDatagram) {
    let (net, network) = net(fake);
    let mut guest = Guest::new(net);
    guest.started();
    guest.drive(u64::MAX);
    (guest, network)
}

fn frame() -> Vec<u8> {
    vec![0; HEADER_BYTES + 60]
}

fn arrived(network: &UnixDatagram) -> bool {
    network.recv(&mut [0; 200]).is_ok()
}

#[test]
fn the_kernel_has_the_queues_of_a_driver_that_is_ready() {
    let fake = Fake::default();
    let (mut guest, network) = guest(&fake);
    let all = QUEUE_FEATURES;
    {
        let known = fake.known();
        assert_eq!((known.owners, known.features), (1, all));
        assert_eq!(known.rings, [Some((16, 0)); 2]);
        assert_eq!(known.served, [true; 2]);
    }
    assert_eq!(guest.device().state(), Some((DataPath::VhostNet, 1)));
    // Nothing is done here, even when a kick comes by.
    guest.submit(1, vec![Part::Out(frame())]);
    assert!(guest.used(1).is_empty());
    assert!(!arrived(&network));
    // The kernel interrupts by itself, so the driver always looks.
    guest.set(reg::INTERRUPT_ACK, 1);
    assert_eq!(guest.get(reg::INTERRUPT_STATUS), 1);
}

#[test]
fn only_what_the_driver_accepted_is_asked_of_the_kernel() {
    let fake = Fake::default();
    let (mut guest, _network) = guest(&fake);
    guest.drive(F_VERSION_1 | 1 << 5);
    assert_eq!(fake.known().features, F_VERSION_1);
    assert_eq!(fake.known().owners, 1);
}

#[test]
fn a_reset_returns_when_the_kernel_has_stopped() {
    let fake = Fake::default();
    let (mut guest, _network) = guest(&fake);
    guest.set(reg::STATUS, 0);
    assert_eq!(fake.served(), [false; 2]);
    assert_eq!(guest.get(reg::INTERRUPT_STATUS), 0);
    guest.run();
    assert_eq!(fake.served(), [false; 2]);
    guest.drive(u64::MAX);
    assert_eq!(fake.served(), [true; 2]);
}

#[test]
fn a_queue_that_is_taken_back_is_served_no_more() {
    let fake = Fake::default();
    let (guest, _network) = guest(&fake);
    guest.set(reg::QUEUE_SEL, 1);
    guest.set(reg::QUEUE_READY, 0);
    assert_eq!(fake.served(), [true, false]);
    guest.set(reg::QUEUE_SEL, 77);
    guest.set(reg::QUEUE_READY, 0);
    guest.set(reg::QUEUE_NOTIFY, 77);
    assert_eq!(fake.served(), [true, false]);
}

#[test]
fn queues_that_the_driver_left_out_are_not_the_kernels() {
    let fake = Fake::default();
    let (mut guest, _network) = guest(&fake);
    guest.set(reg::STATUS, 0);
    let negotiated = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
    guest.set(reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    guest.accept(F_VERSION_1);
    guest.set(reg::STATUS, negotiated);
    guest.set(reg::STATUS, negotiated | status::DRIVER_OK);
    guest.run();
    assert_eq!(fake.served(), [false; 2]);
    assert!(!guest.needs_reset());
}

#[test]
fn a_paused_guest_goes_on_where_it_was_here_or_elsewhere() {
    let fake = Fake::default();
    let (mut guest, _network) = guest(&fake);
    fake.known().positions = [5, 9];
    guest.pause();
    assert_eq!(fake.served(), [false; 2]);
    guest.kick();
    assert_eq!(fake.served(), [false; 2]);
    guest.resume();
    assert_eq!(fake.known().rings, [Some((16, 5)), Some((16, 9))]);
    assert_eq!(fake.served(), [true; 2]);
    // Saved, and restored with another kernel's help.
    guest.pause();
    let other = Fake::default();
    let (device, _network) = net(&other);
    let guest = guest.restored(device).unwrap();
    assert_eq!(other.known().rings, [Some((16, 5)), Some((16, 9))]);
    assert_eq!(other.served(), [true; 2]);
    // What came last before the pause was perhaps not looked at.
    assert_eq!(guest.get(reg::INTERRUPT_STATUS), 1);
}

#[test]
fn a_saved_guest_goes_on_in_process() {
    let fake = Fake::default();
    let (mut guest, _network) = guest(&fake);
    let sent = guest.prepare(1, vec![Part::Out(frame())]);
    guest.prepare(1, vec![Part::Out(frame())]);
    // The kernel has sent the first.
    guest.use_up(1, sent.head);
    fake.known().positions = [0, 1];
    guest.pause();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut guest = guest.restored(Net::on_socket(theirs)).unwrap();
    assert!(arrived(&ours) && !arrived(&ours));
    assert_eq!(guest.used(1).len(), 2);
}

#[test]
fn what_the_kernel_refuses_is_done_here() {
    for refused in ["own", "set_up", "set_ring", "set_tap"] {
        let fake = Fake::default();
        fake.known().refuses = Some(refused);
        let (mut guest, network) = guest(&fake);
        assert_eq!(fake.served(), [false; 2], "{refused}");
        assert_eq!(guest.device().state(), Some((DataPath::InProcess, 1)));
        guest.prepare(1, vec![Part::Out(frame())]);
        // KVM writes this one, whoever serves the queue.
        guest.device().kicks()[1].write(1).unwrap();
        guest.run();
        assert!(arrived(&network), "{refused}");
        guest.submit(0, vec![Part::In(70_000)]);
        network.send(&frame()).unwrap();
        guest.run();
        assert_eq!(guest.used(0).len(), 1, "{refused}");
        assert!(!guest.needs_reset());
        guest.set(reg::INTERRUPT_ACK, 1);
        assert_eq!(guest.get(reg::INTERRUPT_STATUS), 0);
    }
}

#[test]
fn a_broken_queue_ends_the_device_until_its_reset() {
    let fake = Fake::default();
    let (mut guest, _network) = guest(&fake);
    guest.device().vhost_error().write(1).unwrap();
    guest.run();
    assert!(guest.needs_reset());
    assert_eq!(fake.served(), [false; 2]);
    guest.drive(u64::MAX);
    assert!(!guest.needs_reset());
    assert_eq!(fake.served(), [true; 2]);
}

#[test]
fn what_is_plugged_in_decides_who_serves_it() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let plug = |socket: UnixDatagram, vhost: Option<&Fake>| Plug {
        taps: vec![Tap::fake(socket.into()).unwrap()],
        vhosts: vhost
            .into_iter()
            .map(|fake| Box::new(fake.clone()) as Box<dyn Backend>)
            .collect(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
    };
    let mut guest = Guest::new(Net::absent());
    guest.started();
    assert_eq!(guest.device().state(), None);
    let first = Fake::default();
    let unused = UnixDatagram::unbound().unwrap();
    guest.with(|net, sources| net.plug(plug(unused, Some(&first)), sources));
    guest.drive(u64::MAX);
    assert_eq!(first.served(), [true; 2]);
    // Another in its place, and one that this process serves.
    let second = Fake::default();
    let unused = UnixDatagram::unbound().unwrap();
    guest.with(|net, sources| net.plug(plug(unused, Some(&second)), sources));
    assert_eq!(first.served(), [false; 2]);
    guest.drive(u64::MAX);
    assert_eq!(second.served(), [true; 2]);
    guest.with(|net, sources| net.plug(plug(theirs, None), sources));
    assert_eq!(second.served(), [false; 2]);
    guest.drive(u64::MAX);
    guest.prepare(1, vec![Part::Out(frame())]);
    guest.device().kicks()[1].write(1).unwrap();
    guest.run();
    assert!(arrived(&ours));
    guest.with(Net::unplug);
    assert_eq!(guest.device().state(), None);
}

/// A guest with as many pairs of queues as there are kernels.
fn guest_of_pairs(fakes: &[Fake], mask: u64) -> (Guest<Net>, Vec<UnixDatagram>) {
    let pairs = fakes.iter().map(|_| UnixDatagram::pair().unwrap());
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
    let backend = |fake: &Fake| Box::new(fake.clone()) as Box<dyn Backend>;
    let net = Net::on_sockets(theirs, fakes.iter().map(backend).collect());
    let mut guest = Guest::new(net);
    guest.started();
    guest.drive(mask);
    (guest, ours)
}

#[test]
fn each_pair_is_anothers_and_commands_are_this_devices() {
    let fakes = [Fake::default(), Fake::default(), Fake::default()];
    let (mut guest, _networks) = guest_of_pairs(&fakes, u64::MAX);
    assert!(fakes.iter().all(|fake| fake.served() == [true; 2]));
    let command = vec![Part::Out(vec![4, 0, 3, 0]), Part::In(1)];
    let sent = guest.submit(6, command);
    assert_eq!(guest.answer(&sent), [0]);
    assert_eq!(guest.device().state(), Some((DataPath::VhostNet, 3)));
    let command = vec![Part::Out(vec![1, 1, 2, 0, 0, 0, 0, 9]), Part::In(1)];
    let sent = guest.submit(6, command);
    assert_eq!(guest.answer(&sent), [0]);
    assert_eq!(guest.get(0x104) & 0xffff, 0x0900);
    // A kick of the control queue that comes as a store reaches it.
    guest.prepare(6, vec![Part::Out(vec![4, 0, 2, 0]), Part::In(1)]);
    guest.set(reg::QUEUE_NOTIFY, 6);
    guest.run();
    assert_eq!(guest.device().state(), Some((DataPath::VhostNet, 2)));
    for (index, fake) in fakes.iter().enumerate() {
        fake.known().positions = [index as u16, 10];
    }
    guest.pause();
    assert!(fakes.iter().all(|fake| fake.served() == [false; 2]));
    guest.resume();
    for (index, fake) in fakes.iter().enumerate() {
        let rings = fake.known().rings;
        assert_eq!(rings, [Some((16, index as u16)), Some((16, 10))]);
    }
    // The control queue went on where it was.
    let sent = guest.submit(6, vec![Part::Out(vec![4, 0, 1, 0]), Part::In(1)]);
    assert_eq!(guest.answer(&sent), [0]);
    guest.set(reg::STATUS, 0);
    assert!(fakes.iter().all(|fake| fake.served() == [false; 2]));
}

#[test]
fn a_driver_of_one_pair_has_one_kernel() {
    let fakes = [Fake::default(), Fake::default()];
    let (mut guest, _networks) = guest_of_pairs(&fakes, !(1 << 22));
    assert_eq!(fakes[0].served(), [true; 2]);
    assert_eq!(fakes[1].served(), [false; 2]);
    assert_eq!(fakes[1].known().owners, 0);
    // KVM writes the third queue's eventfd for the control queue then.
    guest.prepare(2, vec![Part::Out(vec![4, 0, 1, 0]), Part::In(1)]);
    guest.device().kicks()[2].write(1).unwrap();
    guest.run();
    assert_eq!(guest.used(2).len(), 1);
    guest.pause();
    guest.resume();
    guest.submit(2, vec![Part::Out(vec![4, 0, 1, 0]), Part::In(1)]);
    assert_eq!(guest.used(2).len(), 1);
}

#[test]
fn one_kernel_that_refuses_leaves_all_pairs_to_this_process() {
    let fakes = [Fake::default(), Fake::default()];
    fakes[1].known().refuses = Some("own");
    let (mut guest, networks) = guest_of_pairs(&fakes, u64::MAX);
    assert!(fakes.iter().all(|fake| fake.served() == [false; 2]));
    assert_eq!(guest.device().state(), Some((DataPath::InProcess, 1)));
    guest.submit(3, vec![Part::Out(frame())]);
    assert!(arrived(&networks[1]));
}

#[test]
fn rings_across_two_mappings_are_refused() {
    let ranges = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let mut queue = Queue::new(16).unwrap();
    queue.try_set_desc_table_address(GuestAddress(0)).unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(0x200))
        .unwrap();
    queue
        .try_set_used_ring_address(GuestAddress(0x400))
        .unwrap();
    queue.set_ready(true);
    assert!(queue.is_valid(&memory) && in_one_piece(&queue, &memory));
    queue
        .try_set_desc_table_address(GuestAddress(0xf80))
        .unwrap();
    assert!(queue.is_valid(&memory) && !in_one_piece(&queue, &memory));
}

/// A driver's store: register and value.
fn store() -> impl Strategy<Value = (u64, u32)> {
    let register = prop_oneof![
        Just(reg::STATUS),
        Just(reg::QUEUE_SEL),
        Just(reg::QUEUE_NUM),
        Just(reg::QUEUE_READY),
        Just(reg::QUEUE_NOTIFY),
        Just(reg::QUEUE_DESC_LOW),
        Just(reg::QUEUE_DEVICE_LOW),
        (0..0x48u64).prop_map(|word| word * 4),
    ];
    (register, prop_oneof![4 => 0..20u32, 1 => any::<u32>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_driver_stores_the_kernel_has_the_queues_of_a_live_device_only(
        stores in prop::collection::vec(store(), 1..200)
    ) {
        let fake = Fake::default();
        let (mut guest, _network) = guest(&fake);
        for (index, (register, value)) in stores.into_iter().enumerate() {
            guest.set(register, value);
            let live = guest.get(reg::STATUS) & status::DRIVER_OK != 0;
            prop_assert!(live || fake.served() == [false; 2]);
            if index % 3 == 0 {
                guest.run();
            }
            if index % 17 == 0 {
                guest.drive(u64::MAX);
            }
        }
        guest.drive(u64::MAX);
        prop_assert_eq!(fake.served(), [true; 2]);
    }
}
