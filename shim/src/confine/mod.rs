//! What a process that talks to a guest's agent keeps of root's power.
//!
//! It gives up what neither it nor a program that it starts has a use for, before its second thread and
//! before a guest runs. How far that goes depends on whom it starts ([`Programs`]): what a child can't have
//! its parent can't give, and hooks and loggers are the operator's, who expects them to have what a runtime
//! started as root has.
//!
//! | | Hull's own programs | hooks and loggers too |
//! |---|---|---|
//! | capabilities of the process | those of `capabilities.rs` | the same |
//! | what a program that it executes may have | the same | all |
//! | `no_new_privs` | yes | no: a hook may be, or start, a set-user-id program |
//! | filter (`filter.rs`) | yes, and its children have it | no: hooks load BPF programs and modules |
//! | undumpable | yes | yes |
//!
//! **Invariant:** what does not hold is an error, never a process that has more.

mod capabilities;
mod filter;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{set_dumpable_behavior, DumpableBehavior};
use rustix::thread::set_no_new_privs;

/// Whom a process starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// VMMs, virtiofsd and holders.
    Own,
    /// Hooks and loggers besides.
    Any,
}

/// A step that did not hold.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action}: without that the shim does not serve a guest")]
pub struct ConfineError {
    action: &'static str,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |source| ConfineError {
        action,
        source: source.into(),
    }
}

/// Set when this process may start none but Hull's own programs.
static SEALED: AtomicBool = AtomicBool::new(false);

/// Confines the calling thread, and with it all that it starts. The process has no other thread yet.
///
/// # Errors
/// The first step that does not hold.
pub fn enter(programs: Programs) -> Result<(), ConfineError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("be undumpable"))?;
    match programs {
        Programs::Own => {
            set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
            capabilities::bound().map_err(failed("bound the capabilities of children"))?;
            capabilities::drop_unused().map_err(failed("drop capabilities"))?;
            filter::install().map_err(failed("install a system call filter"))?;
            SEALED.store(true, Ordering::Relaxed);
            Ok(())
        }
        Programs::Any => capabilities::drop_unused().map_err(failed("drop capabilities")),
    }
}

/// Refuses a hook or a logger where only Hull's own programs are started: it would not have what it may
/// expect.
pub(crate) fn check_foreign_program() -> io::Result<()> {
    match SEALED.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "this shim was started (-sealed) to run no hooks and no loggers",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rustix::process::geteuid;

    use super::*;

    fn status() -> BTreeMap<String, String> {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let split = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        text.lines().filter_map(split).collect()
    }

    fn bits(text: &str) -> u64 {
        u64::from_str_radix(text, 16).unwrap()
    }

    /// All but the dumpable flag is a thread's, so a test gives it to a thread of its own.
    fn in_a_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(body).join().unwrap()
    }

    #[test]
    fn a_sealed_process_and_its_children_have_what_the_table_lists() {
        let (own, child) = in_a_thread(|| {
            enter(Programs::Own).unwrap();
            let cat = std::process::Command::new("cat")
                .arg("/proc/self/status")
                .output();
            (status(), String::from_utf8(cat.unwrap().stdout).unwrap())
        });
        let kept = capabilities::kept().bits();
        for set in ["CapPrm", "CapEff"] {
            assert_eq!(bits(&own[set]) & !kept, 0, "{set}");
        }
        assert_eq!(bits(&own["CapInh"]) | bits(&own["CapAmb"]), 0);
        assert_eq!(own["NoNewPrivs"], "1");
        assert_eq!(own["Seccomp"], "2");
        if !geteuid().is_root() {
            return;
        }
        assert_eq!(bits(&own["CapBnd"]) & !kept, 0);
        // What the VMM's jail and virtiofsd need reaches them.
        let line = child.lines().find_map(|line| line.strip_prefix("CapEff:"));
        assert_eq!(bits(line.unwrap().trim()), bits(&own["CapEff"]));
    }

    #[test]
    fn where_hooks_run_only_the_process_itself_has_less() {
        let (before, own, child) = in_a_thread(|| {
            let before = status();
            enter(Programs::Any).unwrap();
            let cat = std::process::Command::new("cat")
                .arg("/proc/self/status")
                .output();
            let child = String::from_utf8(cat.unwrap().stdout).unwrap();
            (before, status(), child)
        });
        let kept = capabilities::kept().bits();
        assert_eq!(bits(&own["CapEff"]) & !kept, 0);
        assert_eq!(own["CapBnd"], before["CapBnd"]);
        assert_eq!(own["NoNewPrivs"], before["NoNewPrivs"]);
        assert_eq!(own["Seccomp"], before["Seccomp"]);
        if geteuid().is_root() {
            let line = child.lines().find_map(|line| line.strip_prefix("CapEff:"));
            assert_eq!(line.unwrap().trim(), before["CapBnd"]);
        }
    }

    #[test]
    fn what_the_filter_denies_is_denied() {
        let denied = in_a_thread(|| {
            enter(Programs::Own).unwrap();
            filter::DENIED.map(|(number, name, _)| (name, crate::sys::call_with_zeroes(number)))
        });
        for (name, error) in denied {
            assert_eq!(error, Some(libc::EPERM), "{name}");
        }
    }

    #[test]
    fn security_md_has_the_tables() {
        let text = include_str!("../../../SECURITY.md");
        for (_, name, reason) in capabilities::KEPT {
            let line = format!("| `{name}` | {reason} |");
            assert!(text.contains(&line), "SECURITY.md has no line {line:?}");
        }
        let calls = filter::DENIED.map(|(_, name, _)| format!("`{name}`"));
        let list = calls.join(", ");
        let unwrapped = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            unwrapped.contains(&list),
            "SECURITY.md does not say: {list}"
        );
    }
}
