//! UDP conversations with published ports.

mod sys;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};

use super::room::{Place, PortRoom};
use super::{lock, Targets};

/// A peer that is silent for so long is forgotten.
const IDLE: Duration = Duration::from_secs(90);
/// Most peers of one port at a time.
const MAX_PEERS: usize = 4096;
/// Largest packet, in bytes.
const MAX_PACKET: usize = 64 << 10;

/// A peer of a UDP port, and its own way into the container.
#[derive(Debug)]
struct Peer {
    upstream: Arc<UdpSocket>,
    /// Where that leads.
    target: SocketAddr,
    used: Instant,
    /// What passes answers back.
    answers: AbortHandle,
    _place: Place,
}

/// Whose conversation a datagram belongs to: who sent it, and to which address of the host, where
/// answers have to come from.
type Way = (SocketAddr, Option<IpAddr>);

type Peers = Arc<Mutex<HashMap<Way, Peer>>>;

/// A port, and who talks to it.
#[derive(Debug)]
struct Port {
    socket: Arc<UdpSocket>,
    peers: Peers,
    targets: Targets,
    room: PortRoom,
}

pub(super) async fn serve(socket: UdpSocket, targets: Targets, room: PortRoom) {
    if let Err(error) = tell_destinations(&socket) {
        tracing::warn!(%error, "answers of a UDP port may come from another address");
    }
    let port = Port {
        socket: Arc::new(socket),
        peers: Peers::default(),
        targets,
        room,
    };
    let mut answers = JoinSet::new();
    let mut packet = vec![0; MAX_PACKET];
    loop {
        let received = tokio::select! {
            received = receive(&port.socket, &mut packet) => received,
            Some(_) = answers.join_next() => continue,
        };
        let Ok((length, way)) = received else {
            continue;
        };
        let upstream = match port.known(&way) {
            Some(upstream) => Some(upstream),
            None => port.begin(way, &mut answers).await,
        };
        if let Some(upstream) = upstream {
            let _ = upstream.send(&packet[..length]).await;
        }
    }
}

/// Has the kernel tell which address a datagram was sent to, where the socket has all.
fn tell_destinations(socket: &UdpSocket) -> io::Result<()> {
    let own = socket.local_addr()?;
    match own.ip().is_unspecified() {
        true => sys::tell_destinations(socket.as_fd(), own),
        false => Ok(()),
    }
}

async fn receive(socket: &UdpSocket, packet: &mut [u8]) -> io::Result<(usize, Way)> {
    let received = socket.async_io(Interest::READABLE, || sys::receive(socket.as_fd(), packet));
    let (length, peer, own) = received.await?;
    // Nothing comes from a group's address.
    Ok((length, (peer, own.filter(|own| !own.is_multicast()))))
}

impl Port {
    /// The way into the container of a peer that has one, unless the container left there.
    fn known(&self, way: &Way) -> Option<Arc<UdpSocket>> {
        let mut peers = lock(&self.peers);
        let known = peers.get_mut(way)?;
        if !lock(&self.targets).contains(&known.target) {
            known.answers.abort();
            peers.remove(way);
            return None;
        }
        known.used = Instant::now();
        Some(Arc::clone(&known.upstream))
    }

    /// A way into the container for a new peer. `None`: there is no room, or nowhere to go.
    async fn begin(&self, way: Way, answers: &mut JoinSet<()>) -> Option<Arc<UdpSocket>> {
        make_room(&mut lock(&self.peers));
        let place = self.room.free_place()?;
        let target = lock(&self.targets).first().copied()?;
        let upstream = connect(target).await?;
        let (socket, others) = (Arc::clone(&self.socket), Arc::clone(&self.peers));
        let from = Arc::clone(&upstream);
        let answers = answers.spawn(async move {
            let used = || lock(&others).get(&way).map(|peer| peer.used);
            answer(&socket, &from, way, IDLE, used).await;
            lock(&others).remove(&way);
        });
        let new = Peer {
            upstream: Arc::clone(&upstream),
            target,
            used: Instant::now(),
            answers,
            _place: place,
        };
        lock(&self.peers).insert(way, new);
        Some(upstream)
    }
}

/// Forgets those that have been silent for longest, if there are too many. A client may well have
/// another port for each question.
fn make_room(peers: &mut HashMap<Way, Peer>) {
    if peers.len() < MAX_PEERS {
        return;
    }
    let mut times: Vec<Instant> = peers.values().map(|peer| peer.used).collect();
    let (_, median, _) = times.select_nth_unstable(MAX_PEERS / 2);
    let median = *median;
    peers.retain(|_, peer| {
        let stays = median < peer.used;
        if !stays {
            peer.answers.abort();
        }
        stays
    });
}

async fn connect(target: SocketAddr) -> Option<Arc<UdpSocket>> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0u16; 8].into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(target).await.ok()?;
    Some(Arc::new(socket))
}

/// Passes answers back until both sides are silent for long; `used`: when the peer was heard last.
async fn answer(
    socket: &UdpSocket,
    from: &UdpSocket,
    way: Way,
    idle: Duration,
    used: impl Fn() -> Option<Instant>,
) {
    let mut packet = vec![0; MAX_PACKET];
    let mut left = idle;
    loop {
        let received = match tokio::time::timeout(left, from.recv(&mut packet)).await {
            Ok(received) => received,
            // A peer that only sends keeps its way, too.
            Err(_) => match used().and_then(|used| idle.checked_sub(used.elapsed())) {
                Some(rest) if !rest.is_zero() => {
                    left = rest;
                    continue;
                }
                _ => return,
            },
        };
        left = idle;
        match received {
            // It may have gone.
            Ok(length) => drop(send(socket, &packet[..length], way).await),
            // Nobody listens in the container yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

async fn send(socket: &UdpSocket, packet: &[u8], (peer, own): Way) -> io::Result<usize> {
    let Some(own) = own else {
        return socket.send_to(packet, peer).await;
    };
    let sent = || sys::send(socket.as_fd(), packet, peer, own);
    socket.async_io(Interest::WRITABLE, sent).await
}

#[cfg(test)]
mod tests {
    use super::super::room::Room;
    use super::*;

    #[tokio::test]
    async fn a_peer_that_only_sends_keeps_its_way() {
        let idle = Duration::from_millis(100);
        let [socket, from] = [
            UdpSocket::bind(("127.0.0.1", 0)).await.unwrap(),
            UdpSocket::bind(("127.0.0.1", 0)).await.unwrap(),
        ];
        let start = Instant::now();
        let way = (from.local_addr().unwrap(), None);
        // It sends for three times as long as a silent one is kept.
        let used = || Some(Instant::now().min(start + 3 * idle));
        answer(&socket, &from, way, idle, used).await;
        assert!(4 * idle <= start.elapsed(), "{:?}", start.elapsed());
        answer(&socket, &from, way, idle, || None).await;
    }

    #[tokio::test]
    async fn the_longest_silent_udp_peers_make_room() {
        let upstream = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await.unwrap());
        let task = tokio::spawn(std::future::pending::<()>());
        let room = Room::of(3 * MAX_PEERS).of_port();
        let start = Instant::now();
        let mut peers: HashMap<Way, Peer> = (0..MAX_PEERS as u16)
            .map(|port| {
                let peer = Peer {
                    upstream: Arc::clone(&upstream),
                    target: upstream.local_addr().unwrap(),
                    used: start + Duration::from_millis(port.into()),
                    answers: task.abort_handle(),
                    _place: room.free_place().unwrap(),
                };
                ((SocketAddr::from(([10, 0, 0, 1], port)), None), peer)
            })
            .collect();
        make_room(&mut peers);
        assert!(peers.len() < MAX_PEERS / 2 + 1);
        assert!(peers.contains_key(&(([10, 0, 0, 1], MAX_PEERS as u16 - 1).into(), None)));
        assert!(!peers.contains_key(&(([10, 0, 0, 1], 0).into(), None)));
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }
}
