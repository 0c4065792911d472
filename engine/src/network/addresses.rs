//! Which addresses an end gets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::manage::State;
use super::pools::Pool;
use super::records::{EndAddress, NetworkRecord, Wanted};
use crate::error::{EngineError, Result};

/// The addresses of an end: one of a family that its network has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub(super) v4: Option<EndAddress<Ipv4Addr>>,
    pub(super) v6: Option<EndAddress<Ipv6Addr>>,
}

impl Chosen {
    /// The first one: IPv4 where there is.
    pub(super) fn first(&self) -> Option<IpAddr> {
        let v4 = self.v4.map(|v4| v4.address.into());
        v4.or_else(|| self.v6.map(|v6| v6.address.into()))
    }
}

/// The addresses of an end, which nobody else has.
pub(super) fn choose_addresses(
    state: &mut State,
    network: &NetworkRecord,
    wanted: &Wanted,
) -> Result<Chosen> {
    let (v4, v6) = (network.v4.as_ref(), network.v6.as_ref());
    let fixed_v4 = wanted.address.map(IpAddr::from);
    let fixed_v6 = wanted.address_v6.map(IpAddr::from);
    // One is given out only where the other is as well.
    let v4 = v4.map(|pool| take(state, network, pool, fixed_v4));
    let v4 = v4.transpose()?;
    let v6 = v6.map(|pool| take(state, network, pool, fixed_v6));
    let v6 = v6.transpose()?;
    for (taken, fixed) in [(v4, fixed_v4), (v6, fixed_v6)] {
        if let (Some((pool, address)), None) = (taken, fixed) {
            state.last.insert(pool.subnet.0, address);
        }
    }
    let v4 = v4.map(|(pool, address)| end(network, pool, address, v4_of));
    let v6 = v6.map(|(pool, address)| end(network, pool, address, v6_of));
    Ok(Chosen {
        v4: v4.transpose()?,
        v6: v6.transpose()?,
    })
}

fn take<'a>(
    state: &State,
    network: &NetworkRecord,
    pool: &'a Pool,
    fixed: Option<IpAddr>,
) -> Result<(&'a Pool, IpAddr)> {
    let in_use = |address: IpAddr| {
        let mut all = state.live.values().flat_map(|live| &live.endpoints);
        all.any(|end| end.addresses().any(|other| other == address))
    };
    let after = state.last.get(&pool.subnet.0).copied();
    let address = pool.take(fixed, &in_use, after, &network.name)?;
    Ok((pool, address))
}

fn end<A>(
    network: &NetworkRecord,
    pool: &Pool,
    address: IpAddr,
    of_family: impl Fn(IpAddr) -> Result<A>,
) -> Result<EndAddress<A>> {
    let gateway = of_family(pool.gateway)?;
    Ok(EndAddress {
        address: of_family(address)?,
        prefix_length: pool.subnet.0.length,
        gateway: (!network.internal).then_some(gateway),
    })
}

fn v4_of(address: IpAddr) -> Result<Ipv4Addr> {
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
