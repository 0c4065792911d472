//! Published ports: sockets of the host whose traffic goes to a container.
//!
//! They listen on the host's own stack, so a port is reachable from elsewhere, by every address of
//! the host and by localhost alike, and one that is in use is found before anything starts.

mod connections;
mod relay;
mod room;
mod sctp;
mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

pub use room::{raise_descriptors, Room};
pub use sctp::SctpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port that can't be published.
#[derive(Debug, thiserror::Error)]
#[error("failed to bind host port {address}/{protocol}: {source}")]
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

    /// As dropping it, and when this returns the port is free.
    pub async fn end(mut self) {
        self.task.abort();
        // It was aborted, which is no failure.
        let _ = (&mut self.task).await;
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
    /// SCTP.
    Sctp(SctpListener, SocketAddr),
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
        Protocol::Sctp => {
            let listener = SctpListener::bind(address).map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            Ok(Bound::Sctp(listener, address))
        }
    }
}

/// A port that leads to others, of which a client names one by the first two bytes that it sends
/// (big-endian). Which there are is said by [`Published::retarget`].
pub fn relay(address: SocketAddr, room: &Room) -> io::Result<Published> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let targets = Targets::default();
    let to = Arc::clone(&targets);
    let served = connections::serve(relay::Relay(listener), to, room.of_port());
    Ok(Published {
        address,
        targets,
        task: tokio::spawn(served),
    })
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
            Self::Tcp(_, address) | Self::Udp(_, address) | Self::Sctp(_, address) => *address,
        }
    }

    /// Begins to pass on to the first of the `targets`, which are addresses of one container. A
    /// connection that it refuses goes to the next; what is sent by UDP goes to the one of the
    /// family that it came by, if there is one. Where there is no room for one more conversation, a
    /// client waits until another has ended, and a packet of a new UDP peer is lost.
    pub fn serve(self, targets: Vec<SocketAddr>, room: &Room) -> Published {
        let address = self.address();
        let targets = Arc::new(Mutex::new(in_order(address, targets)));
        let to = Arc::clone(&targets);
        let task = match self {
            Self::Tcp(listener, _) => {
                tokio::spawn(connections::serve(listener, to, room.of_port()))
            }
            Self::Sctp(listener, _) => {
                tokio::spawn(connections::serve(listener, to, room.of_port()))
            }
            Self::Udp(socket, _) => tokio::spawn(udp::serve(socket, to, room.of_port())),
        };
        Published {
            address,
            targets,
            task,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

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
            .serve(vec![target], &Room::default());
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_port_that_has_ended_can_be_taken_at_once() {
        let address = bind(Protocol::Tcp, any()).await.unwrap().address();
        for _ in 0..100 {
            let port = bind(Protocol::Tcp, address).await.unwrap();
            port.serve(vec![any()], &Room::default()).end().await;
        }
    }

    #[tokio::test]
    async fn udp_answers_find_their_peer() {
        let server = UdpSocket::bind(any()).await.unwrap();
        let target = server.local_addr().unwrap();
        let port = bind(Protocol::Udp, any())
            .await
            .unwrap()
            .serve(vec![target], &Room::default());
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
    async fn udp_answers_come_from_the_address_that_was_asked() {
        let server = UdpSocket::bind(any()).await.unwrap();
        let target = server.local_addr().unwrap();
        let port = bind(Protocol::Udp, ([0; 4], 0).into()).await.unwrap();
        let port = port.serve(vec![target], &Room::default());
        let client = UdpSocket::bind(any()).await.unwrap();
        for last in [1, 2, 9] {
            // It takes answers of this address alone.
            let asked = SocketAddr::from(([127, 0, 0, last], port.address().port()));
            client.connect(asked).await.unwrap();
            client.send(&[last]).await.unwrap();
            let mut packet = [0; 8];
            let (length, from) = server.recv_from(&mut packet).await.unwrap();
            server.send_to(&packet[..length], from).await.unwrap();
            let answered = tokio::time::timeout(Duration::from_secs(5), client.recv(&mut packet));
            assert_eq!(answered.await.unwrap().unwrap(), 1);
            assert_eq!(packet[0], last);
        }
    }

    #[tokio::test]
    async fn a_udp_peer_follows_the_container() {
        let before = UdpSocket::bind(any()).await.unwrap();
        let after = UdpSocket::bind(any()).await.unwrap();
        let target = |socket: &UdpSocket| vec![socket.local_addr().unwrap()];
        let port = bind(Protocol::Udp, any()).await.unwrap();
        let port = port.serve(target(&before), &Room::default());
        let client = UdpSocket::bind(any()).await.unwrap();
        for server in [&before, &after] {
            port.retarget(target(server));
            client.send_to(b"x", port.address()).await.unwrap();
            let mut packet = [0; 8];
            let came = tokio::time::timeout(Duration::from_secs(5), server.recv(&mut packet));
            assert_eq!(came.await.unwrap().unwrap(), 1);
        }
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
    async fn a_relay_leads_to_the_port_that_is_named() {
        let server = TcpListener::bind(any()).await.unwrap();
        let target = server.local_addr().unwrap();
        let relay = relay(any(), &Room::default()).unwrap();
        relay.retarget(vec![target]);
        let mut other = TcpStream::connect(relay.address()).await.unwrap();
        other.write_u16(target.port() ^ 1).await.unwrap();
        assert!(other.read_u8().await.is_err());
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        client.write_u16(target.port()).await.unwrap();
        client.write_u8(b'q').await.unwrap();
        let (mut inside, _) = server.accept().await.unwrap();
        assert_eq!(inside.read_u8().await.unwrap(), b'q');
    }

    #[tokio::test]
    async fn sctp_is_served_or_said_to_be_missing() {
        match bind(Protocol::Sctp, any()).await {
            Ok(port) => {
                let again = bind(Protocol::Sctp, port.address()).await.unwrap_err();
                assert_eq!(again.source.kind(), io::ErrorKind::AddrInUse, "{again}");
            }
            Err(error) => assert!(error.to_string().contains("modprobe sctp"), "{error}"),
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let held = TcpListener::bind(any()).await.unwrap();
        let address = held.local_addr().unwrap();
        let error = bind(Protocol::Tcp, address).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[tokio::test]
    async fn without_room_a_client_waits_for_another_to_end() {
        let server = TcpListener::bind(any()).await.unwrap();
        let target = server.local_addr().unwrap();
        let room = Room::of(2);
        let port = bind(Protocol::Tcp, any()).await.unwrap();
        let port = port.serve(vec![target], &room);
        let mut first = TcpStream::connect(port.address()).await.unwrap();
        let (mut inside, _) = server.accept().await.unwrap();
        let _second = TcpStream::connect(port.address()).await.unwrap();
        tokio::select! {
            biased;
            _ = server.accept() => panic!("there was no room"),
            () = tokio::task::yield_now() => {}
        }
        // The first conversation goes on meanwhile.
        first.write_all(b"x").await.unwrap();
        assert_eq!(inside.read_u8().await.unwrap(), b'x');
        drop((first, inside));
        server.accept().await.unwrap();
    }
}
