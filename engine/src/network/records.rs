//! What is known of networks and of containers' ends on them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use bollard_stubs::models::{EndpointSettings, HostConfig};
use hull_network::egress::{BadEgress, Egress};
use hull_network::rules::Pinned;
use hull_network::{pool, Prefix};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::endpoint_options::EndpointOptions;
use super::pools::Pool;
use crate::error::{EngineError, Result};

/// Annotation of a container: its egress policy.
pub(crate) const EGRESS_ANNOTATION: &str = "dev.hull.egress";

/// A network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    /// Its IPv4 addresses, if it has any.
    #[serde(flatten)]
    pub(crate) v4: Option<Pool>,
    /// Its IPv6 addresses, if it has any.
    #[serde(default)]
    pub(crate) v6: Option<Pool>,
    /// No way out.
    #[serde(default)]
    pub(crate) internal: bool,
    /// Containers reach each other.
    pub(crate) icc: bool,
    /// They reach others under their own addresses.
    #[serde(default)]
    pub(crate) unmasked: bool,
    /// Where ports are published that name no address; `None`: on all of the host's.
    #[serde(default)]
    pub(crate) host_binding: Option<IpAddr>,
    /// Bytes; 0: as on the host's way out.
    pub(crate) mtu: u16,
    #[serde(default)]
    pub(crate) options: HashMap<String, String>,
    /// Of the address management: kept and shown.
    #[serde(default)]
    pub(crate) ipam_options: Option<HashMap<String, String>>,
    #[serde(default)]
    pub(crate) labels: HashMap<String, String>,
    /// Of a swarm's networks: kept and shown.
    #[serde(default)]
    pub(crate) attachable: bool,
    /// It is the network that an interface of the host is on; `None`: a bridge of its own.
    #[serde(default, rename = "macvlan")]
    pub(crate) uplink: Option<Uplink>,
    /// Its containers have the host's ports.
    #[serde(default)]
    pub(crate) host: bool,
}

/// The interface of the host whose network a network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uplink {
    /// How it is shared.
    #[serde(default)]
    pub(crate) driver: UplinkDriver,
    /// Its name.
    pub(crate) parent: String,
    /// Of the driver, in docker's words; empty: the usual one.
    pub(crate) mode: String,
    /// Who hears whom with the driver `ipvlan`, in docker's words; empty: all do.
    #[serde(default)]
    pub(crate) flag: String,
    /// The interface is made for networks like this one, and goes with the last of them.
    #[serde(default)]
    pub(crate) made: bool,
}

/// How containers share an interface of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UplinkDriver {
    /// Each has a hardware address of its own.
    #[default]
    Macvlan,
    /// They have that of the interface, and are told apart by their IP addresses.
    Ipvlan,
}

impl UplinkDriver {
    /// Docker's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
}

impl NetworkRecord {
    /// Name of its driver.
    pub(crate) fn driver(&self) -> &'static str {
        match &self.uplink {
            Some(uplink) => uplink.driver.name(),
            None if self.host => super::HOST,
            None => super::DEFAULT,
        }
    }

    /// Its addresses of each family.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.v4.iter().chain(&self.v6)
    }

    /// The host's addresses on it, of both families.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.pools().map(|pool| pool.gateway)
    }

    /// Its subnets.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.pools().map(|pool| pool.subnet.0)
    }

    pub(crate) fn is_default(&self) -> bool {
        self.name == super::DEFAULT
    }

    /// No user has made it.
    pub(crate) fn is_builtin(&self) -> bool {
        self.is_default() || self.host
    }
}

/// A network that a container wants to be on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// Name or id.
    pub(crate) network: String,
    /// Further names of the container there.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// A fixed address.
    #[serde(default)]
    pub(crate) address: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    #[serde(default)]
    pub(crate) address_v6: Option<Ipv6Addr>,
    /// Link-local addresses: kept and shown.
    #[serde(default)]
    pub(crate) link_local: Vec<String>,
    /// A fixed hardware address.
    #[serde(default)]
    pub(crate) mac: Option<String>,
    /// Other containers there that it calls by names of its own.
    #[serde(default)]
    pub(crate) links: Vec<Link>,
    /// The network with the highest one has the default route.
    #[serde(default)]
    pub(crate) priority: i64,
    /// Of the driver; see [`EndpointOptions`].
    #[serde(default)]
    pub(crate) driver_opts: HashMap<String, String>,
}

/// A name that a container has for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Name or id of the other.
    pub(crate) target: String,
    pub(crate) alias: String,
}

impl FromStr for Link {
    type Err = EngineError;

    /// `NAME[:ALIAS]`.
    fn from_str(text: &str) -> Result<Self> {
        let (target, alias) = text.split_once(':').unwrap_or((text, text));
        let target = target.trim_start_matches('/');
        // As dockerd writes them down: /NAME:/CONTAINER/ALIAS.
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        if target.is_empty() || alias.is_empty() || alias.contains(':') {
            return Err(EngineError::BadRequest(format!(
                "bad format for links: {text}"
            )));
        }
        Ok(Self {
            target: target.to_owned(),
            alias: alias.to_owned(),
        })
    }
}

impl Wanted {
    /// Adds what a client says of the network.
    pub(crate) fn fill(&mut self, settings: &EndpointSettings) -> Result<()> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        self.aliases = settings.aliases.clone().unwrap_or_default();
        self.mac = text(&settings.mac_address);
        self.check_mac()?;
        self.driver_opts = settings.driver_opts.clone().unwrap_or_default();
        EndpointOptions::parse(&self.driver_opts)?;
        self.priority = settings.gw_priority.unwrap_or_default();
        for text in settings.links.iter().flatten() {
            self.links.push(text.parse()?);
        }
        let ipam = settings.ipam_config.as_ref();
        self.address = fixed(ipam.and_then(|ipam| text(&ipam.ipv4_address)), 4)?;
        self.address_v6 = fixed(ipam.and_then(|ipam| text(&ipam.ipv6_address)), 6)?;
        self.link_local = link_local(ipam.and_then(|ipam| ipam.link_local_ips.as_deref()))?;
        Ok(())
    }
}

fn fixed<A: FromStr>(text: Option<String>, family: u8) -> Result<Option<A>> {
    let parse = |text: String| {
        text.parse()
            .map_err(|_| EngineError::BadRequest(format!("invalid IPv{family} address: {text}")))
    };
    text.map(parse).transpose()
}

fn link_local(asked: Option<&[String]>) -> Result<Vec<String>> {
    let asked = asked.unwrap_or_default();
    let is_one = |text: &String| match text.parse() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_unicast_link_local(),
        Err(_) => false,
    };
    match asked.iter().find(|text| !is_one(text)) {
        Some(bad) => Err(EngineError::BadRequest(format!(
            "invalid link-local IP address: {bad}"
        ))),
        None => Ok(asked.to_vec()),
    }
}

impl Wanted {
    /// Refuses what the network can't give.
    pub(crate) fn check_on(&self, network: &NetworkRecord) -> Result<()> {
        let fixed = self.address.is_some() || self.address_v6.is_some();
        let bad = |text: String| Err(EngineError::BadRequest(text));
        if fixed && network.is_builtin() {
            return bad(
                "user specified IP address is supported on user defined networks only".to_owned(),
            );
        }
        if !self.aliases.is_empty() && network.is_builtin() {
            return bad(
                "network-scoped aliases are only supported for user-defined networks".to_owned(),
            );
        }
        let name = &network.name;
        match (self.address, self.address_v6) {
            (Some(address), _) if network.v4.is_none() => bad(format!(
                "invalid address {address}: network {name} has no IPv4 (it was made with \
                 --ipv4=false)"
            )),
            (_, Some(address)) if network.v6.is_none() => bad(format!(
                "invalid address {address}: network {name} has no IPv6 (it was made without --ipv6)"
            )),
            _ => {
                let v4 = self.address.map(IpAddr::V4).zip(network.v4.as_ref());
                let v6 = self.address_v6.map(IpAddr::V6).zip(network.v6.as_ref());
                let mut fixed = v4.into_iter().chain(v6);
                let kept = |address, pool: &Pool| pool.reserved.values().any(|one| *one == address);
                if let Some((address, _)) =
                    fixed.clone().find(|(address, pool)| kept(*address, pool))
                {
                    return Err(EngineError::Forbidden(format!(
                        "Address already in use: {address} on network {name}"
                    )));
                }
                match fixed.find(|(address, pool)| !pool.subnet.0.contains(*address)) {
                    Some((address, pool)) => bad(format!(
                        "invalid address {address}: it is not in the subnet {} of network {name}",
                        pool.subnet.0
                    )),
                    None => Ok(()),
                }
            }
        }
    }

    /// Its hardware address, where it can have its own.
    pub(super) fn mac(&self, usual: String) -> String {
        self.mac.clone().unwrap_or(usual)
    }

    /// Refuses what is no hardware address of one interface.
    pub(crate) fn check_mac(&self) -> Result<()> {
        match &self.mac {
            Some(mac) if pool::parse_mac(mac).is_none() => Err(EngineError::BadRequest(format!(
                "invalid MAC address: {mac}"
            ))),
            _ => Ok(()),
        }
    }
}

/// A container's end on a network, while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) network_id: String,
    pub(crate) network_name: String,
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// Its IPv4 address, on a network that has them.
    #[serde(flatten)]
    pub(crate) v4: Option<EndAddress<Ipv4Addr>>,
    /// Its IPv6 address, on a network that has them.
    #[serde(default)]
    pub(crate) v6: Option<EndAddress<Ipv6Addr>>,
    /// See [`Wanted::priority`].
    #[serde(default)]
    pub(crate) priority: i64,
    /// It has the default route, of IPv4 where it says otherwise of IPv6.
    #[serde(default)]
    pub(crate) routed: bool,
    /// It has the default route of IPv6; `None`: as that of IPv4.
    #[serde(default)]
    pub(crate) routed_v6: Option<bool>,
    pub(crate) mac: String,
    pub(crate) mtu: u16,
    /// The interface on the host.
    pub(crate) tap: String,
    /// What it is called in the container, if it is not numbered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ifname: Option<String>,
    /// See [`EndpointOptions::sysctls`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Names by which others on the network find it.
    pub(crate) names: Vec<String>,
    /// Where it asks for names; `None`: where the container says.
    pub(crate) resolver: Option<IpAddr>,
    /// Whom its name server asks in turn; empty: whom the host asks.
    #[serde(default)]
    pub(crate) upstreams: Vec<IpAddr>,
    /// Names that it alone has for others.
    #[serde(default)]
    pub(crate) links: Vec<Link>,
    /// Where it may begin conversations to ([`Egress`], as text); empty: anywhere.
    #[serde(default)]
    pub(crate) egress: String,
    /// It is on the network of an interface of the host, where the host itself can't reach it.
    #[serde(default, rename = "macvlan")]
    pub(crate) on_uplink: bool,
    /// That network has no hardware addresses: all goes straight through the interface.
    #[serde(default)]
    pub(crate) layer3: bool,
}

/// An address of a container.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndAddress<A> {
    pub(crate) address: A,
    pub(crate) prefix_length: u8,
    /// `None` on an internal network.
    pub(crate) gateway: Option<A>,
}

impl<A: Copy + Into<IpAddr>> EndAddress<A> {
    /// With the length of its network.
    pub(crate) fn prefix(&self) -> Prefix {
        Prefix {
            address: self.address.into(),
            length: self.prefix_length,
        }
    }

    fn gateway(&self) -> Option<IpAddr> {
        self.gateway.map(A::into)
    }
}

/// The policy that a container asks for.
pub(crate) fn egress_of(host: &HostConfig) -> Result<Egress> {
    let annotations = host.annotations.iter().flatten();
    let mut wanted = annotations.filter(|(key, _)| *key == EGRESS_ANNOTATION);
    match wanted.next() {
        None => Ok(Egress::All),
        Some((_, text)) => text
            .parse()
            .map_err(|error: BadEgress| EngineError::BadRequest(error.to_string())),
    }
}

impl Endpoint {
    /// Which of the VM's network slots it is in: the number in its tap's name.
    pub(crate) fn index(&self) -> usize {
        let digit = self
            .tap
            .as_bytes()
            .get(1)
            .copied()
            .filter(u8::is_ascii_digit);
        digit.map_or(0, |digit| usize::from(digit - b'0'))
    }

    /// What its interface is called in the container.
    pub(crate) fn interface_name(&self) -> String {
        let numbered = || format!("eth{}", self.index());
        self.ifname.clone().unwrap_or_else(numbered)
    }

    /// Its addresses, IPv4 first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.prefixes().map(|prefix| prefix.address)
    }

    /// Its addresses with the lengths of their networks.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        let v4 = self.v4.map(|v4| v4.prefix());
        v4.into_iter().chain(self.v6.map(|v6| v6.prefix()))
    }

    /// The gateways of both families.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.and_then(|v4| v4.gateway());
        v4.into_iter().chain(self.v6.and_then(|v6| v6.gateway()))
    }

    /// Its network has a way out.
    pub(crate) fn is_open(&self) -> bool {
        self.gateways().next().is_some()
    }

    /// What its tap may send from. `None`: its hardware address is none.
    pub(crate) fn pinned(&self) -> Option<Pinned> {
        Some(Pinned {
            mac: pool::parse_mac(&self.mac)?,
            v4: self.v4.map(|v4| v4.address),
            v6: self.v6.map(|v6| v6.address),
            leaves: self.on_uplink,
        })
    }

    /// Its policy. What can't be read is the strictest one.
    pub(crate) fn egress(&self) -> Egress {
        match self.egress.as_str() {
            "" => Egress::All,
            text => text.parse().unwrap_or(Egress::None),
        }
    }
}
