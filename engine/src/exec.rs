//! Further processes in a running container.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bollard_stubs::models::{ExecInspectResponse, ProcessConfig};
use hull_protocol::agent::files_job::Kind;
use hull_protocol::agent::FilesJob;
use serde::Deserialize;
use serde_json::json;

use crate::container::{not_running, Container, WaitCondition};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::files::JOB;
use crate::health::{Check, CHECK};
use crate::ids;
use crate::lifecycle::Status;
use crate::shim::{is_of_user, Ended, Task};
use crate::spec::{exec_process, ExecSpec};
use crate::streams::{Fifos, Hub, Input, Pumps};

/// How long output may take to arrive after the process ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long the record of a container's end may take.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Most rows or columns of a terminal.
const MAX_SIZE: u32 = u16::MAX as u32;
/// For how long an exec that has ended is known.
const KNOWN: Duration = Duration::from_secs(5 * 60);
/// For how long one is kept that nobody starts.
const NOT_STARTED: Duration = Duration::from_secs(60 * 60);
/// How often is looked for those.
const LOOK: Duration = Duration::from_secs(60);
/// How long an exec of an older daemon is listened to, at most.
const OLDER_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
const SIGKILL: u32 = 9;
/// Exit code of a process that SIGKILL ended.
const KILLED: i64 = 137;

/// Body of `/containers/{id}/exec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecCreate {
    attach_stdin: Option<bool>,
    attach_stdout: Option<bool>,
    attach_stderr: Option<bool>,
    tty: Option<bool>,
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    privileged: Option<bool>,
    pub(crate) detach_keys: Option<String>,
    pub(crate) console_size: Option<Vec<u32>>,
}

/// One exec.
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) container: Arc<Container>,
    pub(crate) spec: ExecSpec,
    pub(crate) attach_stdin: bool,
    pub(crate) attach_stdout: bool,
    pub(crate) attach_stderr: bool,
    pub(crate) detach_keys: String,
    /// Height and width that its terminal begins with, unless its start says others.
    pub(crate) size: Option<(u32, u32)>,
    pub(crate) hub: Arc<Hub>,
    created: Instant,
    state: Mutex<ExecState>,
}

/// The execs that are known.
#[derive(Default)]
pub(crate) struct Execs {
    by_id: HashMap<String, Arc<Exec>>,
    looked: Option<Instant>,
}

impl Execs {
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<Exec>> {
        self.by_id.values()
    }

    /// Adds one. Those that nobody will ask for any more make room: a container may run for years, with a
    /// check of its health or a probe each second.
    fn insert(&mut self, exec: Arc<Exec>, now: Instant) {
        let looked = self.looked.replace(now);
        if looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            self.looked = looked;
        } else {
            self.by_id
                .retain(|_, exec| !exec.lock().is_over(exec.created, now));
        }
        self.by_id.insert(exec.id.clone(), exec);
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct ExecState {
    started: bool,
    running: bool,
    pid: u32,
    exit_code: Option<i64>,
    ended: Option<Instant>,
}

impl ExecState {
    /// Whether nobody will ask for it any more.
    fn is_over(&self, created: Instant, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        match self.ended {
            Some(ended) => KNOWN <= since(ended),
            None => !self.started && NOT_STARTED <= since(created),
        }
    }

    fn end(&mut self, code: i64) {
        self.running = false;
        self.exit_code = Some(code);
        self.ended = Some(Instant::now());
    }
}

impl Exec {
    fn lock(&self) -> MutexGuard<'_, ExecState> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        self.lock().running
    }

    /// Docker's description of it.
    pub(crate) fn inspect(&self) -> ExecInspectResponse {
        let state = *self.lock();
        ExecInspectResponse {
            can_remove: Some(false),
            detach_keys: Some(self.detach_keys.clone()),
            id: Some(self.id.clone()),
            running: Some(state.running),
            exit_code: state.exit_code,
            process_config: Some(ProcessConfig {
                privileged: Some(self.spec.privileged),
                user: Some(self.spec.user.clone()),
                tty: Some(self.spec.tty),
                entrypoint: self.spec.argv.first().cloned(),
                arguments: Some(self.spec.argv.iter().skip(1).cloned().collect()),
            }),
            open_stdin: Some(self.attach_stdin),
            open_stderr: Some(self.attach_stderr),
            open_stdout: Some(self.attach_stdout),
            container_id: Some(self.container.id().to_owned()),
            pid: Some(i64::from(state.pid)),
        }
    }
}

/// A command as events show it: dockerd puts a blank behind the program, also where nothing follows.
fn shown(argv: &[String]) -> String {
    match argv {
        [program] => format!("{program} "),
        argv => argv.join(" "),
    }
}

impl Engine {
    /// Registers an exec.
    pub(crate) async fn create_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: ExecCreate,
    ) -> Result<Arc<Exec>> {
        self.await_start(container).await;
        check_live(container)?;
        let argv = request.cmd.unwrap_or_default();
        if argv.is_empty() {
            return Err(EngineError::BadRequest(
                "No exec command specified".to_owned(),
            ));
        }
        let spec = ExecSpec {
            argv,
            env: request.env.unwrap_or_default(),
            user: request.user.unwrap_or_default(),
            working_dir: request.working_dir.unwrap_or_default(),
            tty: request.tty.unwrap_or(false),
            privileged: request.privileged.unwrap_or(false),
            linked: Vec::new(),
        };
        match exec_process(&container.record(), &spec) {
            // Its start tells, as dockerd's does.
            Ok(_) | Err(EngineError::StartExec(_)) => {}
            Err(error) => return Err(error),
        }
        self.look_for_user(container, &spec.user).await?;
        let exec = Arc::new(Exec {
            id: ids::new_id(),
            container: Arc::clone(container),
            spec,
            attach_stdin: request.attach_stdin.unwrap_or(false),
            attach_stdout: request.attach_stdout.unwrap_or(false),
            attach_stderr: request.attach_stderr.unwrap_or(false),
            detach_keys: request.detach_keys.unwrap_or_default(),
            size: console_size(request.console_size.as_deref()),
            hub: Hub::new(),
            created: Instant::now(),
            state: Mutex::default(),
        });
        self.execs().insert(Arc::clone(&exec), Instant::now());
        self.publish_exec(
            &exec,
            &format!("exec_create: {}", shown(&exec.spec.argv)),
            None,
        );
        Ok(exec)
    }

    /// Fails if the container has no such user or group. Numbers need none.
    async fn look_for_user(self: &Arc<Self>, container: &Arc<Container>, user: &str) -> Result<()> {
        let is_number = |id: &str| id.parse::<i32>().is_ok_and(|id| 0 <= id);
        if user.is_empty() || user.split(':').all(is_number) {
            return Ok(());
        }
        let job = FilesJob {
            kind: Kind::USER.into(),
            owner: user.to_owned(),
            ..FilesJob::default()
        };
        match self.ask_of_files(container, job).await {
            Err(EngineError::BadRequest(text)) if is_of_user(&text) => {
                Err(EngineError::NoSuchUser(text))
            }
            looked => looked.map(drop),
        }
    }

    /// The exec with this id.
    pub(crate) fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        self.execs()
            .by_id
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::NoSuchExec(id.to_owned()))
    }

    /// Checks that an exec can be started, and claims it: a second start is refused.
    pub(crate) fn claim_exec(&self, exec: &Exec) -> Result<()> {
        check_live(&exec.container)?;
        let mut state = exec.lock();
        if state.started {
            return Err(EngineError::Conflict(format!(
                "exec command {} has already been started",
                exec.id
            )));
        }
        state.started = true;
        Ok(())
    }

    /// Starts a claimed exec. Its clients are attached to its hub before.
    pub(crate) async fn start_exec(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        size: Option<(u32, u32)>,
    ) -> Result<()> {
        self.publish_exec(
            exec,
            &format!("exec_start: {}", shown(&exec.spec.argv)),
            None,
        );
        let started = self.boot_exec(exec, size).await;
        match started {
            Ok((task, fifos, pumps)) => {
                let (engine, exec) = (Arc::clone(self), Arc::clone(exec));
                tokio::spawn(async move { engine.watch_exec(&exec, &task, &fifos, pumps).await });
                Ok(())
            }
            Err(error) => {
                let error = match error {
                    EngineError::Start(failure) => EngineError::StartExec(failure),
                    other => other,
                };
                let code = match &error {
                    EngineError::StartExec(failure) => failure.exit_code(),
                    _ => 126,
                };
                exec.lock().end(code);
                exec.hub.close();
                self.publish_exec(exec, "exec_die", Some(code));
                Err(error)
            }
        }
    }

    async fn boot_exec(
        &self,
        exec: &Arc<Exec>,
        size: Option<(u32, u32)>,
    ) -> Result<(Arc<Task>, Fifos, Pumps)> {
        let container = &exec.container;
        let task = crate::container::live_task(container)?;
        let dir: PathBuf = self.paths.bundle(container.id());
        let record = container.record();
        let spec = ExecSpec {
            linked: self.link_variables(&record),
            ..exec.spec.clone()
        };
        let mut process = exec_process(&record, &spec)?;
        if let Some((height, width)) = size.filter(|_| exec.spec.tty) {
            process["consoleSize"] = json!({ "height": height, "width": width });
        }
        let fifos = Fifos::new(
            &dir,
            &format!("{}-", exec.id),
            exec.attach_stdin,
            !exec.spec.tty,
        );
        let opened = fifos.clone().create()?;
        let started = async {
            task.exec(&exec.id, &process, exec.spec.tty, &fifos).await?;
            let pid = task.start(&exec.id).await;
            if pid.is_err() {
                let _ = task.delete(&exec.id).await;
            }
            pid
        };
        let pid = match started.await {
            Ok(pid) => pid,
            Err(error) => {
                fifos.remove();
                return Err(error);
            }
        };
        {
            let mut state = exec.lock();
            state.running = true;
            state.pid = pid;
        }
        let close = crate::container::close_stdin(&task, &exec.id);
        let pumps = opened.pump(&exec.hub, None, close);
        Ok((task, fifos, pumps))
    }

    /// Goes on with the execs that an earlier daemon has started in a container, for nobody any more: what
    /// they write is taken, or they would stand still, and each is forgotten by the shim when it has ended.
    pub(crate) fn finish_execs(&self, container: &Arc<Container>, task: &Arc<Task>) {
        let dir = self.paths.bundle(container.id());
        let limit = Check::of(&container.record()).map(|check| check.timeout);
        for prefix in exec_prefixes(&dir) {
            let there = |name: &str| dir.join(format!("{prefix}-{name}")).exists();
            let fifos = Fifos::new(&dir, &format!("{prefix}-"), there("stdin"), there("stderr"));
            let opened = match fifos.clone().open() {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::warn!(exec = prefix, error = error.message(), "an earlier exec");
                    continue;
                }
            };
            let task = Arc::clone(task);
            container.while_live(async move {
                let (id, is_check) = id_in(&prefix);
                let hub = Hub::new();
                let pumps = opened.pump(&hub, None, crate::container::close_stdin(&task, id));
                // Its client is gone.
                let _ = hub.stdin().send(Input::Close).await;
                if ids::is_whole(id) {
                    finish_exec(&task, id, pumps, limit.filter(|_| is_check)).await;
                } else {
                    // An older daemon's, which the shim knows by an id that is not told: it ends with its output.
                    pumps.drain(OLDER_LIMIT).await;
                }
                fifos.remove();
            });
        }
    }

    async fn watch_exec(&self, exec: &Exec, task: &Task, fifos: &Fifos, pumps: Pumps) {
        let code = match task.wait(&exec.id).await {
            Ended::Exited(code) => code,
            Ended::ShimLost => KILLED,
        };
        // Deleting is what ends streams that a left-over process holds open.
        let (deleted, ()) = tokio::join!(task.delete(&exec.id), pumps.drain(DRAIN_LIMIT));
        if let Err(error) = deleted {
            tracing::debug!(exec = exec.id, error = error.message(), "freeing the exec");
        }
        fifos.remove();
        if code == KILLED {
            self.await_end_of(&exec.container, task).await;
        }
        exec.lock().end(code);
        self.publish_exec(exec, "exec_die", Some(code));
        exec.hub.close();
    }

    /// An exec that its container's end took along is over after the container is: who sees the
    /// one end sees the other.
    async fn await_end_of(&self, container: &Container, task: &Task) {
        if !matches!(task.is_running().await, Ok(true)) {
            let ended = container.wait(WaitCondition::NotRunning);
            let _ = tokio::time::timeout(END_LIMIT, ended).await;
        }
    }

    /// Sets the size of an exec's terminal, in characters.
    pub(crate) async fn resize_exec(&self, exec: &Exec, width: u32, height: u32) -> Result<()> {
        if !exec.is_running() {
            return Err(EngineError::Conflict(format!(
                "exec {} is not running",
                exec.id
            )));
        }
        crate::container::live_task(&exec.container)?
            .resize(&exec.id, width, height)
            .await
    }

    /// Forgets the execs of an ended container that have ended too.
    pub(crate) fn drop_execs(&self, container_id: &str) {
        self.execs()
            .by_id
            .retain(|_, exec| exec.container.id() != container_id || exec.is_running());
    }

    pub(crate) fn publish_exec(&self, exec: &Exec, action: &str, code: Option<i64>) {
        let mut attributes: HashMap<String, String> = exec.container.event_attributes();
        attributes.insert("execID".to_owned(), exec.id.clone());
        if let Some(code) = code {
            attributes.insert("exitCode".to_owned(), code.to_string());
        }
        self.events.publish(
            bollard_stubs::models::EventMessageTypeEnum::CONTAINER,
            action,
            exec.container.id(),
            attributes,
        );
    }
}

/// Waits for the end of an exec, which is killed at the end of its time if it has one, and frees it.
async fn finish_exec(task: &Task, id: &str, pumps: Pumps, limit: Option<Duration>) {
    let ended = task.wait(id);
    tokio::pin!(ended);
    if let Some(limit) = limit {
        if tokio::time::timeout(limit, &mut ended).await.is_err() {
            let _ = task.kill(id, SIGKILL, false).await;
            ended.await;
        }
    } else {
        ended.await;
    }
    let (deleted, ()) = tokio::join!(task.delete(id), pumps.drain(DRAIN_LIMIT));
    if let Err(error) = deleted {
        tracing::debug!(exec = id, error = error.message(), "freeing the exec");
    }
}

/// The id in the name of FIFOs, and whether it is that of a check of the container's health.
fn id_in(prefix: &str) -> (&str, bool) {
    match prefix.strip_prefix(CHECK) {
        Some(id) => (id, true),
        None => (prefix.strip_prefix(JOB).unwrap_or(prefix), false),
    }
}

/// What the names of execs' FIFOs in a bundle begin with.
fn exec_prefixes(bundle: &Path) -> Vec<String> {
    let names = std::fs::read_dir(bundle).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| name.strip_suffix("-stdout").map(str::to_owned))
        .collect()
}

/// Height and width; zeroes are none, and so is what no terminal can have.
pub(crate) fn console_size(wanted: Option<&[u32]>) -> Option<(u32, u32)> {
    match wanted {
        Some([height @ 1..=MAX_SIZE, width @ 1..=MAX_SIZE]) => Some((*height, *width)),
        _ => None,
    }
}

fn check_live(container: &Container) -> Result<()> {
    match container.status() {
        Status::Running => Ok(()),
        Status::Paused => Err(EngineError::Conflict(format!(
            "Container {} is paused, unpause the container before exec",
            container.name()
        ))),
        _ => Err(not_running(container)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(container: &Arc<Container>, id: &str, created: Instant) -> Arc<Exec> {
        Arc::new(Exec {
            id: id.to_owned(),
            container: Arc::clone(container),
            spec: ExecSpec::default(),
            attach_stdin: false,
            attach_stdout: false,
            attach_stderr: false,
            detach_keys: String::new(),
            size: None,
            hub: Hub::new(),
            created,
            state: Mutex::default(),
        })
    }

    #[test]
    fn commands_are_shown_as_dockerd_does() {
        let shown =
            |argv: &[&str]| shown(&argv.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(shown(&["sh", "-c", "x"]), "sh -c x");
        assert_eq!(shown(&["true"]), "true ");
        assert_eq!(shown(&["ls", ""]), "ls ");
    }

    #[test]
    fn a_new_exec_takes_the_place_of_forgotten_ones_now_and_then() {
        let paths = crate::paths::Paths::new("/nonexistent", "/nonexistent");
        let container = Container::new(crate::record::tests::record(), &paths);
        let begin = Instant::now();
        let mut execs = Execs::default();
        let mut known_after = |id: &str, seconds| {
            let now = begin + Duration::from_secs(seconds);
            execs.insert(exec(&container, id, now), now);
            let mut known: Vec<_> = execs.by_id.keys().cloned().collect();
            known.sort();
            known.join(" ")
        };
        assert_eq!(known_after("a", 0), "a");
        assert_eq!(known_after("b", 3590), "a b");
        // Looked for a moment ago.
        assert_eq!(known_after("c", 3610), "a b c");
        assert_eq!(known_after("d", 3650), "b c d");
    }

    #[test]
    fn fifos_tell_what_they_are_of() {
        let id = "0a".repeat(32);
        assert_eq!(id_in(&id), (id.as_str(), false));
        assert_eq!(id_in(&format!("{CHECK}{id}")), (id.as_str(), true));
        assert_eq!(id_in(&format!("{JOB}{id}")), (id.as_str(), false));
        assert!(ids::is_whole(&id));
        for older in ["0123456789ab", "", "zz"] {
            assert!(!ids::is_whole(older));
        }
    }

    #[test]
    fn what_ended_long_ago_is_forgotten_while_its_container_runs() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let never = ExecState::default();
        let runs = ExecState {
            started: true,
            running: true,
            ..never
        };
        let mut ended = runs;
        ended.end(0);
        ended.ended = Some(after(1000));
        assert!(!never.is_over(begin, after(3599)) && never.is_over(begin, after(3600)));
        assert!(!runs.is_over(begin, after(1_000_000)));
        assert!(!ended.is_over(begin, after(1299)) && ended.is_over(begin, after(1300)));
    }
}
