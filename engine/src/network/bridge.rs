//! The bridge of a network.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use hull_network::netlink::{Netlink, NetlinkError};
use hull_network::ports::{self, Published};

use super::dns::Dns;
use super::manage::{host, CreateNetwork, Networks, State};
use super::records::NetworkRecord;
use crate::error::{EngineError, Result};

/// Where the kernel has the settings of IPv6, if it has IPv6.
pub(super) const IPV6: &str = "/proc/sys/net/ipv6/conf";
/// Bytes of a packet on a host without a way out.
const DEFAULT_MTU: u32 = 1500;
/// Bytes that each network with IPv6 must carry (RFC 8200, section 5), and each with IPv4.
const LEAST_MTU: [u32; 2] = [1280, 68];
/// Bytes that fit the largest packet.
const MOST_MTU: u32 = 65_521;
/// Option of a network: its MTU.
pub(super) const MTU_OPTION: &str = "com.docker.network.driver.mtu";

impl Networks {
    /// The bridge of a network: made, addressed and fenced if it is not there. The result is its
    /// index.
    pub(super) fn bridge(
        &self,
        netlink: &Netlink,
        network: &NetworkRecord,
        mtu: u16,
        state: &mut State,
    ) -> Result<u32> {
        let name = self.tag.bridge(&network.id);
        let ask = || -> std::result::Result<(u32, bool), NetlinkError> {
            if let Some(bridge) = netlink.link(&name)? {
                if bridge.mtu != u32::from(mtu) {
                    netlink.set_mtu(bridge.index, mtu.into())?;
                }
                return Ok((bridge.index, false));
            }
            let index = netlink.add_bridge(&name, mtu.into())?;
            Ok((index, true))
        };
        let (index, new) = ask().map_err(|error| host(&error))?;
        if new {
            prepare_v6(&name, network.v6.is_some());
            let addressed = network
                .pools()
                .try_for_each(|pool| netlink.add_address(index, pool.gateway_prefix()))
                .and_then(|()| netlink.set_up(index))
                .map_err(|error| host(&error));
            if let Err(error) = addressed.and_then(|()| self.apply_rules(state)) {
                // Without its rules a network must not be there.
                let _ = netlink.delete_link(index);
                return Err(error);
            }
        }
        if !state.servers.contains_key(&network.id) {
            let server = network.gateways().next().map(|gateway| {
                Dns::start(
                    &network.id,
                    gateway,
                    self.directory.clone(),
                    self.file_of_host_resolvers(),
                )
            });
            state
                .servers
                .extend(server.map(|server| (network.id.clone(), server)));
        }
        if network.host && state.relay.is_none() {
            state.relay = network
                .gateways()
                .next()
                .map(|gateway| self.relay(gateway))
                .transpose()?;
        }
        Ok(index)
    }

    fn relay(&self, gateway: IpAddr) -> Result<Published> {
        let relay = ports::relay(SocketAddr::new(gateway, 0), &self.room);
        relay.map_err(|error| {
            EngineError::Network(format!(
                "failed to listen at {gateway} for containers of the network host: {error}"
            ))
        })
    }

    /// Size of a network's packets, in bytes: what it was made with, or what the host's way out
    /// carries. While containers are on it it stays, since they were told.
    pub(super) fn mtu(&self, netlink: &Netlink, network: &NetworkRecord, state: &State) -> u16 {
        let mut ends = state.live.values().flat_map(|live| &live.endpoints);
        if let Some(told) = ends.find(|end| end.network_id == network.id) {
            return told.mtu;
        }
        let mtu = match network.mtu {
            0 => match self.default_mtu.filter(|_| network.is_default()) {
                Some(mtu) => mtu.into(),
                None => netlink.uplink_mtu().ok().flatten().unwrap_or(DEFAULT_MTU),
            },
            mtu => mtu.into(),
        };
        let [with_v6, without] = LEAST_MTU;
        let least = if network.v6.is_some() {
            with_v6
        } else {
            without
        };
        // What is clamped fits.
        mtu.clamp(least, MOST_MTU) as u16
    }

    /// The same, for whoever wants to see it; that of hosts without a way out where it can't be told.
    pub(crate) fn mtu_of(&self, network: &NetworkRecord) -> u32 {
        match Netlink::open() {
            Ok(netlink) => self.mtu(&netlink, network, &self.lock()).into(),
            Err(_) => DEFAULT_MTU,
        }
    }

    fn file_of_host_resolvers(&self) -> PathBuf {
        PathBuf::from("/etc/resolv.conf")
    }

    pub(super) fn remove_bridge(&self, network: &NetworkRecord) -> Result<()> {
        let netlink = Netlink::open().map_err(|error| host(&error))?;
        let remove = || -> std::result::Result<(), NetlinkError> {
            match netlink.link(&self.tag.bridge(&network.id))? {
                Some(bridge) => netlink.delete_link(bridge.index),
                None => Ok(()),
            }
        };
        remove().map_err(|error| host(&error))
    }
}

/// The size of packets that is asked for; 0: none is.
pub(super) fn checked_mtu(wanted: &CreateNetwork) -> Result<u16> {
    let Some(text) = wanted.options.get(MTU_OPTION) else {
        return Ok(0);
    };
    let [with_v6, without] = LEAST_MTU;
    let least = if wanted.families.has_v6() {
        with_v6
    } else {
        without
    };
    within(text, least)
}

/// Refuses a size that packets of IPv4 can't have.
pub(crate) fn check_mtu(mtu: u16) -> Result<()> {
    let [_, least] = LEAST_MTU;
    within(&mtu.to_string(), least).map(drop)
}

fn within(text: &str, least: u32) -> Result<u16> {
    let mtu = text.parse().ok();
    mtu.filter(|mtu| (least..=MOST_MTU).contains(&u32::from(*mtu)))
        .ok_or_else(|| {
            EngineError::BadRequest(format!("invalid MTU {text:?}: want {least} to {MOST_MTU}"))
        })
}

/// Settings of a bridge that can't be had by netlink. A host without IPv6 has none of them.
fn prepare_v6(bridge: &str, wanted: bool) {
    let settings = [
        ("disable_ipv6", if wanted { "0" } else { "1" }),
        // Nobody tells the host where to go.
        ("accept_ra", "0"),
    ];
    for (name, value) in settings {
        let path = Path::new(IPV6).join(bridge).join(name);
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!(path = %path.display(), %error, "a setting stays");
        }
    }
}
