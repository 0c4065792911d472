//! One process of a container as the agent sees it: launching, stdio, signals, exit.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio as ChildStdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_protocol::agent::Stdio;
use hull_protocol::TraceMark;
use tokio::io::unix::AsyncFd;
use tokio::sync::{watch, Notify};

use crate::cgroup::Cgroup;
use crate::container::channel::{Channel, LaunchConfig, Order, Report, Role};
use crate::container::plan::ProcessPlan;
use crate::error::{AgentError, Context, Kind, Result};
use crate::files::Job;
use crate::pipes::{self, ChildEnds, Ends};
use crate::stdio::{self, Registry, Reservation};
use crate::sys;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// 0..255; 128+n when ended by signal n.
    pub(crate) status: u32,
    /// Nanoseconds since the epoch.
    pub(crate) at_ns: u64,
    /// The OOM killer was in the container.
    pub(crate) oom_killed: bool,
}

/// The group that a process is made for.
pub(crate) struct Placement {
    pub(crate) cgroup: Cgroup,
    /// The client has named it: no other one will do.
    pub(crate) is_named: bool,
}

/// Where a process is in its life; the exit is kept apart.
enum Phase {
    /// An exec that is only registered.
    Registered(Box<ProcessPlan>),
    /// Launched, waiting for its order to start.
    Ready(Launched),
    /// Being started.
    Starting,
    /// Running or over.
    Started,
    /// The start failed.
    Failed,
}

/// A launched process and the agent's ends of its streams.
struct Launched {
    channel: Channel,
    ends: Ends,
    terminal: Option<OwnedFd>,
}

/// A container's first process (empty exec id) or an exec.
pub(crate) struct Process {
    pub(crate) exec_id: String,
    cgroup: Cgroup,
    names_cgroup: bool,
    tokens: Stdio,
    _connections: Reservation,
    /// Instead of a program.
    job: Option<Job>,
    state: Mutex<State>,
    exit: watch::Sender<Option<Exit>>,
    close_stdin: Arc<Notify>,
}

struct State {
    phase: Phase,
    pid: u32,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
}

/// Exit status of a process whose end nobody saw: that of SIGKILL, by which all of them end that die
/// this early.
const LOST: u32 = 137;

/// Processes by PID, for whoever reaps.
#[derive(Clone, Default)]
pub(crate) struct Reaped(Arc<Mutex<HashMap<u32, Weak<Process>>>>);

impl Reaped {
    fn table(&self) -> MutexGuard<'_, HashMap<u32, Weak<Process>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the end of a process noted. One that was reaped before anybody knew it has ended by now.
    fn watch(&self, pid: u32, process: &Arc<Process>) {
        self.table().insert(pid, Arc::downgrade(process));
        // A child that is not reaped yet is there for this, dead or alive.
        if sys::kill(pid as i32, 0).is_err() {
            self.exited(pid, LOST);
        }
    }

    /// Notes the end of a process; of those that are nobody's there is nothing to note.
    pub(crate) fn exited(&self, pid: u32, status: u32) {
        let process = self.table().remove(&pid);
        if let Some(process) = process.and_then(|process| process.upgrade()) {
            process.ended(status);
        }
    }
}

impl Process {
    /// A process that is not launched yet.
    pub(crate) fn new(
        exec_id: &str,
        placement: Placement,
        mut plan: ProcessPlan,
        job: Option<Job>,
        tokens: Stdio,
        registry: &Registry,
    ) -> Arc<Self> {
        plan.env.extend(pipes::listen_environment(&tokens));
        plan.plain_newlines = tokens.plain_newlines;
        Arc::new(Self {
            job,
            exec_id: exec_id.to_string(),
            cgroup: placement.cgroup,
            names_cgroup: placement.is_named,
            _connections: registry.reserve(&tokens),
            tokens,
            state: Mutex::new(State {
                phase: Phase::Registered(Box::new(plan)),
                pid: 0,
                terminal: None,
            }),
            exit: watch::Sender::new(None),
            close_stdin: Arc::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a further process of a container.
    pub(crate) fn role(&self) -> Role {
        match &self.job {
            Some(job) => Role::Files(job.clone()),
            None => Role::Exec,
        }
    }

    /// Whether it goes where the other one is, if its group does not take it.
    pub(crate) fn follows(&self, other: &Self) -> bool {
        !self.names_cgroup && self.cgroup == other.cgroup
    }

    /// Whether it works on files in the place of a program.
    pub(crate) fn is_job(&self) -> bool {
        self.job.is_some()
    }

    /// 0 before the launch.
    pub(crate) fn pid(&self) -> u32 {
        self.state().pid
    }

    /// Its end, if it has come.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Result<Exit> {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        match ended {
            Ok(Some(exit)) => Ok(exit),
            Ok(None) | Err(_) => Err(AgentError::new(Kind::Internal, "the process is gone")),
        }
    }

    fn ended(&self, status: u32) {
        if self.exec_id.is_empty() {
            // Without a PID namespace of its own the rest would live on.
            self.cgroup.kill();
        }
        let exit = Exit {
            status,
            at_ns: now_ns(),
            oom_killed: self.cgroup.oom_kills() > 0,
        };
        self.exit.send_replace(Some(exit));
        self.close_stdin.notify_one();
    }

    /// Launches it, up to the exec. `pidfd` and `sibling` are those of the container's first
    /// process when this is an exec.
    pub(crate) async fn launch(
        self: &Arc<Self>,
        role: Role,
        reaped: &Reaped,
        pidfd: Option<BorrowedFd<'_>>,
        sibling: Option<u32>,
    ) -> Result<u32> {
        let plan = match std::mem::replace(&mut self.state().phase, Phase::Starting) {
            Phase::Registered(plan) => *plan,
            other => {
                self.state().phase = other;
                return Err(wrong_phase("launched"));
            }
        };
        let launched = self.launch_plan(role, plan, reaped, pidfd, sibling).await;
        match launched {
            Ok(launched) => {
                let mut state = self.state();
                state.phase = Phase::Ready(launched);
                Ok(state.pid)
            }
            Err(error) => {
                self.state().phase = Phase::Failed;
                Err(error)
            }
        }
    }

    async fn launch_plan(
        self: &Arc<Self>,
        role: Role,
        plan: ProcessPlan,
        reaped: &Reaped,
        pidfd: Option<BorrowedFd<'_>>,
        sibling: Option<u32>,
    ) -> Result<Launched> {
        let (child, ends) = pipes::make(&self.tokens, plan.terminal)?;
        let config = LaunchConfig {
            role,
            stdio: child.standard.each_ref().map(Option::is_some),
            preserved: child.preserved.len(),
            process: plan,
        };
        let channel = spawn(&config, child, pidfd)?;
        let mut terminal = None;
        loop {
            let report = channel
                .report()
                .await
                .context(|| "failed to hear from the container's process".to_string())?;
            match report {
                Some((Report::Forked(pid), _)) => {
                    self.state().pid = pid;
                    reaped.watch(pid, self);
                    if let Err(error) = self.cgroup.add(pid, sibling) {
                        let _ = sys::kill(pid as i32, libc::SIGKILL as u32);
                        return Err(error);
                    }
                    channel.order(Order::Go);
                }
                Some((Report::Console, fd)) => terminal = fd,
                Some((Report::Ready, _)) => break,
                Some((Report::Failed { kind, text }, _)) => {
                    return Err(AgentError::new(kind, text))
                }
                None => {
                    return Err(AgentError::new(
                        Kind::Internal,
                        "the container's process ended before it was ready",
                    ))
                }
            }
        }
        Ok(Launched {
            channel,
            ends,
            terminal,
        })
    }

    /// Connects its streams and lets it execute. Returns its PID.
    pub(crate) async fn start(&self, registry: &Registry) -> Result<u32> {
        let launched = match std::mem::replace(&mut self.state().phase, Phase::Starting) {
            Phase::Ready(launched) => launched,
            other => {
                self.state().phase = other;
                return Err(wrong_phase("started"));
            }
        };
        let pid = self.pid();
        let started = self.connect_and_start(launched, registry).await;
        if started.is_err() {
            self.state().phase = Phase::Failed;
            let _ = sys::kill(pid as i32, libc::SIGKILL as u32);
        } else {
            self.state().phase = Phase::Started;
        }
        started.map(|()| pid)
    }

    async fn connect_and_start(&self, launched: Launched, registry: &Registry) -> Result<()> {
        let tokens = &self.tokens;
        let (stdin, stdout, stderr) = (
            registry.claim(tokens.stdin).await?,
            registry.claim(tokens.stdout).await?,
            // A terminal has one output; a token for a second one is still answered, by its end.
            registry.claim(tokens.stderr).await?,
        );
        let mut preserved = Vec::new();
        for end in launched.ends.preserved {
            // One that nobody connects is at its end.
            if let Some(stream) = registry.claim(end.token).await? {
                preserved.push((end, stream));
            }
        }
        if self.exec_id.is_empty() {
            sys::mark(TraceMark::EntrypointExec);
        }
        launched.channel.order(Order::Start);
        let report = launched
            .channel
            .report()
            .await
            .context(|| "failed to hear from the container's process".to_string())?;
        if let Some((Report::Failed { kind, text }, _)) = report {
            return Err(AgentError::new(kind, text));
        }

        let failed = || "failed to watch a stream of the process".to_string();
        let close = self.close_stdin.clone();
        for (end, stream) in preserved {
            end.pump(stream).context(failed)?;
        }
        if let Some(terminal) = launched.terminal {
            let terminal = stdio::watch(terminal).context(failed)?;
            self.state().terminal = Some(terminal.clone());
            if let Some(stream) = stdin {
                tokio::spawn(stdio::pump_in(stream, terminal.clone(), close));
            }
            // Somebody has to read it, or the process stops once the terminal's buffer is full.
            let stdout = stdout.unwrap_or_else(|| Box::new(tokio::io::empty()));
            tokio::spawn(stdio::pump_out(terminal, stdout));
            return Ok(());
        }
        if let (Some(stream), Some(pipe)) = (stdin, launched.ends.stdin) {
            tokio::spawn(stdio::pump_in(
                stream,
                stdio::watch(pipe).context(failed)?,
                close,
            ));
        }
        for (stream, pipe) in [
            (stdout, launched.ends.stdout),
            (stderr, launched.ends.stderr),
        ] {
            if let (Some(stream), Some(pipe)) = (stream, pipe) {
                tokio::spawn(stdio::pump_out(stdio::watch(pipe).context(failed)?, stream));
            }
        }
        Ok(())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: u32) -> Result<()> {
        let pid = self.pid();
        if self.exit().is_some() {
            return Err(AgentError::not_found("process already finished"));
        }
        if pid == 0 {
            return Err(wrong_phase("signalled"));
        }
        let signal = match &self.state().phase {
            Phase::Ready(_) => match before_the_program(signal) {
                Some(signal) => signal,
                None => return Ok(()),
            },
            _ => signal,
        };
        sys::kill(pid as i32, signal)
            .context(|| format!("failed to send signal {signal} to process {pid}"))
    }

    /// Asks for the end of its input, once what is on its way has been delivered.
    pub(crate) fn close_stdin(&self) {
        self.close_stdin.notify_one();
    }

    /// Sets its terminal's size in characters. One without a terminal has none to set, which is no
    /// error, as with runc's shim: clients resize whatever they start.
    pub(crate) fn resize(&self, width: u32, height: u32) -> Result<()> {
        let state = self.state();
        let failed = || "failed to resize the terminal".to_string();
        let size = rustix::termios::Winsize {
            ws_row: u16::try_from(height).unwrap_or(u16::MAX),
            ws_col: u16::try_from(width).unwrap_or(u16::MAX),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        match (&state.terminal, &state.phase) {
            (Some(terminal), _) => {
                rustix::termios::tcsetwinsize(terminal.get_ref(), size).context(failed)
            }
            (
                None,
                Phase::Ready(Launched {
                    terminal: Some(terminal),
                    ..
                }),
            ) => rustix::termios::tcsetwinsize(terminal, size).context(failed),
            _ => Ok(()),
        }
    }

    /// Whether it is launched or registered only.
    pub(crate) fn is_registered_only(&self) -> bool {
        matches!(self.state().phase, Phase::Registered(_))
    }

    /// Whether the launch or start failed.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.state().phase, Phase::Failed)
    }
}

/// What a signal does to a process that has not executed its program yet. One that asks it to end does: the
/// kernel would keep it from the first of a PID namespace, which handles none. What means something to a
/// program alone (SIGUSR1, SIGALRM and so on) does nothing, as with runc.
fn before_the_program(signal: u32) -> Option<u32> {
    const ENDS: [i32; 11] = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGILL,
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGKILL,
        libc::SIGSEGV,
        libc::SIGTERM,
        libc::SIGSYS,
    ];
    match i32::try_from(signal).ok()? {
        0 | libc::SIGSTOP | libc::SIGCONT => Some(signal),
        known if ENDS.contains(&known) => u32::try_from(libc::SIGKILL).ok(),
        _ => None,
    }
}

fn wrong_phase(wanted: &str) -> AgentError {
    AgentError::new(
        Kind::FailedPrecondition,
        format!("the process cannot be {wanted} in its present state"),
    )
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Starts the launcher and sends it what it needs.
fn spawn(config: &LaunchConfig, ends: ChildEnds, pidfd: Option<BorrowedFd<'_>>) -> Result<Channel> {
    let failed = || "failed to start container-init".to_string();
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let memory = rustix::fs::memfd_create("launch", flags).context(failed)?;
    let memory = std::fs::File::from(memory);
    serde_json::to_writer(std::io::BufWriter::new(&memory), config)
        .map_err(std::io::Error::from)
        .context(failed)?;
    let (channel, theirs) = Channel::pair().context(failed)?;
    let mut fds = vec![memory.as_fd()];
    fds.extend(ends.standard.iter().flatten().map(AsFd::as_fd));
    fds.extend(ends.preserved.iter().map(AsFd::as_fd));
    fds.extend(pidfd);
    channel.launch(&fds).context(failed)?;
    Command::new("/proc/self/exe")
        .arg("container-init")
        .env_clear()
        .stdin(theirs)
        .stdout(ChildStdio::null())
        .stderr(ChildStdio::inherit())
        .spawn()
        .context(failed)?;
    Ok(channel)
}
