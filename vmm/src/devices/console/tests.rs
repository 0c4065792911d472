//! A driver that prints.

use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use hull_vm_config::control::{Event, ExitReason, MAX_MESSAGE_BYTES};

use super::{Console, ConsoleTail};
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part};

fn print(guest: &mut Guest<Console>, text: &[u8]) {
    guest.submit(1, vec![Part::Out(text.to_vec())]);
    assert_eq!(guest.used(1).len(), 1);
}

#[test]
fn output_goes_to_the_tail_and_the_log() {
    let tail = Arc::new(ConsoleTail::default());
    let mut log = tempfile::tempfile().unwrap();
    let fd: OwnedFd = log.try_clone().unwrap().into();
    let mut guest = Guest::start(Console::new(Arc::clone(&tail), Some(Arc::new(fd))));
    print(&mut guest, b"Kernel panic: ");
    print(&mut guest, b"no init\n");
    assert_eq!(tail.text(), "Kernel panic: no init\n");
    let mut text = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(text, "Kernel panic: no init\n");
}

#[test]
fn the_tail_keeps_the_last_16_kib() {
    let tail = Arc::new(ConsoleTail::default());
    let mut guest = Guest::start(Console::new(Arc::clone(&tail), None));
    print(&mut guest, &[b'a'; 20_000]);
    print(&mut guest, b"end");
    let text = tail.text();
    assert_eq!(text.len(), 16 << 10);
    assert!(text.ends_with("aend"));
}

#[test]
fn whatever_the_guest_says_last_fits_into_the_last_message() {
    for byte in 0..=u8::MAX {
        let tail = ConsoleTail::default();
        tail.push(&[byte; 16 << 10]);
        let reason = ExitReason::Panic { text: tail.text() };
        let message = serde_json::to_vec(&Event::Exited { reason }).unwrap();
        assert!(
            message.len() <= MAX_MESSAGE_BYTES,
            "{byte:#x}: {}",
            message.len()
        );
    }
}

#[test]
fn a_log_that_is_full_does_not_block() {
    let tail = Arc::new(ConsoleTail::default());
    let (log, _reader) = UnixStream::pair().unwrap();
    let fd: OwnedFd = log.into();
    let mut guest = Guest::start(Console::new(Arc::clone(&tail), Some(Arc::new(fd))));
    for _ in 0..100 {
        print(&mut guest, &[b'x'; 60_000]);
    }
    print(&mut guest, b"still here");
    assert!(tail.text().ends_with("still here"));
}

#[test]
fn a_restored_console_goes_on_where_it_was() {
    let mut guest = Guest::start(Console::new(Arc::new(ConsoleTail::default()), None));
    for _ in 0..5 {
        print(&mut guest, b"before\n");
    }
    // Printed before the pause, shown after it.
    guest.pause();
    guest.submit(1, vec![Part::Out(b"in the pause\n".to_vec())]);
    assert!(guest.used(1).is_empty());
    let tail = Arc::new(ConsoleTail::default());
    let mut guest = guest
        .restored(Console::new(Arc::clone(&tail), None))
        .unwrap();
    assert_eq!(guest.used(1).len(), 1);
    print(&mut guest, b"after\n");
    assert_eq!(tail.text(), "in the pause\nafter\n");
}

#[test]
fn malformed_chains_do_no_harm() {
    let tail = Arc::new(ConsoleTail::default());
    let mut guest = Guest::start(Console::new(Arc::clone(&tail), None));
    malformed_chains(&mut guest, 1);
    broken_rings(&mut guest, 1);
    print(&mut guest, b"alive");
    assert!(tail.text().ends_with("alive"));
}
