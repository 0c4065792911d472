//! What somebody tries who runs code in a VMM's process.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;

use nix::mount::MsFlags;
use nix::sched::{setns, unshare, CloneFlags};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::sys;

/// What there is to reach for.
pub(crate) struct Target {
    /// A directory that everybody may write, with a listening `socket` in it.
    pub(crate) place: PathBuf,
    /// A listening port of the loopback.
    pub(crate) port: u16,
    /// A listening abstract socket.
    pub(crate) name: String,
    /// Another process.
    pub(crate) pid: u32,
    /// A byte of it.
    pub(crate) address: usize,
}

impl Target {
    pub(crate) fn to_text(&self) -> String {
        let (place, port, name) = (self.place.display(), self.port, &self.name);
        format!("{place} {port} {name} {} {}", self.pid, self.address)
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        Some(Self {
            place: words.next()?.into(),
            port: words.next()?.parse().ok()?,
            name: words.next()?.into(),
            pid: words.next()?.parse().ok()?,
            address: words.next()?.parse().ok()?,
        })
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.pid.cast_signed())
    }
}

/// An attempt: it has worked when it returns.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    /// For the table.
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Target) -> io::Result<()>,
    /// No other layer needs to stop it: it harms nobody outside.
    pub(crate) filter_only: bool,
}

const fn attempt(
    name: &'static str,
    what: &'static str,
    run: fn(&Target) -> io::Result<()>,
) -> Attempt {
    Attempt {
        name,
        what,
        run,
        filter_only: false,
    }
}

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt("read-file", "open a file that everybody may read", |_| {
        File::open("/etc/passwd").map(drop)
    }),
    attempt("create-file", "make a file where everybody may", |target| {
        File::create(
            target
                .place
                .join(std::env::var("HULL_DRILL_LAYER").unwrap_or_default()),
        )
        .map(drop)
    }),
    attempt(
        "connect-tcp",
        "connect to a port of the loopback",
        |target| TcpStream::connect(("127.0.0.1", target.port)).map(drop),
    ),
    attempt(
        "connect-unix",
        "connect to a socket that is open to all",
        |target| UnixStream::connect(target.place.join("socket")).map(drop),
    ),
    attempt(
        "connect-abstract",
        "connect to an abstract socket",
        |target| {
            let address = SocketAddr::from_abstract_name(&target.name)?;
            UnixStream::connect_addr(&address).map(drop)
        },
    ),
    attempt("signal", "signal another process", |target| {
        Ok(kill(target.process(), None)?)
    }),
    attempt("trace", "trace another process", |target| {
        sys::trace(target.pid)
    }),
    attempt("read-memory", "read another process's memory", |target| {
        sys::read_memory(target.pid, target.address)
    }),
    attempt(
        "join-namespace",
        "enter another process's mount namespace",
        |target| {
            let namespace = File::open(format!("/proc/{}/ns/mnt", target.pid))?;
            Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
        },
    ),
    attempt("open-tap", "open the device of all taps", |_| {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map(drop)
    }),
    attempt("packet-socket", "a socket for all frames", |_| {
        sys::packet_socket()
    }),
    attempt(
        "open-kvm",
        "open /dev/kvm to make a VM without a jail",
        |_| {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .map(drop)
        },
    ),
    attempt("mount", "mount a file system", |target| {
        let (none, flags) = (None::<&str>, MsFlags::empty());
        let at = match target.place.exists() {
            true => target.place.as_path(),
            false => std::path::Path::new("/"),
        };
        Ok(nix::mount::mount(none, at, Some("tmpfs"), flags, none)?)
    }),
    attempt("exec", "run a program", |_| {
        let words = [c"sh", c"-c", c"exit 10"];
        nix::unistd::execv(c"/bin/sh", &words)
            .map(drop)
            .map_err(io::Error::from)
    }),
    attempt("load-bpf", "make a BPF map", |_| sys::make_bpf_map()),
    attempt("set-hostname", "change the host's name", |_| {
        sys::set_hostname()
    }),
    attempt("become-root", "become root", |_| {
        Ok(nix::unistd::setuid(nix::unistd::Uid::from_raw(0))?)
    }),
    Attempt {
        filter_only: true,
        ..attempt("user-namespace", "make a user namespace", |_| {
            Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
        })
    },
    Attempt {
        filter_only: true,
        ..attempt("executable-memory", "memory to write and execute", |_| {
            sys::executable_memory()
        })
    },
    Attempt {
        filter_only: true,
        ..attempt("make-socket", "make a socket", |_| {
            UnixStream::pair().map(drop)
        })
    },
];
