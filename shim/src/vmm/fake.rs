//! A VMM that is none, for tests of what talks to a guest: its end of the control socket.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::Arc;

use hull_vm_config::control::ExitReason;
use rustix::net::{
    recvmsg, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags,
    SocketType,
};
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use tokio::sync::watch;

use super::control::Control;
use super::{Inner, Vm, VmEnd, VmState};

/// The other side of a [`Vm`].
pub(crate) struct FakeVmm {
    control: OwnedFd,
    process: Child,
    state: watch::Sender<VmState>,
}

impl FakeVmm {
    /// A VM that runs, and what is behind it.
    pub(crate) fn start() -> (Vm, Self) {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        rustix::io::ioctl_fionbio(&theirs, false).unwrap();
        // A process that may be killed with the VM.
        let process = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        let (sender, state) = watch::channel(VmState::default());
        let vm = Vm {
            inner: Arc::new(Inner {
                pid: process.id(),
                pidfd: pidfd_open(pid, PidfdFlags::empty()).unwrap(),
                control: Arc::new(Control::new(ours).unwrap()),
                state,
            }),
        };
        let fake = Self {
            control: theirs,
            process,
            state: sender,
        };
        (vm, fake)
    }

    /// Waits for the next connection that is asked for: the guest's end of it.
    pub(crate) fn accept(&self) -> UnixStream {
        let mut buffer = [0; 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        recvmsg(
            &self.control,
            &mut parts,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let stream = UnixStream::from(fd.unwrap());
        stream.set_nonblocking(false).unwrap();
        stream
    }

    /// The VM is over.
    pub(crate) fn end(&self, reason: ExitReason) {
        let end = VmEnd {
            reason: Some(reason),
            status: None,
            stderr: String::new(),
        };
        self.state
            .send_modify(|state| state.ended = Some(Arc::new(end)));
    }
}

impl Drop for FakeVmm {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
