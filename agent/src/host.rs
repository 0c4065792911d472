//! The host's connections to the guest, and nobody else's.
//!
//! Any process of a container may connect to the guest's own vsock ports, by way of the loopback
//! (CID 1) or of the guest's own CID. What stands behind these ports gives orders to PID 1, so a
//! peer that is not the host is closed before a byte of it is read. The ports are taken before the
//! first container is made, so that no container listens there in the agent's place.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use hull_protocol::dial::DIAL_PORT;
use hull_protocol::resolver::RESOLVER_PORT;
use hull_protocol::socket::SOCKET_PORT;
use hull_protocol::watch::WATCH_PORT;
use hull_protocol::{AGENT_PORT, STDIO_PORT};
use tokio::sync::mpsc;
use tokio_vsock::{VsockAddr, VsockListener, VsockStream, VMADDR_CID_ANY, VMADDR_CID_HOST};

/// How long a port whose listener fails rests before it tries again.
const RETRY: Duration = Duration::from_millis(100);
/// Connections of the host's that nobody has taken yet; what is beyond is closed.
const WAITING: usize = 128;

const PORTS: [u32; 6] = [
    AGENT_PORT,
    STDIO_PORT,
    RESOLVER_PORT,
    DIAL_PORT,
    WATCH_PORT,
    SOCKET_PORT,
];

/// The ports that were taken and that nobody serves yet.
static RESERVED: Mutex<Vec<(u32, HostListener)>> = Mutex::new(Vec::new());

/// Takes all ports of the agent's. What had been taken before and was served is taken anew.
///
/// # Errors
/// A port that can not be had.
pub(crate) fn reserve() -> io::Result<()> {
    let mut reserved = reserved();
    reserved.clear();
    for port in PORTS {
        reserved.push((port, HostListener::bind(port)?));
    }
    Ok(())
}

/// The host's connections to `port`, which is one of those that [`reserve`] took. Where there is no
/// PID 1 of ours, as in tests, the port is taken now.
///
/// # Errors
/// A port that can not be had.
pub(crate) fn listen(port: u32) -> io::Result<HostListener> {
    let mut reserved = reserved();
    match reserved.iter().position(|(taken, _)| *taken == port) {
        Some(at) => Ok(reserved.swap_remove(at).1),
        None => HostListener::bind(port),
    }
}

fn reserved() -> std::sync::MutexGuard<'static, Vec<(u32, HostListener)>> {
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A vsock port that serves the host alone.
#[derive(Debug)]
pub(crate) struct HostListener(mpsc::Receiver<VsockStream>);

impl HostListener {
    fn bind(port: u32) -> io::Result<Self> {
        let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))?;
        let (sender, streams) = mpsc::channel(WAITING);
        tokio::spawn(admit(listener, sender));
        Ok(Self(streams))
    }

    /// The next connection. `None` never comes while the agent's runtime lives.
    pub(crate) async fn accept(&mut self) -> Option<VsockStream> {
        self.0.recv().await
    }

    /// All that come, as ttrpc's server takes them.
    pub(crate) fn into_stream(mut self) -> impl Stream<Item = io::Result<VsockStream>> {
        stream::poll_fn(move |context| self.0.poll_recv(context).map(|next| next.map(Ok)))
    }
}

/// Others than the host are taken too, and closed: they would fill the queue that the host's wait in.
async fn admit(listener: VsockListener, host: mpsc::Sender<VsockStream>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = host.closed() => return,
        };
        match accepted {
            Ok((stream, peer)) if peer.cid() == VMADDR_CID_HOST => drop(host.try_send(stream)),
            Ok(_) => {}
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
