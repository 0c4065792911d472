//! Against the windows of the devices.

use super::{served, Attack};
use crate::code::{Code, Width};
use crate::driver::{
    available, descriptor, parts, reg, window, windows, DATA, DEVICES, ENTRIES, FEATURES_OK, WRITE,
};
use hull_vm_config::Slot;

const LAYER: &str = "virtio-mmio transport";

pub(super) const ATTACKS: &[Attack] = &[
    served(
        "registers_of_every_slot_written_with_anything",
        LAYER,
        "writes 0, 1, 0x80000001 and all ones to each register of all slots, and reads them back",
        registers,
    ),
    served(
        "accesses_of_every_width_and_alignment",
        LAYER,
        "byte, word and long accesses at each address of the registers, across their borders too",
        widths,
    ),
    served(
        "configuration_written_at_every_offset",
        LAYER,
        "byte, word and long writes and reads at offsets 0 to 0x120 of each configuration, and to the window's end",
        configuration,
    ),
    served(
        "features_that_were_never_offered",
        LAYER,
        "accepts all 64 feature bits; FEATURES_OK must not stick",
        features,
    ),
    served(
        "status_in_the_wrong_order",
        LAYER,
        "DRIVER_OK before FEATURES_OK, bits taken back, unknown bits, every value twice",
        status,
    ),
    served(
        "queue_sizes_that_are_none",
        LAYER,
        "0, 3, 4097, 65535, 65536, 0x80000000 and all ones as queue sizes, of queues that exist and of others",
        sizes,
    ),
    served(
        "queues_outside_of_memory",
        LAYER,
        "rings in device windows, in the hole, at and across the end of memory, around 2^64, unaligned, on top of each other",
        addresses,
    ),
    served(
        "queue_selectors_out_of_range",
        LAYER,
        "selects and sets up queue 0xffffffff and all between 0 and 64",
        selectors,
    ),
    served(
        "flood_of_notifications",
        LAYER,
        "60,000 kicks of queues that exist or not, of idle and of working devices",
        notifications,
    ),
    served(
        "resets_while_requests_are_under_way",
        LAYER,
        "3,000 times: a request, a kick, a reset at once",
        resets,
    ),
    served(
        "interrupts_acknowledged_that_never_were",
        LAYER,
        "acknowledges every interrupt bit 10,000 times",
        acknowledge,
    ),
    served(
        "devices_that_are_not_there",
        LAYER,
        "drives the empty slots, that of pluggable memory among them: queues, page lists, requests for more memory, kicks",
        absent,
    ),
];

fn registers(code: &mut Code) {
    for base in windows() {
        for value in [0, 1, 0x8000_0001, u32::MAX] {
            code.sweep(base, base + reg::CONFIG, 4, |code| {
                code.eax(value)
                    .store_at_edi(Width::Long)
                    .load_at_edi(Width::Long);
            });
        }
    }
}

fn widths(code: &mut Code) {
    for (slot, _) in DEVICES {
        let base = window(slot);
        for width in Width::ALL {
            code.sweep(base, base + reg::CONFIG, 1, |code| {
                code.eax(0x0101_0101).store_at_edi(width).load_at_edi(width);
            });
        }
    }
}

fn configuration(code: &mut Code) {
    for base in windows() {
        for width in Width::ALL {
            code.sweep(base + 0x100, base + 0x220, 1, |code| {
                code.eax(0xa5a5_a5a5).store_at_edi(width).load_at_edi(width);
            });
            code.sweep(base + 0xff0, base + 0x1004, 1, |code| {
                code.store_at_edi(width).load_at_edi(width);
            });
        }
    }
}

fn features(code: &mut Code) {
    for (slot, _) in DEVICES {
        let base = window(slot);
        for select in 0..3 {
            for status in [0, 1, 3] {
                code.set(base + reg::STATUS, status);
            }
            code.set(base + reg::FEATURES_SEL, 1)
                .set(base + reg::FEATURES, 1)
                .set(base + reg::FEATURES_SEL, select)
                .set(base + reg::FEATURES, u32::MAX)
                .set(base + reg::STATUS, 3 | FEATURES_OK);
            if select < 2 {
                code.load(Width::Long, base + reg::STATUS).expect(
                    FEATURES_OK,
                    0,
                    "FEATURES_OK stuck",
                );
            }
        }
    }
}

fn status(code: &mut Code) {
    for base in windows() {
        code.set(base + reg::STATUS, 0);
        for value in [4, 15, 8, 1, 0xff, 0x40, 0x80, 3, 1, u32::MAX, 0x100] {
            code.set(base + reg::STATUS, value)
                .set(base + reg::STATUS, value);
        }
        code.repeat(20, |code| {
            for value in 0..16 {
                code.set(base + reg::STATUS, value);
            }
        });
        code.set(base + reg::STATUS, 0)
            .load(Width::Long, base + reg::STATUS)
            .expect(u32::MAX, 0, "no reset");
    }
}

fn sizes(code: &mut Code) {
    for (slot, queues) in DEVICES {
        let base = window(slot);
        for size in [0, 3, 4097, 65_535, 65_536, 0x8000_0000, u32::MAX] {
            for queue in 0..=queues {
                code.begin(base)
                    .queue(base, queue, size, parts(queue).map(u64::from))
                    .load(Width::Long, base + reg::QUEUE_READY)
                    .expect(u32::MAX, 0, "a size that is none was taken")
                    .ready(base)
                    .set(base + reg::NOTIFY, queue);
            }
        }
    }
}

fn addresses(code: &mut Code) {
    const END: u64 = crate::MEMORY_BYTES;
    let device = u64::from(window(Slot::RNG));
    let bad = [
        device,
        0x8000_0000,
        END,
        END - 16,
        1 << 32,
        1 << 63,
        u64::MAX - 15,
        u64::MAX,
    ];
    for (slot, queues) in DEVICES {
        let base = window(slot);
        for queue in 0..queues {
            let good = parts(queue).map(u64::from);
            for part in 0..3 {
                for address in bad {
                    let mut at = good;
                    at[part] = address;
                    code.begin(base)
                        .queue(base, queue, ENTRIES.into(), at)
                        .load(Width::Long, base + reg::QUEUE_READY)
                        .expect(u32::MAX, 0, "a ring outside of memory was taken")
                        .ready(base)
                        .set(base + reg::NOTIFY, queue);
                }
            }
            // Unaligned, and all parts at one place.
            for at in [good.map(|part| part + 1), [good[0]; 3]] {
                code.begin(base)
                    .queue(base, queue, ENTRIES.into(), at)
                    .ready(base)
                    .set(base + reg::NOTIFY, queue);
            }
        }
    }
}

fn selectors(code: &mut Code) {
    for (slot, _) in DEVICES {
        let base = window(slot);
        code.begin(base);
        for queue in (0..64).chain([0x8000, 0xffff, 0x1_0000, u32::MAX]) {
            code.queue(
                base,
                queue,
                ENTRIES.into(),
                parts(queue % 64).map(u64::from),
            );
        }
        code.ready(base);
        for queue in [0, 63, 0xffff, u32::MAX] {
            code.set(base + reg::NOTIFY, queue);
        }
    }
}

fn notifications(code: &mut Code) {
    for (slot, queues) in DEVICES {
        let base = window(slot);
        for live in [false, true] {
            if live {
                code.clear(queues).drive(base, queues);
            }
            code.repeat(1_500, |code| {
                for queue in [0, 1, 7, u32::MAX] {
                    code.set(base + reg::NOTIFY, queue);
                }
            });
        }
    }
}

fn resets(code: &mut Code) {
    for (slot, queues) in DEVICES {
        let base = window(slot);
        code.clear(queues);
        for queue in 0..queues {
            code.busy(queue);
        }
        code.repeat(600, |code| {
            code.drive(base, queues);
            for queue in 0..queues {
                code.set(base + reg::NOTIFY, queue);
            }
            code.set(base + reg::STATUS, 0);
        });
    }
}

fn acknowledge(code: &mut Code) {
    for (slot, queues) in DEVICES {
        let base = window(slot);
        code.clear(queues)
            .drive(base, queues)
            .repeat(2_000, |code| {
                code.set(base + 0x64, u32::MAX);
            });
    }
}

fn absent(code: &mut Code) {
    const DEVICE_ID: u32 = 8;
    let [table, ring, _] = parts(0);
    // Page numbers, and a request to plug memory, both far beyond what is there.
    let pages: Vec<u8> = (0..1024u32)
        .flat_map(|page| (page << 16).to_le_bytes())
        .collect();
    let chain = [
        descriptor(DATA.into(), 4096, 0, 0),
        descriptor(DATA.into(), 24, WRITE, 0),
    ];
    code.clear(3)
        .place(DATA, &pages)
        .place(table, &chain.concat())
        .place(ring, &available(2, &[0, 1]));
    for slot in [Slot::MEM, Slot::VOLUMES[6], Slot::VOLUMES[3]] {
        let base = window(slot);
        code.drive(base, 3);
        for queue in 0..3 {
            code.set(base + reg::NOTIFY, queue);
        }
        for offset in (0..64).step_by(4) {
            code.set(base + reg::CONFIG + offset, u32::MAX);
        }
        code.load(Width::Long, base + DEVICE_ID)
            .expect(u32::MAX, 0, "a device is there");
    }
}
