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
    /// Instructions: code, jump if true, jump if false, operand.
    pub(crate) programs: Vec<Vec<(u16, u8, u8, u32)>>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u64,
}

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
        programs.push(build(named, default, SeccompAction::Allow)?);
    }
    for (answer, rules) in groups {
        programs.push(build(rules, SeccompAction::Allow, answer)?);
    }
    Ok(SeccompPlan {
        programs,
        flags: flags(profile)?,
    })
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
) -> Result<Vec<(u16, u8, u8, u32)>> {
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
    fn notify_is_refused_by_name() {
        let error = compiled(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]
        }))
        .unwrap_err();
        assert!(error.text().contains("SCMP_ACT_NOTIFY"));
    }
}
