//! The network `bridge`, as the engine's configuration has it.

use std::net::IpAddr;

use hull_network::Prefix;

use crate::error::{EngineError, Result};

/// Longest prefix of a subnet that has room for a gateway and a container: of IPv4 and of IPv6.
const LONGEST: [u8; 2] = [30, 126];

/// What is said of the default network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultBridge {
    /// Of IPv4, and of IPv6.
    pub families: [FamilyOfBridge; 2],
    /// It has IPv6 addresses; else what is said of them changes nothing.
    pub ipv6: bool,
    /// Its containers reach each other.
    pub icc: bool,
    /// They reach others under the host's address.
    pub masquerade: bool,
    /// Where their ports are published that name no address; `None`: on all of the host's.
    pub host_binding: Option<IpAddr>,
}

/// Its addresses of one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FamilyOfBridge {
    /// The host's, with the length of the subnet.
    pub host: Option<Prefix>,
    /// Containers get one of these. Without `host` it is the subnet.
    pub range: Option<Prefix>,
}

impl Default for DefaultBridge {
    fn default() -> Self {
        Self {
            families: Default::default(),
            ipv6: false,
            icc: true,
            masquerade: true,
            host_binding: None,
        }
    }
}

impl DefaultBridge {
    /// Whether there can be such a network.
    ///
    /// # Errors
    ///
    /// [`EngineError::BadRequest`] names the key of the configuration.
    pub fn check(&self) -> Result<()> {
        let keys = [["bip", "fixed-cidr"], ["bip6", "fixed-cidr-v6"]];
        let [v4, v6] = &self.families;
        v4.check(keys[0], false)
            .and_then(|()| v6.check(keys[1], true))
    }
}

impl FamilyOfBridge {
    /// The subnet, if one is said.
    pub(crate) fn subnet(&self) -> Option<Prefix> {
        self.host.or(self.range).map(|prefix| prefix.network())
    }

    fn check(&self, [host_key, range_key]: [&str; 2], v6: bool) -> Result<()> {
        for (key, said) in [(host_key, self.host), (range_key, self.range)] {
            let other = said.filter(|prefix| prefix.address.is_ipv6() != v6);
            if let Some(prefix) = other {
                return bad(key, &format!("{prefix} is of the other family"));
            }
        }
        if let Some(host) = self.host {
            let broadcast = !v6 && host.address == host.last();
            if host.address == host.first() || broadcast {
                return bad(host_key, &format!("{host} is no address of a host"));
            }
        }
        let key = if self.host.is_some() {
            host_key
        } else {
            range_key
        };
        match self.subnet() {
            Some(subnet) if LONGEST[usize::from(v6)] < subnet.length => {
                let why = format!("{subnet} has no room for a gateway and a container");
                return bad(key, &why);
            }
            _ => {}
        }
        match (self.host, self.range) {
            (Some(host), Some(range)) if !host.contains(range.first()) => {
                bad(range_key, &format!("{range} is not in {}", host.network()))
            }
            (Some(host), Some(range)) if !host.contains(range.last()) => {
                bad(range_key, &format!("{range} is not in {}", host.network()))
            }
            _ => Ok(()),
        }
    }
}

fn bad<T>(key: &str, why: &str) -> Result<T> {
    Err(EngineError::BadRequest(format!("{key}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_network_is_refused_by_its_key() {
        let family = |host: &str, range: &str| {
            let prefix = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
            FamilyOfBridge {
                host: prefix(host),
                range: prefix(range),
            }
        };
        let none = FamilyOfBridge::default();
        for (v4, v6, ipv6, key) in [
            (family("10.9.0.1/24", ""), none, false, ""),
            (family("10.9.0.1/24", "10.9.0.128/25"), none, false, ""),
            (family("", "10.9.0.0/24"), none, false, ""),
            (none, family("fd00:9::1/64", "fd00:9::80/122"), true, ""),
            (family("10.9.0.0/24", ""), none, false, "bip: "),
            (family("10.9.0.255/24", ""), none, false, "bip: "),
            (family("10.9.0.1/31", ""), none, false, "bip: "),
            (family("fd00:9::1/64", ""), none, true, "bip: "),
            (
                family("10.9.0.1/24", "10.9.1.0/25"),
                none,
                false,
                "fixed-cidr: ",
            ),
            (
                family("10.9.0.1/24", "10.9.0.0/23"),
                none,
                false,
                "fixed-cidr: ",
            ),
            (family("", "10.9.0.0/31"), none, false, "fixed-cidr: "),
            (none, family("10.9.0.1/24", ""), false, "bip6: "),
            (none, family("", "fd00:9::/127"), true, "fixed-cidr-v6: "),
        ] {
            let bridge = DefaultBridge {
                families: [v4, v6],
                ipv6,
                ..DefaultBridge::default()
            };
            let error = bridge.check().map_err(|error| error.message());
            match key {
                "" => error.unwrap(),
                key => assert!(
                    error.as_ref().is_err_and(|e| e.starts_with(key)),
                    "{error:?}"
                ),
            }
        }
    }
}
