//! Every system call number is put to every filter, in a machine for the filters' instructions.

use seccompiler::sock_filter;

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
/// Marks a call of the x32 interface.
const X32: u32 = 0x4000_0000;

/// `struct seccomp_data`: number, architecture, instruction pointer, six arguments.
fn data(number: u32, architecture: u32, arguments: [u64; 6]) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(architecture.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    bytes
}

/// Runs a filter as the kernel does (`Documentation/networking/filter.rst`).
fn verdict(program: &[sock_filter], data: &[u8]) -> u32 {
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let instruction = &program[at];
        let k = instruction.k;
        let jump = |taken: bool| match taken {
            true => usize::from(instruction.jt),
            false => usize::from(instruction.jf),
        };
        at += 1;
        match instruction.code {
            0x20 => {
                let from = k as usize;
                accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            code => panic!("instruction {code:#x} at {}", at - 1),
        }
    }
}

#[test]
fn each_number_that_is_not_in_the_table_ends_the_process() {
    for kind in ThreadKind::ALL {
        let program = compile(kind).unwrap();
        let listed: Vec<_> = RULES
            .iter()
            .filter(|rule| rule.threads.contains(&kind))
            .map(|rule| rule.number)
            .collect();
        for number in 0..2048u32 {
            for arguments in [[0; 6], [u64::MAX; 6]] {
                let found = verdict(&program, &data(number, X86_64, arguments));
                let may = listed.contains(&i64::from(number));
                assert!(
                    found == KILL_PROCESS || may && found == ALLOW,
                    "{number} of {}: {found:#x}",
                    kind.name()
                );
            }
        }
    }
}

#[test]
fn other_interfaces_of_the_kernel_are_closed() {
    for kind in ThreadKind::ALL {
        let program = compile(kind).unwrap();
        for number in 0..1024 {
            for (number, architecture) in [(number, I386), (number | X32, X86_64)] {
                let found = verdict(&program, &data(number, architecture, [0; 6]));
                assert_eq!(found, KILL_PROCESS, "{number:#x} of {architecture:#x}");
            }
        }
    }
}

#[test]
fn calls_without_conditions_are_allowed_and_others_only_with_their_arguments() {
    for rule in RULES {
        let number = u32::try_from(rule.number).unwrap();
        for kind in rule.threads {
            let program = compile(*kind).unwrap();
            let mut arguments = [0u64; 6];
            for Argument { index, test } in rule.when {
                arguments[usize::from(*index)] = match *test {
                    Test::Is(value) => value.into(),
                    Test::Without(_) | Test::IsNull => 0,
                    Test::IsThisProcess => std::process::id().into(),
                };
            }
            let found = verdict(&program, &data(number, X86_64, arguments));
            assert_eq!(found, ALLOW, "{} of {}", rule.name, kind.name());
        }
    }
}

/// No ioctl beside those of the table: all of KVM's and of a tap's, and a sample of all others.
#[test]
fn only_the_ioctls_of_the_table_are_allowed() {
    let number = u32::try_from(libc::SYS_ioctl).unwrap();
    for kind in ThreadKind::ALL {
        let program = compile(kind).unwrap();
        let listed: Vec<u64> = RULES
            .iter()
            .filter(|rule| rule.number == libc::SYS_ioctl && rule.threads.contains(&kind))
            .filter_map(|rule| match rule.when {
                [Argument {
                    index: 1,
                    test: Test::Is(value),
                }] => Some(u64::from(*value)),
                _ => None,
            })
            .collect();
        let low = 0..0x1_0000u64;
        let sampled = (0..0x1_0000_0000u64).step_by(65_521);
        for request in low.chain(sampled) {
            let found = verdict(&program, &data(number, X86_64, [3, request, 0, 0, 0, 0]));
            let want = match listed.contains(&request) {
                true => ALLOW,
                false => KILL_PROCESS,
            };
            assert_eq!(found, want, "ioctl {request:#x} of {}", kind.name());
        }
    }
}
