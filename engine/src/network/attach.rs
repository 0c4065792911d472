//! Containers' ends on networks: made, plugged in and given back.

use hull_network::egress::Egress;
use hull_network::netlink::{Netlink, NetlinkError};
use hull_network::{pool, rules, tap};
use hull_vm_config::Slot;

use super::addresses::choose_addresses;
use super::endpoint_options::EndpointOptions;
use super::live::{serve, targets, BoundPort, Live};
use super::manage::{host, Networks, State};
use super::owner::{names, Owner};
use super::ports::{BoundAddress, PublishedPort};
use super::records::{Endpoint, NetworkRecord, Uplink, Wanted};
use super::routes::choose_routes;
use super::uplink;
use crate::error::{chain, EngineError, Result};
use crate::ids;

/// What an end is plugged into.
#[derive(Debug)]
enum Place {
    Bridge {
        index: u32,
        /// Reaches no other port of the bridge.
        isolated: bool,
    },
    /// An interface of the host.
    Parent(Uplink),
}

/// Refuses more networks for one container than its VM has slots for.
pub(crate) fn check_count(networks: usize) -> Result<()> {
    match networks <= Slot::NETS.len() {
        true => Ok(()),
        false => Err(too_many()),
    }
}

fn too_many() -> EngineError {
    let most = Slot::NETS.len();
    EngineError::BadRequest(format!("a container is on at most {most} networks"))
}

impl Networks {
    /// Makes the ends of a container that starts, and takes its ports. On failure nothing is left.
    pub(crate) async fn attach(
        &self,
        owner: Owner<'_>,
        wanted: &[Wanted],
        ports: &[PublishedPort],
    ) -> Result<Vec<Endpoint>> {
        let bound = self.bind(owner, wanted, ports).await?;
        let mut endpoints = Vec::new();
        for (index, wanted) in wanted.iter().enumerate() {
            match self.attach_one(owner, wanted, index, &endpoints) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    self.detach(owner.id).await;
                    return Err(error);
                }
            }
        }
        choose_routes(&mut endpoints);
        self.insert(owner.id, endpoints.clone(), ports.to_vec(), bound);
        Ok(endpoints)
    }

    /// Makes one more end of a container that runs, in a free slot of its VM. It may take the
    /// default routes of the others.
    pub(crate) fn attach_more(
        &self,
        owner: Owner<'_>,
        wanted: &Wanted,
        others: &mut [Endpoint],
    ) -> Result<Endpoint> {
        let taken: Vec<usize> = others.iter().map(Endpoint::index).collect();
        let free = (0..Slot::NETS.len()).find(|index| !taken.contains(index));
        let index = free.ok_or_else(too_many)?;
        let mut endpoint = self.attach_one(owner, wanted, index, others)?;
        endpoint.take_routes_from(others);
        for end in others.iter().chain([&endpoint]) {
            self.put_end(owner.id, end);
        }
        self.changed(owner.id);
        Ok(endpoint)
    }

    /// Puts an end of a container that runs in the place of what was known of it.
    pub(crate) fn put_end(&self, id: &str, endpoint: &Endpoint) {
        if let Some(live) = self.lock().live.get_mut(id) {
            let mut known = live.endpoints.iter_mut();
            if let Some(known) = known.find(|known| known.id == endpoint.id) {
                *known = endpoint.clone();
            }
        }
    }

    /// Gives back one end of a container that runs.
    pub(crate) fn detach_one(&self, id: &str, endpoint: &Endpoint) {
        {
            let mut state = self.lock();
            self.note_denied(&mut state);
            if let Some(live) = state.live.get_mut(id) {
                live.endpoints.retain(|other| other.id != endpoint.id);
            }
        }
        self.remove_tap(&endpoint.tap);
        self.lock().forget_denied(&endpoint.tap);
        self.changed(id);
    }

    /// Lets all know that a container that runs has other ends.
    fn changed(&self, id: &str) {
        if let Some(live) = self.lock().live.get(id) {
            for port in live.ports() {
                port.port
                    .retarget(targets(&live.endpoints, port.container_port));
            }
        }
        self.tell_names();
    }

    /// What a container of an earlier engine still has; its ports were at these addresses.
    pub(crate) async fn resume(
        &self,
        id: &str,
        endpoints: &[Endpoint],
        ports: Vec<PublishedPort>,
        published: &[BoundAddress],
    ) {
        let mut bound = Vec::new();
        let reachable = endpoints.iter().any(|end| !end.on_uplink);
        let usual = self.binding(endpoints);
        for port in ports.iter().filter(|_| reachable) {
            let port = port.at(usual);
            match port.bind_again(published).await {
                Ok(all) => bound.extend(all.into_iter().map(|one| (port.clone(), one))),
                Err(error) => tracing::warn!(id, error = %error, "a port is lost"),
            }
        }
        self.insert(id, endpoints.to_vec(), ports, bound);
        let netlink = Netlink::open().map_err(|error| host(&error));
        for endpoint in endpoints {
            let Ok(network) = self.find(&endpoint.network_id) else {
                continue;
            };
            if network.uplink.is_some() {
                continue;
            }
            // Its bridge is there, since the tap is; what comes anew is the name server.
            let served = netlink
                .as_ref()
                .map(|netlink| self.bridge(netlink, &network, endpoint.mtu, &mut self.lock()));
            if let Ok(Err(error)) = served {
                tracing::warn!(id, error = error.message(), "a network is not served");
            }
        }
        self.tell_names();
    }

    fn insert(
        &self,
        id: &str,
        endpoints: Vec<Endpoint>,
        wanted: Vec<PublishedPort>,
        bound: Vec<BoundPort>,
    ) {
        let room = self.room.for_container();
        let binding = self.binding(&endpoints);
        let live = Live {
            binding,
            published: serve(bound, &endpoints, &room),
            room: Some(room),
            wanted,
            endpoints,
            ..Live::default()
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
        let network = self.clear_of_routes(&netlink, &mut state, network)?;
        let (place, mtu) = self.place(owner, &netlink, &network, &mut state)?;
        let chosen = choose_addresses(&mut state, &network, wanted)?;
        let usual_mac = chosen.first().map(pool::mac_of).unwrap_or_default();
        let usual_mac = pool::mac_text(usual_mac);
        let upstreams = owner.upstreams();
        // On the default network a container asks whom it names. Links are known to ours alone, and under
        // a policy no other name server of the host is reached.
        let needs_ours = !wanted.links.is_empty() || *owner.egress != Egress::All;
        let own_resolver = network.is_builtin() && !upstreams.is_empty() && !needs_ours
            || network.uplink.is_some();
        let options = EndpointOptions::parse(&wanted.driver_opts)?;
        let resolver = network.gateways().next().filter(|_| !own_resolver);
        let endpoint = Endpoint {
            id: ids::new_id(),
            v4: chosen.v4,
            v6: chosen.v6,
            priority: wanted.priority,
            routed: false,
            routed_v6: Some(false),
            mac: match &place {
                Place::Parent(on) => uplink::mac(&netlink, on, wanted, usual_mac)?,
                Place::Bridge { .. } => wanted.mac(usual_mac),
            },
            mtu,
            tap: self.tag.tap(owner.id, index),
            ifname: options.ifname,
            sysctls: options.sysctls,
            names: names(owner, wanted),
            resolver,
            upstreams,
            links: wanted.links.clone(),
            egress: owner.egress.to_string(),
            on_uplink: network.uplink.is_some(),
            layer3: network.uplink.as_ref().is_some_and(uplink::is_layer3),
            network_id: network.id,
            network_name: network.name,
        };
        check_name(&endpoint, others)?;
        self.plug(&netlink, &endpoint, &place, owner.several_cpus)?;
        // Taken from here on, also while the rest of the container is made.
        state
            .live
            .entry(owner.id.to_owned())
            .or_default()
            .endpoints
            .push(endpoint.clone());
        if *owner.egress == Egress::All {
            return Ok(endpoint);
        }
        match self.apply_rules(&mut state) {
            Ok(()) => Ok(endpoint),
            Err(error) => {
                if let Some(live) = state.live.get_mut(owner.id) {
                    live.endpoints.retain(|other| other.id != endpoint.id);
                }
                drop(state);
                self.remove_tap(&endpoint.tap);
                Err(error)
            }
        }
    }

    /// What an end on a network is plugged into, and the bytes of its packets.
    fn place(
        &self,
        owner: Owner<'_>,
        netlink: &Netlink,
        network: &NetworkRecord,
        state: &mut State,
    ) -> Result<(Place, u16)> {
        if let Some(on) = &network.uplink {
            uplink::check(&owner, network, on, &state.ends_on(&network.id))?;
            return Ok((
                Place::Parent(on.clone()),
                uplink::mtu(netlink, network, on)?,
            ));
        }
        let mtu = self.mtu(netlink, network, state);
        let bridge = Place::Bridge {
            index: self.bridge(netlink, network, mtu, state)?,
            isolated: !network.icc,
        };
        Ok((bridge, mtu))
    }

    /// Makes the tap of an end. It is fenced before it carries anything.
    fn plug(
        &self,
        netlink: &Netlink,
        endpoint: &Endpoint,
        place: &Place,
        several_queues: bool,
    ) -> Result<()> {
        let tap = &endpoint.tap;
        let pinned = endpoint
            .pinned()
            .ok_or_else(|| EngineError::BadRequest(format!("invalid MAC {}", endpoint.mac)))?;
        match place {
            Place::Bridge { .. } => {
                tap::create(tap, several_queues).map_err(|error| host(&error))?;
            }
            // Nobody has it open yet, so it carries nothing.
            Place::Parent(on) => uplink::plug(netlink, endpoint, on, pinned.mac)?,
        }
        let table = self.tag.table();
        let plugged = rules::pin(&table, tap, &pinned, 0)
            .map_err(|error| host(&error))
            .and_then(|()| match place {
                Place::Bridge { index, isolated } => {
                    connect(netlink, endpoint, *index, *isolated).map_err(|error| host(&error))
                }
                Place::Parent(_) => Ok(()),
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
    pub(crate) async fn detach(&self, id: &str) {
        let gone = {
            let mut state = self.lock();
            self.note_denied(&mut state);
            let gone = state.live.remove(id);
            state.learned.forget(id);
            let mut ends = gone.iter().flat_map(|live| &live.endpoints);
            if ends.any(|end| end.egress() != Egress::All) {
                self.apply_or_warn(&mut state);
            }
            gone
        };
        for endpoint in gone.iter().flat_map(|live| &live.endpoints) {
            self.remove_tap(&endpoint.tap);
            self.lock().forget_denied(&endpoint.tap);
        }
        if let Some(gone) = gone {
            self.tell_names();
            for live in gone.published.into_iter().chain(gone.open) {
                live.port.end().await;
            }
        }
    }
}

/// Refuses a name that another interface of the container has.
fn check_name(endpoint: &Endpoint, others: &[Endpoint]) -> Result<()> {
    let name = endpoint.interface_name();
    let mut others = others.iter();
    match others.find(|other| other.interface_name() == name) {
        Some(other) => Err(EngineError::BadRequest(format!(
            "the interface on network {} can't be called {name}: that on network {} is",
            endpoint.network_name, other.network_name
        ))),
        None => Ok(()),
    }
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
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use super::super::records::EndAddress;
    use super::*;

    pub(in crate::network) fn endpoint(index: usize, name: &str, gateway: bool) -> Endpoint {
        let address = Ipv4Addr::new(10, 0, 0, 2);
        Endpoint {
            network_id: name.into(),
            network_name: name.into(),
            id: String::new(),
            v4: Some(EndAddress {
                address,
                prefix_length: 24,
                gateway: gateway.then_some(Ipv4Addr::new(10, 0, 0, 1)),
            }),
            v6: None,
            priority: 0,
            routed: false,
            routed_v6: Some(false),
            mac: pool::mac_text(pool::mac_of(address.into())),
            mtu: 1500,
            tap: format!("h{index}tap"),
            ifname: None,
            sysctls: Default::default(),
            names: Vec::new(),
            resolver: None,
            upstreams: Vec::new(),
            links: Vec::new(),
            egress: String::new(),
            on_uplink: false,
            layer3: false,
        }
    }
}
