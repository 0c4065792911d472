//! The hooks that run in the container: startContainer (config.md, "POSIX-platform Hooks"). They
//! run as the container's process, after all that it gets and gives up, and before its program.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use oci_spec::runtime::Hook;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::error::{AgentError, Context, Kind, Result};

/// How much of a hook's output an error tells, in bytes.
const MAX_OUTPUT_BYTES: u64 = 4096;

/// The hooks of a container and what they are told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StartHooks {
    hooks: Vec<HookPlan>,
    /// The state by runtime.md, but for `status` and `pid`.
    state: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct HookPlan {
    path: PathBuf,
    args: Vec<String>,
    /// Without one of its own, a hook has that of the container's process.
    env: Option<Vec<String>>,
    /// In seconds.
    timeout: Option<i64>,
}

impl StartHooks {
    /// Lowers hooks; `state` is JSON.
    pub(crate) fn lower(hooks: &[Hook], state: &[u8]) -> Result<Self> {
        if hooks.is_empty() {
            return Ok(Self::default());
        }
        let state = serde_json::from_slice(state)
            .map_err(|error| AgentError::invalid(format!("the state for hooks: {error}")))?;
        Ok(Self {
            hooks: hooks.iter().map(lower).collect(),
            state,
        })
    }

    /// Runs them in their order, up to the first that fails; `env` is the process's.
    pub(super) fn run(&self, env: &[String]) -> Result<()> {
        if self.hooks.is_empty() {
            return Ok(());
        }
        let mut state = self.state.clone();
        state.insert("status".into(), "created".into());
        state.insert("pid".into(), std::process::id().into());
        let state = serde_json::to_vec(&state)
            .map_err(io::Error::from)
            .context(|| "failed to write the state for hooks".to_string())?;
        for (index, hook) in self.hooks.iter().enumerate() {
            run(hook, env, &state).map_err(|problem| {
                let text = format!("error running startContainer hook #{index}: {problem}");
                AgentError::new(Kind::Internal, text)
            })?;
        }
        Ok(())
    }
}

fn lower(hook: &Hook) -> HookPlan {
    HookPlan {
        path: hook.path().clone(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone(),
        timeout: hook.timeout().filter(|seconds| 0 < *seconds),
    }
}

/// The problem as text, or nothing.
fn run(hook: &HookPlan, env: &[String], state: &[u8]) -> std::result::Result<(), String> {
    let start = || -> io::Result<(Child, [File; 2])> {
        // Files instead of pipes: a hook that reads nothing or writes much holds nothing up.
        let mut input = memory_file()?;
        input.write_all(state)?;
        input.rewind()?;
        let outputs = [memory_file()?, memory_file()?];
        let mut command = Command::new(&hook.path);
        if let Some((name, arguments)) = hook.args.split_first() {
            command.arg0(name).args(arguments);
        }
        let env = hook.env.as_deref().unwrap_or(env).iter();
        let child = command
            .env_clear()
            .envs(env.filter_map(|variable| variable.split_once('=')))
            .stdin(input)
            .stdout(outputs[0].try_clone()?)
            .stderr(outputs[1].try_clone()?)
            .spawn()?;
        Ok((child, outputs))
    };
    let (mut child, outputs) =
        start().map_err(|error| format!("{}: {error}", hook.path.display()))?;
    let ended = wait(&mut child, hook.timeout).map_err(|error| error.to_string())?;
    let Some(status) = ended else {
        let seconds = hook.timeout.unwrap_or_default();
        return Err(format!("hook ran past specified timeout of {seconds}.0s"));
    };
    if status.success() {
        return Ok(());
    }
    let [stdout, stderr] = outputs.map(beginning);
    let how = match status.signal() {
        Some(signal) => format!("signal: {}", signal_name(signal)),
        None => format!("exit status {}", status.code().unwrap_or_default()),
    };
    Err(format!("{how}, stdout: {stdout}, stderr: {stderr}"))
}

/// In the words that runc has for it.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "aborted",
        libc::SIGKILL => "killed",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGTERM => "terminated",
        libc::SIGSYS => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_string()
}

/// Waits for its end; one that takes longer than its limit in seconds is killed: `None`.
fn wait(child: &mut Child, limit: Option<i64>) -> io::Result<Option<ExitStatus>> {
    let Some(seconds) = limit else {
        return child.wait().map(Some);
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    if poll(&mut fds, Some(&limit))? == 1 {
        return child.wait().map(Some);
    }
    child.kill()?;
    child.wait().map(|_| None)
}

fn memory_file() -> io::Result<File> {
    let fd = rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?;
    Ok(File::from(fd))
}

fn beginning(mut file: File) -> String {
    let mut bytes = Vec::new();
    // What can't be read is not told.
    let _ = file.rewind();
    let _ = file.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(list: serde_json::Value) -> StartHooks {
        let hooks: Vec<Hook> = serde_json::from_value(list).unwrap();
        StartHooks::lower(&hooks, br#"{"id": "c1", "bundle": "/b"}"#).unwrap()
    }

    fn shell(script: &str) -> serde_json::Value {
        serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=1"]})
    }

    #[test]
    fn a_hook_gets_the_state_and_only_its_own_environment() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let script = format!("cat > {0}; echo $A$HOME >> {0}", out.display());
        hooks(serde_json::json!([shell(&script)])).run(&[]).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.contains(r#""id":"c1""#), "{text}");
        assert!(text.contains(r#""status":"created""#), "{text}");
        assert!(text.ends_with("}1\n"), "{text}");
    }

    #[test]
    fn a_hook_without_an_environment_has_the_processs() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let mut hook = shell(&format!("echo $ONE > {}", out.display()));
        hook.as_object_mut().unwrap().remove("env");
        hooks(serde_json::json!([hook]))
            .run(&["ONE=two".to_string()])
            .unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), "two\n");
    }

    #[test]
    fn a_failing_hook_is_named_and_the_next_does_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let last = shell(&format!("touch {}", out.display()));
        let list = serde_json::json!([shell("true"), shell("echo no >&2; exit 3"), last]);
        let error = hooks(list).run(&[]).unwrap_err();
        let want = "error running startContainer hook #1: exit status 3, stdout: , stderr: no\n";
        assert_eq!(error.text(), want);
        assert!(!out.exists());
    }

    #[test]
    fn a_hook_that_hangs_or_is_missing_is_an_error() {
        let mut hanging = shell("exec sleep 1000");
        hanging["timeout"] = 1.into();
        let error = hooks(serde_json::json!([hanging])).run(&[]).unwrap_err();
        assert!(error.text().contains("timeout of 1.0s"), "{}", error.text());
        let missing = serde_json::json!([{"path": "/nonexistent/hook"}]);
        let error = hooks(missing).run(&[]).unwrap_err();
        assert!(
            error.text().contains("/nonexistent/hook"),
            "{}",
            error.text()
        );
    }
}
