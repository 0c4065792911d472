//! A driver that reports free pages.

use vm_memory::{Bytes, GuestAddress};

use super::Balloon;
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part};

const REPORTS: usize = 2;
const PAGE: usize = 4096;

/// A report of `length` bytes that are not free at all; what they hold after it, and where the first whole
/// page of them begins.
fn reported(length: usize) -> (Vec<u8>, usize) {
    let mut guest = Guest::start(Balloon::default());
    let sent = guest.prepare(REPORTS, vec![Part::In(length)]);
    let address = sent.address();
    let filled = vec![7; length];
    guest
        .memory
        .write_slice(&filled, GuestAddress(address))
        .unwrap();
    guest.kick();
    let used = guest.used(REPORTS);
    assert_eq!((used.len(), used[0].len), (1, 0));
    let first = address.next_multiple_of(PAGE as u64) - address;
    (guest.answer(&sent), first as usize)
}

#[test]
fn reported_pages_are_taken_and_come_again_as_zeroes() {
    for length in [4 * PAGE, 5 * PAGE - 1, 3 * PAGE + 1] {
        let (bytes, first) = reported(length);
        // Parts of pages at both ends are not the report's alone.
        let end = first + (length - first) / PAGE * PAGE;
        assert!(first < end, "{length}");
        assert!(bytes[first..end].iter().all(|byte| *byte == 0), "{length}");
        let rest = bytes[..first].iter().chain(&bytes[end..]);
        assert!(rest.into_iter().all(|byte| *byte == 7), "{length}");
    }
}

#[test]
fn a_part_of_a_page_is_no_page() {
    for length in [1, PAGE - 1] {
        assert!(reported(length).0.iter().all(|byte| *byte == 7), "{length}");
    }
}

#[test]
fn pages_that_nobody_asked_for_are_left() {
    let mut guest = Guest::start(Balloon::default());
    for queue in [0, 1] {
        let pages = (0..64u32).flat_map(u32::to_le_bytes).collect();
        guest.submit(queue, vec![Part::Out(pages)]);
        assert_eq!(guest.used(queue).len(), 1, "{queue}");
    }
}

#[test]
fn a_restored_device_goes_on_where_it_was() {
    let mut guest = Guest::start(Balloon::default());
    guest.submit(REPORTS, vec![Part::In(PAGE)]);
    assert_eq!(guest.used(REPORTS).len(), 1);
    guest.pause();
    guest.submit(REPORTS, vec![Part::In(PAGE)]);
    assert!(guest.used(REPORTS).is_empty());
    let mut guest = guest.restored(Balloon::default()).unwrap();
    assert_eq!(guest.used(REPORTS).len(), 1);
}

#[test]
fn malformed_chains_do_no_harm() {
    let mut guest = Guest::start(Balloon::default());
    for queue in 0..3 {
        malformed_chains(&mut guest, queue);
        broken_rings(&mut guest, queue);
    }
    guest.submit(REPORTS, vec![Part::In(PAGE)]);
    assert_eq!(guest.used(REPORTS).len(), 1);
}
