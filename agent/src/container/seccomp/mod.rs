//! OCI seccomp profiles to BPF programs.
//!
//! A profile has any number of actions, a `seccompiler` filter one besides its default. The kernel
//! runs all installed filters and obeys the strictest answer, so a profile becomes several: the
//! first lets everything named in the profile pass and answers the default to the rest; one more
//! per further action answers that action to its calls and lets the rest pass.

mod x86_64;

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

use crate::error::{AgentError, Kind, Result};

/// Compiled filters, to be installed in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeccompPlan {
    pub(crate) programs: Vec<Vec<Instruction>>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u64,
}

/// Code, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

/// Rules by system call; no rule means every call of that number.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Compiles a profile.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<SeccompPlan> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    // Each distinct action with its rules, in order of appearance.
    let mut groups: Vec<(SeccompAction, Rules)> = Vec::new();
    let mut named = Rules::new();
    for entry in profile.syscalls().as_deref().unwrap_or_default() {
        let answer = action(entry.action(), entry.errno_ret())?;
        if answer == default {
            continue;
        }
        add(&mut named, entry)?;
        if answer == SeccompAction::Allow {
            continue;
        }
        match groups.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, rules)) => add(rules, entry)?,
            None => {
                let mut rules = Rules::new();
                add(&mut rules, entry)?;
                groups.push((answer, rules));
            }
        }
    }
    let mut programs = Vec::new();
    if default != SeccompAction::Allow {
        let mut program = unknown_calls(profile);
        program.extend(build(named, default, SeccompAction::Allow)?);
        programs.push(program);
    }
    for (answer, rules) in groups {
        programs.push(build(rules, SeccompAction::Allow, answer)?);
    }
    Ok(SeccompPlan {
        programs,
        flags: flags(profile)?,
    })
}

/// What runc puts before a filter that forbids what it does not name: calls newer than all that it
/// names do not exist, so that C libraries fall back to older ones. A profile that says itself what
/// forbidden calls return has none, nor one that lets calls pass.
fn unknown_calls(profile: &LinuxSeccomp) -> Vec<Instruction> {
    const ARCH_X86_64: u32 = 0xc000_003e;
    const X32: u32 = 0x4000_0000;
    const RETURN_ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
    let passes = matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
    );
    let errno = profile.default_errno_ret();
    if passes || errno.is_some_and(|errno| errno != libc::ENOSYS as u32) {
        return Vec::new();
    }
    let entries = profile.syscalls().iter().flatten();
    let numbers = entries.flat_map(|entry| entry.names().iter());
    let newest = numbers.filter_map(|name| x86_64::number(name)).max();
    let Some(newest) = newest.and_then(|number| u32::try_from(number).ok()) else {
        return Vec::new();
    };
    let (load, equal, at_least, above, answer) = (0x20, 0x15, 0x35, 0x25, 0x06);
    vec![
        (load, 0, 0, 4),
        (equal, 0, 4, ARCH_X86_64),
        (load, 0, 0, 0),
        (at_least, 2, 0, X32),
        (above, 0, 1, newest),
        (answer, 0, 0, RETURN_ENOSYS),
    ]
}

fn flags(profile: &LinuxSeccomp) -> Result<u64> {
    let mut flags = 0;
    for flag in profile.flags().as_deref().unwrap_or_default() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(unsupported("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"))
            }
        };
    }
    Ok(flags)
}

fn unsupported(what: &str) -> AgentError {
    AgentError::new(
        Kind::Unsupported,
        format!("seccomp: {what} is not supported"),
    )
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<SeccompAction> {
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            SeccompAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => SeccompAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => SeccompAction::Trap,
        LinuxSeccompAction::ScmpActErrno => {
            SeccompAction::Errno(errno.unwrap_or(libc::EPERM as u32))
        }
        LinuxSeccompAction::ScmpActTrace => {
            SeccompAction::Trace(errno.unwrap_or(libc::EPERM as u32))
        }
        LinuxSeccompAction::ScmpActLog => SeccompAction::Log,
        LinuxSeccompAction::ScmpActAllow => SeccompAction::Allow,
        LinuxSeccompAction::ScmpActNotify => return Err(unsupported("SCMP_ACT_NOTIFY")),
    })
}

/// Adds an entry's calls. Names that this architecture does not have are left out, as libseccomp
/// does: profiles are written for all architectures at once.
fn add(rules: &mut Rules, entry: &LinuxSyscall) -> Result<()> {
    let args = entry.args().as_deref().unwrap_or_default();
    for number in entry.names().iter().filter_map(|name| x86_64::number(name)) {
        if args.is_empty() {
            rules.insert(number, Vec::new());
            continue;
        }
        let whole = rules.get(&number).is_some_and(Vec::is_empty);
        if !whole {
            let list = rules.entry(number).or_default();
            for conditions in alternatives(args)? {
                list.push(SeccompRule::new(conditions).map_err(compile_error)?);
            }
        }
    }
    Ok(())
}

/// Conditions on different arguments must all hold; several on one argument are alternatives (as
/// in runc, since libseccomp takes one condition per argument).
fn alternatives(args: &[LinuxSeccompArg]) -> Result<Vec<Vec<SeccompCondition>>> {
    let conditions: Vec<_> = args.iter().map(condition).collect::<Result<_>>()?;
    let mut indices: Vec<_> = args.iter().map(LinuxSeccompArg::index).collect();
    indices.sort_unstable();
    if indices.windows(2).any(|pair| pair[0] == pair[1]) {
        return Ok(conditions.into_iter().map(|one| vec![one]).collect());
    }
    Ok(vec![conditions])
}

fn condition(arg: &LinuxSeccompArg) -> Result<SeccompCondition> {
    let (operator, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            SeccompCmpOp::MaskedEq(arg.value()),
            arg.value_two().unwrap_or(0),
        ),
    };
    let index = u8::try_from(arg.index())
        .map_err(|_| AgentError::invalid("seccomp: argument index out of range"))?;
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value).map_err(compile_error)
}

fn build(
    rules: Rules,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<Vec<Instruction>> {
    let filter =
        SeccompFilter::new(rules, mismatch, matched, TargetArch::x86_64).map_err(compile_error)?;
    let program: BpfProgram = filter.try_into().map_err(compile_error)?;
    Ok(program
        .iter()
        .map(|line| (line.code, line.jt, line.jf, line.k))
        .collect())
}

fn compile_error(error: seccompiler::BackendError) -> AgentError {
    AgentError::invalid(format!("seccomp profile cannot be compiled: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(json: serde_json::Value) -> Result<SeccompPlan> {
        compile(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn allow_list_with_another_errno_becomes_two_filters() {
        let plan = compiled(serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                { "names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
                { "names": ["personality"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] }
            ]
        }))
        .unwrap();
        assert_eq!(plan.programs.len(), 2);
    }

    #[test]
    fn deny_list_needs_one_filter() {
        let plan = compiled(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }]
        }))
        .unwrap();
        assert_eq!(plan.programs.len(), 1);
    }

    #[test]
    fn calls_newer_than_all_that_are_named_do_not_exist() {
        let first = |extra: serde_json::Value| {
            let mut profile = serde_json::json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{ "names": ["read", "clone3", "dup"], "action": "SCMP_ACT_ALLOW" }]
            });
            for (key, value) in extra.as_object().unwrap() {
                profile[key] = value.clone();
            }
            compiled(profile).unwrap().programs[0][4]
        };
        let stub = (0x25, 0, 1, 435);
        assert_eq!(first(serde_json::json!({})), stub);
        assert_eq!(first(serde_json::json!({"defaultErrnoRet": 38})), stub);
        assert_ne!(first(serde_json::json!({"defaultErrnoRet": 1})), stub);
        assert_ne!(
            first(serde_json::json!({"defaultAction": "SCMP_ACT_LOG"})),
            stub
        );
        assert_eq!(
            first(serde_json::json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"})),
            stub
        );
    }

    #[test]
    fn notify_is_refused_by_name() {
        let error = compiled(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]
        }))
        .unwrap_err();
        assert!(error.text().contains("SCMP_ACT_NOTIFY"));
    }
}
