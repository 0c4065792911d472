//! Against the machine itself: its ports, addresses without a device, its CPUs.

use super::{contained, ends, served, Attack};
use crate::code::{Code, Width};

/// Ports whose write ends the VM: reset, power-off mark, trace.
const KEYBOARD: u32 = 0x64;
const TRACE: u32 = hull_protocol::TRACE_IO_PORT as u32;
const RESET: u32 = 0xcf9;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

pub(super) const ATTACKS: &[Attack] = &[
    served(
        "every_port_read_and_written",
        "I/O ports",
        "reads and writes of all 65,536 ports but those that reset, of words and longs across them",
        ports,
    ),
    served(
        "string_instructions_on_ports",
        "I/O ports",
        "repeated IN and OUT of 4,096 elements on ports of a device and of none",
        strings,
    ),
    served(
        "addresses_without_memory_or_device",
        "KVM and the MMIO bus",
        "reads and writes from the end of memory to 4 GiB in steps of 1 MiB less one byte",
        holes,
    ),
    served(
        "interrupt_controllers_rewritten",
        "KVM",
        "each local and I/O APIC register written with anything; 20,000 interrupts to itself",
        apic,
    ),
    served(
        "timer_storm",
        "KVM",
        "local timer, period 1, masked, rearmed 20,000 times",
        timer,
    ),
    served(
        "model_specific_registers",
        "KVM",
        "reads and writes of 4,000 numbers: architectural, KVM's, AMD's, Intel's, invented ones",
        msrs,
    ),
    contained(
        "model_specific_registers_written",
        "KVM",
        "writes zeros and ones to 9,000 numbers, those that move or stop the CPU's own parts among them",
        msr_writes,
    ),
    served(
        "deadlines_in_the_past",
        "KVM",
        "the local timer in its deadline mode, 20,000 deadlines that have passed",
        deadlines,
    ),
    contained(
        "machine_checks",
        "KVM",
        "all banks of the machine check architecture written, and its exception raised, with and without a handler's consent",
        machine_checks,
    ),
    served(
        "processors_that_are_not_there",
        "KVM",
        "10,000 times INIT and a start-up interrupt to all others and to 254 numbers",
        processors,
    ),
    contained(
        "its_own_processor_reset",
        "KVM",
        "INIT to all processors, its own among them",
        |code| {
            code.set(LOCAL_APIC + 0xf0, 0x1ff)
                .set(LOCAL_APIC + 0x300, 0x8_4500);
        },
    ),
    served(
        "cpuid_of_every_leaf",
        "KVM",
        "40,000 leaves and sub-leaves",
        cpuid,
    ),
    contained(
        "hypercalls",
        "KVM",
        "both hypercall instructions with numbers 0 to 4,000 and all ones",
        hypercalls,
    ),
    served(
        "boot_marks_without_end",
        "boot trace",
        "25,000 marks, all of the 256 kinds but the one of a power-off",
        marks,
    ),
    served(
        "all_of_its_memory",
        "size of the VM",
        "writes to each page of guest memory, and asks for more",
        memory,
    ),
    ends(
        "triple_fault",
        "a vCPU triple-faulted",
        "vCPU loop",
        "faults without a handler",
        |code| {
            code.triple_fault();
        },
    ),
    ends(
        "last_words_that_are_no_text",
        "a vCPU triple-faulted",
        "console",
        "20,000 control characters on the serial port, then a fault without a handler",
        |code| {
            code.repeat(20_000, |code| {
                code.out(0x3f8, 1);
            })
            .triple_fault();
        },
    ),
    ends(
        "interrupt_that_cannot_be_masked",
        "a vCPU triple-faulted",
        "vCPU loop",
        "sends itself a non-maskable interrupt without a handler",
        |code| {
            code.set(LOCAL_APIC + 0xf0, 0x1ff)
                .set(LOCAL_APIC + 0x300, 0x4_4400)
                .repeat(1_000, |code| {
                    code.raw(&[0x90]);
                });
        },
    ),
    ends(
        "reset_by_the_keyboard_controller",
        "the guest asked for a reset",
        "I/O ports",
        "asks for a reset without a word",
        |code| {
            code.out(0x64, 0xfe);
        },
    ),
    ends(
        "reset_control_register",
        "the guest asked for a reset",
        "I/O ports",
        "asks for a reset by the chip set's register",
        |code| {
            code.out(0xcf9, 6);
        },
    ),
    ends(
        "code_in_a_device",
        "",
        "KVM",
        "jumps into a device's window",
        |code| {
            // mov eax, window; jmp eax
            code.eax(0xd000_9000).raw(&[0xff, 0xe0]);
        },
    ),
    ends(
        "stack_in_a_device",
        "",
        "KVM",
        "takes an interrupt with its stack in a device's window",
        |code| {
            // mov esp, window + 0x800; int3 without a table
            code.raw(&[0xbc]).raw(&0xd000_9800u32.to_le_bytes());
            code.raw(&[0x60]).triple_fault();
        },
    ),
    // KVM may emulate what it reads there for ever.
    contained(
        "page_tables_outside_of_memory",
        "KVM",
        "turns paging on with tables where no memory is",
        |code| {
            // mov eax, 0xc0000000; mov cr3, eax; mov eax, cr0; or eax, 0x80000000; mov cr0, eax
            code.eax(0xc000_0000).raw(&[0x0f, 0x22, 0xd8]);
            code.raw(&[0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80]);
            code.raw(&[0x0f, 0x22, 0xc0]);
        },
    ),
];

fn ports(code: &mut Code) {
    const ENDS: [(u32, u32); 4] = [
        (0, KEYBOARD - 4),
        (KEYBOARD + 4, RESET - 4),
        (RESET + 4, TRACE - 4),
        (TRACE + 4, 0x1_0000),
    ];
    for (width, step) in Width::ALL.into_iter().zip([1, 7, 13]) {
        for (first, end) in ENDS {
            code.sweep(first, end, step, |code| {
                code.in_at_di(width).out_at_di(width);
            });
        }
    }
}

fn strings(code: &mut Code) {
    for port in [0x3f8u16, 0x3fd, 0x60, 0x1234, 0xffff] {
        let [low, high] = port.to_le_bytes();
        for opcode in [0x6cu8, 0x6d, 0x6e, 0x6f] {
            // mov edi, DATA; mov esi, DATA; mov dx, port; rep ins/outs
            code.raw(&[0xbf]).raw(&crate::driver::DATA.to_le_bytes());
            code.raw(&[0xbe]).raw(&crate::driver::DATA.to_le_bytes());
            code.ecx(4096);
            code.raw(&[0x66, 0xba, low, high, 0xfc, 0xf3, opcode]);
        }
    }
}

fn holes(code: &mut Code) {
    let end = u32::try_from(crate::MEMORY_BYTES).unwrap();
    for (first, end) in [(end, 0xfeb0_0000), (0xfef0_0000, 0xffe0_0000)] {
        for width in Width::ALL {
            code.sweep(first, end, 0xf_ffff, |code| {
                code.eax(u32::MAX).store_at_edi(width).load_at_edi(width);
            });
        }
    }
}

fn apic(code: &mut Code) {
    for value in [0, 0xff, 0x1_0000, u32::MAX] {
        // Not the command register: it would stop the only CPU.
        code.sweep(LOCAL_APIC, LOCAL_APIC + 0x300, 16, |code| {
            code.eax(value)
                .store_at_edi(Width::Long)
                .load_at_edi(Width::Long);
        });
        for index in 0..0x40 {
            code.set(IO_APIC, index).set(IO_APIC + 0x10, value);
        }
    }
    // Software-disabled, so that none arrives: fixed interrupts to itself.
    code.set(LOCAL_APIC + 0xf0, 0xff).repeat(20_000, |code| {
        code.set(LOCAL_APIC + 0x300, 0x4_0030);
    });
}

fn timer(code: &mut Code) {
    code.set(LOCAL_APIC + 0xf0, 0x1ff)
        .set(LOCAL_APIC + 0x3e0, 0xb)
        .set(LOCAL_APIC + 0x320, 0x3_0030)
        .repeat(20_000, |code| {
            code.set(LOCAL_APIC + 0x380, 1);
        })
        .set(LOCAL_APIC + 0x380, 0);
}

fn msrs(code: &mut Code) {
    // EDI is the number; both instructions have two bytes.
    code.skip_faults(2);
    let ranges = [
        (0u32, 0x400),
        (0x400, 0x500),
        (0x800, 0x900),
        (0xc00, 0xd00),
        (0x4000_0000, 0x4000_0100),
        (0x4b56_4d00, 0x4b56_4d20),
        (0xc000_0080, 0xc000_0180),
        (0xc001_0000, 0xc001_0140),
        (0xdead_0000, 0xdead_0100),
    ];
    for (first, end) in ranges {
        code.sweep(first, end, 1, |code| {
            code.raw(&[0x89, 0xf9, 0x0f, 0x32]); // mov ecx, edi; rdmsr
        });
        if first < 0x4000_0000 {
            continue;
        }
        for value in [0u8, 0x7f] {
            code.sweep(first, end, 1, |code| {
                // mov ecx, edi; xor edx, edx; push value; pop eax; wrmsr
                code.raw(&[0x89, 0xf9, 0x31, 0xd2, 0x6a, value, 0x58, 0x0f, 0x30]);
            });
        }
    }
}

fn msr_writes(code: &mut Code) {
    code.skip_faults(2);
    let ranges = [
        (0u32, 0x2000),
        (0x4000_0000, 0x4000_0200),
        (0x4b56_4d00, 0x4b56_4d20),
        (0xc000_0080, 0xc000_0180),
        (0xc001_0000, 0xc001_0140),
    ];
    for (first, end) in ranges {
        code.sweep(first, end, 1, |code| {
            // mov ecx, edi; xor edx, edx; xor eax, eax; wrmsr
            code.raw(&[0x89, 0xf9, 0x31, 0xd2, 0x31, 0xc0, 0x0f, 0x30]);
            // mov ecx, edi; or edx, -1; or eax, -1; wrmsr
            code.raw(&[0x89, 0xf9, 0x83, 0xca, 0xff, 0x83, 0xc8, 0xff, 0x0f, 0x30]);
        });
    }
}

fn deadlines(code: &mut Code) {
    code.skip_faults(2)
        .set(LOCAL_APIC + 0xf0, 0x1ff)
        // Masked, mode 2.
        .set(LOCAL_APIC + 0x320, 0x5_0030)
        .repeat(20_000, |code| {
            // mov ecx, 0x6e0; xor edx, edx; mov eax, 1; wrmsr
            code.ecx(0x6e0).raw(&[0x31, 0xd2]).eax(1).raw(&[0x0f, 0x30]);
        });
}

fn machine_checks(code: &mut Code) {
    // wrmsr, rdmsr and int have two bytes.
    code.skip_faults(2);
    for (first, end) in [(0x179u32, 0x17c), (0x280, 0x2a0), (0x400, 0x480)] {
        for value in [0u8, 1, 0x7f, 0xff] {
            code.sweep(first, end, 1, |code| {
                // mov ecx, edi; push value; pop eax; cdq; wrmsr; rdmsr
                code.raw(&[0x89, 0xf9, 0x6a, value, 0x58, 0x99, 0x0f, 0x30, 0x0f, 0x32]);
            });
        }
    }
    for consent in [0u8, 0x40] {
        // mov eax, cr4; and al, 0xbf; or al, consent; mov cr4, eax; int 18
        code.raw(&[
            0x0f, 0x20, 0xe0, 0x24, 0xbf, 0x0c, consent, 0x0f, 0x22, 0xe0,
        ]);
        code.raw(&[0xcd, 18]);
    }
}

fn processors(code: &mut Code) {
    const INIT: u32 = 0x4500;
    const START: u32 = 0x4610;
    const ALL_OTHERS: u32 = 0xc_0000;
    code.set(LOCAL_APIC + 0xf0, 0x1ff).repeat(10_000, |code| {
        for command in [INIT, START] {
            code.set(LOCAL_APIC + 0x300, ALL_OTHERS | command);
        }
    });
    // Number 0 is the sender, and 255 are all.
    for number in 1..=254u32 {
        for command in [INIT, START] {
            code.set(LOCAL_APIC + 0x310, number << 24)
                .set(LOCAL_APIC + 0x300, command);
        }
    }
}

fn cpuid(code: &mut Code) {
    for first in [0u32, 0x4000_0000, 0x8000_0000, 0xffff_0000] {
        code.sweep(first, first + 2_500, 1, |code| {
            for leaf in [0u8, 1, 2, 0x7f] {
                // mov eax, edi; push leaf; pop ecx; cpuid
                code.raw(&[0x89, 0xf8, 0x6a, leaf, 0x59, 0x0f, 0xa2]);
            }
        });
    }
}

fn hypercalls(code: &mut Code) {
    code.skip_faults(3);
    for instruction in [[0x0f, 0x01, 0xc1], [0x0f, 0x01, 0xd9]] {
        code.sweep(0, 4_000, 1, |code| {
            // mov eax, edi; mov ebx, edi; mov ecx, edi
            code.raw(&[0x89, 0xf8, 0x89, 0xfb, 0x89, 0xf9])
                .raw(&instruction);
        });
        code.eax(u32::MAX).raw(&instruction);
    }
}

fn marks(code: &mut Code) {
    let port = TRACE as u16;
    code.repeat(100, |code| {
        for byte in (0..=255u8).filter(|byte| !crate::is_end_mark(*byte)) {
            code.out(port, byte);
        }
    });
}

fn memory(code: &mut Code) {
    let end = u32::try_from(crate::MEMORY_BYTES).unwrap();
    code.sweep(0x50_0000, end, 4096, |code| {
        code.eax(0x5a5a_5a5a).store_at_edi(Width::Long);
    });
    code.sweep(end, 0xd000_0000, 0x10_0000, |code| {
        code.store_at_edi(Width::Long);
    });
}
