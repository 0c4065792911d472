//! The network `bridge`: made as the engine's configuration says, and made to fit it again when that is
//! another one.

use std::collections::HashMap;

use hull_network::netlink::Netlink;
use hull_network::Prefix;

use super::manage::{host, CreateNetwork, Families, Networks, State};
use super::options::{NetworkOptions, HOST_BINDING, ICC, MASQUERADE};
use super::pools::{Pool, PoolRequest};
use super::records::NetworkRecord;
use super::DEFAULT;
use crate::default_bridge::{DefaultBridge, FamilyOfBridge};
use crate::error::Result;

/// The network that is wanted; `[v4, v6]`: the addresses that it has already.
fn request(wanted: &DefaultBridge, had: [Option<&Pool>; 2]) -> CreateNetwork {
    let [v4, v6] = wanted.families;
    let [had_v4, had_v6] = had;
    let of_v6 = pool(&v6, had_v6);
    CreateNetwork {
        name: DEFAULT.to_owned(),
        families: match wanted.ipv6 {
            true => Families::Both,
            false => Families::V4,
        },
        pools: pool(&v4, had_v4)
            .into_iter()
            .chain(of_v6.filter(|_| wanted.ipv6))
            .collect(),
        options: options(wanted),
        ..CreateNetwork::default()
    }
}

/// What is said of the addresses of a family, or else what there is.
fn pool(said: &FamilyOfBridge, had: Option<&Pool>) -> Option<PoolRequest> {
    let range = said.range.map(|range| range.to_string());
    match (said.subnet(), had) {
        (Some(subnet), _) => Some(PoolRequest {
            subnet: Some(subnet.to_string()),
            gateway: said.host.map(|host| host.address.to_string()),
            range: range.filter(|_| said.host.is_some()),
            ..PoolRequest::default()
        }),
        (None, Some(had)) => Some(PoolRequest {
            subnet: Some(had.subnet.into()),
            gateway: Some(had.gateway.to_string()),
            ..PoolRequest::default()
        }),
        (None, None) => None,
    }
}

/// What is said otherwise than it is anyway.
fn options(wanted: &DefaultBridge) -> HashMap<String, String> {
    let mut options = HashMap::new();
    for (key, usual) in [(ICC, wanted.icc), (MASQUERADE, wanted.masquerade)] {
        if !usual {
            options.insert(key.to_owned(), usual.to_string());
        }
    }
    let binding = wanted.host_binding.map(|address| address.to_string());
    options.extend(binding.map(|address| (HOST_BINDING.to_owned(), address)));
    options
}

/// Whether a family's addresses are what is said of them.
fn fits(said: &FamilyOfBridge, pool: &Pool) -> bool {
    let range = said.range.filter(|_| said.host.is_some());
    let subnet = said.subnet();
    range.map(|range| range.network()) == pool.range.map(|range| range.0)
        && subnet.is_none_or(|subnet| subnet == pool.subnet.0)
        && said.host.is_none_or(|host| host.address == pool.gateway)
}

/// Whether a route leads to a part of a subnet, or to all of it. One to more than it yields to the subnet's
/// own.
fn is_taken(subnet: Prefix, routes: &[Prefix]) -> bool {
    routes
        .iter()
        .any(|route| subnet.contains(route.first()) && subnet.contains(route.last()))
}

impl Networks {
    /// Makes the default network, when it is first asked for.
    pub(super) fn make_default(&self) -> Result<NetworkRecord> {
        self.add(&request(&self.default_bridge, [None, None]))
    }

    /// Has the default network be as the configuration says, if it is there. While containers are on it
    /// its addresses stay.
    pub(crate) fn settle_default(&self) -> Result<()> {
        let mut state = self.lock();
        self.change_default(&mut state, |state, network| self.settled(state, network))
            .map(drop)
    }

    /// Puts what `change` makes of the default network in its place, if it is there. It sees the others.
    fn change_default(
        &self,
        state: &mut State,
        change: impl FnOnce(&mut State, NetworkRecord) -> Result<NetworkRecord>,
    ) -> Result<Option<NetworkRecord>> {
        let mut networks = state.networks.iter();
        let Some(at) = networks.position(NetworkRecord::is_default) else {
            return Ok(None);
        };
        let before = state.networks.remove(at);
        let changed = change(state, before.clone());
        let now = changed.as_ref().unwrap_or(&before).clone();
        let differs = now != before;
        state.networks.insert(at, now.clone());
        changed?;
        if differs {
            self.write(state)?;
        }
        Ok(Some(now))
    }

    /// A network whose bridge is about to be made. Others (dockerd, say) may have taken its addresses while
    /// it was not there, and the host would look for its containers behind their interface: the default
    /// network gets other addresses then, unless the operator named them. Networks that users made keep
    /// theirs, and it is told.
    pub(super) fn clear_of_routes(
        &self,
        netlink: &Netlink,
        state: &mut State,
        network: NetworkRecord,
    ) -> Result<NetworkRecord> {
        let bridge = self.tag.bridge(&network.id);
        let there = netlink.link(&bridge).map_err(|error| host(&error))?;
        if network.uplink.is_some() || there.is_some() {
            return Ok(network);
        }
        let routes = netlink.destinations().map_err(|error| host(&error))?;
        let is_free = |pool: &Pool| !is_taken(pool.subnet.0, &routes);
        if network.pools().all(is_free) {
            return Ok(network);
        }
        let mut network = network;
        if network.is_default() && state.ends_on(&network.id).is_empty() {
            let moved = self.change_default(state, |state, mut network| {
                let had = [&network.v4, &network.v6];
                let free = had.map(|had| had.as_ref().filter(|pool| is_free(pool)));
                let wanted = request(&self.default_bridge, free);
                (network.v4, network.v6) = self.pools(netlink, state, &wanted)?;
                Ok(network)
            })?;
            network = moved.unwrap_or(network);
        }
        if !network.pools().all(is_free) {
            tracing::warn!(
                network = network.name,
                "its addresses are also those of a route of the host: its containers may not be reached"
            );
        }
        Ok(network)
    }

    /// The default network as it is to be, beside the others.
    fn settled(&self, state: &mut State, mut network: NetworkRecord) -> Result<NetworkRecord> {
        let said = &self.default_bridge;
        let wanted = request(said, [network.v4.as_ref(), network.v6.as_ref()]);
        let options = NetworkOptions::parse(&wanted)?;
        network.icc = options.icc;
        network.unmasked = !options.masquerade;
        network.host_binding = options.host_binding;
        network.options.clone_from(&wanted.options);
        let [v4, v6] = said.families;
        let fits_v4 = network.v4.as_ref().is_some_and(|pool| fits(&v4, pool));
        let fits_v6 = match &network.v6 {
            Some(pool) => said.ipv6 && fits(&v6, pool),
            None => !said.ipv6,
        };
        if fits_v4 && fits_v6 {
            return Ok(network);
        }
        if !state.ends_on(&network.id).is_empty() {
            tracing::warn!(
                network = network.name,
                "its addresses stay while containers are on it: restart hulld when they have ended"
            );
            return Ok(network);
        }
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        (network.v4, network.v6) = self.pools(&netlink, state, &wanted)?;
        // It comes again with its addresses.
        state.servers.remove(&network.id);
        self.remove_bridge(&network)?;
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Defaults;

    fn open(folder: &std::path::Path, bridge: &DefaultBridge) -> Networks {
        let defaults = Defaults {
            bridge: bridge.clone(),
            ..Defaults::default()
        };
        Networks::open(folder.join("networks.json"), "abcdef", &defaults).unwrap()
    }

    fn family(host: &str, range: &str) -> FamilyOfBridge {
        let prefix = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        FamilyOfBridge {
            host: prefix(host),
            range: prefix(range),
        }
    }

    #[test]
    fn the_default_network_is_what_the_configuration_says_also_later() {
        let dir = tempfile::tempdir().unwrap();
        let shown = |bridge: &DefaultBridge| {
            let networks = open(dir.path(), bridge);
            networks.settle_default().unwrap();
            let made = networks.find(DEFAULT).unwrap();
            let v4 = made.v4.unwrap();
            let range = v4.range.map(|range| range.0.to_string());
            (
                v4.gateway_prefix().to_string(),
                range,
                made.icc,
                made.unmasked,
            )
        };
        let mut bridge = DefaultBridge {
            families: [family("10.97.0.5/24", "10.97.0.128/25"), family("", "")],
            icc: false,
            host_binding: "127.0.0.1".parse().ok(),
            ..DefaultBridge::default()
        };
        let range = Some("10.97.0.128/25".to_owned());
        let first = (String::from("10.97.0.5/24"), range, false, false);
        assert_eq!(shown(&bridge), first);
        // Another engine, with the same and with others.
        assert_eq!(shown(&bridge), first);
        bridge.families[0] = family("", "10.98.0.0/24");
        (bridge.icc, bridge.masquerade) = (true, false);
        let second = (String::from("10.98.0.1/24"), None, true, true);
        assert_eq!(shown(&bridge), second);
        // What is not said any more stays as it is, as far as it is a matter of addresses.
        let usual = DefaultBridge::default();
        let third = (String::from("10.98.0.1/24"), None, true, false);
        assert_eq!(shown(&usual), third);
        let networks = open(dir.path(), &usual);
        assert_eq!(networks.find(DEFAULT).unwrap().host_binding, None);
        assert!(networks.find(DEFAULT).unwrap().options.is_empty());
    }

    #[test]
    fn routes_within_a_subnet_take_it() {
        let taken = |routes: &[&str]| {
            let routes: Vec<_> = routes.iter().map(|text| text.parse().unwrap()).collect();
            is_taken("172.17.0.0/16".parse().unwrap(), &routes)
        };
        assert!(taken(&["10.0.0.0/8", "172.17.0.0/16"]));
        assert!(taken(&["172.17.9.0/24"]));
        assert!(taken(&["172.17.0.1/32"]));
        assert!(!taken(&["172.16.0.0/12", "172.18.0.0/16", "fd00::/64"]));
        assert!(!taken(&[]));
    }

    #[test]
    fn addresses_of_another_network_are_refused_and_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path(), &DefaultBridge::default());
        let made = networks.find(DEFAULT).unwrap();
        let other = CreateNetwork {
            name: "other".into(),
            pools: vec![PoolRequest {
                subnet: Some("10.96.0.0/16".into()),
                ..PoolRequest::default()
            }],
            ..CreateNetwork::default()
        };
        networks.create(&other).unwrap();
        let taken = DefaultBridge {
            families: [family("10.96.7.1/24", ""), family("", "")],
            ..DefaultBridge::default()
        };
        let networks = open(dir.path(), &taken);
        let error = networks.settle_default().unwrap_err();
        assert!(error.message().contains("overlaps"), "{}", error.message());
        assert_eq!(networks.find(DEFAULT).unwrap(), made);
    }
}
