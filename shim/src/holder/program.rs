//! The holder's own program: it enters the namespaces and waits.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::mount::{
    mount, mount_bind_recursive, mount_change, unmount, MountFlags, MountPropagationFlags,
    UnmountFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::stdio::{stdin, stdout};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};

use super::link::MAX_PACKET_BYTES;
use super::{Ended, Network, Report, Request, Setup};

/// Status of a holder whose shim is gone: as if killed.
const ORPHANED_STATUS: u8 = 137;

/// Where an empty root is mounted before it is the root: a directory that every host has.
const EMPTY_ROOT: &str = "/dev";

/// A step that failed, for the shim.
struct Failure(String);

/// Runs as a holder. The link to the shim is standard input, the terminal standard output.
pub fn main(setup: &str) -> ExitCode {
    match enter(setup).and_then(|()| catch_signals()) {
        Ok(signals) => {
            say(&Report::Ready {
                pid: std::process::id(),
            });
            hold(&signals)
        }
        Err(Failure(reason)) => {
            say(&Report::Failed { reason });
            ExitCode::FAILURE
        }
    }
}

fn failed<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> Failure + '_ {
    move |error| Failure(format!("{what}: {}", error.into()))
}

fn enter(setup: &str) -> Result<(), Failure> {
    let setup: Setup = serde_json::from_str(setup).map_err(failed("read what it was given"))?;
    // A session of its own, so that the terminal can be its own too.
    rustix::process::setsid().map_err(failed("make a session"))?;
    if setup.terminal {
        rustix::process::ioctl_tiocsctty(stdout()).map_err(failed("take the terminal"))?;
    }
    enter_network(&setup.network)?;
    enter_root(setup.root.as_deref())?;
    only_the_link(setup.terminal).map_err(failed("close what it does not need"))?;
    drop_privileges().map_err(failed("give up its privileges"))
}

fn enter_network(network: &Network) -> Result<(), Failure> {
    match network {
        Network::Inherit => Ok(()),
        Network::New => {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)
                .map_err(failed("make a network namespace"))?;
            raise_loopback().map_err(failed("raise the loopback interface"))
        }
        Network::Join(path) => {
            let what = format!("join the network namespace {path:?}");
            let file = File::open(path).map_err(failed(&what))?;
            rustix::thread::move_into_link_name_space(
                file.as_fd(),
                Some(LinkNameSpaceType::Network),
            )
            .map_err(failed(&what))
        }
    }
}

/// Makes the container's root its own, so that whoever enters its mount namespace by its PID finds
/// the container's files, never the host's.
fn enter_root(directory: Option<&Path>) -> Result<(), Failure> {
    let root = directory.unwrap_or(Path::new(EMPTY_ROOT));
    let what = format!("make {root:?} its root");
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    let all = || -> rustix::io::Result<()> {
        // What the host unmounts goes away here too; nothing of here shows on the host.
        mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )?;
        match directory {
            Some(directory) => mount_bind_recursive(directory, root)?,
            None => mount(
                "tmpfs",
                root,
                "tmpfs",
                MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
                Some(c"size=0,nr_inodes=2,mode=755"),
            )?,
        }
        rustix::process::chdir(root)?;
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    all().map_err(failed(&what))
}

/// Whoever looks finds nothing of the host open: not even its `/dev/null`.
fn only_the_link(terminal: bool) -> rustix::io::Result<()> {
    if !terminal {
        rustix::stdio::dup2_stdout(stdin())?;
    }
    rustix::stdio::dup2_stderr(stdin())
}

fn drop_privileges() -> rustix::io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
}

/// `ip link set lo up`.
fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // 0: NETLINK_ROUTE.
        None,
    )?;
    rustix::net::send(&socket, &set_link_up(LOOPBACK_INDEX), SendFlags::empty())?;
    let mut answer = [0; 256];
    let (_, length) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // An acknowledgement is an error message whose number is 0.
    let code = answer
        .get(16..20)
        .filter(|_| 20 <= length)
        .and_then(|code| <[u8; 4]>::try_from(code).ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}

/// The first interface of each network namespace is its loopback.
const LOOPBACK_INDEX: i32 = 1;

/// A `RTM_NEWLINK` message that sets `IFF_UP`.
fn set_link_up(index: i32) -> Vec<u8> {
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    let mut message = Vec::new();
    // struct nlmsghdr: length, type, flags, sequence, port.
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family and padding, type, index, flags, mask of flags.
    message.extend([0; 4]);
    message.extend(index.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message
}

fn catch_signals() -> Result<SignalFd, Failure> {
    let all = SigSet::all();
    all.thread_block().map_err(failed("block signals"))?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(failed("wait for signals"))
}

/// Waits for the exit status, and passes on what happens meanwhile.
fn hold(signals: &SignalFd) -> ExitCode {
    loop {
        let link = stdin();
        let mut fds = [
            PollFd::new(&link, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let told = !fds[0].revents().is_empty();
        if told {
            if let Some(status) = read_status(link) {
                return ExitCode::from(status);
            }
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            if let Some(request) = request_for(signal.ssi_signo) {
                say(&Report::Request(request));
            }
        }
    }
}

/// The status with which to end, if it has come. A shim that leaves with a report of this process
/// unread resets the socket: that is told before what it sent, which is still there to be read.
fn read_status(link: BorrowedFd<'_>) -> Option<u8> {
    let mut buffer = [0; MAX_PACKET_BYTES];
    match rustix::net::recv(link, &mut buffer[..], RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Some(ORPHANED_STATUS),
        Ok((_, length)) => {
            let ended: Option<Ended> = serde_json::from_slice(buffer.get(..length)?).ok();
            Some(ended.map_or(ORPHANED_STATUS, |ended| ended.status))
        }
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNRESET) => None,
        Err(_) => Some(ORPHANED_STATUS),
    }
}

fn request_for(signal: u32) -> Option<Request> {
    let number = i32::try_from(signal).ok()?;
    match Signal::try_from(number) {
        Ok(Signal::SIGWINCH) => {
            let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
            Some(Request::Resize {
                width: size.ws_col.into(),
                height: size.ws_row.into(),
            })
        }
        Ok(Signal::SIGCHLD | Signal::SIGURG | Signal::SIGTTIN | Signal::SIGTTOU) => None,
        _ => Some(Request::Signal(signal)),
    }
}

fn say(report: &Report) {
    if let Ok(packet) = serde_json::to_vec(report) {
        // A shim that is gone, or does not read, needs no word.
        let _ = rustix::net::send(stdin(), &packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_message_has_the_length_that_it_says() {
        let message = set_link_up(LOOPBACK_INDEX);
        assert_eq!(message.len(), 32);
        assert_eq!(message[..4], 32_u32.to_ne_bytes());
    }

    #[test]
    fn a_report_that_nobody_reads_does_not_hide_the_status() {
        let (shim, holder) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::net::send(&holder, b"report", SendFlags::empty()).unwrap();
        let ended = serde_json::to_vec(&Ended { status: 3 }).unwrap();
        rustix::net::send(&shim, &ended, SendFlags::empty()).unwrap();
        drop(shim);
        let told: Vec<_> = (0..3).map(|_| read_status(holder.as_fd())).collect();
        assert_eq!(told, [None, Some(3), Some(ORPHANED_STATUS)]);
    }

    #[test]
    fn signals_are_passed_on_except_those_about_itself() {
        let number = |signal: Signal| u32::try_from(signal as i32).unwrap();
        assert_eq!(
            request_for(number(Signal::SIGTERM)),
            Some(Request::Signal(15))
        );
        assert_eq!(request_for(number(Signal::SIGCHLD)), None);
        // A real-time signal has no name.
        assert_eq!(request_for(40), Some(Request::Signal(40)));
    }
}
