//! Containers' ends on networks, and their published ports.

use std::net::{IpAddr, SocketAddr};

use bollard_stubs::models::HostConfig;
use hull_network::egress::Egress;
use hull_network::netlink::{Netlink, NetlinkError};
use hull_network::ports::{Bound, PortError, Protocol, Published};
use hull_network::{pool, rules, tap};
use hull_shim::network::{Attachment, Attachments, Route};
use hull_vm_config::Slot;

use super::addresses::choose_addresses;
use super::manage::{host, Networks, State};
use super::ports::{port_map, PublishedPort};
use super::records::{Endpoint, NetworkRecord, Uplink, Wanted};
use super::routes::choose_routes;
use super::uplink;
use crate::error::{chain, EngineError, Result};
use crate::ids;
use crate::record::Record;

/// What a running container has of the host's network.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) endpoints: Vec<Endpoint>,
    published: Vec<LivePort>,
    /// What it has opened, on the network `host`.
    pub(super) open: Vec<LivePort>,
    /// What it has opened there and the host could not give.
    pub(super) refused: Vec<String>,
}

impl Live {
    fn ports(&self) -> impl Iterator<Item = &LivePort> {
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

/// Whom ends are made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) egress: &'a Egress,
    /// Name servers that it asks for.
    pub(crate) dns: &'a [String],
    /// Its VM may have several vCPUs, each of which wants a queue.
    pub(crate) several_cpus: bool,
}

impl<'a> Owner<'a> {
    /// A container.
    pub(crate) fn of(record: &'a Record, egress: &'a Egress) -> Self {
        Self {
            id: &record.id,
            name: &record.name,
            hostname: crate::spec::hostname(record),
            egress,
            dns: record.host.dns.as_deref().unwrap_or_default(),
            several_cpus: may_have_several_cpus(&record.host),
        }
    }

    fn upstreams(&self) -> Vec<IpAddr> {
        self.dns
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }
}

/// Whether the shim may find several vCPUs for a container (see `hull_shim::lower`). A tap for
/// several queues serves one as well, it only takes more of the host's memory.
fn may_have_several_cpus(host: &HostConfig) -> bool {
    const ONE_CPU: i64 = 1_000_000_000;
    const DEFAULT_PERIOD: i64 = 100_000;
    let period = host.cpu_period.filter(|period| 0 < *period);
    let quota = host.cpu_quota.unwrap_or(0);
    let set = host.cpuset_cpus.as_deref().unwrap_or_default();
    let annotations = host.annotations.as_ref();
    let said = annotations.and_then(|all| all.get(hull_shim::annotations::VCPUS));
    ONE_CPU < host.nano_cpus.unwrap_or(0)
        || period.unwrap_or(DEFAULT_PERIOD) < quota
        || set.contains(['-', ','])
        || said.is_some_and(|count| count != "1")
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
        let mut bound = Vec::new();
        for port in self.publishable(wanted, ports)? {
            let taken = port.bind().await.map_err(|error| EngineError::Publish {
                container: owner.name.to_owned(),
                why: self.why_not_bound(&error),
            })?;
            bound.extend(taken.into_iter().map(|one| (port.clone(), one)));
        }
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
        self.insert(owner.id, endpoints.clone(), bound);
        Ok(endpoints)
    }

    /// The ports that can be published: none where the host can't reach the container.
    fn publishable<'a>(
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

    /// Makes one more end of a container that runs, in a free slot of its VM.
    pub(crate) fn attach_more(
        &self,
        owner: Owner<'_>,
        wanted: &Wanted,
        others: &[Endpoint],
    ) -> Result<Endpoint> {
        let taken: Vec<usize> = others.iter().map(Endpoint::index).collect();
        let free = (0..Slot::NETS.len()).find(|index| !taken.contains(index));
        let index = free.ok_or_else(too_many)?;
        let mut endpoint = self.attach_one(owner, wanted, index, others)?;
        endpoint.take_routes_beside(others);
        self.put_end(owner.id, &endpoint);
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

    /// What a container of an earlier engine still has.
    pub(crate) async fn resume(&self, id: &str, endpoints: &[Endpoint], ports: &[PublishedPort]) {
        let mut bound = Vec::new();
        for port in ports {
            match port.bind().await {
                Ok(all) => bound.extend(all.into_iter().map(|one| (port.clone(), one))),
                Err(error) => tracing::warn!(id, error = %error, "a port is lost"),
            }
        }
        self.insert(id, endpoints.to_vec(), bound);
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

    fn insert(&self, id: &str, endpoints: Vec<Endpoint>, bound: Vec<(PublishedPort, Bound)>) {
        let published = bound.into_iter().map(|(port, bound)| LivePort {
            key: port.key(),
            container_port: port.container_port,
            port: bound.serve(targets(&endpoints, port.container_port), &self.room),
        });
        let live = Live {
            published: published.collect(),
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
        let (place, mtu) = self.place(owner, &netlink, &network, &mut state)?;
        let chosen = choose_addresses(&mut state, &network, wanted)?;
        let usual_mac = chosen.first().map(pool::mac_of).unwrap_or_default();
        let usual_mac = pool::mac_text(usual_mac);
        let upstreams = owner.upstreams();
        // On the default network a container asks whom it names. Links, and what a policy of names
        // opens, are known to ours alone.
        let needs_ours = !wanted.links.is_empty() || owner.egress.names().next().is_some();
        let own_resolver = network.is_builtin() && !upstreams.is_empty() && !needs_ours
            || network.uplink.is_some();
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
        self.plug(&netlink, &endpoint, &place, owner.several_cpus)?;
        // Taken from here on, also while the rest of the container is made.
        state
            .live
            .entry(owner.id.to_owned())
            .or_default()
            .endpoints
            .push(endpoint.clone());
        if *owner.egress != Egress::All {
            self.apply_rules(&mut state)?;
        }
        Ok(endpoint)
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
            uplink::check(&owner, network, on)?;
            return Ok((
                Place::Parent(on.clone()),
                uplink::mtu(netlink, network, on)?,
            ));
        }
        let mtu = self.mtu(netlink, network);
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

/// One end, for a VM that runs.
pub(crate) fn interface(endpoint: &Endpoint) -> Attachment {
    let gateways = endpoint.gateways().filter(|at| endpoint.has_route(*at));
    let straight = endpoint.layer3 && endpoint.routed;
    Attachment {
        name: format!("eth{}", endpoint.index()),
        tap: endpoint.tap.clone(),
        mac: endpoint.mac.clone(),
        mtu: endpoint.mtu,
        addresses: endpoint
            .prefixes()
            .map(|prefix| prefix.to_string())
            .collect(),
        gateways: gateways
            .filter(|_| !endpoint.layer3)
            .map(|gateway| gateway.to_string())
            .collect(),
        static_v6: true,
        without_arp: endpoint.layer3,
        // The default route.
        routes: straight.then(Route::default).into_iter().collect(),
        neighbours: Vec::new(),
    }
}

/// A default route by way of an end that is there.
pub(crate) fn default_route(endpoint: &Endpoint, gateway: IpAddr) -> Attachment {
    let whole = interface(endpoint);
    let by_gateway = (!endpoint.layer3).then(|| gateway.to_string());
    Attachment {
        addresses: Vec::new(),
        gateways: by_gateway.into_iter().collect(),
        static_v6: false,
        ..whole
    }
}

/// The annotation by which the shim makes these ends.
pub(crate) fn annotation(endpoints: &[Endpoint]) -> Attachments {
    Attachments {
        interfaces: endpoints.iter().map(interface).collect(),
        resolvers: Vec::new(),
    }
}

fn names(owner: Owner<'_>, wanted: &Wanted) -> Vec<String> {
    let mut names = vec![owner.name.to_owned()];
    for name in wanted
        .aliases
        .iter()
        .map(String::as_str)
        .chain([ids::short(owner.id), owner.hostname])
    {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
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
            names: Vec::new(),
            resolver: None,
            upstreams: Vec::new(),
            links: Vec::new(),
            egress: String::new(),
            on_uplink: false,
            layer3: false,
        }
    }

    #[test]
    fn several_cpus_want_several_queues() {
        let several = |change: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            may_have_several_cpus(&host)
        };
        assert!(!several(|_| {}));
        assert!(!several(|host| host.nano_cpus = Some(1_000_000_000)));
        assert!(several(|host| host.nano_cpus = Some(1_500_000_000)));
        assert!(several(|host| host.cpu_quota = Some(150_000)));
        assert!(!several(|host| host.cpuset_cpus = Some("3".into())));
        assert!(several(|host| host.cpuset_cpus = Some("0-1".into())));
        assert!(several(|host| {
            let said = (hull_shim::annotations::VCPUS.to_owned(), "2".to_owned());
            host.annotations = Some([said].into());
        }));
    }

    #[test]
    fn a_container_has_each_name_once() {
        let owner = Owner {
            id: "0123456789abcdef",
            name: "web",
            hostname: "0123456789ab",
            egress: &Egress::All,
            dns: &[],
            several_cpus: false,
        };
        let wanted = Wanted {
            aliases: vec!["www".into(), "web".into()],
            ..Wanted::default()
        };
        assert_eq!(names(owner, &wanted), ["web", "www", "0123456789ab"]);
    }
}
