//! Connections from a container to UNIX sockets of the host that are mounted into it.
//!
//! The guest can't connect to the host: one connection to the agent waits for each socket, and the
//! agent says on it when a client is there ([`hull_protocol::socket`]). Only then is the host's
//! socket connected to. A container has a bounded number of connections; further clients wait.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hull_protocol::socket::{preamble, TAKEN};
use rustix::fs::{fstat, openat, FileType, Mode, OFlags, CWD};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::lower::Socket;
use crate::pace::Pace;
use crate::report::chain;
use crate::vmm::Vm;

/// Most connections of a container at once.
const MAX_CONNECTIONS: usize = 256;
/// Clients of a socket in a second, after as many at once.
const CLIENTS_PER_SECOND: u32 = 200;
/// How long a server that has no room for one more client may take to make some.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// Until it is asked again.
const BUSY_REST: Duration = Duration::from_millis(50);

/// Why a socket can't be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("failed to open the socket {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path:?} is a socket for datagrams, whose messages can't be passed on to a VM: use a service's network address, and leave this mount out")]
    Datagrams { path: PathBuf },
    #[error("{path:?} is no socket any more")]
    Other { path: PathBuf },
}

/// A socket of the host, which stays the same whatever becomes of its path.
#[derive(Debug)]
pub(crate) struct Opened {
    socket: OwnedFd,
    named: Socket,
}

/// Opens a container's sockets.
pub(crate) fn open(sockets: &[Socket]) -> Result<Vec<Opened>, SocketError> {
    sockets.iter().map(open_one).collect()
}

fn open_one(named: &Socket) -> Result<Opened, SocketError> {
    let path = || named.path.clone();
    let failed = |errno: Errno| SocketError::Open {
        path: path(),
        source: errno.into(),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let socket = openat(CWD, &named.path, flags, Mode::empty()).map_err(failed)?;
    let mode = fstat(&socket).map_err(failed)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Socket {
        return Err(SocketError::Other { path: path() });
    }
    let opened = Opened {
        socket,
        named: named.clone(),
    };
    match opened.takes_datagrams() {
        true => Err(SocketError::Datagrams { path: path() }),
        false => Ok(opened),
    }
}

impl Opened {
    /// By which it is connected to.
    fn address(&self) -> String {
        format!("/proc/self/fd/{}", self.socket.as_raw_fd())
    }

    /// A server of streams does not notice: the kernel refuses the other kind before.
    fn takes_datagrams(&self) -> bool {
        UnixDatagram::unbound().is_ok_and(|probe| probe.connect(self.address()).is_ok())
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let tried = async {
            loop {
                match UnixStream::connect(self.address()).await {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(BUSY_REST).await;
                    }
                    done => return done,
                }
            }
        };
        tokio::time::timeout(BUSY_LIMIT, tried).await?
    }
}

/// What serves a container's sockets; dropping it ends that. Connections that were made go on.
#[derive(Debug, Default)]
pub(crate) struct Relays(Vec<JoinHandle<()>>);

impl Drop for Relays {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Serves sockets that the agent has made, as long as the VM lives.
pub(crate) fn serve(vm: &Vm, sockets: Vec<Opened>) -> Relays {
    let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let serve = |opened| tokio::spawn(offer(vm.clone(), Arc::new(opened), Arc::clone(&turns)));
    Relays(sockets.into_iter().map(serve).collect())
}

async fn offer(vm: Vm, opened: Arc<Opened>, turns: Arc<Semaphore>) {
    let name = &opened.named.guest_path;
    let mut pace = Pace::per_second(CLIENTS_PER_SECOND);
    loop {
        pace.turn().await;
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            return;
        };
        let guest = tokio::select! {
            guest = wait_for_client(&vm, name) => guest,
            _ = vm.ended() => return,
        };
        let mut guest = match guest {
            Ok(guest) => guest,
            Err(error) => {
                // The container is gone, or the agent does what it should not.
                return tracing::debug!(name, %error, "a socket is served no more");
            }
        };
        let opened = Arc::clone(&opened);
        tokio::spawn(async move {
            let _turn = turn;
            match opened.connect().await {
                Ok(mut host) => {
                    // Either side may break off at any time.
                    let _ = tokio::io::copy_bidirectional(&mut guest, &mut host).await;
                }
                Err(error) => tracing::debug!(
                    path = ?opened.named.path,
                    error = chain(&error),
                    "a client of a mounted socket is turned away"
                ),
            }
        });
    }
}

/// A connection to the agent on which a client has come.
async fn wait_for_client(vm: &Vm, name: &str) -> io::Result<UnixStream> {
    let mut guest = vm
        .connect(hull_protocol::socket::SOCKET_PORT)
        .await
        .map_err(io::Error::other)?;
    let name = preamble(name).ok_or(io::ErrorKind::InvalidInput)?;
    guest.write_all(&name).await?;
    match guest.read_u8().await? {
        TAKEN => Ok(guest),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn named(path: PathBuf) -> [Socket; 1] {
        [Socket {
            guest_path: "/s".into(),
            path,
        }]
    }

    #[tokio::test]
    async fn the_socket_stays_the_one_that_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let listener = UnixListener::bind(&path).unwrap();
        let opened = open(&named(path.clone())).unwrap().remove(0);
        std::fs::rename(&path, directory.path().join("b")).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        other.set_nonblocking(true).unwrap();
        opened.connect().await.unwrap();
        listener.accept().unwrap();
        assert!(other.accept().is_err());
    }

    #[test]
    fn what_is_no_server_of_streams_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let _log = UnixDatagram::bind(path("log")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        for (name, said) in [
            ("log", "datagrams"),
            ("file", "no socket"),
            ("none", "failed to open"),
        ] {
            let error = open(&named(path(name))).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        // Nobody listens yet: who connects then is told.
        drop(UnixListener::bind(path("later")).unwrap());
        assert!(open(&named(path("later"))).is_ok());
    }
}
