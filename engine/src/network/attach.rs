//! Containers' ends on networks, and their published ports.

use std::net::{Ipv4Addr, SocketAddr};

use hull_network::egress::Egress;
use hull_network::netlink::{Netlink, NetlinkError};
use hull_network::ports::{Bound, Published};
use hull_network::{pool, rules, tap};
use hull_shim::network::{Attachment, Attachments};
use hull_vm_config::Slot;

use super::manage::{host, Networks, State};
use super::ports::{port_map, PublishedPort};
use super::records::{Endpoint, NetworkRecord, Wanted};
use crate::error::{chain, EngineError, Result};
use crate::ids;
use crate::record::Record;

/// What a running container has of the host's network.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) endpoints: Vec<Endpoint>,
    /// Docker's key and the port.
    published: Vec<(String, Published)>,
}

/// Whom ends are made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) egress: &'a Egress,
}

impl<'a> Owner<'a> {
    /// A container.
    pub(crate) fn of(record: &'a Record, egress: &'a Egress) -> Self {
        Self {
            id: &record.id,
            name: &record.name,
            hostname: crate::spec::hostname(record),
            egress,
        }
    }
}

impl Networks {
    /// Makes the ends of a container that starts, and takes its ports. On failure nothing is left.
    pub(crate) async fn attach(
        &self,
        owner: Owner<'_>,
        wanted: &[Wanted],
        ports: &[PublishedPort],
    ) -> Result<Vec<Endpoint>> {
        let mut bound = Vec::new();
        for port in ports {
            for one in port.bind().await? {
                bound.push((port.clone(), one));
            }
        }
        let mut endpoints = Vec::new();
        for (index, wanted) in wanted.iter().enumerate() {
            match self.attach_one(owner, wanted, index, &endpoints) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    self.detach(owner.id);
                    return Err(error);
                }
            }
        }
        self.insert(owner.id, endpoints.clone(), bound);
        Ok(endpoints)
    }

    /// Makes one more end of a container that runs, in a free slot of its VM.
    pub(crate) fn attach_more(
        &self,
        owner: Owner<'_>,
        wanted: &Wanted,
        others: &[Endpoint],
    ) -> Result<Endpoint> {
        let taken: Vec<usize> = others.iter().map(Endpoint::index).collect();
        let free = (0..Slot::NETS.len()).find(|index| !taken.contains(index));
        let index = free.ok_or_else(|| {
            EngineError::BadRequest(format!(
                "a container is on at most {} networks",
                Slot::NETS.len()
            ))
        })?;
        let endpoint = self.attach_one(owner, wanted, index, others)?;
        self.tell_names();
        Ok(endpoint)
    }

    /// Gives back one end of a container that runs.
    pub(crate) fn detach_one(&self, id: &str, endpoint: &Endpoint) {
        if let Some(live) = self.lock().live.get_mut(id) {
            live.endpoints.retain(|other| other.id != endpoint.id);
        }
        self.remove_tap(&endpoint.tap);
        self.tell_names();
    }

    /// What a container of an earlier engine still has.
    pub(crate) async fn resume(&self, id: &str, endpoints: &[Endpoint], ports: &[PublishedPort]) {
        let mut bound = Vec::new();
        for port in ports {
            match port.bind().await {
                Ok(all) => bound.extend(all.into_iter().map(|one| (port.clone(), one))),
                Err(error) => tracing::warn!(id, error = error.message(), "a port is lost"),
            }
        }
        self.insert(id, endpoints.to_vec(), bound);
        let netlink = Netlink::open().map_err(|error| host(&error));
        for endpoint in endpoints {
            let Ok(network) = self.find(&endpoint.network_id) else {
                continue;
            };
            // Its bridge is there, since the tap is; what comes anew is the name server.
            let served = netlink
                .as_ref()
                .map(|netlink| self.bridge(netlink, &network, &mut self.lock()));
            if let Ok(Err(error)) = served {
                tracing::warn!(id, error = error.message(), "a network is not served");
            }
        }
        self.tell_names();
    }

    fn insert(&self, id: &str, endpoints: Vec<Endpoint>, bound: Vec<(PublishedPort, Bound)>) {
        // Docker publishes on the first network that has a way out.
        let target = endpoints.first().map(|endpoint| endpoint.address);
        let published = target.map_or_else(Vec::new, |target| {
            bound
                .into_iter()
                .map(|(port, bound)| {
                    let target = SocketAddr::new(target.into(), port.container_port);
                    (port.key(), bound.serve(target))
                })
                .collect()
        });
        let live = Live {
            endpoints,
            published,
        };
        self.lock().live.insert(id.to_owned(), live);
        self.tell_names();
    }

    fn attach_one(
        &self,
        owner: Owner<'_>,
        wanted: &Wanted,
        index: usize,
        others: &[Endpoint],
    ) -> Result<Endpoint> {
        let network = self.find(&wanted.network)?;
        if others.iter().any(|other| other.network_id == network.id) {
            return Err(EngineError::BadRequest(format!(
                "network {} is named twice",
                network.name
            )));
        }
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        let mut state = self.lock();
        let bridge = self.bridge(&netlink, &network, &mut state)?;
        let address = choose_address(&mut state, &network, wanted.address)?;
        let isolated = !network.icc;
        let endpoint = Endpoint {
            id: ids::new_id(),
            address,
            prefix_length: network.prefix().map_or(16, |prefix| prefix.length),
            gateway: (!network.internal).then_some(network.gateway),
            mac: wanted
                .mac
                .clone()
                .unwrap_or_else(|| Endpoint::usual_mac(address)),
            mtu: network.mtu,
            tap: self.tag.tap(owner.id, index),
            names: names(owner, wanted),
            resolver: (!network.is_default()).then_some(network.gateway),
            egress: owner.egress.to_string(),
            network_id: network.id,
            network_name: network.name,
        };
        self.plug(&netlink, &endpoint, bridge, isolated)?;
        // Taken from here on, also while the rest of the container is made.
        state
            .live
            .entry(owner.id.to_owned())
            .or_default()
            .endpoints
            .push(endpoint.clone());
        if *owner.egress != Egress::All {
            self.apply_rules(&state)?;
        }
        Ok(endpoint)
    }

    /// Makes the tap of an end. It is fenced before it carries anything.
    fn plug(
        &self,
        netlink: &Netlink,
        endpoint: &Endpoint,
        bridge: u32,
        isolated: bool,
    ) -> Result<()> {
        let tap = &endpoint.tap;
        let mac = pool::parse_mac(&endpoint.mac)
            .ok_or_else(|| EngineError::BadRequest(format!("invalid MAC {}", endpoint.mac)))?;
        tap::create(tap).map_err(|error| host(&error))?;
        let table = self.tag.table();
        let plugged = rules::pin(&table, tap, mac, endpoint.address)
            .map_err(|error| host(&error))
            .and_then(|()| {
                connect(netlink, endpoint, bridge, isolated).map_err(|error| host(&error))
            });
        if plugged.is_err() {
            self.remove_tap(tap);
        }
        plugged
    }

    pub(super) fn remove_tap(&self, tap: &str) {
        rules::unpin(&self.tag.table(), tap);
        if let Err(error) = tap::remove(tap) {
            tracing::warn!(tap, error = chain(&error), "a tap is left");
        }
    }

    /// Gives back all that a container has.
    pub(crate) fn detach(&self, id: &str) {
        let gone = {
            let mut state = self.lock();
            let gone = state.live.remove(id);
            let mut ends = gone.iter().flat_map(|live| &live.endpoints);
            if ends.any(|end| end.egress() != Egress::All) {
                if let Err(error) = self.apply_rules(&state) {
                    tracing::warn!(id, error = error.message(), "packet rules are left");
                }
            }
            gone
        };
        for endpoint in gone.iter().flat_map(|live| &live.endpoints) {
            self.remove_tap(&endpoint.tap);
        }
        if gone.is_some() {
            self.tell_names();
        }
    }

    /// Docker's map of a running container's published ports.
    pub(crate) fn published(&self, id: &str) -> bollard_stubs::models::PortMap {
        let state = self.lock();
        let live = state.live.get(id);
        let published: Vec<_> = live
            .iter()
            .flat_map(|live| &live.published)
            .map(|(key, port)| (key.clone(), port.address()))
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

    /// Lets each name server know who is there now.
    fn tell_names(&self) {
        let state = self.lock();
        for (network_id, server) in &state.servers {
            let all = state.live.values().flat_map(|live| &live.endpoints);
            let here = all.filter(|endpoint| endpoint.network_id == *network_id);
            let closed = here.clone().filter(|end| end.egress() == Egress::None);
            server.set_closed(closed.map(|end| end.address.into()).collect());
            server.set_names(
                here.flat_map(|endpoint| {
                    let address = endpoint.address;
                    endpoint
                        .names
                        .iter()
                        .map(move |name| (name.clone(), address))
                })
                .collect(),
            );
        }
    }
}

/// One end, for a VM that runs. The default route is its, if none of the `others` has it.
pub(crate) fn interface(endpoint: &Endpoint, others: &[Endpoint]) -> Attachment {
    let routed = others.iter().any(|other| other.gateway.is_some());
    let gateway = endpoint.gateway.filter(|_| !routed);
    attachment(endpoint, gateway)
}

fn attachment(endpoint: &Endpoint, gateway: Option<Ipv4Addr>) -> Attachment {
    Attachment {
        name: format!("eth{}", endpoint.index()),
        tap: endpoint.tap.clone(),
        mac: endpoint.mac.clone(),
        mtu: endpoint.mtu,
        addresses: vec![format!("{}/{}", endpoint.address, endpoint.prefix_length)],
        gateways: gateway.iter().map(Ipv4Addr::to_string).collect(),
        routes: Vec::new(),
        neighbours: Vec::new(),
    }
}

/// The annotation by which the shim makes these ends.
pub(crate) fn annotation(endpoints: &[Endpoint]) -> Attachments {
    let mut gateway = true;
    let interfaces = endpoints.iter().map(|endpoint| {
        let gateways = endpoint.gateway.filter(|_| gateway);
        // One default route: by the first network that has a way out.
        gateway &= gateways.is_none();
        attachment(endpoint, gateways)
    });
    Attachments {
        interfaces: interfaces.collect(),
        resolvers: Vec::new(),
    }
}

fn names(owner: Owner<'_>, wanted: &Wanted) -> Vec<String> {
    let mut names = vec![owner.name.to_owned(), ids::short(owner.id).to_owned()];
    for name in wanted
        .aliases
        .iter()
        .map(String::as_str)
        .chain([owner.hostname])
    {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn choose_address(
    state: &mut State,
    network: &NetworkRecord,
    fixed: Option<Ipv4Addr>,
) -> Result<Ipv4Addr> {
    let in_use = |address: Ipv4Addr| {
        let mut all = state.live.values().flat_map(|live| &live.endpoints);
        address == network.gateway
            || all.any(|e| e.network_id == network.id && e.address == address)
    };
    let subnet = network
        .prefix()
        .ok_or_else(|| EngineError::Network(format!("bad subnet {}", network.subnet)))?;
    if let Some(address) = fixed {
        if !subnet.contains_v4(address) {
            return Err(EngineError::BadRequest(format!(
                "invalid address {address}: it does not belong to any of this network's subnets"
            )));
        }
        if in_use(address) {
            return Err(EngineError::Forbidden("Address already in use".to_owned()));
        }
        return Ok(address);
    }
    let after = state.last.get(&network.id).copied();
    let address = pool::free_address(subnet, &in_use, after).ok_or_else(|| {
        EngineError::Network(format!(
            "no available IPv4 addresses on network {}",
            network.name
        ))
    })?;
    state.last.insert(network.id.clone(), address);
    Ok(address)
}

fn connect(
    netlink: &Netlink,
    endpoint: &Endpoint,
    bridge: u32,
    isolated: bool,
) -> std::result::Result<(), NetlinkError> {
    let link = netlink.link(&endpoint.tap)?;
    let index = link.map(|link| link.index).unwrap_or_default();
    netlink.set_name_and_mtu(index, &endpoint.tap, endpoint.mtu.into())?;
    netlink.set_controller(index, bridge)?;
    if isolated {
        netlink.isolate_port(index)?;
    }
    netlink.set_up(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(index: usize, name: &str, gateway: bool) -> Endpoint {
        let address = Ipv4Addr::new(10, 0, 0, 2);
        Endpoint {
            network_id: name.into(),
            network_name: name.into(),
            id: String::new(),
            address,
            prefix_length: 24,
            gateway: gateway.then_some(Ipv4Addr::new(10, 0, 0, 1)),
            mac: Endpoint::usual_mac(address),
            mtu: 1500,
            tap: format!("h{index}tap"),
            names: Vec::new(),
            resolver: None,
            egress: String::new(),
        }
    }

    #[test]
    fn the_first_network_with_a_way_out_has_the_default_route() {
        let ends = [
            endpoint(0, "inner", false),
            endpoint(1, "a", true),
            endpoint(2, "b", true),
        ];
        let routes: Vec<_> = annotation(&ends)
            .interfaces
            .iter()
            .map(|interface| (interface.name.clone(), interface.gateways.len()))
            .collect();
        let want = [("eth0", 0), ("eth1", 1), ("eth2", 0)];
        assert_eq!(routes, want.map(|(name, count)| (name.to_owned(), count)));
    }

    #[test]
    fn a_container_has_each_name_once() {
        let owner = Owner {
            id: "0123456789abcdef",
            name: "web",
            hostname: "0123456789ab",
            egress: &Egress::All,
        };
        let wanted = Wanted {
            aliases: vec!["www".into(), "web".into()],
            ..Wanted::default()
        };
        assert_eq!(names(owner, &wanted), ["web", "0123456789ab", "www"]);
    }
}
