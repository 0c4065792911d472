//! A container's interfaces, as its engine describes them in an annotation.
//!
//! The engine makes the taps and owns them; the sandbox only opens them.

use std::collections::BTreeMap;

use hull_network::Prefix;
use hull_protocol::agent::{
    ConfigureNetworkRequest, NetworkInterface, NetworkNeighbour, NetworkRoute,
};
use hull_vm_config::{NetConfig, Slot, MAX_QUEUE_PAIRS};
use serde::{Deserialize, Serialize};

/// Longest name of an interface, in bytes.
const MAX_NAME_BYTES: usize = 15;

/// The value of the annotation [`crate::annotations::NETWORK`] (JSON).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachments {
    /// In the order of the guest's slots.
    pub interfaces: Vec<Attachment>,
    /// Loopback addresses in the guest at which the host answers questions about names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<String>,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// In the guest, such as `eth0`.
    pub name: String,
    /// The tap on the host.
    pub tap: String,
    /// Hardware address, such as `02:42:ac:11:00:02`.
    pub mac: String,
    /// Bytes.
    pub mtu: u16,
    /// With prefix lengths, such as `172.17.0.2/16`.
    pub addresses: Vec<String>,
    /// Addresses of the default gateways.
    #[serde(default)]
    pub gateways: Vec<String>,
    /// IPv6 is what is said here and no more: without an address it is off, and nobody else tells
    /// the guest about addresses and routes.
    #[serde(default)]
    pub static_v6: bool,
    /// There are no hardware addresses to ask for: all goes straight through the interface.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_arp: bool,
    /// Further routes, in the order in which they are made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<Neighbour>,
    /// Kernel parameters, as paths below `/proc/sys` such as `net/ipv4/conf/eth0/log_martians`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
}

/// A route through an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// With a prefix length; `None`: the default route.
    pub destination: Option<String>,
    /// `None`: straight through the interface.
    pub gateway: Option<String>,
    /// Preferred source address.
    pub source: Option<String>,
    /// 0: the kernel's own.
    pub metric: u32,
    /// The gateway is there though no address says so.
    pub onlink: bool,
}

/// A neighbour whose hardware address is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Its address.
    pub address: String,
    /// Its hardware address.
    pub mac: String,
}

/// An annotation that makes no network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It is no such JSON.
    #[error("the annotation dev.hull.network: {reason}")]
    Parse {
        /// What is wrong.
        reason: String,
    },
    /// A value.
    #[error(
        "the annotation dev.hull.network: {field} {value:?} of interface {name:?} is not valid"
    )]
    Invalid {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
        /// The interface.
        name: String,
    },
    /// More than there are slots.
    #[error("{count} network interfaces are wanted, a VM has at most {}", Slot::NETS.len())]
    TooMany {
        /// Wanted.
        count: usize,
    },
}

/// What a network means for the VM and the guest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lowered {
    /// The VM's devices; their pairs of queues are those of the taps, which are opened later.
    pub devices: Vec<NetConfig>,
    /// What the agent is asked.
    pub request: ConfigureNetworkRequest,
}

/// Pairs of queues of the interfaces of a VM with so many vCPUs.
pub fn queue_pairs(vcpus: u8) -> usize {
    vcpus.clamp(1, MAX_QUEUE_PAIRS).into()
}

impl Attachments {
    /// Reads the annotation.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        serde_json::from_str(text).map_err(|error| NetworkError::Parse {
            reason: error.to_string(),
        })
    }

    /// Lowers all interfaces.
    pub fn lower(&self) -> Result<Lowered, NetworkError> {
        let count = self.interfaces.len();
        if Slot::NETS.len() < count {
            return Err(NetworkError::TooMany { count });
        }
        let mut lowered = Lowered::default();
        lowered.request.resolvers = self.resolvers.clone();
        for interface in &self.interfaces {
            interface.check()?;
            let mac = interface.mac()?;
            lowered.devices.push(NetConfig {
                pairs: Vec::new(),
                mac,
                mtu: interface.mtu,
            });
            lowered.request.interfaces.push(NetworkInterface {
                hardware_address: mac.to_vec(),
                name: interface.name.clone(),
                mtu: interface.mtu.into(),
                addresses: interface.addresses.clone(),
                static_v6: interface.static_v6,
                without_arp: interface.without_arp,
                routes: interface.lower_routes(),
                neighbours: interface.lower_neighbours()?,
                sysctls: interface.sysctls.clone().into_iter().collect(),
                ..Default::default()
            });
        }
        Ok(lowered)
    }
}

fn default_route(gateway: &str) -> NetworkRoute {
    NetworkRoute {
        gateway: gateway.to_owned(),
        ..Default::default()
    }
}

impl Attachment {
    fn invalid(&self, field: &'static str, value: &str) -> NetworkError {
        NetworkError::Invalid {
            field,
            value: value.to_owned(),
            name: self.name.clone(),
        }
    }

    fn check(&self) -> Result<(), NetworkError> {
        for (field, name) in [("name", &self.name), ("tap", &self.tap)] {
            let usual = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            if name.is_empty() || MAX_NAME_BYTES < name.len() || !name.bytes().all(usual) {
                return Err(self.invalid(field, name));
            }
        }
        for address in &self.addresses {
            address
                .parse::<Prefix>()
                .map_err(|_| self.invalid("address", address))?;
        }
        for gateway in &self.gateways {
            gateway
                .parse::<std::net::IpAddr>()
                .map_err(|_| self.invalid("gateway", gateway))?;
        }
        Ok(())
    }

    fn mac(&self) -> Result<[u8; 6], NetworkError> {
        parse_mac(&self.mac).ok_or_else(|| self.invalid("mac", &self.mac))
    }

    fn lower_routes(&self) -> Vec<NetworkRoute> {
        let own = self.routes.iter().map(|route| NetworkRoute {
            destination: route.destination.clone().unwrap_or_default(),
            gateway: route.gateway.clone().unwrap_or_default(),
            source: route.source.clone().unwrap_or_default(),
            metric: route.metric,
            onlink: route.onlink,
            ..Default::default()
        });
        let default = self.gateways.iter().map(|gateway| default_route(gateway));
        own.chain(default).collect()
    }

    fn lower_neighbours(&self) -> Result<Vec<NetworkNeighbour>, NetworkError> {
        let lower = |neighbour: &Neighbour| {
            let mac = parse_mac(&neighbour.mac);
            Ok(NetworkNeighbour {
                address: neighbour.address.clone(),
                hardware_address: mac
                    .ok_or_else(|| self.invalid("mac", &neighbour.mac))?
                    .to_vec(),
                ..Default::default()
            })
        };
        self.neighbours.iter().map(lower).collect()
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            name: "eth0".into(),
            tap: "hull0a1b2c3d".into(),
            mac: "02:42:ac:11:00:02".into(),
            mtu: 1500,
            addresses: vec!["172.17.0.2/16".into()],
            gateways: vec!["172.17.0.1".into()],
            static_v6: false,
            without_arp: false,
            routes: Vec::new(),
            neighbours: Vec::new(),
            sysctls: BTreeMap::new(),
        }
    }

    #[test]
    fn an_interface_becomes_a_device_and_a_request() {
        let all = Attachments {
            interfaces: vec![attachment()],
            resolvers: Vec::new(),
        };
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(Attachments::parse(&text).unwrap(), all);
        let lowered = all.lower().unwrap();
        assert_eq!(lowered.devices[0].mac, [2, 0x42, 0xac, 0x11, 0, 2]);
        let interface = &lowered.request.interfaces[0];
        assert_eq!(interface.routes[0].gateway, "172.17.0.1");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let change = |change: fn(&mut Attachment)| {
            let mut wrong = attachment();
            change(&mut wrong);
            let all = Attachments {
                interfaces: vec![wrong],
                resolvers: Vec::new(),
            };
            all.lower().unwrap_err().to_string()
        };
        assert!(change(|a| a.mac = "02:42".into()).contains("mac"));
        assert!(change(|a| a.tap = "../x".into()).contains("tap"));
        assert!(change(|a| a.name = "a-very-long-name".into()).contains("name"));
        assert!(change(|a| a.addresses = vec!["1.2.3.4".into()]).contains("address"));
        assert!(change(|a| a.gateways = vec!["x".into()]).contains("gateway"));
        let many = Attachments {
            interfaces: vec![attachment(); 9],
            resolvers: Vec::new(),
        };
        assert_eq!(
            many.lower().unwrap_err(),
            NetworkError::TooMany { count: 9 }
        );
        assert!(Attachments::parse("{}").is_err());
    }
}
