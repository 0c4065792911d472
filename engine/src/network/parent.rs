//! Interfaces of the host that networks of the drivers `macvlan` and `ipvlan` bring along: a VLAN of
//! another interface (`eth0.50`), or one that leads nowhere, for containers that reach each other alone.

use hull_network::netlink::{Link, Netlink};

use super::manage::host;
use super::records::{NetworkRecord, Uplink};
use crate::error::{EngineError, Result};
use crate::ids;

/// What an interface that leads nowhere is called, before the network's short id, as by dockerd.
const DUMMY: &str = "dm-";
/// Numbers of VLANs (IEEE 802.1Q, section 9.6: 0 and 4095 are reserved).
const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=4094;

/// The interface that leads nowhere of the network of this id.
pub(super) fn dummy_of(network_id: &str) -> String {
    format!("{DUMMY}{}", ids::short(network_id))
}

/// Whether it leads nowhere.
pub(super) fn is_dummy(uplink: &Uplink) -> bool {
    uplink.made && uplink.parent.starts_with(DUMMY)
}

/// Reads `INTERFACE.NUMBER`.
fn vlan(name: &str) -> Option<(&str, u16)> {
    let (of, id) = name.rsplit_once('.')?;
    let id = id.parse().ok().filter(|id| VLAN_IDS.contains(id))?;
    (!of.is_empty()).then_some((of, id))
}

/// Whether the interface is made when it is not there.
pub(super) fn is_made(netlink: &Netlink, name: &str) -> Result<bool> {
    if find(netlink, name)?.is_some() {
        return Ok(false);
    }
    match vlan(name) {
        Some((of, _)) => Ok(find(netlink, of)?.is_some()),
        None => Ok(false),
    }
}

/// The interface that a network is on, which is made anew if it is one of ours and has gone.
pub(super) fn get(netlink: &Netlink, uplink: &Uplink) -> Result<Link> {
    let name = &uplink.parent;
    if let Some(there) = find(netlink, name)? {
        return Ok(there);
    }
    if uplink.made {
        make(netlink, uplink)?;
    }
    find(netlink, name)?.ok_or_else(|| missing(uplink))
}

fn missing(uplink: &Uplink) -> EngineError {
    EngineError::BadRequest(format!(
        "invalid {} parent {:?}: the host has no such interface (a VLAN of one that it has is made: \
         eth0.50)",
        uplink.driver.name(),
        uplink.parent
    ))
}

fn make(netlink: &Netlink, uplink: &Uplink) -> Result<()> {
    let name = &uplink.parent;
    let index = match vlan(name) {
        Some((of, id)) => {
            let of = find(netlink, of)?.ok_or_else(|| missing(uplink))?;
            netlink.add_vlan(name, of.index, id)
        }
        None => netlink.add_dummy(name),
    };
    let up = index.and_then(|index| {
        let up = netlink.set_up(index);
        if up.is_err() {
            let _ = netlink.delete_link(index);
        }
        up
    });
    up.map_err(|error| host(&error))
}

/// Removes the interface that `network` was on, unless somebody else's, or one of `others` is on it.
pub(super) fn leave(
    netlink: &Netlink,
    network: &NetworkRecord,
    others: &[NetworkRecord],
) -> Result<()> {
    let Some(uplink) = network.uplink.as_ref().filter(|uplink| uplink.made) else {
        return Ok(());
    };
    let mut others = others.iter().filter(|other| other.id != network.id);
    let shared = |other: &NetworkRecord| {
        let mut on = other.uplink.iter();
        on.any(|on| on.parent == uplink.parent)
    };
    if others.any(shared) {
        return Ok(());
    }
    match find(netlink, &uplink.parent)? {
        Some(there) => netlink
            .delete_link(there.index)
            .map_err(|error| host(&error)),
        None => Ok(()),
    }
}

fn find(netlink: &Netlink, name: &str) -> Result<Option<Link>> {
    netlink.link(name).map_err(|error| host(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_told_by_its_name() {
        assert_eq!(vlan("eth0.50"), Some(("eth0", 50)));
        assert_eq!(vlan("bond0.7.4094"), Some(("bond0.7", 4094)));
        for other in ["eth0", "eth0.0", "eth0.4095", "eth0.x", ".5", "eth0."] {
            assert_eq!(vlan(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_vlan_of_what_there_is_is_made() {
        let netlink = Netlink::open().unwrap();
        assert!(is_made(&netlink, "lo.50").unwrap());
        for not in ["lo", "no-such0", "no-such0.50"] {
            assert!(!is_made(&netlink, not).unwrap(), "{not}");
        }
        assert_eq!(dummy_of("0123456789abcdef"), "dm-0123456789ab");
    }
}
