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
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use link::Link;

pub use program::main;

/// Variable of a program that shall be a holder (see [`main`]). Not an argument: its arguments are
/// those of the process that it stands for, as whoever looks it up (`docker top`) expects.
pub const VARIABLE: &str = "HULL_HOLDER";
/// Most of a process's arguments that are shown, in number and in bytes each.
const SHOWN_ARGUMENTS: usize = 64;
const SHOWN_BYTES: usize = 4096;
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
    /// What its process executes: shown as the holder's own command line.
    pub arguments: Vec<String>,
    /// Its network namespace.
    pub network: Network,
    /// Its root directory, in a mount namespace of its own; `None`: an empty one.
    pub root: Option<PathBuf>,
    /// The terminal whose changes of size it reports.
    pub terminal: Option<OwnedFd>,
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

/// What the program of a holder gets in [`VARIABLE`] (JSON).
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
    /// Unless somebody else started it.
    child: Option<Child>,
}

/// Starts a holder that a shim adopts by the returned end of its link. The running program must
/// call [`main`] when [`VARIABLE`] is set.
pub fn spawn(config: HolderConfig) -> Result<(Child, OwnedFd), HolderError> {
    let failed = |source| HolderError::Start { source };
    let program = std::env::current_exe().map_err(failed)?;
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|errno| failed(errno.into()))?;
    let child = spawn_program(&program, config, theirs).map_err(failed)?;
    Ok((child, ours))
}

impl Network {
    /// What a configuration says.
    pub fn of(spec: &Spec) -> Self {
        let namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces());
        let network = namespaces
            .flatten()
            .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
        match network.map(|namespace| namespace.path()) {
            None => Self::Inherit,
            Some(None) => Self::New,
            Some(Some(path)) => Self::Join(path.clone()),
        }
    }
}

impl Holder {
    /// Starts a holder, as [`spawn`] does, and waits until it is in its namespaces.
    pub async fn start(config: HolderConfig) -> Result<Self, HolderError> {
        let (child, link) = spawn(config)?;
        match Self::adopt(link).await {
            Ok(mut holder) => {
                holder.child = Some(child);
                Ok(holder)
            }
            Err(error) => {
                end(child);
                Err(error)
            }
        }
    }

    /// Takes over a holder that somebody else started.
    pub async fn adopt(link: OwnedFd) -> Result<Self, HolderError> {
        let failed = |source| HolderError::Start { source };
        let link = Link::new(link).map_err(failed)?;
        let pid = match tokio::time::timeout(START_LIMIT, link.receive()).await {
            Ok(Some(Report::Ready { pid })) => pid,
            Ok(Some(Report::Failed { reason })) => return Err(HolderError::Setup { reason }),
            Ok(_) => return Err(failed(io::Error::other("it ended"))),
            Err(_) => return Err(HolderError::Silent),
        };
        Ok(Self {
            pid,
            link,
            child: None,
        })
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

fn spawn_program(program: &Path, config: HolderConfig, link: OwnedFd) -> io::Result<Child> {
    let setup = Setup {
        network: config.network,
        root: config.root,
        terminal: config.terminal.is_some(),
    };
    let mut command = Command::new(program);
    let shown = shown(&config.arguments);
    if let Some((first, rest)) = shown.split_first() {
        command.arg0(first).args(rest);
    }
    command
        .env_clear()
        .env(VARIABLE, serde_json::to_string(&setup)?)
        .current_dir("/")
        .stdin(Stdio::from(link))
        .stdout(config.terminal.map_or_else(Stdio::null, Stdio::from))
        .stderr(Stdio::null());
    command.spawn()
}

/// As much of a command line as any host can execute with.
fn shown(arguments: &[String]) -> Vec<String> {
    let cut = |argument: &String| {
        let text = argument.replace('\0', " ");
        let end = text.floor_char_boundary(SHOWN_BYTES);
        text[..end].to_owned()
    };
    arguments.iter().take(SHOWN_ARGUMENTS).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_command_line_can_be_shown() {
        assert_eq!(shown(&["sh".into(), "a\0b".into()]), ["sh", "a b"]);
        let long = vec!["\u{e4}".repeat(SHOWN_BYTES); SHOWN_ARGUMENTS + 1];
        let shown = shown(&long);
        assert_eq!(shown.len(), SHOWN_ARGUMENTS);
        assert_eq!(shown[0].len(), SHOWN_BYTES);
    }

    #[test]
    fn the_network_is_what_the_configuration_says() {
        let network = |namespaces: serde_json::Value| {
            let linux = serde_json::json!({ "namespaces": namespaces });
            let spec = serde_json::json!({"ociVersion": "1.0.2", "linux": linux});
            Network::of(&serde_json::from_value(spec).unwrap())
        };
        assert_eq!(network(serde_json::json!([])), Network::Inherit);
        assert_eq!(
            network(serde_json::json!([{"type": "pid"}, {"type": "network"}])),
            Network::New
        );
        assert_eq!(
            network(serde_json::json!([{"type": "network", "path": "/run/netns/x"}])),
            Network::Join("/run/netns/x".into())
        );
    }
}
