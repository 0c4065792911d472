//! Which addresses an end gets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::manage::State;
use super::pools::Pool;
use super::records::{EndpointV6, NetworkRecord, Wanted};
use crate::error::{EngineError, Result};

/// The addresses of an end, which nobody else has.
pub(super) fn choose_addresses(
    state: &mut State,
    network: &NetworkRecord,
    wanted: &Wanted,
) -> Result<(Ipv4Addr, Option<EndpointV6>)> {
    let in_use = |address: IpAddr| {
        let mut all = state.live.values().flat_map(|live| &live.endpoints);
        all.any(|end| end.addresses().any(|other| other == address))
    };
    let take = |pool: &Pool, fixed: Option<IpAddr>| {
        let after = state.last.get(&pool.subnet.0).copied();
        pool.take(fixed, &in_use, after, &network.name)
    };
    let v4 = take(&network.v4, wanted.address.map(IpAddr::from))?;
    let v6 = match &network.v6 {
        Some(pool) => Some((pool, take(pool, wanted.address_v6.map(IpAddr::from))?)),
        None => None,
    };
    if wanted.address.is_none() {
        state.last.insert(network.v4.subnet.0, v4);
    }
    let Some((pool, address)) = v6 else {
        return Ok((v4_of(v4)?, None));
    };
    if wanted.address_v6.is_none() {
        state.last.insert(pool.subnet.0, address);
    }
    let gateway = v6_of(pool.gateway)?;
    let v6 = EndpointV6 {
        address: v6_of(address)?,
        prefix_length: pool.subnet.0.length,
        gateway: (!network.internal).then_some(gateway),
    };
    Ok((v4_of(v4)?, Some(v6)))
}

pub(super) fn v4_of(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(wrong_family(address)),
    }
}

fn v6_of(address: IpAddr) -> Result<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Ok(address),
        IpAddr::V4(_) => Err(wrong_family(address)),
    }
}

/// Only a record that was changed by hand says such a thing.
fn wrong_family(address: IpAddr) -> EngineError {
    EngineError::Network(format!("{address} is of the wrong family for its network"))
}
