//! The holder: the process on the host that stands for a process of a container.
//!
//! A container's processes live in a VM, but managers of containers (conmon, containerd's runc
//! shim, hooks) want a PID: they wait for it, signal it, and go into its network namespace. The
//! holder is that process. It is in the container's network namespace and its root is the
//! container's root file system where that is a directory of the host, else an empty one, never the
//! host's root; it does nothing but wait. It ends with the exit status of the
//! process that it stands for (128+n after signal n, since a shell's convention is all that is
//! known of a signal), and with 137 when its shim is gone. When it is killed, its shim kills the
//! container's process; a signal that it can catch is passed on.
//!
//! Holder and shim speak over a socket pair, one JSON value per packet.

mod link;
mod program;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::sys;
use link::Link;

pub use program::main;

/// First argument of a program that shall be a holder (see [`main`]).
pub const ARGUMENT: &str = "holder";
/// How long a holder has to enter its namespaces.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The network namespace of a holder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// That of the shim.
    #[default]
    Inherit,
    /// A new one, with the loopback interface up.
    New,
    /// An existing one.
    Join(PathBuf),
}

/// What a holder is started with.
#[derive(Debug, Default)]
pub struct HolderConfig {
    /// Its network namespace.
    pub network: Network,
    /// Its root directory, in a mount namespace of its own; `None`: an empty one.
    pub root: Option<PathBuf>,
    /// The terminal whose changes of size it reports.
    pub terminal: Option<OwnedFd>,
    /// It becomes a child of the nearest process that reaps orphans instead of the shim's.
    pub orphan: bool,
}

/// Why there is no holder.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// It can't be started.
    #[error("failed to start the process that stands for the container")]
    Start {
        /// Why.
        source: io::Error,
    },
    /// It can't enter its namespaces.
    #[error("the process that stands for the container failed to {reason}")]
    Setup {
        /// What and why.
        reason: String,
    },
    /// It says nothing.
    #[error("the process that stands for the container said nothing within {START_LIMIT:?}")]
    Silent,
}

/// What the program of a holder gets as its second argument (JSON).
#[derive(Debug, Serialize, Deserialize)]
struct Setup {
    network: Network,
    root: Option<PathBuf>,
    terminal: bool,
}

/// What a holder tells its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Report {
    /// It is in its namespaces.
    Ready { pid: u32 },
    /// It can't be.
    Failed { reason: String },
    /// Something for the container.
    Request(Request),
}

/// What a holder asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// The terminal has another size, in characters.
    Resize {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A signal came for the container.
    Signal(u32),
}

/// What a shim tells a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    status: u8,
}

/// A running holder. Dropping it ends it, with status 137 if none was given.
#[derive(Debug)]
pub struct Holder {
    pid: u32,
    link: Link,
    /// Unless it is an orphan.
    child: Option<Child>,
}

impl Holder {
    /// Starts a holder and waits until it is in its namespaces. The running program must call
    /// [`main`] when its first argument is [`ARGUMENT`].
    pub async fn start(config: HolderConfig) -> Result<Self, HolderError> {
        let failed = |source| HolderError::Start { source };
        let program = std::env::current_exe().map_err(failed)?;
        Self::start_program(&program, config).await
    }

    async fn start_program(program: &Path, config: HolderConfig) -> Result<Self, HolderError> {
        let failed = |source| HolderError::Start { source };
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|errno| failed(errno.into()))?;
        let link = Link::new(ours).map_err(failed)?;
        let orphan = config.orphan;
        let mut child = spawn(program, config, theirs).map_err(failed)?;
        if orphan {
            // Only the process between: it has ended already.
            child.wait().map_err(failed)?;
        }
        let first = tokio::time::timeout(START_LIMIT, link.receive()).await;
        let result = match first {
            Ok(Some(Report::Ready { pid })) => Ok(pid),
            Ok(Some(Report::Failed { reason })) => Err(HolderError::Setup { reason }),
            Ok(_) => Err(failed(io::Error::other("it ended"))),
            Err(_) => Err(HolderError::Silent),
        };
        let child = (!orphan).then_some(child);
        match result {
            Ok(pid) => Ok(Self { pid, link, child }),
            Err(error) => {
                child.into_iter().for_each(end);
                Err(error)
            }
        }
    }

    /// Its PID, in the namespace of the shim.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its network namespace.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// The next thing that it asks for; `None` when it is gone.
    pub async fn next(&self) -> Option<Request> {
        loop {
            if let Report::Request(request) = self.link.receive().await? {
                return Some(request);
            }
        }
    }

    /// Ends it with an exit status (0..255).
    pub async fn end(mut self, status: u32) {
        let status = u8::try_from(status).unwrap_or(u8::MAX);
        self.link.send(&Ended { status }).await;
        if let Some(mut child) = self.child.take() {
            // It ends by itself now: there is no more to it than an exit.
            let _ = child.wait();
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.child.take().into_iter().for_each(end);
    }
}

fn end(mut child: Child) {
    // It may be gone already.
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(program: &Path, config: HolderConfig, link: OwnedFd) -> io::Result<Child> {
    let setup = Setup {
        network: config.network,
        root: config.root,
        terminal: config.terminal.is_some(),
    };
    let mut command = Command::new(program);
    command
        .arg(ARGUMENT)
        .arg(serde_json::to_string(&setup)?)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(link))
        .stdout(config.terminal.map_or_else(Stdio::null, Stdio::from))
        .stderr(Stdio::null());
    if config.orphan {
        sys::orphan(&mut command);
    }
    command.spawn()
}
