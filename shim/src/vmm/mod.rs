//! One hull-vmm process: start, control socket, end.
//!
//! **Invariant:** the VMM ends when its [`Vm`] is dropped, when this process dies (parent death
//! signal, end-of-file on the control socket) and when it is killed by [`Vm::kill`].

mod control;
mod error;
#[cfg(test)]
mod fake;
mod host_files;
mod launch;
mod memory;
mod uid;

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitStatus;
use std::sync::Arc;

use hull_vm_config::control::{DiskState, Event, ExitReason, Mark, NetState, Request};
use hull_vm_config::{BlockConfig, Slot};
use rustix::process::{pidfd_send_signal, Signal};
use tokio::net::UnixStream;
use tokio::sync::watch;

use control::Control;
pub use error::VmmError;
#[cfg(test)]
pub(crate) use fake::FakeVmm;
pub use host_files::open_kvm;
pub(crate) use host_files::{create_console, open_resource, open_vhost_net};
pub use launch::Launch;
pub use memory::MemoryShare;
pub use uid::UidLease;

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEnd {
    /// What the VMM said, if it could.
    pub reason: Option<ExitReason>,
    /// The process's exit status; `None` if it was lost.
    pub status: Option<ExitStatus>,
    /// The end of what the VMM wrote to stderr.
    pub stderr: String,
}

impl fmt::Display for VmEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.tell(&mut text)?;
        // A part of it is the guest's, and all of it that of a VMM which was taken over.
        f.write_str(&hull_vm_config::plain(&text))
    }
}

impl VmEnd {
    fn tell(&self, f: &mut impl fmt::Write) -> fmt::Result {
        match (&self.reason, &self.status) {
            (Some(reason), _) => {
                let reason = reason.to_string();
                f.write_str(&reason)?;
                // The VMM says it there too, for who starts it by hand.
                if self.stderr.contains(&reason) {
                    return Ok(());
                }
            }
            (None, Some(status)) => write!(f, "the VMM ended without a reason ({status})")?,
            (None, None) => f.write_str("the VMM ended without a reason")?,
        }
        if self.stderr.is_empty() {
            return Ok(());
        }
        write!(f, "; it wrote: {}", self.stderr.trim_end())
    }
}

/// State of a VM as its VMM reports it.
#[derive(Debug, Clone, Default)]
pub(crate) struct VmState {
    pub(crate) ready: bool,
    pub(crate) ended: Option<Arc<VmEnd>>,
}

/// A running VMM. Clones share it; dropping the last one kills it.
#[derive(Debug, Clone)]
pub struct Vm {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pid: u32,
    pidfd: OwnedFd,
    control: Arc<Control>,
    state: watch::Receiver<VmState>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Vm {
    /// Host PID of the VMM.
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Kills the VMM. Wait for [`Vm::ended`] to know that it holds no file any more.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.inner.pidfd, Signal::KILL);
    }

    /// Waits for the end of the VM.
    pub async fn ended(&self) -> Arc<VmEnd> {
        let mut state = self.inner.state.clone();
        let ended = state.wait_for(|state| state.ended.is_some()).await;
        let ended = ended.ok().and_then(|state| state.ended.clone());
        ended.unwrap_or_else(|| {
            Arc::new(VmEnd {
                reason: None,
                status: None,
                stderr: String::new(),
            })
        })
    }

    /// How the VM ended, if it has.
    pub fn end_so_far(&self) -> Option<Arc<VmEnd>> {
        self.inner.state.borrow().ended.clone()
    }

    /// The guest's agent has said that it listens.
    pub fn is_ready(&self) -> bool {
        self.inner.state.borrow().ready
    }

    /// Opens a connection to a vsock port of the guest. Returns at once; what is written before
    /// the guest listens is kept by the kernel up to the socket's buffer. A refused connection
    /// reads end-of-file.
    pub async fn connect(&self, port: u32) -> Result<UnixStream, VmmError> {
        let failed = |source| VmmError::Connect { port, source };
        let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        theirs.set_nonblocking(true).map_err(failed)?;
        let request = Request::Connect { port };
        self.inner
            .control
            .send(&request, &[theirs.into()])
            .await
            .map_err(failed)?;
        UnixStream::from_std(ours).map_err(failed)
    }

    /// Plugs a tap into a network slot; the agent is to look for it then. `taps` are its descriptors,
    /// `vhosts` as many or none: the host's kernel serves it.
    pub async fn attach_net(
        &self,
        slot: Slot,
        taps: Vec<OwnedFd>,
        vhosts: Vec<OwnedFd>,
        mac: [u8; 6],
        mtu: u16,
    ) -> Result<(), VmmError> {
        let request = Request::AttachNet {
            pairs: u8::try_from(taps.len()).unwrap_or(u8::MAX),
            vhost: !vhosts.is_empty(),
            slot,
            mac,
            mtu,
        };
        let fds: Vec<_> = taps.into_iter().chain(vhosts).collect();
        match self.ask_with(request, &fds).await? {
            Event::NetAttached => Ok(()),
            other => Err(VmmError::unexpected("attach_net", &other)),
        }
    }

    /// Plugs a disk into an empty block slot; the agent finds it there. `files` are those that
    /// [`hull_vm_config::control::disk_files`] names.
    pub async fn attach_block(
        &self,
        slot: Slot,
        disk: &BlockConfig,
        files: &[OwnedFd],
    ) -> Result<(), VmmError> {
        let disk = disk.clone();
        let request = Request::AttachBlock { slot, disk };
        match self.ask_with(request, files).await? {
            Event::BlockAttached => Ok(()),
            other => Err(VmmError::unexpected("attach_block", &other)),
        }
    }

    /// Pulls the disk out of a block slot; the agent has let go of it before.
    pub async fn detach_block(&self, slot: Slot) -> Result<(), VmmError> {
        match self.ask(Request::DetachBlock { slot }).await? {
            Event::BlockDetached => Ok(()),
            other => Err(VmmError::unexpected("detach_block", &other)),
        }
    }

    /// Plugs a shared directory in; the agent finds it then. `socket` leads to virtiofsd.
    pub async fn attach_fs(&self, tag: &str, socket: OwnedFd) -> Result<(), VmmError> {
        let request = Request::AttachFs {
            tag: tag.to_owned(),
        };
        match self.ask_with(request, &[socket]).await? {
            Event::FsAttached => Ok(()),
            other => Err(VmmError::unexpected("attach_fs", &other)),
        }
    }

    /// Who serves the network interfaces that are plugged in.
    pub async fn nets(&self) -> Result<Vec<NetState>, VmmError> {
        match self.ask(Request::Nets).await? {
            Event::Nets { interfaces } => Ok(interfaces),
            other => Err(VmmError::unexpected("nets", &other)),
        }
    }

    /// Who serves the disks.
    pub async fn disks(&self) -> Result<Vec<DiskState>, VmmError> {
        match self.ask(Request::Disks).await? {
            Event::Disks { disks } => Ok(disks),
            other => Err(VmmError::unexpected("disks", &other)),
        }
    }

    /// Pulls the tap out of a network slot; the agent has let go of it before.
    pub async fn detach_net(&self, slot: Slot) -> Result<(), VmmError> {
        match self.ask(Request::DetachNet { slot }).await? {
            Event::NetDetached => Ok(()),
            other => Err(VmmError::unexpected("detach_net", &other)),
        }
    }

    /// The boot trace so far, in order of time.
    pub async fn trace(&self) -> Result<Vec<Mark>, VmmError> {
        match self.ask(Request::Trace).await? {
            Event::Trace { marks } => Ok(marks),
            other => Err(VmmError::unexpected("trace", &other)),
        }
    }

    /// What holds the VMM in its jail: name and value pairs, read back from the kernel.
    pub async fn jail(&self) -> Result<Vec<(String, String)>, VmmError> {
        match self.ask(Request::Jail).await? {
            Event::Jail { holds } => Ok(holds),
            other => Err(VmmError::unexpected("jail", &other)),
        }
    }

    /// What the VMM costs the host now; `guest_bytes` is the guest's memory.
    pub fn memory_share(&self, guest_bytes: u64) -> Result<MemoryShare, VmmError> {
        MemoryShare::of(self.pid(), guest_bytes).map_err(|source| VmmError::Memory {
            pid: self.pid(),
            source,
        })
    }

    /// Stops all vCPUs.
    pub async fn pause(&self) -> Result<(), VmmError> {
        match self.ask(Request::Pause).await? {
            Event::Paused => Ok(()),
            other => Err(VmmError::unexpected("pause", &other)),
        }
    }

    /// Runs the vCPUs again.
    pub async fn resume(&self) -> Result<(), VmmError> {
        match self.ask(Request::Resume).await? {
            Event::Resumed => Ok(()),
            other => Err(VmmError::unexpected("resume", &other)),
        }
    }

    async fn ask(&self, request: Request) -> Result<Event, VmmError> {
        self.ask_with(request, &[]).await
    }

    async fn ask_with(&self, request: Request, fds: &[OwnedFd]) -> Result<Event, VmmError> {
        let answer = self.inner.control.ask(&request, fds);
        tokio::select! {
            answer = answer => answer,
            end = self.ended() => Err(VmmError::Ended { end }),
        }
    }
}
