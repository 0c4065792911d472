//! Drivers that keep to the transport's rules, and drivers that do not.

use crate::devices::mmio::{reg, status};
use crate::devices::rng::Rng;
use crate::devices::testutil::{Guest, Part, MEMORY_BYTES, SLOT};
use crate::devices::virtio::F_VERSION_1;

const EARLY: u32 = status::ACKNOWLEDGE | status::DRIVER;
const NEGOTIATED: u32 = EARLY | status::FEATURES_OK;

#[test]
fn the_identity_is_that_of_a_version_2_device() {
    let guest = Guest::new(Rng::default());
    assert_eq!(guest.get(reg::MAGIC_VALUE), 0x7472_6976);
    assert_eq!(guest.get(reg::VERSION), 2);
    assert_eq!(guest.get(reg::DEVICE_ID), 4);
    assert_eq!(guest.get(reg::STATUS), 0);
    assert_eq!(guest.get(reg::SHM_LEN_LOW), u32::MAX);
    assert_eq!(guest.get(0x0fff & !3), 0);
}

#[test]
fn features_that_were_never_offered_are_refused() {
    let guest = Guest::new(Rng::default());
    let negotiate = |features| {
        guest.set(reg::STATUS, 0);
        guest.set(reg::STATUS, EARLY);
        guest.accept(features);
        guest.set(reg::STATUS, NEGOTIATED);
        guest.get(reg::STATUS) & status::FEATURES_OK != 0
    };
    assert!(negotiate(F_VERSION_1));
    assert!(negotiate(guest.offered()));
    assert!(!negotiate(guest.offered() & !F_VERSION_1));
    assert!(!negotiate(F_VERSION_1 | 1 << 40));
    assert!(!negotiate(F_VERSION_1 | 1 << 3));
    // Above bit 63.
    guest.set(reg::STATUS, 0);
    guest.set(reg::STATUS, EARLY);
    guest.accept(F_VERSION_1);
    guest.set(reg::DRIVER_FEATURES_SEL, 2);
    guest.set(reg::DRIVER_FEATURES, 1);
    guest.set(reg::STATUS, NEGOTIATED);
    assert_eq!(guest.get(reg::STATUS), EARLY);
    guest.set(reg::DEVICE_FEATURES_SEL, 2);
    assert_eq!(guest.get(reg::DEVICE_FEATURES), 0);
}

#[test]
fn accepted_features_are_fixed() {
    let guest = Guest::start(Rng::default());
    guest.accept(0);
    assert_eq!(guest.get(reg::STATUS), NEGOTIATED | status::DRIVER_OK);
}

#[test]
fn status_bits_are_never_cleared_but_by_a_reset() {
    let guest = Guest::new(Rng::default());
    guest.set(reg::STATUS, EARLY);
    guest.set(reg::STATUS, status::DRIVER);
    assert_eq!(guest.get(reg::STATUS), EARLY);
    guest.set(reg::STATUS, EARLY | status::DRIVER_OK);
    assert_eq!(guest.get(reg::STATUS), EARLY, "no features were agreed on");
    guest.set(reg::STATUS, EARLY | status::NEEDS_RESET | 0xffff_ff00);
    assert_eq!(guest.get(reg::STATUS), EARLY);
    guest.set(reg::STATUS, 0);
    assert_eq!(guest.get(reg::STATUS), 0);
}

#[test]
fn a_failed_driver_cannot_go_on() {
    let guest = Guest::new(Rng::default());
    guest.set(reg::STATUS, EARLY);
    guest.accept(F_VERSION_1);
    guest.set(reg::STATUS, NEGOTIATED | status::FAILED);
    guest.set(reg::STATUS, NEGOTIATED | status::FAILED | status::DRIVER_OK);
    assert_eq!(guest.get(reg::STATUS) & status::DRIVER_OK, 0);
}

#[test]
fn bad_queues_do_not_become_ready() {
    let guest = Guest::new(Rng::default());
    guest.set(reg::STATUS, EARLY);
    guest.accept(F_VERSION_1);
    let ready = |size, desc, avail, used| {
        guest.set(reg::QUEUE_NUM, size);
        guest.place_queue(desc, avail, used);
        guest.set(reg::QUEUE_READY, 1);
        let ready = guest.get(reg::QUEUE_READY) == 1;
        guest.set(reg::QUEUE_READY, 0);
        ready
    };
    assert!(!ready(16, 0x1000, 0x2000, 0x3000), "before FEATURES_OK");
    guest.set(reg::STATUS, NEGOTIATED);
    assert_eq!(guest.get(reg::QUEUE_NUM_MAX), 16);
    assert!(ready(16, 0x1000, 0x2000, 0x3000));
    for size in [0, 3, 17, 32, 0x1_0010, u32::MAX] {
        assert!(!ready(size, 0x1000, 0x2000, 0x3000), "{size}");
    }
    for outside in [MEMORY_BYTES, MEMORY_BYTES - 16, !15] {
        assert!(!ready(16, outside, 0x2000, 0x3000), "{outside:#x}");
        assert!(!ready(16, 0x1000, outside, 0x3000), "{outside:#x}");
        assert!(!ready(16, 0x1000, 0x2000, outside), "{outside:#x}");
    }
    assert!(!ready(16, 0x1008, 0x2000, 0x3000), "unaligned");
    assert!(!ready(16, 0x1000, 0x2001, 0x3000), "unaligned");
    assert!(!ready(16, 0x1000, 0x2000, 0x3002), "unaligned");
    guest.set(reg::QUEUE_SEL, 1);
    assert!(!ready(16, 0x1000, 0x2000, 0x3000), "no such queue");
    assert_eq!(guest.get(reg::QUEUE_NUM_MAX), 0);
    guest.set(reg::QUEUE_SEL, u32::MAX);
    assert_eq!(guest.get(reg::QUEUE_NUM_MAX), 0);
}

#[test]
fn a_device_without_queues_comes_up_and_does_nothing() {
    let mut guest = Guest::new(Rng::default());
    guest.set(reg::STATUS, EARLY);
    guest.accept(F_VERSION_1);
    guest.set(reg::STATUS, NEGOTIATED);
    guest.set(reg::STATUS, NEGOTIATED | status::DRIVER_OK);
    guest.kick();
    assert!(!guest.needs_reset());
}

#[test]
fn after_a_reset_the_old_queues_are_left_alone() {
    let mut guest = Guest::start(Rng::default());
    let sent = guest.prepare(0, vec![Part::In(64)]);
    guest.set(reg::QUEUE_NOTIFY, 0);
    guest.set(reg::STATUS, 0);
    guest.run();
    assert_eq!(guest.answer(&sent), [0; 64]);
    assert!(guest.used(0).is_empty());
    assert_eq!(guest.get(reg::QUEUE_READY), 0);
    assert_eq!(guest.get(reg::INTERRUPT_STATUS), 0);
    guest.drive(u64::MAX);
    guest.submit(0, vec![Part::In(64)]);
    assert_eq!(guest.used(0).len(), 1);
}

#[test]
fn a_queue_that_is_taken_back_is_left_alone() {
    let mut guest = Guest::start(Rng::default());
    guest.set(reg::QUEUE_SEL, 0);
    guest.set(reg::QUEUE_READY, 0);
    assert_eq!(guest.get(reg::QUEUE_READY), 0);
    let sent = guest.submit(0, vec![Part::In(64)]);
    assert_eq!(guest.answer(&sent), [0; 64]);
    assert!(!guest.needs_reset());
}

#[test]
fn the_interrupt_is_acknowledged_by_bit() {
    let mut guest = Guest::start(Rng::default());
    guest.submit(0, vec![Part::In(8)]);
    assert_eq!(guest.interrupts(), 1);
    assert_eq!(guest.get(reg::INTERRUPT_STATUS), 1);
    guest.set(reg::INTERRUPT_ACK, 2);
    assert_eq!(guest.get(reg::INTERRUPT_STATUS), 1);
    guest.set(reg::INTERRUPT_ACK, 1);
    assert_eq!(guest.get(reg::INTERRUPT_STATUS), 0);
}

#[test]
fn a_failing_device_raises_the_configuration_interrupt() {
    let mut guest = Guest::start(Rng::default());
    guest.jump(0, 17);
    guest.kick();
    assert!(guest.needs_reset());
    assert_eq!(guest.get(reg::INTERRUPT_STATUS) & 2, 2);
    // Whatever the driver does, nothing happens until it resets.
    let sent = guest.submit(0, vec![Part::In(8)]);
    assert_eq!(guest.answer(&sent), [0; 8]);
    guest.drive(u64::MAX);
    assert!(!guest.needs_reset());
}

#[test]
fn accesses_of_odd_width_or_place_are_harmless() {
    let guest = Guest::start(crate::devices::vsock::Vsock::new(0x1_0000_0003));
    let base = SLOT.mmio_base();
    for offset in 0..0x1000 {
        for width in [1usize, 2, 3, 4, 8, 16] {
            let mut data = vec![0xff; width];
            guest.bus().read(base + offset, &mut data);
            let register = offset < 0x100 && (width != 4 || offset % 4 != 0);
            assert!(!register || data.iter().all(|byte| *byte == 0));
            if width != 4 || offset >= 0x100 {
                guest.bus().write(base + offset, &vec![0xa5; width]);
            }
        }
    }
    // The configuration takes any width, and may end in the middle of an access.
    let mut data = [0xff; 8];
    guest.bus().read(base + 0x100, &mut data);
    assert_eq!(data, [3, 0, 0, 0, 1, 0, 0, 0]);
    let mut data = [0xff; 2];
    guest.bus().read(base + 0x104, &mut data);
    assert_eq!(data, [1, 0]);
    let mut data = [0xff; 8];
    guest.bus().read(base + 0x104, &mut data);
    assert_eq!(data, [1, 0, 0, 0, 0, 0, 0, 0]);
    assert!(!guest.needs_reset());
}

#[test]
fn accesses_outside_of_all_windows_read_zero() {
    let guest = Guest::new(Rng::default());
    for gpa in [0, 0xcfff_fffc, 0xd001_3000, u64::MAX] {
        let mut data = [0xff; 4];
        guest.bus().read(gpa, &mut data);
        assert_eq!(data, [0; 4]);
        guest.bus().write(gpa, &[1; 4]);
    }
}
