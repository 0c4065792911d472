//! What running containers have of the host's network, and where their published ports lead.

use std::net::SocketAddr;

use hull_network::ports::{PortError, Protocol, Published};

use super::manage::Networks;
use super::ports::{port_map, PublishedPort};
use super::records::{Endpoint, Wanted};
use crate::error::Result;

/// What a running container has of the host's network.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) published: Vec<LivePort>,
    /// What it has opened, on the network `host`.
    pub(super) open: Vec<LivePort>,
    /// What it has opened there and the host could not give.
    pub(super) refused: Vec<String>,
}

impl Live {
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

impl LivePort {
    /// Whether it keeps others from an address.
    fn has(&self, address: SocketAddr, protocol: Protocol) -> bool {
        let own = self.port.address();
        let overlaps =
            own.ip() == address.ip() || own.ip().is_unspecified() || address.ip().is_unspecified();
        own.port() == address.port() && overlaps && self.key.ends_with(&format!("/{protocol}"))
    }
}

/// Where a published port leads: the first network that has a way out, as Docker does it.
pub(super) fn targets(endpoints: &[Endpoint], port: u16) -> Vec<SocketAddr> {
    let mut reachable = endpoints.iter().filter(|end| !end.on_uplink);
    let open = reachable.clone().find(|end| end.is_open());
    let end = open.or(reachable.next());
    let addresses = end.into_iter().flat_map(Endpoint::addresses);
    addresses
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

impl Networks {
    /// The ports that can be published: none where the host can't reach the container.
    pub(super) fn publishable<'a>(
        &self,
        wanted: &[Wanted],
        ports: &'a [PublishedPort],
    ) -> Result<&'a [PublishedPort]> {
        let mut reachable = wanted.is_empty();
        for one in wanted {
            let network = self.find(&one.network)?;
            // On the network `host` they follow what the container does.
            reachable |= network.uplink.is_none() && !network.host;
        }
        Ok(if reachable { ports } else { &[] })
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

    /// Docker's map of a running container's published ports.
    pub(crate) fn published(&self, id: &str) -> bollard_stubs::models::PortMap {
        let state = self.lock();
        let live = state.live.get(id);
        let published: Vec<_> = live
            .iter()
            .flat_map(|live| &live.published)
            .map(|live| (live.key.clone(), live.port.address()))
            .collect();
        port_map(&published)
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
