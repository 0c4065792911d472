//! `linux.resources.devices`: which device nodes a container may make and open.
//!
//! Version 2 of control groups has no device controller: the rules are a BPF program that the kernel
//! runs at every access (`BPF_PROG_TYPE_CGROUP_DEVICE`). What an access asks for is judged bit by
//! bit (make, read, write), and the last rule that speaks of the bit and the device decides; what no
//! rule speaks of is denied. That is the meaning that version 1 gives to a list of rules.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{AgentError, Context, Result};
use crate::sys;

/// Kinds of device, as the kernel's `BPF_DEVCG_DEV_*`.
const BLOCK: u32 = 1;
const CHAR: u32 = 2;
/// Kinds of access, as the kernel's `BPF_DEVCG_ACC_*`.
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// What every container may do, whatever its configuration says: make any node, and use the devices
/// that the specification gives to all ("Default Devices"), terminals, and tun.
const ALWAYS: [Rule; 11] = [
    allowed(CHAR, None, None, MAKE),
    allowed(BLOCK, None, None, MAKE),
    allowed(CHAR, Some(1), Some(3), MAKE | READ | WRITE),
    allowed(CHAR, Some(1), Some(5), MAKE | READ | WRITE),
    allowed(CHAR, Some(1), Some(7), MAKE | READ | WRITE),
    allowed(CHAR, Some(1), Some(8), MAKE | READ | WRITE),
    allowed(CHAR, Some(1), Some(9), MAKE | READ | WRITE),
    allowed(CHAR, Some(5), Some(0), MAKE | READ | WRITE),
    allowed(CHAR, Some(5), Some(2), MAKE | READ | WRITE),
    allowed(CHAR, Some(136), None, MAKE | READ | WRITE),
    allowed(CHAR, Some(10), Some(200), MAKE | READ | WRITE),
];

/// One rule; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

const fn allowed(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// One instruction, as the kernel's `struct bpf_insn`: code, registers (source in the high half),
/// jump, constant.
pub(crate) type Instruction = (u8, u8, i16, i32);

/// Confines the group at `cgroup` by rules, once: the program stays as long as the group.
pub(crate) fn confine(cgroup: &Path, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let program = compile(&lower(rules)?)?;
    let failed = || "failed to set the device rules".to_string();
    let group = File::open(cgroup).context(failed)?;
    let loaded = sys::load_device_program(&program).context(failed)?;
    sys::attach_device_program(group.as_fd(), loaded.as_fd()).context(failed)
}

fn lower(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut lowered = rules.iter().map(rule).collect::<Result<Vec<_>>>()?;
    lowered.retain(|rule| rule.access != 0);
    lowered.extend(ALWAYS);
    Ok(lowered)
}

fn rule(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let number = |value: Option<i64>, what: &str| match value {
        None => Ok(None),
        Some(value) if value < 0 => Ok(None),
        Some(value) => u32::try_from(value).map(Some).map_err(|_| {
            AgentError::invalid(format!(
                "{what} number {value} of a device rule is too large"
            ))
        }),
    };
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHAR),
        Some(LinuxDeviceType::P) => {
            return Err(AgentError::invalid(
                "a device rule for type \"p\": a FIFO is no device",
            ))
        }
    };
    // Other letters ask for nothing, as with runc.
    let letters = rule.access().as_deref().unwrap_or_default().chars();
    let access = letters.fold(0, |access, letter| match letter {
        'm' => access | MAKE,
        'r' => access | READ,
        'w' => access | WRITE,
        _ => access,
    });
    Ok(match kind {
        // Type "a" is all devices and all of an access, whatever else the rule says, as for the
        // controller of version 1.
        None => Rule {
            allow: rule.allow(),
            kind: None,
            major: None,
            minor: None,
            access: MAKE | READ | WRITE,
        },
        Some(kind) => Rule {
            allow: rule.allow(),
            kind: Some(kind),
            major: number(rule.major(), "major")?,
            minor: number(rule.minor(), "minor")?,
            access,
        },
    })
}

// Opcodes (Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_CONSTANT: u8 = 0xb4;
const AND_CONSTANT: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP: u8 = 0x05;
const JUMP_IF_BITS: u8 = 0x46;
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

// Registers: r0 is the answer, r1 the context.
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program for rules in their order.
fn compile(rules: &[Rule]) -> Result<Vec<Instruction>> {
    // struct bpf_cgroup_dev_ctx: access in the high and kind in the low half of a word; major; minor.
    let mut program = vec![
        (LOAD_WORD, KIND | 1 << 4, 0, 0),
        (MOVE, ACCESS | KIND << 4, 0, 0),
        (AND_CONSTANT, KIND, 0, 0xffff),
        (SHIFT_RIGHT, ACCESS, 0, 16),
        (LOAD_WORD, MAJOR | 1 << 4, 4, 0),
        (LOAD_WORD, MINOR | 1 << 4, 8, 0),
    ];
    for bit in [MAKE, READ, WRITE] {
        let judge = judge(rules, bit);
        program.push((JUMP_IF_BITS, ACCESS, 1, constant(bit)));
        program.push((JUMP, 0, offset(judge.len())?, 0));
        program.extend(judge);
    }
    program.extend(answer(true));
    // The kernel's own limit for the distance of a jump.
    offset(program.len()).map(|_| program)
}

/// Goes on behind its end if the bit is allowed, and ends the program otherwise.
fn judge(rules: &[Rule], bit: u32) -> Vec<Instruction> {
    let mut judge: Vec<Instruction> = Vec::new();
    // Jumps to the end, whose distance is known last.
    let mut to_the_end = Vec::new();
    let mut decided = false;
    for rule in rules.iter().rev().filter(|rule| rule.access & bit != 0) {
        let checks = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)];
        let checks: Vec<_> = checks
            .into_iter()
            .filter_map(|(register, value)| Some((register, value?)))
            .collect();
        let verdict = if rule.allow { 1 } else { 2 };
        for (index, (register, value)) in checks.iter().enumerate() {
            let skip = checks.len() - index - 1 + verdict;
            judge.push((JUMP_UNLESS_EQUAL, *register, skip as i16, constant(*value)));
        }
        if rule.allow {
            to_the_end.push(judge.len());
            judge.push((JUMP, 0, 0, 0));
        } else {
            judge.extend(answer(false));
        }
        if checks.is_empty() {
            // What comes behind would never be reached, which the kernel refuses.
            decided = true;
            break;
        }
    }
    if !decided {
        judge.extend(answer(false));
    }
    let end = judge.len();
    for from in to_the_end {
        // `compile` refuses programs whose distances do not fit.
        judge[from].2 = i16::try_from(end - from - 1).unwrap_or(i16::MAX);
    }
    judge
}

fn answer(allow: bool) -> [Instruction; 2] {
    [(MOVE_CONSTANT, 0, 0, i32::from(allow)), (EXIT, 0, 0, 0)]
}

/// The same 32 bits.
fn constant(value: u32) -> i32 {
    i32::from_ne_bytes(value.to_ne_bytes())
}

fn offset(distance: usize) -> Result<i16> {
    i16::try_from(distance).map_err(|_| AgentError::invalid("there are too many device rules"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program, as the kernel would.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u32; 6];
        let mut at = 0_usize;
        loop {
            let (code, operands, jump, constant) = program[at];
            let (to, from) = ((operands & 15) as usize, (operands >> 4) as usize);
            let constant = constant as u32;
            let mut taken = false;
            match code {
                LOAD_WORD => registers[to] = context[jump as usize / 4],
                MOVE => registers[to] = registers[from],
                MOVE_CONSTANT => registers[to] = constant,
                AND_CONSTANT => registers[to] &= constant,
                SHIFT_RIGHT => registers[to] >>= constant,
                JUMP => taken = true,
                JUMP_IF_BITS => taken = registers[to] & constant != 0,
                JUMP_UNLESS_EQUAL => taken = registers[to] != constant,
                EXIT => return registers[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
            at += 1;
            if taken {
                at = at.checked_add_signed(jump.into()).unwrap();
            }
        }
    }

    /// Follows every way through a program: the kernel refuses one with instructions that none
    /// reaches.
    fn unreached(program: &[Instruction]) -> usize {
        let mut reached = vec![false; program.len()];
        let mut ways = vec![0];
        while let Some(at) = ways.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            let (code, _, jump, _) = program[at];
            if code != EXIT && code != JUMP {
                ways.push(at + 1);
            }
            if matches!(code, JUMP | JUMP_IF_BITS | JUMP_UNLESS_EQUAL) {
                ways.push((at + 1).checked_add_signed(jump.into()).unwrap());
            }
        }
        reached.iter().filter(|reached| !**reached).count()
    }

    fn program(rules: serde_json::Value) -> Vec<Instruction> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        let program = compile(&lower(&rules).unwrap()).unwrap();
        assert_eq!(unreached(&program), 0);
        program
    }

    #[test]
    fn without_rules_only_the_default_devices_can_be_used() {
        let program = program(serde_json::json!([]));
        assert!(run(&program, CHAR, READ | WRITE, 1, 3));
        assert!(run(&program, CHAR, READ | WRITE, 136, 7));
        assert!(run(&program, BLOCK, MAKE, 254, 0));
        assert!(!run(&program, BLOCK, READ, 254, 0));
        assert!(!run(&program, CHAR, READ, 1, 11));
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let program = program(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"},
        ]));
        assert!(run(&program, CHAR, READ | WRITE, 10, 1));
        assert!(run(&program, CHAR, READ, 10, 229));
        assert!(!run(&program, CHAR, READ | WRITE, 10, 229));
        assert!(run(&program, BLOCK, READ, 8, 0));
        assert!(!run(&program, BLOCK, WRITE, 8, 0));
        assert!(!run(&program, BLOCK, READ, 8, 1));
    }

    #[test]
    fn a_rule_for_all_replaces_those_before_it() {
        let program = program(serde_json::json!([
            {"allow": false, "type": "b", "major": 8, "access": "rwm"},
            {"allow": true, "type": "a", "access": "rwm"},
        ]));
        assert!(run(&program, BLOCK, READ | WRITE | MAKE, 8, 0));
        assert!(run(&program, CHAR, READ, 1, 11));
    }

    #[test]
    fn letters_that_are_no_access_ask_for_nothing() {
        let program = program(serde_json::json!([
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwa"},
            {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "x"},
        ]));
        assert!(run(&program, CHAR, READ | WRITE, 1, 11));
        assert!(!run(&program, CHAR, READ, 1, 12));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let refused = |rule: serde_json::Value| {
            let rules: Vec<LinuxDeviceCgroup> =
                serde_json::from_value(serde_json::json!([rule])).unwrap();
            lower(&rules).is_err()
        };
        assert!(refused(
            serde_json::json!({"allow": true, "type": "p", "access": "r"})
        ));
        assert!(refused(
            serde_json::json!({"allow": true, "type": "c", "major": 4294967296_u64, "access": "r"})
        ));
        let many = vec![
            serde_json::json!({"allow": true, "type": "c", "major": 1, "minor": 1, "access": "rwm"});
            9000
        ];
        let many: Vec<LinuxDeviceCgroup> = serde_json::from_value(many.into()).unwrap();
        assert!(compile(&lower(&many).unwrap()).is_err());
    }
}
