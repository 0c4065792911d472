//! Networks as a whole: made, listed, removed, kept across restarts.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_network::egress::{Egress, Restricted};
use hull_network::netlink::{Netlink, NetlinkError};
use hull_network::{pool, rules, Prefix};
use jiff::Timestamp;

use super::attach::Live;
use super::dns::Dns;
use super::names::Tag;
use super::records::NetworkRecord;
use super::{DEFAULT, NONE};
use crate::error::{chain, EngineError, Result};
use crate::ids;

/// Bytes of a packet, unless a network says otherwise.
const DEFAULT_MTU: u16 = 1500;
/// Option of a network: its MTU.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// Option of a network: whether containers reach each other.
const ICC_OPTION: &str = "com.docker.network.bridge.enable_icc";

/// A network that is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct CreateNetwork {
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) subnet: Option<String>,
    pub(crate) gateway: Option<String>,
    pub(crate) internal: bool,
    pub(crate) options: HashMap<String, String>,
    pub(crate) labels: HashMap<String, String>,
}

/// All networks of an engine.
#[derive(Debug)]
pub(crate) struct Networks {
    pub(super) tag: Tag,
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) networks: Vec<NetworkRecord>,
    /// By container id.
    pub(super) live: HashMap<String, Live>,
    /// The last address given out, by network id.
    pub(super) last: HashMap<String, Ipv4Addr>,
    /// Name servers, by network id.
    pub(super) servers: HashMap<String, Dns>,
}

pub(super) fn host(error: &(dyn std::error::Error + 'static)) -> EngineError {
    EngineError::Network(chain(error))
}

impl Networks {
    /// Reads what an earlier engine wrote.
    pub(crate) fn open(file: PathBuf, engine_id: &str) -> Result<Self> {
        let networks = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| EngineError::Json {
                what: "read the networks",
                source,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(EngineError::io("read", &file, error)),
        };
        Ok(Self {
            tag: Tag::of(engine_id),
            file,
            state: Mutex::new(State {
                networks,
                ..State::default()
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All networks, the oldest first.
    pub(crate) fn all(&self) -> Vec<NetworkRecord> {
        self.lock().networks.clone()
    }

    /// The network of this name, id or unambiguous beginning of an id. The default network is made
    /// when it is first asked for.
    pub(crate) fn find(&self, reference: &str) -> Result<NetworkRecord> {
        let reference = match reference {
            "" | "default" => DEFAULT,
            other => other,
        };
        {
            let state = self.lock();
            let named = state
                .networks
                .iter()
                .find(|network| network.name == reference);
            let mut with_prefix = state
                .networks
                .iter()
                .filter(|network| network.id.starts_with(reference));
            if let Some(network) = named {
                return Ok(network.clone());
            }
            match (with_prefix.next(), with_prefix.next()) {
                (Some(network), None) => return Ok(network.clone()),
                (Some(_), Some(_)) => {
                    return Err(EngineError::AmbiguousPrefix(reference.to_owned()))
                }
                (None, _) => {}
            }
        }
        if reference != DEFAULT {
            return Err(EngineError::NoSuchNetwork(reference.to_owned()));
        }
        self.add(&CreateNetwork {
            name: DEFAULT.to_owned(),
            ..CreateNetwork::default()
        })
    }

    /// Makes a network. Its bridge comes with its first container.
    pub(crate) fn create(&self, wanted: &CreateNetwork) -> Result<NetworkRecord> {
        if matches!(wanted.name.as_str(), DEFAULT | NONE | "host" | "default") {
            return Err(EngineError::Forbidden(format!(
                "operation is not permitted on predefined {} network",
                wanted.name
            )));
        }
        if !is_valid_name(&wanted.name) {
            return Err(EngineError::BadRequest(format!(
                "invalid network name: {:?}",
                wanted.name
            )));
        }
        if self.lock().networks.iter().any(|n| n.name == wanted.name) {
            return Err(EngineError::Conflict(format!(
                "network with name {} already exists",
                wanted.name
            )));
        }
        match wanted.driver.as_str() {
            "" | "bridge" => self.add(wanted),
            driver @ ("macvlan" | "ipvlan" | "overlay" | "host") => Err(EngineError::NotBuilt(
                format!("the network driver {driver}"),
            )),
            driver => Err(EngineError::NoSuchPlugin(driver.to_owned())),
        }
    }

    fn add(&self, wanted: &CreateNetwork) -> Result<NetworkRecord> {
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        let mut state = self.lock();
        if let Some(made) = state.networks.iter().find(|n| n.name == wanted.name) {
            // Another request was faster.
            return Ok(made.clone());
        }
        let mut taken: Vec<Prefix> = state.networks.iter().filter_map(|n| n.prefix()).collect();
        let subnet = match &wanted.subnet {
            Some(text) => {
                let subnet = checked_subnet(text)?;
                if taken.iter().any(|other| other.overlaps_v4(&subnet)) {
                    return Err(EngineError::Forbidden(
                        "Pool overlaps with other one on this address space".to_owned(),
                    ));
                }
                subnet
            }
            None => {
                taken.extend(netlink.destinations_v4().map_err(|error| host(&error))?);
                pool::choose(&taken).ok_or_else(|| {
                    EngineError::Network(
                        "all predefined address pools are in use; name one with --subnet".into(),
                    )
                })?
            }
        };
        let network = NetworkRecord {
            id: ids::new_id(),
            name: wanted.name.clone(),
            created: Timestamp::now(),
            gateway: gateway(wanted, subnet)?,
            subnet: lowest(subnet).to_string(),
            internal: wanted.internal,
            icc: wanted.options.get(ICC_OPTION).is_none_or(|v| v != "false"),
            mtu: mtu(wanted)?,
            options: wanted.options.clone(),
            labels: wanted.labels.clone(),
        };
        state.networks.push(network.clone());
        self.write(&state)?;
        Ok(network)
    }

    fn write(&self, state: &State) -> Result<()> {
        let json = serde_json::to_vec(&state.networks).map_err(|source| EngineError::Json {
            what: "write the networks",
            source,
        })?;
        let new = self.file.with_extension("new");
        std::fs::write(&new, json)
            .and_then(|()| std::fs::rename(&new, &self.file))
            .map_err(|source| EngineError::io("write", &self.file, source))
    }

    /// Removes a network that no running container is on.
    pub(crate) fn remove(&self, reference: &str) -> Result<NetworkRecord> {
        let network = self.find(reference)?;
        if network.is_default() {
            return Err(EngineError::Forbidden(format!(
                "{DEFAULT} is a pre-defined network and cannot be removed"
            )));
        }
        let mut state = self.lock();
        if state.ends_on(&network.id) > 0 {
            return Err(EngineError::Forbidden(format!(
                "error while removing network: network {} id {} has active endpoints",
                network.name, network.id
            )));
        }
        state.networks.retain(|other| other.id != network.id);
        state.servers.remove(&network.id);
        self.write(&state)?;
        self.remove_bridge(&network)?;
        self.apply_rules(&state)?;
        Ok(network)
    }

    fn remove_bridge(&self, network: &NetworkRecord) -> Result<()> {
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        let remove = || -> std::result::Result<(), NetlinkError> {
            match netlink.link(&self.tag.bridge(&network.id))? {
                Some(bridge) => netlink.delete_link(bridge.index),
                None => Ok(()),
            }
        };
        remove().map_err(|error| host(&error))
    }

    /// The bridge of a network: made, addressed and fenced if it is not there. The result is its
    /// index.
    pub(super) fn bridge(
        &self,
        netlink: &Netlink,
        network: &NetworkRecord,
        state: &mut State,
    ) -> Result<u32> {
        let name = self.tag.bridge(&network.id);
        let ask = || -> std::result::Result<(u32, bool), NetlinkError> {
            if let Some(bridge) = netlink.link(&name)? {
                return Ok((bridge.index, false));
            }
            let index = netlink.add_bridge(&name, network.mtu.into())?;
            Ok((index, true))
        };
        let (index, new) = ask().map_err(|error| host(&error))?;
        if new {
            let length = network.prefix().map_or(16, |prefix| prefix.length);
            let address = Prefix {
                address: network.gateway.into(),
                length,
            };
            let addressed = netlink
                .add_address(index, address)
                .and_then(|()| netlink.set_up(index))
                .map_err(|error| host(&error));
            if let Err(error) = addressed.and_then(|()| self.apply_rules(state)) {
                // Without its rules a network must not be there.
                let _ = netlink.delete_link(index);
                return Err(error);
            }
        }
        if !network.is_default() && !state.servers.contains_key(&network.id) {
            let server = Dns::start(network.gateway, self.file_of_host_resolvers());
            state.servers.insert(network.id.clone(), server);
        }
        Ok(index)
    }

    fn file_of_host_resolvers(&self) -> PathBuf {
        PathBuf::from("/etc/resolv.conf")
    }

    pub(super) fn apply_rules(&self, state: &State) -> Result<()> {
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        let links = netlink.links().map_err(|error| host(&error))?;
        let networks: Vec<_> = state
            .networks
            .iter()
            .filter_map(|network| {
                let bridge = self.tag.bridge(&network.id);
                let there = links.iter().any(|link| link.name == bridge);
                there.then_some(rules::Network {
                    bridge,
                    subnet: network.prefix()?,
                    internal: network.internal,
                    icc: network.icc,
                })
            })
            .collect();
        let ends = state.live.values().flat_map(|live| &live.endpoints);
        let restricted: Vec<_> = ends
            .filter(|end| end.egress() != Egress::All)
            .map(|end| Restricted {
                bridge: self.tag.bridge(&end.network_id),
                address: end.address,
                egress: end.egress(),
            })
            .collect();
        let table = self.tag.table();
        if networks.is_empty() {
            return rules::clear(&table).map_err(|error| host(&error));
        }
        rules::apply(&table, &networks, &restricted).map_err(|error| host(&error))
    }

    /// Removes the taps that belong to no live container.
    pub(crate) fn sweep(&self) {
        let Ok(links) = Netlink::open().and_then(|netlink| netlink.links()) else {
            return;
        };
        let state = self.lock();
        let in_use = |name: &str| {
            let mut all = state.live.values().flat_map(|live| &live.endpoints);
            all.any(|endpoint| endpoint.tap == name)
        };
        for link in links {
            if self.tag.is_tap(&link.name) && !in_use(&link.name) {
                self.remove_tap(&link.name);
            }
        }
    }

    /// Removes bridges and rules when nothing uses them: at the orderly end of the engine.
    pub(crate) fn retire(&self) {
        let mut state = self.lock();
        if !state.live.is_empty() {
            return;
        }
        state.servers.clear();
        let all = state.networks.clone();
        let mut had_any = false;
        for network in &all {
            let name = self.tag.bridge(&network.id);
            let there = Netlink::open().and_then(|netlink| netlink.link(&name));
            if matches!(there, Ok(Some(_))) {
                had_any = true;
                if let Err(error) = self.remove_bridge(network) {
                    tracing::warn!(error = error.message(), "a bridge is left");
                }
            }
        }
        if had_any {
            if let Err(error) = rules::clear(&self.tag.table()) {
                tracing::warn!(error = chain(&error), "packet rules are left");
            }
        }
    }
}

impl State {
    /// Number of containers' ends on a network.
    fn ends_on(&self, network_id: &str) -> usize {
        let all = self.live.values().flat_map(|live| &live.endpoints);
        all.filter(|endpoint| endpoint.network_id == network_id)
            .count()
    }
}

fn is_valid_name(name: &str) -> bool {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let usual = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    first && name.bytes().all(usual)
}

fn lowest(subnet: Prefix) -> Prefix {
    let low = subnet.range_v4().map(|(low, _)| Ipv4Addr::from(low));
    Prefix {
        address: low.map_or(subnet.address, Into::into),
        length: subnet.length,
    }
}

fn checked_subnet(text: &str) -> Result<Prefix> {
    let subnet: Prefix = text
        .parse()
        .map_err(|_| EngineError::BadRequest(format!("invalid subnet {text}")))?;
    match subnet.range_v4() {
        None => Err(EngineError::NotBuilt(format!("an IPv6 subnet ({text})"))),
        Some((low, high)) if high - low < 3 => Err(EngineError::BadRequest(format!(
            "invalid subnet {text}: it has no room for a gateway and a container"
        ))),
        Some(_) => Ok(subnet),
    }
}

fn gateway(wanted: &CreateNetwork, subnet: Prefix) -> Result<Ipv4Addr> {
    let first = subnet.range_v4().map(|(low, _)| Ipv4Addr::from(low + 1));
    let first = first.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let Some(text) = &wanted.gateway else {
        return Ok(first);
    };
    text.parse()
        .ok()
        .filter(|gateway| subnet.contains_v4(*gateway))
        .ok_or_else(|| {
            EngineError::BadRequest(format!("invalid gateway {text}: not in subnet {subnet}"))
        })
}

fn mtu(wanted: &CreateNetwork) -> Result<u16> {
    let Some(text) = wanted.options.get(MTU_OPTION) else {
        return Ok(DEFAULT_MTU);
    };
    text.parse()
        .ok()
        .filter(|mtu| (68..=9216).contains(mtu))
        .ok_or_else(|| EngineError::BadRequest(format!("invalid MTU {text:?}: want 68 to 9216")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> (tempfile::TempDir, Networks) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("networks.json");
        let networks = Networks::open(file, "abcdef").unwrap();
        (directory, networks)
    }

    fn wanted(name: &str, subnet: Option<&str>) -> CreateNetwork {
        CreateNetwork {
            name: name.into(),
            subnet: subnet.map(str::to_owned),
            ..CreateNetwork::default()
        }
    }

    #[test]
    fn networks_are_kept_and_found_by_name_and_id() {
        let (directory, networks) = networks();
        let made = networks.create(&wanted("a", Some("10.77.5.9/24"))).unwrap();
        assert_eq!(made.subnet, "10.77.5.0/24");
        assert_eq!(made.gateway, Ipv4Addr::new(10, 77, 5, 1));
        let again = Networks::open(directory.path().join("networks.json"), "abcdef").unwrap();
        assert_eq!(again.find("a").unwrap(), made);
        assert_eq!(again.find(&made.id[..10]).unwrap(), made);
        assert!(again.find("no-such-network").is_err());
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let (_directory, networks) = networks();
        networks.create(&wanted("a", Some("10.77.0.0/16"))).unwrap();
        for bad in [
            wanted("a", Some("10.78.0.0/16")),
            wanted("b", Some("10.77.8.0/24")),
            wanted("c", Some("10.79.0.0/31")),
            wanted("d", Some("nonsense")),
            wanted("bridge", None),
            wanted("-x", None),
        ] {
            assert!(networks.create(&bad).is_err(), "{bad:?}");
        }
        let outside = CreateNetwork {
            gateway: Some("10.1.1.1".into()),
            ..wanted("e", Some("10.80.0.0/24"))
        };
        assert!(networks.create(&outside).is_err());
    }
}
