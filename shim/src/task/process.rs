//! One process of a container: the init process or an exec.

use std::sync::{Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use hull_protocol::agent::{ExecProcessRequest, FilesJob};
use oci_spec::runtime as oci;
use protobuf::Message as _;
use tokio::sync::watch;

use super::state::now;
use crate::spec::scheduler::rename_flags;
use crate::spec::{capabilities, json, wanted_user, JsonError};
use crate::stdio::{Named, ProcessIo};

/// Exit status of a process whose VM ended under it, as if it had been killed.
pub(super) const KILLED_STATUS: u32 = 128 + libc::SIGKILL as u32;
/// Exit status of a process whose start failed: clients see the error of `start`, not this.
pub(super) const NEVER_RAN_STATUS: u32 = 255;
/// Largest exit status; a guest that reports more lies.
const MAX_STATUS: u32 = 255;

/// How a process ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exit {
    /// 0..255; 128+n when ended by signal n.
    pub(super) status: u32,
    /// By the host's clock.
    pub(super) at: Timestamp,
}

/// Where a process is in its life; its end is in [`Process::exit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Made, or announced.
    Created,
    /// `StartProcess` is under way.
    Starting,
    /// Running, or ended.
    Started,
}

/// What a client asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StdioPaths {
    pub(super) stdin: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) terminal: bool,
}

impl StdioPaths {
    pub(super) fn named(&self) -> Named<'_> {
        Named {
            stdin: &self.stdin,
            stdout: &self.stdout,
            stderr: &self.stderr,
            terminal: self.terminal,
        }
    }
}

#[derive(Debug)]
struct Mutable {
    phase: Phase,
    pid: u32,
    /// The PID is a process of the host that stands for it.
    is_on_host: bool,
    guest_pid: u32,
    /// What an exec's terminal is to have once there is one.
    first_size: Option<(u32, u32)>,
    io: Option<ProcessIo>,
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    /// Empty for the init process.
    pub(super) exec_id: String,
    pub(super) stdio: StdioPaths,
    /// An exec's OCI `Process`.
    spec: Option<oci::Process>,
    /// A job on files in the place of a program.
    job: Option<FilesJob>,
    mutable: Mutex<Mutable>,
    /// Whether the output that was on its way at the end has been waited for; held meanwhile.
    settled: tokio::sync::Mutex<bool>,
    exit: watch::Sender<Option<Exit>>,
}

impl Process {
    /// A container's init process.
    pub(super) fn init(stdio: StdioPaths) -> Self {
        Self::new("", stdio, None)
    }

    /// A job on the container's files; `job` is an encoded [`FilesJob`].
    pub(super) fn files(
        exec_id: &str,
        stdio: StdioPaths,
        job: &[u8],
    ) -> Result<Self, protobuf::Error> {
        let job = FilesJob::parse_from_bytes(job)?;
        let mut process = oci::Process::default();
        // Something has to be named; nothing is executed.
        process.set_args(Some(vec!["files".to_owned()]));
        let made = Self::new(exec_id, stdio, Some(process));
        Ok(Self {
            job: Some(job),
            ..made
        })
    }

    /// An exec; `spec` is an OCI `Process` (JSON).
    pub(super) fn exec(exec_id: &str, stdio: StdioPaths, spec: &[u8]) -> Result<Self, JsonError> {
        let mut spec: serde_json::Value = json::parse(spec)?;
        rename_flags(&mut spec);
        let unknown = capabilities::take_unknown(&mut spec);
        if !unknown.is_empty() {
            tracing::warn!("{}", capabilities::warning(&unknown));
        }
        let mut spec: oci::Process = json::parse_value(spec)?;
        // The request's word counts, as it does for containerd's own shims.
        spec.set_terminal(Some(stdio.terminal));
        Ok(Self::new(exec_id, stdio, Some(spec)))
    }

    fn new(exec_id: &str, stdio: StdioPaths, spec: Option<oci::Process>) -> Self {
        Self {
            exec_id: exec_id.to_owned(),
            stdio,
            spec,
            job: None,
            mutable: Mutex::new(Mutable {
                phase: Phase::Created,
                pid: 0,
                is_on_host: false,
                guest_pid: 0,
                first_size: None,
                io: None,
            }),
            settled: tokio::sync::Mutex::new(false),
            exit: watch::Sender::new(None),
        }
    }

    /// Whether it works on files in the place of a program.
    pub(super) fn is_job(&self) -> bool {
        self.job.is_some()
    }

    /// What the agent is asked for an exec; `None` for an init process. The stdio tokens are filled
    /// in when it is sent.
    pub(super) fn exec_request(
        &self,
        container_id: &str,
        additional_groups: &[String],
    ) -> serde_json::Result<Option<ExecProcessRequest>> {
        let Some(spec) = &self.spec else {
            return Ok(None);
        };
        Ok(Some(ExecProcessRequest {
            container_id: container_id.to_owned(),
            exec_id: self.exec_id.clone(),
            process: serde_json::to_vec(spec)?,
            user: wanted_user(spec.user()),
            additional_groups: additional_groups.to_vec(),
            files: protobuf::MessageField::from_option(self.job.clone()),
            ..ExecProcessRequest::default()
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Mutable> {
        self.mutable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pid(&self) -> u32 {
        self.lock().pid
    }

    pub(super) fn set_pid(&self, pid: u32) {
        self.lock().pid = pid;
    }

    /// PID on the host, if it has one there and has not ended.
    pub(super) fn host_pid(&self) -> Option<u32> {
        let mutable = self.lock();
        let lives = self.exit().is_none();
        Some(mutable.pid).filter(|_| mutable.is_on_host && lives)
    }

    pub(super) fn set_on_host(&self) {
        self.lock().is_on_host = true;
    }

    /// PID in the guest; 0 before it is started.
    pub(super) fn guest_pid(&self) -> u32 {
        self.lock().guest_pid
    }

    pub(super) fn set_guest_pid(&self, pid: u32) {
        self.lock().guest_pid = pid;
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// `Created` to `Starting`; `false` if it was past that.
    pub(super) fn begin_start(&self) -> bool {
        let mut mutable = self.lock();
        let begins = mutable.phase == Phase::Created;
        if begins {
            mutable.phase = Phase::Starting;
        }
        begins
    }

    /// Keeps the size of an exec's terminal until it is started; `false` if it has been, or is the
    /// container's first process, which has its terminal from the beginning.
    pub(super) fn keep_first_size(&self, width: u32, height: u32) -> bool {
        let mut mutable = self.lock();
        let waits = !self.exec_id.is_empty() && mutable.phase != Phase::Started;
        if waits {
            mutable.first_size = Some((width, height));
        }
        waits
    }

    pub(super) fn take_first_size(&self) -> Option<(u32, u32)> {
        self.lock().first_size.take()
    }

    pub(super) fn set_io(&self, io: ProcessIo) {
        self.lock().io = Some(io);
    }

    /// Takes the streams out: for good, once nobody waits for them.
    pub(super) async fn take_io(&self) -> Option<ProcessIo> {
        let _nobody_settles = self.settled.lock().await;
        self.lock().io.take()
    }

    /// Ends the input, if there is one.
    pub(super) fn close_stdin(&self) {
        if let Some(io) = &self.lock().io {
            io.close_stdin();
        }
    }

    /// After the end: the output on its way is waited for, a bounded time. Whoever comes second waits
    /// for the first.
    pub(super) async fn settle(&self) {
        let mut settled = self.settled.lock().await;
        if *settled {
            return;
        }
        // Taken out meanwhile: the lock is not for waiting.
        let taken = self.lock().io.take();
        let Some(io) = taken else { return };
        io.settle().await;
        self.set_io(io);
        *settled = true;
    }

    /// Writes down the end. `None` if it was known already.
    pub(super) fn set_exit(&self, status: u32) -> Option<Exit> {
        let exit = Exit {
            status: status.min(MAX_STATUS),
            at: now(),
        };
        let first = self.exit.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(exit.clone());
            }
            first
        });
        first.then_some(exit)
    }

    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> Option<Exit> {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.ok()?;
        ended.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_starts_once_and_ends_once() {
        let process = Process::init(StdioPaths::default());
        assert!(process.begin_start());
        assert!(!process.begin_start());
        assert_eq!(process.set_exit(3).unwrap().status, 3);
        assert_eq!(process.set_exit(4), None);
        assert_eq!(process.exit().unwrap().status, 3);
    }

    #[test]
    fn the_size_of_a_terminal_waits_for_its_exec() {
        let init = Process::init(StdioPaths::default());
        assert!(!init.keep_first_size(8, 5));
        let exec = Process::exec(
            "e",
            StdioPaths::default(),
            br#"{"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh"]}"#,
        )
        .unwrap();
        assert!(exec.keep_first_size(8, 5));
        exec.set_phase(Phase::Started);
        assert_eq!(exec.take_first_size(), Some((8, 5)));
        assert!(!exec.keep_first_size(9, 6));
        assert_eq!(exec.take_first_size(), None);
    }

    #[tokio::test]
    async fn who_waits_for_the_output_of_an_end_waits_with_the_others() {
        let process = Process::init(StdioPaths::default());
        let (open, io) = ProcessIo::of_open_stream();
        process.set_io(io);
        let first = process.settle();
        let second = async {
            tokio::task::yield_now().await;
            process.settle().await;
            process.take_io().await.is_some()
        };
        let ((), found) = tokio::join!(first, second);
        assert!(found, "the streams are lost");
        drop(open);
        assert!(process.take_io().await.is_none());
    }

    #[test]
    fn a_guest_cannot_report_a_status_that_no_process_has() {
        let process = Process::init(StdioPaths::default());
        assert_eq!(process.set_exit(u32::MAX).unwrap().status, 255);
    }
}
