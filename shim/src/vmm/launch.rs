//! Starting hull-vmm.
//!
//! The VMM is PID 1 of a PID namespace of its own, which only its parent can give it, and the
//! parent death signal follows the parent *thread*. So one thread per VMM makes the namespace,
//! starts the VMM, and stays until it has ended.

use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hull_vm_config::control::{Event, CONFIG_FD, CONTROL_FD, KVM_FD};
use hull_vm_config::{FdName, VmConfig};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use tokio::sync::{oneshot, watch};

use super::control::Control;
use super::{Inner, Vm, VmEnd, VmState, VmmError};
use crate::sys;

/// How much of the VMM's stderr is kept, in bytes.
const STDERR_TAIL: usize = 4096;
/// How long a VMM that has closed its control socket has to end by itself.
const END_LIMIT: Duration = Duration::from_secs(2);
/// The parent thread only waits.
const THREAD_STACK_BYTES: usize = 128 << 10;

/// All that a VMM needs.
#[derive(Debug)]
pub struct Launch {
    /// The program.
    pub hull_vmm: PathBuf,
    /// Its configuration.
    pub config: VmConfig,
    /// The descriptors that the configuration names.
    pub files: Vec<(FdName, OwnedFd)>,
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// `cgroup.procs` of the cgroup that it enters.
    pub cgroup: Option<OwnedFd>,
}

struct Started {
    pid: u32,
    pidfd: OwnedFd,
}

struct ProcessEnd {
    status: Option<ExitStatus>,
    stderr: String,
}

impl Launch {
    /// Starts the VMM. It may still fail to start the guest: the [`Vm`] then ends with the reason.
    pub async fn start(self) -> Result<Vm, VmmError> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|errno| prepare("its control socket", errno.into()))?;
        let control = Control::new(ours).map_err(|e| prepare("its control socket", e))?;

        let mut fds = self.files;
        fds.push((CONFIG_FD.into(), config_file(&self.config)?));
        fds.push((CONTROL_FD.into(), theirs));
        fds.push((KVM_FD.into(), self.kvm));

        let (started_tx, started) = oneshot::channel();
        let (ended_tx, ended) = oneshot::channel();
        let (program, door) = (self.hull_vmm, self.cgroup);
        std::thread::Builder::new()
            .name("vmm-parent".into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || be_parent(program, fds, door, started_tx, ended_tx))
            .map_err(|source| prepare("its parent thread", source))?;
        let lost = || prepare("its parent thread", io::Error::other("the thread ended"));
        let started = started.await.map_err(|_| lost())??;

        let control = Arc::new(control);
        let (state_tx, state) = watch::channel(VmState::default());
        let pidfd = started
            .pidfd
            .try_clone()
            .map_err(|source| prepare("its pidfd", source))?;
        tokio::spawn(follow(Arc::clone(&control), pidfd, ended, state_tx));
        Ok(Vm {
            inner: Arc::new(Inner {
                pid: started.pid,
                pidfd: started.pidfd,
                control,
                state,
            }),
        })
    }
}

fn prepare(what: &'static str, source: io::Error) -> VmmError {
    VmmError::Prepare { what, source }
}

fn config_file(config: &VmConfig) -> Result<OwnedFd, VmmError> {
    let failed = |source| prepare("its configuration", source);
    let json = serde_json::to_vec(config).map_err(|error| failed(error.into()))?;
    let fd = rustix::fs::memfd_create("vm-config", MemfdFlags::CLOEXEC)
        .map_err(|errno| failed(errno.into()))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&json).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(file.into())
}

/// The parent thread: it exists as long as the VMM.
fn be_parent(
    program: PathBuf,
    fds: Vec<(FdName, OwnedFd)>,
    door: Option<OwnedFd>,
    started: oneshot::Sender<Result<Started, VmmError>>,
    ended: oneshot::Sender<ProcessEnd>,
) {
    let mut child = match spawn(&program, fds, door) {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let answer = open_pidfd(&child);
    let usable = answer.is_ok();
    // A receiver that has gone away was cancelled: nobody wants the VMM any more.
    if started.send(answer).is_err() || !usable {
        let _ = child.kill();
    }
    let stderr = child.stderr.take().map(tail_of).unwrap_or_default();
    let status = child.wait().ok();
    let _ = ended.send(ProcessEnd { status, stderr });
}

fn open_pidfd(child: &Child) -> Result<Started, VmmError> {
    let failed = |source| prepare("its pidfd", source);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| failed(io::Error::other("the PID is out of range")))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    Ok(Started {
        pid: child.id(),
        pidfd,
    })
}

fn spawn(
    program: &PathBuf,
    fds: Vec<(FdName, OwnedFd)>,
    door: Option<OwnedFd>,
) -> Result<Child, VmmError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).map_err(|errno| {
        VmmError::PidNamespace {
            source: errno.into(),
        }
    })?;
    let mut command = Command::new(program);
    for (name, fd) in &fds {
        command.arg("--fd");
        command.arg(format!("{name}={}", fd.as_raw_fd()));
    }
    command
        .arg0("hull-vmm")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    sys::hand_over(
        &mut command,
        fds.iter().map(|(_, fd)| fd.as_raw_fd()).collect(),
        door.as_ref().map(|door| door.as_raw_fd()),
    );
    command.spawn().map_err(|source| VmmError::Start {
        path: program.clone(),
        source,
    })
}

/// Reads to the end and keeps the last part.
fn tail_of(mut stream: impl io::Read) -> String {
    let mut tail = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => tail.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        let excess = tail.len().saturating_sub(STDERR_TAIL);
        tail.drain(..excess);
    }
    String::from_utf8_lossy(&tail).into_owned()
}

/// Follows a VMM to its end and tells everyone.
async fn follow(
    control: Arc<Control>,
    pidfd: OwnedFd,
    mut ended: oneshot::Receiver<ProcessEnd>,
    state: watch::Sender<VmState>,
) {
    let mut reason = None;
    while let Some(event) = control.next().await {
        match event {
            Event::Ready => state.send_modify(|state| state.ready = true),
            Event::Exited { reason: why } => reason = Some(why),
            _ => {}
        }
    }
    let end = match tokio::time::timeout(END_LIMIT, &mut ended).await {
        Ok(end) => end.ok(),
        Err(_) => {
            // Without its control socket a VMM is of no use, whatever it still does.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            ended.await.ok()
        }
    };
    let (status, stderr) = end.map_or((None, String::new()), |end| (end.status, end.stderr));
    let end = VmEnd {
        reason,
        status,
        stderr,
    };
    state.send_modify(|state| state.ended = Some(Arc::new(end)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_stderr_is_kept() {
        let long = [b'a'; 10_000].iter().chain(b"end").copied();
        let text: Vec<u8> = long.collect();
        let tail = tail_of(text.as_slice());
        assert_eq!(tail.len(), STDERR_TAIL);
        assert!(tail.ends_with("aend"));
    }

    #[test]
    fn the_configuration_is_read_from_its_start() {
        let config = VmConfig {
            version: hull_vm_config::VM_CONFIG_VERSION,
            sandbox_id: "box".into(),
            vcpus: 1,
            memory_bytes: 64 << 20,
            boot: crate::lower::boot_config(),
            devices: Default::default(),
            jail: hull_vm_config::JailConfig { uid: 1, gid: 1 },
        };
        let file = std::fs::File::from(config_file(&config).unwrap());
        let back: VmConfig = serde_json::from_reader(file).unwrap();
        assert_eq!(back, config);
    }
}
