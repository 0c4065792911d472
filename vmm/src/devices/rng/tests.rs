//! A driver that asks for entropy.

use super::Rng;
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part};

#[test]
fn buffers_are_filled_up_to_a_chunk() {
    let mut guest = Guest::start(Rng::default());
    let sent = guest.submit(0, vec![Part::In(64)]);
    assert_eq!(guest.used(0)[0].len, 64);
    assert_ne!(guest.answer(&sent), [0; 64]);
    guest.submit(0, vec![Part::In(1 << 20)]);
    assert_eq!(guest.used(0)[0].len, 256);
    guest.submit(0, vec![Part::Out(vec![1; 8])]);
    assert_eq!(guest.used(0)[0].len, 0);
}

#[test]
fn a_restored_device_goes_on_where_it_was() {
    let mut guest = Guest::start(Rng::default());
    for _ in 0..5 {
        guest.submit(0, vec![Part::In(64)]);
        assert_eq!(guest.used(0).len(), 1);
    }
    // Asked before the pause, answered after it.
    guest.pause();
    let sent = guest.submit(0, vec![Part::In(64)]);
    assert!(guest.used(0).is_empty());
    let mut guest = guest.restored(Rng::default()).unwrap();
    assert_eq!(guest.used(0)[0].len, 64);
    assert_ne!(guest.answer(&sent), [0; 64]);
    guest.submit(0, vec![Part::In(32)]);
    assert_eq!(guest.used(0)[0].len, 32);
}

#[test]
fn malformed_chains_do_no_harm() {
    let mut guest = Guest::start(Rng::default());
    malformed_chains(&mut guest, 0);
    broken_rings(&mut guest, 0);
    guest.submit(0, vec![Part::In(8)]);
    assert_eq!(guest.used(0)[0].len, 8);
}
