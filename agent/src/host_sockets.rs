//! UNIX sockets of the host in containers: who connects to one is passed on to the connection that
//! the host keeps waiting for it ([`hull_protocol::socket`]).

use std::collections::HashMap;
use std::os::unix::fs::{chown, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_protocol::agent::HostSocket;
use hull_protocol::socket::{MAX_NAME, SOCKET_PORT, TAKEN};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::console;
use crate::error::{AgentError, Context, Kind, Result};
use crate::host;
use crate::stdio::BoxStream;

/// How long the host may take to say which socket a connection is for.
const PREAMBLE_LIMIT: Duration = Duration::from_secs(10);
/// Until accepting is tried again after it failed.
const RETRY: Duration = Duration::from_millis(100);
/// Below a name of its own length the path of a socket may be too long to bind it.
const UNNAMED: &str = ".socket";

/// The sockets that containers have. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct HostSockets(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    listening: HashMap<String, Listening>,
    /// The host can connect.
    begun: bool,
}

struct Listening {
    /// Takes the connection that waits for the next client.
    waiting: mpsc::Sender<BoxStream>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HostSockets {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a socket at `path`, by which the host names it.
    pub(crate) fn listen(&self, path: &Path, socket: &HostSocket) -> Result<()> {
        let name = path
            .to_str()
            .ok_or_else(|| AgentError::invalid(format!("{} is no name", path.display())))?;
        let listener =
            bind(path, socket).context(|| format!("failed to make the socket {name}"))?;
        let (waiting, connections) = mpsc::channel(1);
        let task = tokio::spawn(serve(listener, connections));
        let mut table = self.table();
        let listening = Listening { waiting, task };
        table.listening.insert(name.to_owned(), listening);
        if !std::mem::replace(&mut table.begun, true) {
            drop(table);
            self.begin();
        }
        Ok(())
    }

    /// Ends what [`HostSockets::listen`] began. Connections that were made go on.
    pub(crate) fn close(&self, path: &str) {
        self.table().listening.remove(path);
    }

    /// Lets the host connect, from the first socket on.
    fn begin(&self) {
        let mut host = match host::listen(SOCKET_PORT) {
            Ok(host) => host,
            Err(error) => {
                return console::log(&format!("sockets lead to nobody on the host: {error}"))
            }
        };
        let sockets = self.clone();
        tokio::spawn(async move {
            while let Some(stream) = host.accept().await {
                tokio::spawn(sockets.clone().admit(Box::new(stream)));
            }
        });
    }

    /// Takes a fresh connection of the host's. One for a socket that is not there, or beside
    /// another that waits, is closed.
    async fn admit(self, mut host: BoxStream) {
        let name = tokio::time::timeout(PREAMBLE_LIMIT, read_name(&mut host)).await;
        let Ok(Ok(name)) = name else { return };
        let table = self.table();
        if let Some(listening) = table.listening.get(&name) {
            // What does not fit is dropped, and so closed.
            let _ = listening.waiting.try_send(host);
        }
    }
}

async fn read_name(host: &mut BoxStream) -> Result<String> {
    let failed = || "failed to read the name of a socket".to_owned();
    let length = usize::from(host.read_u16_le().await.context(failed)?);
    if MAX_NAME < length {
        return Err(AgentError::new(Kind::InvalidArgument, failed()));
    }
    let mut name = vec![0; length];
    host.read_exact(&mut name).await.context(failed)?;
    String::from_utf8(name).map_err(|_| AgentError::new(Kind::InvalidArgument, failed()))
}

fn bind(path: &Path, socket: &HostSocket) -> std::io::Result<UnixListener> {
    let unnamed = path.with_file_name(UNNAMED);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(&unnamed)?;
    let placed = || {
        listener.set_nonblocking(true)?;
        let mode = std::fs::Permissions::from_mode(socket.mode & 0o777);
        std::fs::set_permissions(&unnamed, mode)?;
        chown(&unnamed, Some(socket.uid), Some(socket.gid))?;
        std::fs::rename(&unnamed, path)
    };
    if let Err(error) = placed() {
        let _ = std::fs::remove_file(&unnamed);
        return Err(error);
    }
    UnixListener::from_std(listener)
}

async fn serve(listener: UnixListener, mut waiting: mpsc::Receiver<BoxStream>) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let Some(mut host) = waiting.recv().await else {
            return;
        };
        tokio::spawn(async move {
            if host.write_u8(TAKEN).await.is_ok() {
                // Either side may break off at any time.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut host).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use hull_protocol::socket::preamble;
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_client_gets_the_connection_that_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let me = rustix::process::getuid().as_raw();
        let group = rustix::process::getgid().as_raw();
        let sockets = HostSockets::default();
        let socket = HostSocket {
            mode: 0o100_660,
            uid: me,
            gid: group,
            ..HostSocket::default()
        };
        // No vsock here, perhaps: then nobody connects but below.
        sockets.listen(&path, &socket).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o660);

        let connect = |name: &str| {
            let (mut ours, theirs) = tokio::io::duplex(64);
            let name = preamble(name).unwrap();
            let sockets = sockets.clone();
            async move {
                let admitted = tokio::spawn(sockets.admit(Box::new(theirs)));
                ours.write_all(&name).await.unwrap();
                admitted.await.unwrap();
                ours
            }
        };
        let mut nobody = connect("/other").await;
        assert_eq!(nobody.read(&mut [0; 1]).await.unwrap(), 0);

        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"question").await.unwrap();
        let mut host = connect(path.to_str().unwrap()).await;
        assert_eq!(host.read_u8().await.unwrap(), TAKEN);
        let mut said = [0; 8];
        host.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"question");
        host.write_all(b"answer").await.unwrap();
        drop(host);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");

        sockets.close(path.to_str().unwrap());
        tokio::task::yield_now().await;
        assert!(UnixStream::connect(&path).await.is_err());
    }
}
