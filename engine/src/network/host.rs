//! The network `host`: containers whose open ports are the host's.
//!
//! A container has a network stack of its own, in its VM. So it gets an end on a bridge of such
//! containers, from where it reaches what the host reaches, and each port that it opens is published
//! on the host under the same number for as long as it is open. What it says is open is a guest's
//! word: how many ports it may have, and which, is decided here.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Once;

use hull_network::egress::Egress;
use hull_network::ports::{Bound, Protocol};
use hull_network::sockets;

use super::live::{targets, LivePort};
use super::manage::{CreateNetwork, Networks};
use super::ports::PublishedPort;
use super::records::NetworkRecord;
use super::{HOST, HOST_ID};
use crate::error::{EngineError, Result};

/// Most ports that one container has on the host at a time.
pub(crate) const MOST_PORTS: usize = 256;

/// Said once, where the host's sockets can't be listed.
const NOT_LOCAL: &str = "containers on the network host don't reach what listens at 127.0.0.1";
static UNKNOWN: Once = Once::new();
/// Most ports of the host's loopback address that a container reaches.
const MOST_LOCAL_PORTS: usize = 512;

/// A port of a container, and of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl From<HostPort> for PublishedPort {
    fn from(port: HostPort) -> Self {
        Self {
            container_port: port.number,
            protocol: port.protocol,
            host_ip: None,
            host_ports: (port.number, port.number),
        }
    }
}

/// A port that a container has open and the host does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    pub(crate) port: HostPort,
    pub(crate) why: String,
}

/// What an inspection tells of the ports of a container.
#[derive(Debug, Default)]
pub(crate) struct OpenOnHost {
    pub(crate) ports: Vec<String>,
    pub(crate) refused: Vec<String>,
}

impl Networks {
    /// The network, made when it is first asked for.
    pub(super) fn find_host(&self) -> Result<NetworkRecord> {
        self.add(&CreateNetwork {
            name: HOST.to_owned(),
            driver: HOST.to_owned(),
            ..CreateNetwork::default()
        })
    }

    /// Whether a reference names it.
    pub(crate) fn is_host(reference: &str) -> bool {
        reference == HOST || 3 < reference.len() && HOST_ID.starts_with(reference)
    }

    /// Has a running container's ports on the host be these. The result are those that can't be,
    /// with the ones that it is `refused` already.
    pub(crate) async fn open_on_host(
        &self,
        id: &str,
        wanted: &BTreeSet<HostPort>,
        mut refused: Vec<Refusal>,
    ) -> Vec<Refusal> {
        let (gone, missing) = self.split_open(id, wanted);
        for port in gone {
            port.port.end().await;
        }
        for port in missing {
            let published = PublishedPort::from(port);
            match published.bind().await {
                Ok(bound) => self.add_open(id, port, bound),
                Err(error) => refused.push(Refusal {
                    port,
                    why: self.why_not_bound(&error),
                }),
            }
        }
        if let Some(live) = self.lock().live.get_mut(id) {
            live.refused = refused
                .iter()
                .map(|refusal| refusal.port.to_string())
                .collect();
        }
        refused
    }

    /// Takes away the ports that are wanted no more, and names those that are not there yet.
    fn split_open(&self, id: &str, wanted: &BTreeSet<HostPort>) -> (Vec<LivePort>, Vec<HostPort>) {
        let mut state = self.lock();
        let Some(live) = state.live.get_mut(id) else {
            return (Vec::new(), Vec::new());
        };
        let keys: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
        let all = std::mem::take(&mut live.open);
        let (stay, gone): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|port| keys.contains(&port.key));
        live.open = stay;
        let there = |port: &HostPort| {
            let key = port.to_string();
            live.open.iter().any(|open| open.key == key)
        };
        let missing = wanted.iter().filter(|port| !there(port)).copied();
        (gone, missing.collect())
    }

    /// Serves a port that was taken, unless the container has gone meanwhile.
    fn add_open(&self, id: &str, port: HostPort, bound: Vec<Bound>) {
        let mut state = self.lock();
        let Some(live) = state.live.get_mut(id) else {
            return;
        };
        let to: Vec<SocketAddr> = targets(&live.endpoints, port.number);
        let room = live.room(&self.room);
        let served = bound.into_iter().map(|bound| LivePort {
            key: port.to_string(),
            container_port: port.number,
            port: bound.serve(to.clone(), &room),
        });
        live.open.extend(served);
    }

    /// Ports of the host's loopback address that a container reaches by its own, and where: none if
    /// it may not reach the host, and never those that are its own.
    pub(crate) fn local_ports(&self, id: &str) -> (Vec<u16>, String) {
        let ports = sockets::local_ports().unwrap_or_else(|error| {
            UNKNOWN.call_once(|| tracing::warn!(%error, "{NOT_LOCAL}"));
            BTreeSet::new()
        });
        let state = self.lock();
        let (Some(live), Some(relay)) = (state.live.get(id), &state.relay) else {
            return (Vec::new(), String::new());
        };
        let there = |port: &u16| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port);
        relay.retarget(ports.iter().map(there).collect());
        if live.endpoints.iter().any(|end| end.egress() != Egress::All) {
            return (Vec::new(), String::new());
        }
        let own = |port: &u16| {
            let key = format!("{port}/{}", Protocol::Tcp);
            live.open.iter().any(|open| open.key == key)
        };
        let others = ports.into_iter().filter(|port| !own(port));
        (
            others.take(MOST_LOCAL_PORTS).collect(),
            relay.address().to_string(),
        )
    }

    /// The ports of a running container on the host.
    pub(crate) fn open_of(&self, id: &str) -> OpenOnHost {
        let state = self.lock();
        let Some(live) = state.live.get(id) else {
            return OpenOnHost::default();
        };
        // One of each address.
        let keys: BTreeSet<&String> = live.open.iter().map(|port| &port.key).collect();
        OpenOnHost {
            ports: keys.into_iter().cloned().collect(),
            refused: live.refused.clone(),
        }
    }
}

/// What a container may have of the ports that its guest says are open, and what it may not.
/// `low`: also those below 1024.
pub(crate) fn sort(
    open: impl Iterator<Item = HostPort>,
    low: bool,
) -> (BTreeSet<HostPort>, Vec<Refusal>) {
    /// The first port that everybody may listen on.
    const FIRST_FREE: u16 = 1024;
    let mut allowed = BTreeSet::new();
    let mut refused = Vec::new();
    for port in open {
        let mut refuse = |why: String| refused.push(Refusal { port, why });
        if port.number < FIRST_FREE && !low {
            refuse("a port below 1024 needs the capability NET_BIND_SERVICE".to_owned());
        } else if MOST_PORTS <= allowed.len() {
            refuse(format!(
                "a container has at most {MOST_PORTS} ports on the host"
            ));
        } else {
            allowed.insert(port);
        }
    }
    (allowed, refused)
}

/// What a container is told that shares its network and is to be on another.
pub(crate) const STAYS: &str = "container sharing network namespace with another container or \
    host cannot be connected to any other network";

/// Refuses what a container on the network `host` can't have beside it.
pub(crate) fn check_conflicts(mac: bool, links: bool, others: bool) -> Result<()> {
    let bad = |text: &str| Err(EngineError::BadRequest(text.to_owned()));
    if mac {
        return bad("conflicting options: mac-address and the network mode");
    }
    if links {
        return bad(
            "conflicting options: host type networking can't be used with links. This would result \
             in undefined behavior",
        );
    }
    if others {
        return bad(STAYS);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(number: u16) -> HostPort {
        HostPort {
            number,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn a_guest_has_no_more_than_it_may() {
        let (allowed, refused) = sort([tcp(80), tcp(8080)].into_iter(), false);
        assert_eq!(allowed, BTreeSet::from([tcp(8080)]));
        assert_eq!(refused[0].port, tcp(80));
        let (allowed, refused) = sort([tcp(80)].into_iter(), true);
        assert_eq!((allowed.len(), refused.len()), (1, 0));
        let many = (2000..).take(MOST_PORTS + 5).map(tcp);
        let (allowed, refused) = sort(many, false);
        assert_eq!((allowed.len(), refused.len()), (MOST_PORTS, 5));
    }

    #[tokio::test]
    async fn ports_follow_what_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let networks = Networks::open(
            directory.path().join("networks.json"),
            "abcdef",
            &crate::engine::Defaults::default(),
        )
        .unwrap();
        let held = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let taken = tcp(held.local_addr().unwrap().port());
        let free = {
            let free = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
            tcp(free.local_addr().unwrap().port())
        };
        // Of a container that is gone, nothing is published.
        let wanted = BTreeSet::from([free, taken]);
        assert!(networks
            .open_on_host("c", &wanted, Vec::new())
            .await
            .is_empty());
        networks.lock().live.entry("c".to_owned()).or_default();
        let refused = networks.open_on_host("c", &wanted, Vec::new()).await;
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].port, taken);
        assert!(
            refused[0].why.contains("already in use"),
            "{}",
            refused[0].why
        );
        let seen = networks.open_of("c");
        assert_eq!(
            (seen.ports, seen.refused),
            (vec![free.to_string()], vec![taken.to_string()])
        );
        assert!(std::net::TcpStream::connect(("127.0.0.1", free.number)).is_ok());
        networks
            .open_on_host("c", &BTreeSet::new(), Vec::new())
            .await;
        assert!(std::net::TcpStream::connect(("127.0.0.1", free.number)).is_err());
    }
}
