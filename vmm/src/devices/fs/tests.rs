//! A guest with a shared directory, and a virtiofsd that is played by the test: a good one and all
//! kinds of bad ones.

use vm_memory::{Bytes, GuestAddress};

use super::bounce::Bounce;
use super::device::Fs;
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part};

const REQUESTS: usize = 1;
const RING_HEADER: u64 = 4;

fn guest() -> Guest<Fs> {
    let mut guest = Guest::start(Fs::without_backend("hull").unwrap());
    guest.started();
    guest
}

fn read<const N: usize>(bounce: &Bounce, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    bounce
        .memory
        .read_slice(&mut bytes, GuestAddress(at))
        .unwrap();
    bytes
}

/// virtiofsd's place in a queue.
#[derive(Default)]
struct Server {
    next: u16,
    answered: u16,
}

/// A request as virtiofsd sees it.
struct Seen {
    head: u16,
    bytes: Vec<u8>,
    room: Option<(u64, u32)>,
}

impl Server {
    fn take(&mut self, guest: &mut Guest<Fs>) -> Option<Seen> {
        let (bounce, queues) = guest.device().parts();
        let layout = queues[REQUESTS].layout;
        if u16::from_le_bytes(read(bounce, layout.available + 2)) == self.next {
            return None;
        }
        let place = u64::from(self.next % layout.size);
        self.next = self.next.wrapping_add(1);
        let head = u16::from_le_bytes(read(bounce, layout.available + RING_HEADER + place * 2));
        let mut seen = Seen {
            head,
            bytes: Vec::new(),
            room: None,
        };
        let mut next = Some(head);
        while let Some(id) = next {
            let raw: [u8; 16] = read(bounce, layout.descriptors + u64::from(id) * 16);
            let address = u64::from_le_bytes(raw[..8].try_into().unwrap());
            let length = u32::from_le_bytes(raw[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes(raw[12..14].try_into().unwrap());
            if flags & 2 == 0 {
                let mut bytes = vec![0; length as usize];
                let at = GuestAddress(address);
                bounce.memory.read_slice(&mut bytes, at).unwrap();
                seen.bytes.extend(bytes);
            } else {
                seen.room = Some((address, length));
            }
            let follows = u16::from_le_bytes(raw[14..].try_into().unwrap());
            next = (flags & 1 != 0).then_some(follows);
        }
        Some(seen)
    }

    fn write(&self, guest: &mut Guest<Fs>, seen: &Seen, answer: &[u8]) {
        let (bounce, _) = guest.device().parts();
        let (address, _) = seen.room.unwrap();
        bounce
            .memory
            .write_slice(answer, GuestAddress(address))
            .unwrap();
    }

    /// Says that request `id` has an answer of `length` bytes.
    fn finish(&mut self, guest: &mut Guest<Fs>, id: u32, length: u32) {
        let (bounce, queues) = guest.device().parts();
        let layout = queues[REQUESTS].layout;
        let place = u64::from(self.answered % layout.size);
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&id.to_le_bytes());
        entry[4..].copy_from_slice(&length.to_le_bytes());
        let at = GuestAddress(layout.used + RING_HEADER + place * 8);
        bounce.memory.write_slice(&entry, at).unwrap();
        self.jump(guest, 1);
    }

    fn jump(&mut self, guest: &mut Guest<Fs>, by: u16) {
        self.answered = self.answered.wrapping_add(by);
        let (bounce, queues) = guest.device().parts();
        let index = GuestAddress(queues[REQUESTS].layout.used + 2);
        bounce
            .memory
            .write_slice(&self.answered.to_le_bytes(), index)
            .unwrap();
        queues[REQUESTS].call.write(1).unwrap();
        guest.run();
    }
}

#[test]
fn the_configuration_tells_the_tag_and_one_request_queue() {
    let guest = guest();
    assert_eq!(&guest.get(0x100).to_le_bytes(), b"hull");
    assert_eq!(guest.get(0x124), 1);
    assert!(Fs::without_backend(&"x".repeat(37)).is_err());
}

#[test]
fn a_request_goes_over_and_its_answer_comes_back() {
    let (mut guest, mut server) = (guest(), Server::default());
    // The guest cuts as it likes.
    let sent = guest.submit(
        REQUESTS,
        vec![
            Part::Out(b"hea".to_vec()),
            Part::Out(b"der".to_vec()),
            Part::In(3),
            Part::In(10),
        ],
    );
    let seen = server.take(&mut guest).unwrap();
    assert_eq!(seen.bytes, b"header");
    assert_eq!(seen.room.unwrap().1, 13);
    assert!(guest.used(REQUESTS).is_empty());
    server.write(&mut guest, &seen, b"answer");
    server.finish(&mut guest, seen.head.into(), 6);
    assert_eq!(guest.used(REQUESTS)[0].len, 6);
    assert_eq!(&guest.answer(&sent)[..6], b"answer");
}

#[test]
fn answers_come_in_any_order_and_requests_wait_for_room() {
    let (mut guest, mut server) = (guest(), Server::default());
    // Four of these fill the region; the fifth waits.
    for _ in 0..5 {
        guest.submit(REQUESTS, vec![Part::Out(vec![1]), Part::In(2 << 20)]);
    }
    let mut seen: Vec<_> = std::iter::from_fn(|| server.take(&mut guest)).collect();
    assert!((1..5).contains(&seen.len()), "{}", seen.len());
    let mut answers = 0;
    while let Some(last) = seen.pop() {
        server.finish(&mut guest, last.head.into(), 8);
        answers += 1;
        seen.extend(server.take(&mut guest));
    }
    assert_eq!(answers, 5);
    assert_eq!(guest.used(REQUESTS).len(), 5);
}

#[test]
fn a_request_that_no_driver_makes_gets_no_answer() {
    let mut guest = guest();
    guest.submit(REQUESTS, vec![Part::In(100)]);
    guest.submit(REQUESTS, vec![Part::Out(vec![0; 8]), Part::In(3 << 20)]);
    let used = guest.used(REQUESTS);
    assert_eq!(used.iter().map(|used| used.len).collect::<Vec<_>>(), [0, 0]);
    assert!(Server::default().take(&mut guest).is_none());
}

#[test]
fn a_longer_answer_than_there_is_room_is_cut() {
    let (mut guest, mut server) = (guest(), Server::default());
    guest.submit(REQUESTS, vec![Part::Out(vec![0; 8]), Part::In(16)]);
    let seen = server.take(&mut guest).unwrap();
    server.finish(&mut guest, seen.head.into(), u32::MAX);
    assert_eq!(guest.used(REQUESTS)[0].len, 16);
}

#[test]
fn a_server_that_lies_about_its_ring_ends_the_device_and_nothing_else() {
    for lie in 0..3 {
        let (mut guest, mut server) = (guest(), Server::default());
        guest.submit(REQUESTS, vec![Part::Out(vec![0; 8]), Part::In(16)]);
        let seen = server.take(&mut guest).unwrap();
        match lie {
            0 => server.finish(&mut guest, u32::from(seen.head) + 1, 8),
            1 => server.finish(&mut guest, u32::MAX, 8),
            _ => server.jump(&mut guest, 40_000),
        }
        assert!(guest.needs_reset(), "lie {lie}");
        assert!(guest.used(REQUESTS).is_empty());
    }
}

#[test]
fn the_same_answer_twice_is_a_lie() {
    let (mut guest, mut server) = (guest(), Server::default());
    guest.submit(REQUESTS, vec![Part::Out(vec![0; 8]), Part::In(16)]);
    let seen = server.take(&mut guest).unwrap();
    server.finish(&mut guest, seen.head.into(), 8);
    assert!(!guest.needs_reset());
    server.finish(&mut guest, seen.head.into(), 8);
    assert!(guest.needs_reset());
}

#[test]
fn answers_to_requests_from_before_a_reset_go_nowhere() {
    let (mut guest, mut server) = (guest(), Server::default());
    guest.submit(REQUESTS, vec![Part::Out(vec![7; 8]), Part::In(16)]);
    let seen = server.take(&mut guest).unwrap();
    guest.set(0x70, 0);
    guest.run();
    guest.drive(u64::MAX);
    guest.run();
    server.write(&mut guest, &seen, &[9; 16]);
    server.finish(&mut guest, seen.head.into(), 16);
    assert!(guest.used(REQUESTS).is_empty());
    assert!(!guest.needs_reset());
}

/// Nobody could answer what is on its way to a server that is not saved.
#[test]
fn a_share_in_use_is_not_restored_and_says_so() {
    let mut guest = guest();
    guest.submit(REQUESTS, vec![Part::Out(vec![0; 8]), Part::In(16)]);
    guest.pause();
    let other = Fs::without_backend("hull").unwrap();
    let refused = guest.restored(other).err().unwrap();
    assert!(
        refused.contains("a shared directory was in use"),
        "{refused}"
    );
}

#[test]
fn a_share_that_no_driver_has_taken_is_restored() {
    let mut guest = guest();
    guest.set(0x70, 0);
    guest.run();
    guest.pause();
    let mut guest = guest
        .restored(Fs::without_backend("hull").unwrap())
        .unwrap();
    guest.drive(u64::MAX);
    guest.run();
    let mut server = Server::default();
    guest.submit(REQUESTS, vec![Part::Out(b"late".to_vec()), Part::In(16)]);
    assert_eq!(server.take(&mut guest).unwrap().bytes, b"late");
}

#[test]
fn malformed_chains_do_no_harm() {
    let mut guest = guest();
    malformed_chains(&mut guest, REQUESTS);
    broken_rings(&mut guest, REQUESTS);
}

#[test]
fn parts_of_the_region_never_overlap_and_all_come_back() {
    let mut bounce = Bounce::new().unwrap();
    let mut parts = Vec::new();
    while let Some(part) = bounce.take(300_000) {
        parts.push(part);
    }
    let mut starts: Vec<_> = parts.iter().map(|part| part.address().0).collect();
    starts.sort_unstable();
    assert!(starts.windows(2).all(|pair| 300_000 <= pair[1] - pair[0]));
    for part in parts {
        bounce.give(part);
    }
    assert!(bounce.take(Bounce::capacity()).is_some());
    assert!(bounce.take(1).is_none());
}
