//! A network's addresses of one family: which there are, and which a container gets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use hull_network::netlink::Netlink;
use hull_network::pool::AddressPool;
use hull_network::{pool, BadPrefix, Prefix};
use serde::{Deserialize, Serialize};

use super::bridge::IPV6;
use super::manage::{host, CreateNetwork, Networks, State};
use super::HOST;
use crate::error::{EngineError, Result};

/// A network's addresses, as records have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Subnet(pub(crate) Prefix);

impl TryFrom<String> for Subnet {
    type Error = BadPrefix;

    fn try_from(text: String) -> std::result::Result<Self, BadPrefix> {
        text.parse().map(Self)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.0.to_string()
    }
}

/// The addresses of a network, of one family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// Such as `172.17.0.0/16`.
    pub(crate) subnet: Subnet,
    /// The host's address on it.
    pub(crate) gateway: IpAddr,
    /// Containers that ask for no address get one of these.
    #[serde(default)]
    pub(crate) range: Option<Subnet>,
    /// Given to nobody, by the name that the user has for it.
    #[serde(default)]
    pub(crate) reserved: BTreeMap<String, IpAddr>,
}

/// A pool that is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct PoolRequest {
    pub(crate) subnet: Option<String>,
    pub(crate) gateway: Option<String>,
    pub(crate) range: Option<String>,
    pub(crate) reserved: BTreeMap<String, String>,
}

fn bad<T>(text: String) -> Result<T> {
    Err(EngineError::BadRequest(format!(
        "invalid network config: {text}"
    )))
}

impl PoolRequest {
    /// Of which family it is. Without a subnet it is of IPv4.
    pub(crate) fn is_v6(&self) -> bool {
        let text = self.subnet.as_ref().or(self.gateway.as_ref());
        text.is_some_and(|text| text.contains(':'))
    }

    /// The subnet, if one is named.
    pub(crate) fn checked_subnet(&self) -> Result<Option<Prefix>> {
        let Some(text) = &self.subnet else {
            return Ok(None);
        };
        let Ok(subnet) = text.parse::<Prefix>() else {
            return bad(format!(
                "invalid subnet {text}: want an address with a prefix length, such as 10.5.0.0/16"
            ));
        };
        let network = subnet.network();
        if subnet != network {
            return bad(format!("invalid subnet {subnet}: it should be {network}"));
        }
        let most = if subnet.address.is_ipv4() { 30 } else { 126 };
        if most < subnet.length {
            return bad(format!(
                "invalid subnet {text}: it has no room for a gateway and a container"
            ));
        }
        Ok(Some(subnet))
    }

    /// The pool, in a subnet that is free.
    pub(crate) fn build(&self, subnet: Prefix) -> Result<Pool> {
        let inside = |what: &str, text: &String| match text.parse::<IpAddr>() {
            Ok(address) if subnet.contains(address) => Ok(address),
            Ok(_) => bad(format!("invalid {what} {text}: not in subnet {subnet}")),
            Err(_) => bad(format!("invalid {what} {text}: it is no address")),
        };
        let mut pool = Pool {
            subnet: Subnet(subnet),
            gateway: subnet.first(),
            range: self.checked_range(subnet)?.map(Subnet),
            reserved: BTreeMap::new(),
        };
        for (name, text) in &self.reserved {
            let address = inside("auxiliary address", text)?;
            pool.reserved.insert(name.clone(), address);
        }
        pool.gateway = match &self.gateway {
            Some(text) => inside("gateway", text)?,
            None => {
                let reserved = |address| pool.reserved.values().any(|other| *other == address);
                match pool::free_address(subnet, None, &reserved, None) {
                    Some(free) => free,
                    None => return bad(format!("no address is left for a gateway in {subnet}")),
                }
            }
        };
        let mut reserved = pool.reserved.values();
        if reserved.any(|address| *address == pool.gateway) {
            return bad(format!("{} is the gateway and reserved", pool.gateway));
        }
        Ok(pool)
    }

    fn checked_range(&self, subnet: Prefix) -> Result<Option<Prefix>> {
        let Some(text) = &self.range else {
            return Ok(None);
        };
        match text.parse::<Prefix>() {
            Ok(range) if subnet.contains(range.first()) && subnet.contains(range.last()) => {
                Ok(Some(range.network()))
            }
            Ok(_) => bad(format!(
                "invalid ip-range {text}: it is not in the subnet {subnet}"
            )),
            Err(_) => bad(format!(
                "invalid ip-range {text}: want an address with a prefix length"
            )),
        }
    }
}

impl Pool {
    /// The gateway's address with the subnet's length.
    pub(crate) fn gateway_prefix(&self) -> Prefix {
        Prefix {
            address: self.gateway,
            length: self.subnet.0.length,
        }
    }

    /// The address that a container gets. `fixed`: the one that it asks for; `network`: the
    /// network's name, for errors.
    pub(crate) fn take(
        &self,
        fixed: Option<IpAddr>,
        in_use: &dyn Fn(IpAddr) -> bool,
        after: Option<IpAddr>,
        network: &str,
    ) -> Result<IpAddr> {
        let reserved = |address| self.reserved.values().any(|other| *other == address);
        let taken = |address| address == self.gateway || in_use(address);
        let subnet = self.subnet.0;
        let Some(fixed) = fixed else {
            let range = self.range.map(|range| range.0);
            let taken = |address| taken(address) || reserved(address);
            return pool::free_address(subnet, range, &taken, after).ok_or_else(|| {
                let family = if subnet.address.is_ipv4() { 4 } else { 6 };
                EngineError::Network(format!(
                    "no available IPv{family} addresses on this network's address pools: {network} \
                     ({})",
                    self.range.map_or(subnet, |range| range.0)
                ))
            });
        };
        let usable = subnet.contains(fixed) && fixed != subnet.first();
        let broadcast = fixed.is_ipv4() && fixed == subnet.last();
        if !usable || broadcast {
            return Err(EngineError::BadRequest(format!(
                "invalid address {fixed}: it does not belong to any of this network's subnets \
                 ({network} has {subnet})"
            )));
        }
        if taken(fixed) || reserved(fixed) {
            return Err(EngineError::Forbidden(format!(
                "Address already in use: {fixed} on network {network}"
            )));
        }
        Ok(fixed)
    }
}

/// Networks to choose from.
type Candidates = Box<dyn Iterator<Item = Prefix>>;

impl Networks {
    /// The addresses of a network that is to be made.
    pub(super) fn pools(
        &self,
        netlink: &Netlink,
        state: &State,
        wanted: &CreateNetwork,
    ) -> Result<(Option<Pool>, Option<Pool>)> {
        let mut of_host = None;
        let mut taken: Vec<Prefix> = state.networks.iter().flat_map(|n| n.subnets()).collect();
        let mut build = |request: &PoolRequest, candidates: Candidates| -> Result<Pool> {
            let subnet = match request.checked_subnet()? {
                Some(subnet) if taken.iter().any(|other| other.overlaps(&subnet)) => {
                    return Err(EngineError::Forbidden(format!(
                        "invalid pool request: Pool overlaps with other one on this address space: \
                         {subnet}"
                    )));
                }
                Some(subnet) => subnet,
                None => {
                    if of_host.is_none() {
                        of_host = Some(netlink.destinations().map_err(|error| host(&error))?);
                    }
                    let mut avoid = taken.clone();
                    avoid.extend(of_host.iter().flatten());
                    pool::choose(candidates, &avoid).ok_or_else(|| {
                        EngineError::Network(
                            "all predefined address pools have been fully subnetted: remove a \
                             network, or name one with --subnet"
                                .into(),
                        )
                    })?
                }
            };
            taken.push(subnet);
            request.build(subnet)
        };
        let of = |v6: bool| {
            let mut all = wanted.pools.iter().filter(|pool| pool.is_v6() == v6);
            match (all.next(), all.next()) {
                (_, Some(_)) => Err(EngineError::BadRequest(format!(
                    "bridge driver doesn't support multiple subnets: network {} has more than one \
                     of a family",
                    wanted.name
                ))),
                (first, None) => Ok(first.cloned().unwrap_or_default()),
            }
        };
        let mut v4 = None;
        if wanted.families.has_v4() {
            // Users' networks have the addresses that they would have without the host's.
            v4 = Some(build(
                &of(false)?,
                self.candidates_v4(wanted.driver == HOST),
            )?);
        }
        if !wanted.families.has_v6() {
            return Ok((v4, None));
        }
        if !Path::new(IPV6).exists() {
            return Err(EngineError::Network(
                "a network with IPv6 needs a host with IPv6: its kernel has it switched off".into(),
            ));
        }
        let v6 = build(&of(true)?, self.candidates_v6())?;
        Ok((v4, Some(v6)))
    }

    /// The operator's, else Docker's.
    fn candidates_v4(&self, last_first: bool) -> Candidates {
        let mut own = self
            .address_pools
            .iter()
            .filter(|pool| !pool.is_v6())
            .peekable();
        if own.peek().is_none() {
            return match last_first {
                true => Box::new(pool::candidates().rev()),
                false => Box::new(pool::candidates()),
            };
        }
        let own: Vec<_> = own.copied().collect();
        let networks = own.into_iter().flat_map(AddressPool::networks);
        match last_first {
            true => Box::new(networks.rev()),
            false => Box::new(networks),
        }
    }

    /// The operator's, else unique local ones.
    fn candidates_v6(&self) -> Candidates {
        let own: Vec<_> = self
            .address_pools
            .iter()
            .filter(|pool| pool.is_v6())
            .copied()
            .collect();
        match own.is_empty() {
            true => Box::new(pool::candidates_v6(self.global_id)),
            false => Box::new(own.into_iter().flat_map(AddressPool::networks)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(subnet: &str) -> PoolRequest {
        PoolRequest {
            subnet: Some(subnet.into()),
            ..PoolRequest::default()
        }
    }

    fn build(request: &PoolRequest) -> Result<Pool> {
        let subnet = request.checked_subnet()?.unwrap();
        request.build(subnet)
    }

    #[test]
    fn pools_are_checked() {
        for bad in [
            "nonsense",
            "10.0.0.0",
            "10.0.0.9/24",
            "10.0.0.0/31",
            "fd00::/127",
        ] {
            let error = request(bad).checked_subnet().unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
        let wanted = PoolRequest {
            range: Some("10.0.1.0/24".into()),
            ..request("10.0.0.0/24")
        };
        assert!(build(&wanted).unwrap_err().to_string().contains("ip-range"));
        let wanted = PoolRequest {
            gateway: Some("10.0.1.1".into()),
            ..request("10.0.0.0/24")
        };
        assert!(build(&wanted).is_err());
        let wanted = PoolRequest {
            reserved: BTreeMap::from([("router".into(), "10.0.0.1".into())]),
            ..request("10.0.0.0/24")
        };
        let pool = build(&wanted).unwrap();
        assert_eq!(pool.gateway.to_string(), "10.0.0.2");
    }

    #[test]
    fn addresses_are_taken_from_the_range_and_fixed_ones_from_the_subnet() {
        let pool = build(&PoolRequest {
            range: Some("10.0.0.128/30".into()),
            reserved: BTreeMap::from([("printer".into(), "10.0.0.128".into())]),
            ..request("10.0.0.0/24")
        })
        .unwrap();
        let take = |fixed: Option<&str>| {
            let fixed = fixed.map(|text| text.parse().unwrap());
            let address = pool.take(fixed, &|_| false, None, "n");
            address.map(|address| address.to_string())
        };
        assert_eq!(take(None).unwrap(), "10.0.0.129");
        assert_eq!(take(Some("10.0.0.7")).unwrap(), "10.0.0.7");
        for bad in [
            "10.0.0.0",
            "10.0.0.255",
            "10.0.0.1",
            "10.0.0.128",
            "10.1.0.1",
        ] {
            assert!(take(Some(bad)).is_err(), "{bad}");
        }
        let full = pool.take(None, &|_| true, None, "n").unwrap_err();
        assert!(full.to_string().contains("no available IPv4"), "{full}");
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let old = r#"{"subnet":"172.17.0.0/16","gateway":"172.17.0.1"}"#;
        let pool: Pool = serde_json::from_str(old).unwrap();
        assert_eq!(pool.gateway_prefix().to_string(), "172.17.0.1/16");
    }
}
