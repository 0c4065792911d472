//! UDP conversations with published ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use super::room::{Place, Room};
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
    used: Instant,
    /// What passes answers back.
    answers: AbortHandle,
    _place: Place,
}

type Peers = Arc<Mutex<HashMap<SocketAddr, Peer>>>;

pub(super) async fn serve(socket: UdpSocket, targets: Targets, room: Room) {
    let socket = Arc::new(socket);
    let peers = Peers::default();
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
                make_room(&mut lock(&peers));
                let Some(place) = room.free_place() else {
                    continue;
                };
                let target = lock(&targets).first().copied();
                let Some(upstream) = (match target {
                    Some(target) => connect(target).await,
                    None => None,
                }) else {
                    continue;
                };
                let (socket, others) = (Arc::clone(&socket), Arc::clone(&peers));
                let from = Arc::clone(&upstream);
                let answers = answers.spawn(async move {
                    answer(&socket, &from, peer).await;
                    lock(&others).remove(&peer);
                });
                let new = Peer {
                    upstream: Arc::clone(&upstream),
                    used: Instant::now(),
                    answers,
                    _place: place,
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
fn make_room(peers: &mut HashMap<SocketAddr, Peer>) {
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

/// Passes answers back until the container is silent for long.
async fn answer(socket: &UdpSocket, from: &UdpSocket, peer: SocketAddr) {
    let mut packet = vec![0; MAX_PACKET];
    while let Ok(received) = tokio::time::timeout(IDLE, from.recv(&mut packet)).await {
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
    use super::*;

    #[tokio::test]
    async fn the_longest_silent_udp_peers_make_room() {
        let upstream = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await.unwrap());
        let task = tokio::spawn(std::future::pending::<()>());
        let room = Room::of(MAX_PEERS, 1);
        let start = Instant::now();
        let mut peers: HashMap<SocketAddr, Peer> = (0..MAX_PEERS as u16)
            .map(|port| {
                let peer = Peer {
                    upstream: Arc::clone(&upstream),
                    used: start + Duration::from_millis(port.into()),
                    answers: task.abort_handle(),
                    _place: room.free_place().unwrap(),
                };
                (SocketAddr::from(([10, 0, 0, 1], port)), peer)
            })
            .collect();
        make_room(&mut peers);
        assert!(peers.len() < MAX_PEERS / 2 + 1);
        assert!(peers.contains_key(&([10, 0, 0, 1], MAX_PEERS as u16 - 1).into()));
        assert!(!peers.contains_key(&([10, 0, 0, 1], 0).into()));
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }
}
