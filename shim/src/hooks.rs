//! The hooks whose programs are the host's: prestart, createRuntime, createContainer, poststart,
//! poststop (config.md, "POSIX-platform Hooks").
//!
//! A createContainer hook belongs into the container's namespaces. Of those, the host has only that
//! of the network; the others are the guest's, where the hook's program is not.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks};
use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// How much of a hook's output is kept for an error's text, in bytes.
const MAX_OUTPUT_BYTES: u64 = 4096;

/// How long the output of a hook that has ended is waited for.
const OUTPUT_LIMIT: Duration = Duration::from_millis(100);

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After the namespaces are there, before anything of the container is.
    Prestart,
    /// The same moment, after the prestart hooks.
    CreateRuntime,
    /// The same moment, after the createRuntime hooks, in the container's network namespace.
    CreateContainer,
    /// After the container's process was started.
    Poststart,
    /// After the container was deleted.
    Poststop,
}

impl Moment {
    /// The name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn list(self, hooks: &Hooks) -> &[Hook] {
        #[allow(deprecated)] // Of the specification; Docker uses it.
        let list = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }

    /// The container's status at that moment.
    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running {} hook #{index}: {problem}", .moment.name())]
pub struct HookError {
    /// When.
    pub moment: Moment,
    /// Its place in the list.
    pub index: usize,
    /// What went wrong.
    pub problem: Problem,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It can't be started, or not be told.
    #[error("{path:?}: {source}")]
    Start {
        /// The hook's program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{}, stdout: {stdout}, stderr: {stderr}", describe(*.status))]
    Status {
        /// How it ended.
        status: ExitStatus,
        /// The beginning of what it wrote.
        stdout: String,
        /// The same for errors.
        stderr: String,
    },
    /// It took too long.
    #[error("hook ran past specified timeout of {:.1}s", .limit.as_secs_f64())]
    TimedOut {
        /// Its limit.
        limit: Duration,
    },
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The container that hooks are told of.
#[derive(Debug, Clone)]
pub struct Subject {
    /// `ociVersion` of its configuration.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its annotations.
    pub annotations: HashMap<String, String>,
    /// Its hooks.
    pub hooks: Hooks,
}

/// runtime.md, "State".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    pid: u32,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
}

fn is_zero(pid: &u32) -> bool {
    *pid == 0
}

impl Subject {
    /// Whether any hook of the host is there.
    pub fn has_any(&self) -> bool {
        let moments = [
            Moment::Prestart,
            Moment::CreateRuntime,
            Moment::CreateContainer,
            Moment::Poststart,
            Moment::Poststop,
        ];
        moments
            .iter()
            .any(|moment| !moment.list(&self.hooks).is_empty())
    }

    /// Runs the hooks of a moment in their order, up to the first that fails. `pid` 0: none.
    pub async fn run(&self, moment: Moment, pid: u32) -> Result<(), HookError> {
        for (index, hook) in moment.list(&self.hooks).iter().enumerate() {
            let failed = |problem| HookError {
                moment,
                index,
                problem,
            };
            self.run_one(hook, moment, pid).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Runs all hooks of a moment whose failure is no failure of the container's.
    pub async fn run_all(&self, moment: Moment, pid: u32) {
        for (index, hook) in moment.list(&self.hooks).iter().enumerate() {
            if let Err(problem) = self.run_one(hook, moment, pid).await {
                let moment = moment.name();
                tracing::warn!(
                    container = self.id,
                    "error running {moment} hook #{index}: {problem}"
                );
            }
        }
    }

    async fn run_one(&self, hook: &Hook, moment: Moment, pid: u32) -> Result<(), Problem> {
        let state = State {
            oci_version: &self.oci_version,
            id: &self.id,
            status: moment.status(),
            pid,
            bundle: &self.bundle,
            annotations: &self.annotations,
        };
        let state = serde_json::to_vec(&state).map_err(|error| Problem::Start {
            path: hook.path().clone(),
            source: error.into(),
        })?;
        let limit = hook
            .timeout()
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs);
        if moment == Moment::CreateContainer && pid != 0 {
            return in_network_of(pid, hook.clone(), self.bundle.clone(), state, limit).await;
        }
        within(limit, execute(hook, &self.bundle, &state)).await
    }
}

async fn within(
    limit: Option<Duration>,
    ended: impl Future<Output = Result<(), Problem>>,
) -> Result<(), Problem> {
    match limit {
        None => ended.await,
        Some(limit) => match tokio::time::timeout(limit, ended).await {
            Ok(ended) => ended,
            Err(_) => Err(Problem::TimedOut { limit }),
        },
    }
}

/// Runs one hook in the network namespace of a process. A namespace is a thread's, and a child has
/// that of the thread that starts it: so the hook gets a thread of its own, with an event loop.
/// Dropping the future ends both.
async fn in_network_of(
    pid: u32,
    hook: Hook,
    bundle: PathBuf,
    state: Vec<u8>,
    limit: Option<Duration>,
) -> Result<(), Problem> {
    let path = hook.path().clone();
    let failed = move |source| Problem::Start { path, source };
    let (mut answer, answered) = oneshot::channel();
    let body = move || {
        let entered = enter_network(pid).and_then(|()| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
        });
        let told = entered.map(|runtime| {
            runtime.block_on(async {
                tokio::select! {
                    ended = within(limit, execute(&hook, &bundle, &state)) => Some(ended),
                    () = answer.closed() => None,
                }
            })
        });
        // Nobody may wait any more.
        let _ = answer.send(told);
    };
    std::thread::Builder::new()
        .name("hook".into())
        .spawn(body)
        .map_err(failed.clone())?;
    match answered.await {
        Ok(Ok(Some(ended))) => ended,
        Ok(Err(error)) => Err(failed(error)),
        Ok(Ok(None)) | Err(_) => Err(failed(io::Error::other("its thread ended"))),
    }
}

fn enter_network(pid: u32) -> io::Result<()> {
    let file = File::open(format!("/proc/{pid}/ns/net"))?;
    let network = Some(LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(
        file.as_fd(),
        network,
    )?)
}

/// A hook and what it has started: killed together, unless the hook has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(pid.and_then(Pid::from_raw))
    }

    /// What it leaves behind is its own business now.
    fn has_ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may just have ended.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs one hook to its end; dropping the future kills it.
async fn execute(hook: &Hook, bundle: &Path, state: &[u8]) -> Result<(), Problem> {
    let failed = |source| Problem::Start {
        path: hook.path().clone(),
        source,
    };
    crate::confine::check_foreign_program().map_err(failed)?;
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    // One without an environment of its own has that of the shim, as with runc.
    if let Some(env) = hook.env() {
        let variables = env.iter().filter_map(|variable| variable.split_once('='));
        command.env_clear().envs(variables);
    }
    let mut child = command
        .current_dir(bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    // Not yet reaped when this is dropped, so the number is still the hook's.
    let mut group = Group::of(&child);
    let stdin = child.stdin.take();
    let told = async {
        if let Some(mut stdin) = stdin {
            // A hook need not read its state.
            let _ = stdin.write_all(state).await;
        }
    };
    let stdout = read_some(child.stdout.take());
    let stderr = read_some(child.stderr.take());
    let output = async { tokio::join!(told, stdout, stderr) };
    tokio::pin!(output);
    // A process that the hook left behind may keep its output open: the hook's end counts.
    let (status, complete) = tokio::select! {
        complete = &mut output => (child.wait().await, Some(complete)),
        status = child.wait() => (status, None),
    };
    group.has_ended();
    let status = status.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let complete = match complete {
        None => tokio::time::timeout(OUTPUT_LIMIT, output).await.ok(),
        complete => complete,
    };
    let (_, stdout, stderr) = complete.unwrap_or_default();
    Err(Problem::Status {
        status,
        stdout,
        stderr,
    })
}

/// The beginning of a stream; the rest is read and dropped.
async fn read_some(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else {
        return String::new();
    };
    let mut kept = Vec::new();
    let _ = (&mut stream)
        .take(MAX_OUTPUT_BYTES)
        .read_to_end(&mut kept)
        .await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(directory: &Path, hooks: serde_json::Value) -> Subject {
        Subject {
            oci_version: "1.0.2".into(),
            id: "c1".into(),
            bundle: directory.into(),
            annotations: HashMap::new(),
            hooks: serde_json::from_value(hooks).unwrap(),
        }
    }

    fn shell(script: &str) -> serde_json::Value {
        serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=1"]})
    }

    #[tokio::test]
    async fn a_hook_gets_the_state_and_only_its_own_environment() {
        let directory = tempfile::tempdir().unwrap();
        let hooks =
            serde_json::json!({"createRuntime": [shell("cat > state; echo $A$HOME > env")]});
        let subject = subject(directory.path(), hooks);
        assert!(subject.has_any());
        subject.run(Moment::CreateRuntime, 42).await.unwrap();
        let state = std::fs::read_to_string(directory.path().join("state")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["pid"], 42);
        assert_eq!(state["status"], "creating");
        assert_eq!(state["id"], "c1");
        let env = std::fs::read_to_string(directory.path().join("env")).unwrap();
        assert_eq!(env, "1\n");
    }

    #[tokio::test]
    async fn a_failing_hook_is_named_with_its_output() {
        let directory = tempfile::tempdir().unwrap();
        let hooks = serde_json::json!({"prestart": [shell("true"), shell("echo no >&2; exit 3")]});
        let subject = subject(directory.path(), hooks);
        let error = subject.run(Moment::Prestart, 1).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "error running prestart hook #1: exit status 3, stdout: , stderr: no\n"
        );
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_ended_with_what_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let mut hook = shell("sleep 1000 & echo $! > child; wait");
        hook["timeout"] = 1.into();
        let subject = subject(directory.path(), serde_json::json!({"poststop": [hook]}));
        let error = subject.run(Moment::Poststop, 0).await.unwrap_err();
        assert!(error.to_string().contains("timeout of 1.0s"), "{error}");
        let child = std::fs::read_to_string(directory.path().join("child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let ended = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while !ended() {
            assert!(std::time::Instant::now() < until, "{child} lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_process_that_a_hook_leaves_behind_holds_nothing_up() {
        let directory = tempfile::tempdir().unwrap();
        let hooks = serde_json::json!({"prestart": [shell("sleep 5 & exit 0")]});
        let start = std::time::Instant::now();
        subject(directory.path(), hooks)
            .run(Moment::Prestart, 1)
            .await
            .unwrap();
        assert!(start.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn a_missing_hook_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let hooks = serde_json::json!({"prestart": [{"path": "/nonexistent/hook"}]});
        let error = subject(directory.path(), hooks)
            .run(Moment::Prestart, 1)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/hook"), "{error}");
    }
}
