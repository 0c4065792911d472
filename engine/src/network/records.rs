//! What is known of networks and of containers' ends on them.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard_stubs::models::{EndpointSettings, HostConfig};
use hull_network::egress::{BadEgress, Egress};
use hull_network::{pool, Prefix};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// Such as `172.17.0.0/16`.
    pub(crate) subnet: String,
    pub(crate) gateway: Ipv4Addr,
    /// No way out.
    #[serde(default)]
    pub(crate) internal: bool,
    /// Containers reach each other.
    pub(crate) icc: bool,
    /// Bytes.
    pub(crate) mtu: u16,
    #[serde(default)]
    pub(crate) options: HashMap<String, String>,
    #[serde(default)]
    pub(crate) labels: HashMap<String, String>,
}

impl NetworkRecord {
    /// The subnet. `None` cannot come of a network that was checked when it was made.
    pub(crate) fn prefix(&self) -> Option<Prefix> {
        self.subnet.parse().ok()
    }

    pub(crate) fn is_default(&self) -> bool {
        self.name == super::DEFAULT
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
    /// A fixed hardware address.
    #[serde(default)]
    pub(crate) mac: Option<String>,
}

impl Wanted {
    /// Adds what a client says of the network.
    pub(crate) fn fill(&mut self, settings: &EndpointSettings) -> Result<()> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        self.aliases = settings.aliases.clone().unwrap_or_default();
        self.mac = text(&settings.mac_address);
        self.check_mac()?;
        let ipam = settings.ipam_config.as_ref();
        if let Some(address) = ipam.and_then(|ipam| text(&ipam.ipv4_address)) {
            let parsed = address.parse();
            self.address = Some(parsed.map_err(|_| {
                EngineError::BadRequest(format!("invalid IPv4 address: {address}"))
            })?);
        }
        if let Some(address) = ipam.and_then(|ipam| text(&ipam.ipv6_address)) {
            return Err(EngineError::NotBuilt(format!(
                "an IPv6 address ({address})"
            )));
        }
        Ok(())
    }
}

impl Wanted {
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
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix_length: u8,
    /// `None` on an internal network.
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) mac: String,
    pub(crate) mtu: u16,
    /// The interface on the host.
    pub(crate) tap: String,
    /// Names by which others on the network find it.
    pub(crate) names: Vec<String>,
    /// Where containers of this network ask for names; `None`: as the host does.
    pub(crate) resolver: Option<Ipv4Addr>,
    /// Where it may begin conversations to ([`Egress`], as text); empty: anywhere.
    #[serde(default)]
    pub(crate) egress: String,
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

    /// Its policy. What can't be read is the strictest one.
    pub(crate) fn egress(&self) -> Egress {
        match self.egress.as_str() {
            "" => Egress::All,
            text => text.parse().unwrap_or(Egress::None),
        }
    }

    /// The hardware address that goes with an address.
    pub(crate) fn usual_mac(address: Ipv4Addr) -> String {
        pool::mac_text(pool::mac_of(address))
    }
}
