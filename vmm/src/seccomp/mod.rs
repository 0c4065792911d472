//! System call filters: what each kind of thread may ask of the kernel once the guest runs.
//!
//! One table ([`table`]) holds every allowed call with its reason; the filters are made from it and
//! from nothing else. Any other call ends the whole process with `SIGSYS`, in every build profile,
//! so the starter sees it in the wait status and a guest that steered a thread gets no second try.
//!
//! A filter is inherited by threads made later, which could then do only what both allow: make all
//! threads first, let each install its own filter, and install the main thread's last.

#[cfg(test)]
mod exhaustive;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use table::{Argument, Rule, Test, RULES};

/// The kinds of threads, each with a filter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum ThreadKind {
    /// Waits for the others and ends the process.
    Main,
    /// Serves the devices and the control socket.
    EventLoop,
    /// Runs one vCPU.
    Vcpu,
}

impl ThreadKind {
    const ALL: [Self; 3] = [Self::Main, Self::EventLoop, Self::Vcpu];

    fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::EventLoop => "event-loop",
            Self::Vcpu => "vcpu",
        }
    }
}

/// Why a filter could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The table makes no filter.
    #[error("failed to compile the system call filter of the {thread} thread")]
    Compile {
        /// Which thread's.
        thread: &'static str,
        /// What is wrong with it.
        source: seccompiler::BackendError,
    },
    /// The kernel refused the filter.
    #[error(
        "failed to install the system call filter of the {thread} thread (is CONFIG_SECCOMP_FILTER \
         in the host's kernel?)"
    )]
    Install {
        /// Which thread's.
        thread: &'static str,
        /// The kernel's answer.
        source: seccompiler::Error,
    },
}

/// Filters installed so far, by [`ThreadKind`].
static INSTALLED: [AtomicU32; ThreadKind::ALL.len()] = [const { AtomicU32::new(0) }; 3];

/// Installs the filter of a kind of thread on the calling thread, for good.
///
/// # Errors
/// The thread is then unfiltered, and the process must end.
pub fn install(kind: ThreadKind) -> Result<(), SeccompError> {
    let program = compile(kind).map_err(|source| SeccompError::Compile {
        thread: kind.name(),
        source,
    })?;
    seccompiler::apply_filter(&program).map_err(|source| SeccompError::Install {
        thread: kind.name(),
        source,
    })?;
    INSTALLED[kind as usize].fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// How many filters this process has installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed([u32; ThreadKind::ALL.len()]);

/// Counts the filters installed so far.
pub fn installed() -> Installed {
    Installed([0, 1, 2].map(|kind: usize| INSTALLED[kind].load(Ordering::Relaxed)))
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([main, event_loop, vcpu]) = self;
        write!(f, "main {main}, event-loop {event_loop}, vcpu {vcpu}")
    }
}

/// What a kind of thread may call: name and reason of each rule.
pub fn allowed(kind: ThreadKind) -> impl Iterator<Item = (&'static str, &'static str)> {
    RULES
        .iter()
        .filter(move |rule| rule.threads.contains(&kind))
        .map(|rule| (rule.name, rule.reason))
}

fn compile(kind: ThreadKind) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in RULES.iter().filter(|rule| rule.threads.contains(&kind)) {
        // An empty list allows the call whatever its arguments are.
        let alternatives = rules.entry(rule.number).or_default();
        if !rule.when.is_empty() {
            alternatives.push(conditions(rule)?);
        }
    }
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

fn conditions(rule: &Rule) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = rule.when.iter().map(|Argument { index, test }| {
        let (length, operator, value) = match *test {
            Test::Is(value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value)),
            Test::Without(bits) => (
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::MaskedEq(u64::from(bits)),
                0,
            ),
            Test::IsNull => (SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0),
            Test::IsThisProcess => (
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                u64::from(std::process::id()),
            ),
        };
        SeccompCondition::new(*index, length, operator, value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_reason_and_a_thread() {
        for rule in RULES {
            assert!(rule.reason.len() >= 8, "{} has no reason", rule.name);
            assert!(!rule.threads.is_empty(), "{} has no thread", rule.name);
        }
    }

    #[test]
    fn no_rule_is_covered_by_another() {
        for (index, rule) in RULES.iter().enumerate() {
            for other in &RULES[index + 1..] {
                let same_thread = rule.threads.iter().any(|kind| other.threads.contains(kind));
                let covers =
                    rule.when == other.when || rule.when.is_empty() || other.when.is_empty();
                assert!(
                    !(rule.number == other.number && same_thread && covers),
                    "{} is listed twice",
                    rule.name
                );
            }
        }
    }

    #[test]
    fn every_filter_compiles_within_the_kernel_limit() {
        for kind in ThreadKind::ALL {
            let program = compile(kind).unwrap();
            assert!(program.len() < 4096, "{}: {}", kind.name(), program.len());
        }
    }

    /// A longer list is a wider door: who adds a call also changes this number.
    #[test]
    fn each_thread_has_as_many_rules_as_reviewed() {
        assert_eq!(
            ThreadKind::ALL.map(|kind| allowed(kind).count()),
            [25, 65, 29]
        );
    }

    #[test]
    fn security_md_tells_how_many_there_are() {
        let text = include_str!("../../../SECURITY.md");
        let names = ["main", "event loop (Firecracker: vmm)", "vCPU"];
        for (kind, name) in ThreadKind::ALL.into_iter().zip(names) {
            let calls: std::collections::BTreeSet<_> =
                allowed(kind).map(|(call, _)| call).collect();
            let line = format!("| {name} | {} | {} |", allowed(kind).count(), calls.len());
            assert!(text.contains(&line), "SECURITY.md has no line {line:?}");
        }
    }

    #[test]
    fn no_filter_lets_a_thread_reach_for_more() {
        let never = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_setuid,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_register,
            libc::SYS_memfd_create,
            libc::SYS_keyctl,
        ];
        for rule in RULES {
            assert!(!never.contains(&rule.number), "{} is allowed", rule.name);
        }
    }

    #[test]
    fn memory_and_ioctl_calls_are_never_allowed_whatever_their_arguments() {
        let checked = [
            libc::SYS_ioctl,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_tgkill,
            libc::SYS_fcntl,
            libc::SYS_prctl,
            libc::SYS_fallocate,
            libc::SYS_io_uring_enter,
        ];
        for rule in RULES {
            assert!(
                !(checked.contains(&rule.number) && rule.when.is_empty()),
                "{} is unchecked",
                rule.name
            );
        }
    }
}
