//! What running containers have of the host's network, and where their published ports lead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hull_network::ports::{Bound, PortError, Protocol, Published, Room};

use super::manage::Networks;
use super::owner::Owner;
use super::ports::{BoundAddress, PublishedPort};
use super::records::{Endpoint, NetworkRecord, Wanted};
use crate::error::{EngineError, Result};

/// What a running container has of the host's network.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// For conversations with its ports; `None`: it has none yet.
    pub(super) room: Option<Room>,
    pub(super) endpoints: Vec<Endpoint>,
    /// What is published whenever the host can reach the container.
    pub(super) wanted: Vec<PublishedPort>,
    pub(super) published: Vec<LivePort>,
    /// The address that ports have which name none, by the network that publishes them; `None`: all.
    pub(super) binding: Option<IpAddr>,
    /// What it has opened, on the network `host`.
    pub(super) open: Vec<LivePort>,
    /// What it has opened there and the host could not give.
    pub(super) refused: Vec<String>,
}

impl Live {
    /// Its share of what there is for all.
    pub(super) fn room(&mut self, all: &Room) -> Room {
        self.room.get_or_insert_with(|| all.for_container()).clone()
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = &LivePort> {
        self.published.iter().chain(&self.open)
    }
}

/// A published port of a running container.
#[derive(Debug)]
pub(super) struct LivePort {
    /// Docker's key, such as `80/tcp`.
    pub(super) key: String,
    pub(super) container_port: u16,
    pub(super) port: Published,
}

/// A port that was taken, and what it was taken for.
pub(crate) type BoundPort = (PublishedPort, Bound);

/// Has ports that were taken lead to these ends.
pub(super) fn serve(bound: Vec<BoundPort>, endpoints: &[Endpoint], room: &Room) -> Vec<LivePort> {
    let served = bound.into_iter().map(|(port, bound)| LivePort {
        key: port.key(),
        container_port: port.container_port,
        port: bound.serve(targets(endpoints, port.container_port), room),
    });
    served.collect()
}

impl LivePort {
    fn bound_address(&self) -> BoundAddress {
        BoundAddress {
            key: self.key.clone(),
            address: self.port.address(),
        }
    }

    /// Whether it keeps others from an address.
    fn has(&self, address: SocketAddr, protocol: Protocol) -> bool {
        let own = self.port.address();
        let overlaps =
            own.ip() == address.ip() || own.ip().is_unspecified() || address.ip().is_unspecified();
        own.port() == address.port() && overlaps && self.key.ends_with(&format!("/{protocol}"))
    }
}

/// Where a published port leads: the first network of the highest priority that has a way out, which is the
/// one that publishes it.
pub(super) fn targets(endpoints: &[Endpoint], port: u16) -> Vec<SocketAddr> {
    let reachable = endpoints.iter().filter(|end| !end.on_uplink);
    // The last of equals is taken.
    let best = reachable
        .rev()
        .max_by_key(|end| (end.is_open(), end.priority));
    let addresses = best.into_iter().flat_map(Endpoint::addresses);
    addresses
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

/// Of the networks that have a way out, or else of those by which the host reaches the container at all, the
/// first one of the highest priority: the default route goes there too.
fn publishing(networks: Vec<(NetworkRecord, i64)>) -> Option<NetworkRecord> {
    // On the network `host` ports follow what the container does.
    let reached = networks
        .into_iter()
        .filter(|(network, _)| network.uplink.is_none() && !network.host);
    // The last of equals is taken.
    let best = reached
        .rev()
        .max_by_key(|(network, priority)| (!network.internal, *priority));
    best.map(|(network, _)| network)
}

impl Networks {
    /// The network of these, each with its priority, by which ports are published. `None`: they can't be.
    pub(super) fn publishes<'a>(
        &self,
        networks: impl Iterator<Item = (&'a str, i64)>,
    ) -> Result<Option<NetworkRecord>> {
        let found = networks.map(|(name, priority)| Ok((self.find(name)?, priority)));
        Ok(publishing(found.collect::<Result<_>>()?))
    }

    /// Takes those ports that can be published.
    pub(super) async fn bind(
        &self,
        owner: Owner<'_>,
        wanted: &[Wanted],
        ports: &[PublishedPort],
    ) -> Result<Vec<BoundPort>> {
        let mut bound = Vec::new();
        let networks = wanted
            .iter()
            .map(|one| (one.network.as_str(), one.priority));
        let Some(by) = self.publishes(networks)? else {
            return Ok(bound);
        };
        for port in ports {
            let port = port.at(by.host_binding);
            let taken = port.bind().await.map_err(|error| EngineError::Publish {
                container: owner.name.to_owned(),
                why: self.why_not_bound(&error),
            })?;
            bound.extend(taken.into_iter().map(|one| (port.clone(), one)));
        }
        Ok(bound)
    }

    /// Takes the ports of a container that runs and was on no network by which the host reaches it, if
    /// it does by the one to come.
    pub(crate) async fn take_ports(
        &self,
        owner: Owner<'_>,
        wanted: &Wanted,
    ) -> Result<Vec<BoundPort>> {
        let waiting = {
            let state = self.lock();
            let live = state.live.get(owner.id);
            let live = live.filter(|live| live.published.is_empty());
            live.map(|live| live.wanted.clone()).unwrap_or_default()
        };
        self.bind(owner, std::slice::from_ref(wanted), &waiting)
            .await
    }

    /// The address of ports that name none, by these ends; `None`: all of the host's.
    pub(super) fn binding(&self, endpoints: &[Endpoint]) -> Option<IpAddr> {
        let networks = endpoints
            .iter()
            .map(|end| (end.network_id.as_str(), end.priority));
        let by = self.publishes(networks).ok().flatten();
        by.and_then(|network| network.host_binding)
    }

    /// Publishes the ports of a container that runs where its networks say now: one of a higher priority
    /// may have come, or the one that said so gone. Where they can't be had there they are as before.
    pub(crate) async fn move_ports(&self, owner: Owner<'_>) -> Result<()> {
        let ends = self
            .lock()
            .live
            .get(owner.id)
            .map(|it| it.endpoints.clone());
        let ends = ends.unwrap_or_default();
        let now = self.binding(&ends);
        let (published, wanted, before) = {
            let mut state = self.lock();
            let Some(live) = state.live.get_mut(owner.id) else {
                return Ok(());
            };
            let any = live.wanted.iter().any(|port| port.host_ip.is_none());
            if live.binding == now || !any || live.published.is_empty() {
                live.binding = now;
                return Ok(());
            }
            let published = std::mem::take(&mut live.published);
            (published, live.wanted.clone(), live.binding)
        };
        let were: Vec<_> = published.iter().map(LivePort::bound_address).collect();
        for live in published {
            live.port.end().await;
        }
        let moved = self.take_again(owner, &wanted, &were, now).await;
        let (bound, binding, moved) = match moved {
            Ok(bound) => (bound, now, Ok(())),
            Err(error) => {
                let back = self.take_again(owner, &wanted, &were, before).await;
                (back.unwrap_or_default(), before, Err(error))
            }
        };
        self.publish(owner.id, bound);
        if let Some(live) = self.lock().live.get_mut(owner.id) {
            live.binding = binding;
        }
        moved
    }

    /// Takes ports at another address, under the numbers that they had if these are free there.
    async fn take_again(
        &self,
        owner: Owner<'_>,
        ports: &[PublishedPort],
        were: &[BoundAddress],
        usual: Option<IpAddr>,
    ) -> Result<Vec<BoundPort>> {
        let mut bound = Vec::new();
        for port in ports {
            let at = port.at(usual);
            let address = at.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            let mine = were.iter().filter(|one| one.key == at.key());
            let there = mine.map(|one| BoundAddress {
                address: SocketAddr::new(address, one.address.port()),
                key: one.key.clone(),
            });
            let there: Vec<_> = there.collect();
            let taken = at.bind_again(&there).await;
            let taken = taken.map_err(|error| EngineError::Publish {
                container: owner.name.to_owned(),
                why: self.why_not_bound(&error),
            })?;
            bound.extend(taken.into_iter().map(|one| (at.clone(), one)));
        }
        Ok(bound)
    }

    /// Has ports that were taken lead to the container.
    pub(crate) fn publish(&self, id: &str, bound: Vec<BoundPort>) {
        let ends = self.lock().live.get(id).map(|it| it.endpoints.clone());
        let binding = self.binding(&ends.unwrap_or_default());
        if let Some(live) = self.lock().live.get_mut(id) {
            let room = live.room(&self.room);
            let ports = serve(bound, &live.endpoints, &room);
            if live.published.is_empty() {
                live.binding = binding;
            }
            live.published.extend(ports);
        }
    }

    /// Gives the ports of a container that runs back, if the host can't reach it any more.
    pub(crate) async fn give_up_ports(&self, id: &str) {
        let ports = match self.lock().live.get_mut(id) {
            Some(live) if live.endpoints.iter().all(|end| end.on_uplink) => {
                std::mem::take(&mut live.published)
            }
            _ => return,
        };
        for live in ports {
            live.port.end().await;
        }
    }

    /// Why a port can't be had, in docker's words where another has it.
    pub(super) fn why_not_bound(&self, error: &PortError) -> String {
        let PortError {
            address, protocol, ..
        } = error;
        if error.source.kind() != std::io::ErrorKind::AddrInUse {
            return error.to_string();
        }
        let state = self.lock();
        let mut ours = state.live.values().flat_map(Live::ports);
        match ours.any(|port| port.has(*address, *protocol)) {
            true => format!("Bind for {address} failed: port is already allocated"),
            false => {
                format!("failed to bind host port {address}/{protocol}: address already in use")
            }
        }
    }

    /// A running container's published ports.
    pub(crate) fn published(&self, id: &str) -> Vec<BoundAddress> {
        let state = self.lock();
        let live = state.live.get(id).into_iter();
        let ports = live.flat_map(|live| &live.published);
        ports.map(LivePort::bound_address).collect()
    }

    /// Ends of running containers on a network: container id and end.
    pub(crate) fn members(&self, network_id: &str) -> Vec<(String, Endpoint)> {
        let state = self.lock();
        let mut members = Vec::new();
        for (id, live) in &state.live {
            let on_it = live.endpoints.iter().filter(|e| e.network_id == network_id);
            members.extend(on_it.map(|endpoint| (id.clone(), endpoint.clone())));
        }
        members
    }
}
