//! Networks as a whole: made, listed, removed, kept across restarts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_network::netlink::Netlink;
use hull_network::pool::AddressPool;
use hull_network::ports::{Published, Room};
use hull_network::rules::Denied;
use hull_network::{rules, Prefix};
use jiff::Timestamp;

use super::bridge::checked_mtu;
use super::denied::Denials;
use super::dns::{Directory, Dns};
use super::learned::{self, Learned, Lessons};
use super::live::Live;
use super::names::Tag;
use super::options::NetworkOptions;
use super::pools::PoolRequest;
use super::records::NetworkRecord;
use super::{kept, parent, uplink, DEFAULT, HOST, HOST_ID, NONE};
use crate::default_bridge::DefaultBridge;
use crate::engine::Defaults;
use crate::error::{chain, EngineError, Result};
use crate::ids;

/// Hexadecimal digits of the engine's id that make a global id of 40 bits (RFC 4193).
const GLOBAL_ID_DIGITS: usize = 10;

/// Which addresses a network has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Families {
    #[default]
    V4,
    V6,
    Both,
}

impl Families {
    /// Those that are asked for; `None`: there are none.
    pub(crate) fn of(v4: bool, v6: bool) -> Option<Self> {
        match (v4, v6) {
            (true, false) => Some(Self::V4),
            (false, true) => Some(Self::V6),
            (true, true) => Some(Self::Both),
            (false, false) => None,
        }
    }

    pub(crate) fn has_v4(self) -> bool {
        self != Self::V6
    }

    pub(crate) fn has_v6(self) -> bool {
        self != Self::V4
    }
}

/// A network that is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct CreateNetwork {
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) families: Families,
    pub(crate) pools: Vec<PoolRequest>,
    pub(crate) internal: bool,
    pub(crate) options: HashMap<String, String>,
    /// Kept and shown.
    pub(crate) ipam_options: Option<HashMap<String, String>>,
    pub(crate) labels: HashMap<String, String>,
    /// Kept and shown.
    pub(crate) attachable: bool,
}

/// All networks of an engine.
#[derive(Debug)]
pub(crate) struct Networks {
    pub(super) tag: Tag,
    /// By which the unique local addresses of this engine's networks differ from others'.
    pub(super) global_id: u64,
    /// Whose networks are chosen from; without any, Docker's.
    pub(super) address_pools: Vec<AddressPool>,
    /// Of the default network, in bytes; `None`: as the host's way out has it.
    pub(super) default_mtu: Option<u16>,
    /// What else is said of it.
    pub(super) default_bridge: DefaultBridge,
    file: PathBuf,
    /// What the name servers answer from.
    pub(super) directory: Directory,
    /// Taken by the task that learns.
    lessons: Mutex<Option<Lessons>>,
    pub(super) denials: Denials,
    /// For conversations with published ports.
    pub(super) room: Room,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) networks: Vec<NetworkRecord>,
    /// By container id.
    pub(super) live: HashMap<String, Live>,
    /// The last addresses given out, by subnet.
    pub(super) last: HashMap<Prefix, IpAddr>,
    /// Name servers, by network id.
    pub(super) servers: HashMap<String, Dns>,
    /// Leads to ports of the host's loopback address, from the network `host`.
    pub(super) relay: Option<Published>,
    /// What containers with a policy of names may reach.
    pub(super) learned: Learned,
    /// Packets that containers were denied.
    pub(super) denied: Denied,
    /// Of these, by taps, the ones that were told of.
    pub(super) told: HashMap<String, u64>,
}

fn name_in_use(name: &str) -> EngineError {
    EngineError::Conflict(format!("network with name {name} already exists"))
}

pub(super) fn host(error: &(dyn std::error::Error + 'static)) -> EngineError {
    EngineError::Network(chain(error))
}

impl Networks {
    /// Reads what an earlier engine wrote.
    pub(crate) fn open(file: PathBuf, engine_id: &str, defaults: &Defaults) -> Result<Self> {
        let mut networks = kept::read(&file)?;
        networks.iter_mut().for_each(NetworkOptions::apply_to);
        let (sender, lessons) = learned::channel();
        Ok(Self {
            tag: Tag::of(engine_id),
            global_id: engine_id
                .get(..GLOBAL_ID_DIGITS)
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .unwrap_or_default(),
            address_pools: defaults.address_pools.clone(),
            default_mtu: defaults.mtu,
            default_bridge: defaults.bridge.clone(),
            file,
            directory: Directory::new(sender),
            lessons: Mutex::new(Some(lessons)),
            denials: Denials::default(),
            room: Room::default(),
            state: Mutex::new(State {
                networks,
                ..State::default()
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a network's bridge on the host.
    pub(crate) fn bridge_name(&self, network: &NetworkRecord) -> String {
        self.tag.bridge(&network.id)
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
            // A network may be called as another's id begins, or even as it is.
            let whole = state.networks.iter().find(|one| one.id == reference);
            let named = state.networks.iter().find(|one| one.name == reference);
            let mut with_prefix = state
                .networks
                .iter()
                .filter(|network| network.id.starts_with(reference));
            if let Some(network) = whole.or(named) {
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
        if reference == HOST {
            return self.find_host();
        }
        if reference != DEFAULT {
            return Err(EngineError::NoSuchNetwork(reference.to_owned()));
        }
        self.make_default()
    }

    /// Makes a network. Its bridge comes with its first container.
    pub(crate) fn create(&self, wanted: &CreateNetwork) -> Result<NetworkRecord> {
        if matches!(wanted.name.as_str(), DEFAULT | NONE | HOST | "default") {
            return Err(EngineError::Forbidden(format!(
                "operation is not permitted on predefined {} network",
                wanted.name
            )));
        }
        if wanted.name.trim().is_empty() {
            return Err(EngineError::BadRequest(
                "invalid name: name is empty".to_owned(),
            ));
        }
        if !is_valid_name(&wanted.name) {
            return Err(EngineError::BadRequest(format!(
                "invalid network name: {:?}",
                wanted.name
            )));
        }
        if self.lock().networks.iter().any(|n| n.name == wanted.name) {
            return Err(name_in_use(&wanted.name));
        }
        match wanted.driver.as_str() {
            "" | "bridge" | "macvlan" | "ipvlan" => self.add(wanted),
            driver @ (HOST | "null") => Err(EngineError::Forbidden(format!(
                "only one instance of \"{driver}\" network is allowed"
            ))),
            driver @ "overlay" => Err(EngineError::NotBuilt(format!(
                "the network driver {driver}"
            ))),
            driver => Err(EngineError::NoSuchPlugin(driver.to_owned())),
        }
    }

    pub(super) fn add(&self, wanted: &CreateNetwork) -> Result<NetworkRecord> {
        let options = NetworkOptions::parse(wanted)?;
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        let mut state = self.lock();
        if let Some(made) = state.networks.iter().find(|n| n.name == wanted.name) {
            // Another request was faster. What nobody asked for by name is everybody's.
            return match made.is_builtin() {
                true => Ok(made.clone()),
                false => Err(name_in_use(&wanted.name)),
            };
        }
        let id = match wanted.driver == HOST {
            true => HOST_ID.to_owned(),
            false => ids::new_id(),
        };
        let mut uplink = uplink::of(&netlink, wanted, &id)?;
        uplink::join(uplink.as_mut(), &state.networks)?;
        let (v4, v6) = self.pools(&netlink, &state, wanted)?;
        let is_host = wanted.driver == HOST;
        let network = NetworkRecord {
            id,
            name: wanted.name.clone(),
            created: Timestamp::now(),
            v4,
            v6,
            // What leads nowhere has no gateway.
            internal: wanted.internal || uplink.as_ref().is_some_and(parent::is_dummy),
            // On the host's network they meet at the host's ports.
            icc: !is_host && options.icc,
            unmasked: !options.masquerade,
            host_binding: options.host_binding,
            mtu: checked_mtu(wanted)?,
            options: wanted.options.clone(),
            ipam_options: wanted.ipam_options.clone(),
            labels: wanted.labels.clone(),
            attachable: wanted.attachable,
            uplink,
            host: is_host,
        };
        state.networks.push(network.clone());
        if let Err(error) = self.write(&state) {
            state.networks.retain(|other| other.id != network.id);
            return Err(error);
        }
        // Known before it is there, so that it has an owner.
        if let Some(Err(error)) = network.uplink.as_ref().map(|on| parent::get(&netlink, on)) {
            state.networks.retain(|other| other.id != network.id);
            self.write(&state)?;
            return Err(error);
        }
        Ok(network)
    }

    pub(super) fn write(&self, state: &State) -> Result<()> {
        kept::write(&self.file, &state.networks)
    }

    /// Removes a network that no running container is on.
    pub(crate) fn remove(&self, reference: &str) -> Result<NetworkRecord> {
        if reference == NONE || Self::is_host(reference) {
            let name = if reference == NONE { NONE } else { HOST };
            return Err(EngineError::Forbidden(format!(
                "{name} is a pre-defined network and cannot be removed"
            )));
        }
        let network = self.find(reference)?;
        if network.is_default() {
            return Err(EngineError::Forbidden(format!(
                "{DEFAULT} is a pre-defined network and cannot be removed"
            )));
        }
        let mut state = self.lock();
        let ends = state.ends_on(&network.id);
        if !ends.is_empty() {
            return Err(EngineError::Forbidden(format!(
                "error while removing network: network {} has active endpoints ({})",
                network.name,
                ends.join(", ")
            )));
        }
        state.servers.remove(&network.id);
        // Known until it has gone, so that it has an owner.
        self.remove_interface(&network, &state.networks)?;
        state.networks.retain(|other| other.id != network.id);
        self.write(&state)?;
        self.apply_rules(&mut state)?;
        Ok(network)
    }

    /// Removes what a network has on the host; `others` may be on the same.
    fn remove_interface(&self, network: &NetworkRecord, others: &[NetworkRecord]) -> Result<()> {
        if network.uplink.is_none() {
            return self.remove_bridge(network);
        }
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        parent::leave(&netlink, network, others)
    }

    pub(super) fn take_lessons(&self) -> Option<Lessons> {
        let mut lessons = self.lessons.lock().unwrap_or_else(PoisonError::into_inner);
        lessons.take()
    }

    /// Removes the taps that belong to no live container.
    pub(crate) fn sweep(&self) {
        let Ok(links) = Netlink::open().and_then(|netlink| netlink.links()) else {
            return;
        };
        let mut state = self.lock();
        let in_use = |name: &str| {
            let mut all = state.live.values().flat_map(|live| &live.endpoints);
            all.any(|endpoint| endpoint.tap == name)
        };
        for link in links {
            if self.tag.is_tap(&link.name) && !in_use(&link.name) {
                self.remove_tap(&link.name);
            }
        }
        // Those of containers that were lost while no engine ran are gone, and those of others that
        // somebody took out meanwhile are back.
        match state.live.is_empty() {
            true => self.apply_or_warn(&mut state),
            false => {
                drop(state);
                self.restore_rules();
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
        state.relay = None;
        let all = state.networks.clone();
        let mut had_any = false;
        for network in &all {
            if network.uplink.is_some() {
                if let Err(error) = self.remove_interface(network, &[]) {
                    tracing::warn!(error = error.message(), "an interface is left");
                }
                continue;
            }
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
    /// Containers' ends on a network, as dockerd names them.
    pub(super) fn ends_on(&self, network_id: &str) -> Vec<String> {
        let all = self.live.values().flat_map(|live| &live.endpoints);
        let on_it = all.filter(|endpoint| endpoint.network_id == network_id);
        on_it
            .map(|endpoint| {
                let name = endpoint
                    .names
                    .first()
                    .map(String::as_str)
                    .unwrap_or_default();
                format!("name:{name:?} id:{:?}", ids::short(&endpoint.id))
            })
            .collect()
    }
}

/// Spaces are allowed within, as by dockerd; a slash could not be asked for again.
fn is_valid_name(name: &str) -> bool {
    let usual = |c: char| !c.is_control() && c != '/';
    !name.is_empty() && name.trim() == name && name.chars().all(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> (tempfile::TempDir, Networks) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("networks.json");
        let networks = Networks::open(file, "abcdef", &Defaults::default()).unwrap();
        (directory, networks)
    }

    fn wanted(name: &str, subnet: Option<&str>) -> CreateNetwork {
        CreateNetwork {
            name: name.into(),
            pools: vec![PoolRequest {
                subnet: subnet.map(str::to_owned),
                ..PoolRequest::default()
            }],
            ..CreateNetwork::default()
        }
    }

    #[test]
    fn networks_are_kept_and_found_by_name_and_id() {
        let (directory, networks) = networks();
        let made = networks.create(&wanted("a", Some("10.77.5.0/24"))).unwrap();
        assert_eq!(
            made.v4.clone().unwrap().gateway_prefix().to_string(),
            "10.77.5.1/24"
        );
        assert_eq!(made.v6, None);
        let again = Networks::open(
            directory.path().join("networks.json"),
            "abcdef",
            &Defaults::default(),
        )
        .unwrap();
        assert_eq!(again.find("a").unwrap(), made);
        assert_eq!(again.find(&made.id[..10]).unwrap(), made);
        assert!(again.find("no-such-network").is_err());
    }

    #[test]
    fn ports_are_published_where_the_default_route_is() {
        let (_directory, networks) = networks();
        for (name, subnet, internal) in [
            ("a", "10.77.10.0/24", false),
            ("b", "10.77.11.0/24", false),
            ("in", "10.77.12.0/24", true),
        ] {
            let one = CreateNetwork {
                internal,
                ..wanted(name, Some(subnet))
            };
            networks.create(&one).unwrap();
        }
        let by = |all: &[(&str, i64)]| {
            let found = networks.publishes(all.iter().copied()).unwrap();
            found.map(|network| network.name).unwrap_or_default()
        };
        assert_eq!(by(&[("a", 0), ("b", 0)]), "a");
        assert_eq!(by(&[("a", 0), ("b", 1)]), "b");
        assert_eq!(by(&[("in", 9), ("a", -1)]), "a");
        assert_eq!(by(&[("in", 0)]), "in");
        assert_eq!(by(&[]), "");
    }

    #[test]
    fn options_hold_for_networks_that_were_there_before_they_were_known() {
        let (directory, networks) = networks();
        let option = |key: &str, value: &str| {
            let key = format!("com.docker.network.bridge.{key}");
            (key, value.to_owned())
        };
        let options = [
            option("host_binding_ipv4", "127.0.0.1"),
            option("enable_ip_masquerade", "false"),
        ];
        let one = CreateNetwork {
            options: options.into(),
            ..wanted("a", Some("10.77.13.0/24"))
        };
        let made = networks.create(&one).unwrap();
        let file = directory.path().join("networks.json");
        let text = std::fs::read_to_string(&file).unwrap();
        let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
        let network = kept
            .pointer_mut("/networks/0")
            .unwrap()
            .as_object_mut()
            .unwrap();
        assert!(network.remove("unmasked").is_some() && network.remove("host_binding").is_some());
        std::fs::write(&file, kept.to_string()).unwrap();
        let again = Networks::open(file, "abcdef", &Defaults::default()).unwrap();
        assert_eq!(again.find("a").unwrap(), made);
    }

    #[test]
    fn of_two_who_make_one_name_one_is_refused() {
        let (_directory, networks) = networks();
        let one = wanted("a", Some("10.77.4.0/24"));
        networks.add(&one).unwrap();
        // Both have looked before either made it.
        let error = networks.add(&one).unwrap_err();
        assert!(matches!(error, EngineError::Conflict(_)), "{error}");
    }

    #[test]
    fn a_network_that_is_not_written_is_not_there() {
        let (directory, networks) = networks();
        let one = || wanted("a", Some("10.77.9.0/24"));
        drop(directory);
        assert!(networks.create(&one()).is_err());
        std::fs::create_dir_all(networks.file.parent().unwrap()).unwrap();
        networks.create(&one()).unwrap();
        std::fs::remove_dir_all(networks.file.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_name_may_have_spaces_and_ipam_options_are_kept() {
        let (_directory, networks) = networks();
        let made = networks.create(&CreateNetwork {
            ipam_options: Some(HashMap::from([("k".into(), "v".into())])),
            ..wanted("test 01", Some("10.77.6.0/24"))
        });
        assert_eq!(made.unwrap().ipam_options.unwrap()["k"], "v");
        let plain = networks.create(&wanted("b", Some("10.77.7.0/24")));
        assert_eq!(plain.unwrap().ipam_options, None);
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
            wanted("x/y", None),
            wanted(" ", None),
            wanted("a\nb", None),
        ] {
            assert!(networks.create(&bad).is_err(), "{bad:?}");
        }
        let two = CreateNetwork {
            pools: [
                wanted("", Some("10.80.0.0/24")).pools,
                wanted("", Some("10.81.0.0/24")).pools,
            ]
            .concat(),
            ..wanted("e", None)
        };
        assert!(networks.create(&two).is_err());
    }
}
