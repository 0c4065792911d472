//! Published ports: sockets of the host whose traffic goes to a container.
//!
//! They listen on the host's own stack, so a port is reachable from elsewhere, by every address of
//! the host and by localhost alike, and one that is in use is found before anything starts.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinHandle};

/// A UDP peer that is silent for so long is forgotten.
const UDP_IDLE: Duration = Duration::from_secs(90);
/// Most UDP peers of one port at a time.
const MAX_UDP_PEERS: usize = 4096;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Largest UDP packet, in bytes.
const MAX_PACKET: usize = 64 << 10;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port that can't be published.
#[derive(Debug, thiserror::Error)]
#[error("failed to bind host port {address}/{protocol:?}: {source}")]
pub struct PortError {
    /// On the host.
    pub address: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Why.
    pub source: io::Error,
}

/// A published port. Dropping it ends it, with all its connections.
#[derive(Debug)]
pub struct Published {
    address: SocketAddr,
    targets: Targets,
    task: JoinHandle<()>,
}

/// Where conversations that begin go to, in this order.
type Targets = Arc<Mutex<Arc<[SocketAddr]>>>;

impl Published {
    /// The address on the host, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Conversations that begin from here on go to other addresses of the container: see
    /// [`Bound::serve`].
    pub fn retarget(&self, targets: Vec<SocketAddr>) {
        *lock(&self.targets) = in_order(self.address, targets);
    }
}

/// A server may well listen by one family only: the family that the client came by is first.
fn in_order(address: SocketAddr, mut targets: Vec<SocketAddr>) -> Arc<[SocketAddr]> {
    targets.sort_by_key(|target| target.is_ipv4() != address.is_ipv4());
    targets.into()
}

impl Drop for Published {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that is taken, but not served yet.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(TcpListener, SocketAddr),
    /// UDP.
    Udp(UdpSocket, SocketAddr),
}

/// Takes a port of the host; port 0: one that is free.
pub async fn bind(protocol: Protocol, address: SocketAddr) -> Result<Bound, PortError> {
    let failed = |source| PortError {
        address,
        protocol,
        source,
    };
    match protocol {
        Protocol::Tcp => {
            let listener = listen(address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            Ok(Bound::Tcp(listener, address))
        }
        Protocol::Udp => {
            let socket = bind_udp(address).await.map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            Ok(Bound::Udp(socket, address))
        }
    }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match address {
        SocketAddr::V4(_) => TcpListener::bind(address).await,
        SocketAddr::V6(_) => {
            let socket = socket_v6(SocketType::STREAM)?;
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, BACKLOG)?;
            TcpListener::from_std(socket.into())
        }
    }
}

async fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    match address {
        SocketAddr::V4(_) => UdpSocket::bind(address).await,
        SocketAddr::V6(_) => {
            let socket = socket_v6(SocketType::DGRAM)?;
            rustix::net::bind(&socket, &address)?;
            UdpSocket::from_std(socket.into())
        }
    }
}

/// A socket for IPv6 alone: the one for IPv4 has the same port beside it.
fn socket_v6(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET6, kind, flags, None)?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    Ok(socket)
}

impl Bound {
    /// The address on the host.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(_, address) | Self::Udp(_, address) => *address,
        }
    }

    /// Begins to pass on to the first of the `targets`, which are addresses of one container. A
    /// TCP connection that it refuses goes to the next; what is sent by UDP goes to the one of the
    /// family that it came by, if there is one.
    pub fn serve(self, targets: Vec<SocketAddr>) -> Published {
        let address = self.address();
        let targets = Arc::new(Mutex::new(in_order(address, targets)));
        let to = Arc::clone(&targets);
        let task = match self {
            Self::Tcp(listener, _) => tokio::spawn(serve_tcp(listener, to)),
            Self::Udp(socket, _) => tokio::spawn(serve_udp(socket, to)),
        };
        Published {
            address,
            targets,
            task,
        }
    }
}

async fn serve_tcp(listener: TcpListener, targets: Targets) {
    // Connections end with the port: the set is dropped when this task is.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let targets = Arc::clone(&lock(&targets));
                    connections.spawn(pass_on(client, targets));
                }
                Err(error) => {
                    tracing::debug!(%error, "accepting");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass_on(mut client: TcpStream, targets: Arc<[SocketAddr]>) {
    let Ok(mut server) = TcpStream::connect(&targets[..]).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Either side may break off at any time.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

/// A peer of a UDP port, and its own way into the container.
#[derive(Debug)]
struct UdpPeer {
    upstream: Arc<UdpSocket>,
    used: Instant,
    /// What passes answers back.
    answers: AbortHandle,
}

type UdpPeers = Arc<Mutex<HashMap<SocketAddr, UdpPeer>>>;

async fn serve_udp(socket: UdpSocket, targets: Targets) {
    let socket = Arc::new(socket);
    let peers = UdpPeers::default();
    let mut answers = tokio::task::JoinSet::new();
    let mut packet = vec![0; MAX_PACKET];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut packet) => received,
            Some(_) = answers.join_next() => continue,
        };
        let Ok((length, peer)) = received else {
            continue;
        };
        let known = lock(&peers).get_mut(&peer).map(|known| {
            known.used = Instant::now();
            Arc::clone(&known.upstream)
        });
        let upstream = match known {
            Some(upstream) => upstream,
            None => {
                let target = lock(&targets).first().copied();
                let Some(upstream) = (match target {
                    Some(target) => connect_udp(target).await,
                    None => None,
                }) else {
                    continue;
                };
                make_room(&mut lock(&peers));
                let (socket, others) = (Arc::clone(&socket), Arc::clone(&peers));
                let from = Arc::clone(&upstream);
                let answers = answers.spawn(async move {
                    answer_udp(&socket, &from, peer).await;
                    lock(&others).remove(&peer);
                });
                let new = UdpPeer {
                    upstream: Arc::clone(&upstream),
                    used: Instant::now(),
                    answers,
                };
                lock(&peers).insert(peer, new);
                upstream
            }
        };
        let _ = upstream.send(&packet[..length]).await;
    }
}

/// Forgets those that have been silent for longest, if there are too many. A client may well have
/// another port for each question.
fn make_room(peers: &mut HashMap<SocketAddr, UdpPeer>) {
    if peers.len() < MAX_UDP_PEERS {
        return;
    }
    let mut times: Vec<Instant> = peers.values().map(|peer| peer.used).collect();
    let (_, median, _) = times.select_nth_unstable(MAX_UDP_PEERS / 2);
    let median = *median;
    peers.retain(|_, peer| {
        let stays = median < peer.used;
        if !stays {
            peer.answers.abort();
        }
        stays
    });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connect_udp(target: SocketAddr) -> Option<Arc<UdpSocket>> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0u16; 8].into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(target).await.ok()?;
    Some(Arc::new(socket))
}

/// Passes answers back until the container is silent for long.
async fn answer_udp(socket: &UdpSocket, from: &UdpSocket, peer: SocketAddr) {
    let mut packet = vec![0; MAX_PACKET];
    while let Ok(received) = tokio::time::timeout(UDP_IDLE, from.recv(&mut packet)).await {
        match received {
            Ok(length) => {
                let _ = socket.send_to(&packet[..length], peer).await;
            }
            // Nobody listens in the container yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn any() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[tokio::test]
    async fn tcp_is_passed_on_both_ways_with_half_close() {
        let server = TcpListener::bind(any()).await.unwrap();
        let target = server.local_addr().unwrap();
        let port = bind(Protocol::Tcp, any())
            .await
            .unwrap()
            .serve(vec![target]);
        let mut client = TcpStream::connect(port.address()).await.unwrap();
        let (mut inside, _) = server.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        inside.read_to_string(&mut text).await.unwrap();
        inside.write_all(b"answer").await.unwrap();
        drop(inside);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((text.as_str(), answer.as_str()), ("question", "answer"));
        let address = port.address();
        drop(port);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn udp_answers_find_their_peer() {
        let server = UdpSocket::bind(any()).await.unwrap();
        let target = server.local_addr().unwrap();
        let port = bind(Protocol::Udp, any())
            .await
            .unwrap()
            .serve(vec![target]);
        for name in ["a", "b"] {
            let client = UdpSocket::bind(any()).await.unwrap();
            client
                .send_to(name.as_bytes(), port.address())
                .await
                .unwrap();
            let mut packet = [0; 8];
            let (length, from) = server.recv_from(&mut packet).await.unwrap();
            server.send_to(&packet[..length], from).await.unwrap();
            let (length, from) = client.recv_from(&mut packet).await.unwrap();
            assert_eq!(&packet[..length], name.as_bytes());
            assert_eq!(from, port.address());
        }
    }

    #[tokio::test]
    async fn the_longest_silent_udp_peers_make_room() {
        let upstream = Arc::new(UdpSocket::bind(any()).await.unwrap());
        let task = tokio::spawn(std::future::pending::<()>());
        let start = Instant::now();
        let mut peers: HashMap<SocketAddr, UdpPeer> = (0..MAX_UDP_PEERS as u16)
            .map(|port| {
                let peer = UdpPeer {
                    upstream: Arc::clone(&upstream),
                    used: start + Duration::from_millis(port.into()),
                    answers: task.abort_handle(),
                };
                (SocketAddr::from(([10, 0, 0, 1], port)), peer)
            })
            .collect();
        make_room(&mut peers);
        assert!(peers.len() < MAX_UDP_PEERS / 2 + 1);
        assert!(peers.contains_key(&([10, 0, 0, 1], MAX_UDP_PEERS as u16 - 1).into()));
        assert!(!peers.contains_key(&([10, 0, 0, 1], 0).into()));
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }

    #[tokio::test]
    async fn both_protocol_versions_have_the_same_port() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let v4 = bind(protocol, ([0; 4], 0).into()).await.unwrap();
            let port = v4.address().port();
            match bind(protocol, ([0u16; 8], port).into()).await {
                Ok(v6) => assert_eq!(v6.address().port(), port),
                // A machine without IPv6.
                Err(error) => assert_eq!(
                    error.source.raw_os_error(),
                    Some(libc::EAFNOSUPPORT),
                    "{error}"
                ),
            }
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let held = TcpListener::bind(any()).await.unwrap();
        let address = held.local_addr().unwrap();
        let error = bind(Protocol::Tcp, address).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
