//! The drivers `macvlan` and `ipvlan`: containers on the network that an interface of the host is on,
//! each under a hardware address of its own, or all under that of the interface.
//!
//! The host itself and its name server can't reach them there, as everywhere with these: names of
//! other containers are not known, ports need no publishing, and policies of egress, which are the
//! host's to enforce, are refused.

use hull_network::egress::Egress;
use hull_network::ipvtap::{self, Heard, Ipvtap};
use hull_network::macvtap::{self, Macvtap};
use hull_network::netlink::{Link, Netlink};
use hull_network::pool;

use super::manage::{host, CreateNetwork};
use super::owner::Owner;
use super::records::{Endpoint, NetworkRecord, Uplink, UplinkDriver, Wanted};
use crate::error::{EngineError, Result};

/// Options of a network, as docker's drivers have them.
const PARENT_OPTION: &str = "parent";
const MACVLAN_MODES: [&str; 2] = ["macvlan_mode", "mode"];
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";

/// What a network of these drivers is made with; `None`: it is of another.
pub(super) fn of(netlink: &Netlink, wanted: &CreateNetwork) -> Result<Option<Uplink>> {
    let driver = match wanted.driver.as_str() {
        "macvlan" => UplinkDriver::Macvlan,
        "ipvlan" => UplinkDriver::Ipvlan,
        _ => return Ok(None),
    };
    let Some(parent) = wanted.options.get(PARENT_OPTION) else {
        return Err(EngineError::NotBuilt(format!(
            "a network of the driver {} without an interface of the host (name one with -o \
             parent=...)",
            driver.name()
        )));
    };
    let option = |keys: &[&str]| {
        let mut values = keys.iter().filter_map(|key| wanted.options.get(*key));
        values.next().cloned().unwrap_or_default()
    };
    let (mode, flag) = match driver {
        UplinkDriver::Macvlan => (option(&MACVLAN_MODES), String::new()),
        UplinkDriver::Ipvlan => (option(&[IPVLAN_MODE]), option(&[IPVLAN_FLAG])),
    };
    match driver {
        UplinkDriver::Macvlan => macvlan_mode(&mode).map(drop)?,
        UplinkDriver::Ipvlan => {
            ipvlan_mode(&mode)?;
            ipvlan_flag(&flag)?;
            if wanted.families.has_v6() {
                return Err(EngineError::NotBuilt("an ipvlan network with IPv6".into()));
            }
        }
    }
    let uplink = Uplink {
        driver,
        parent: parent.clone(),
        mode,
        flag,
    };
    parent_of(netlink, &uplink)?;
    Ok(Some(uplink))
}

/// All containers under one hardware address have one mode, so there is one network of them.
pub(super) fn check_free(wanted: Option<&Uplink>, networks: &[NetworkRecord]) -> Result<()> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let clashes = |network: &&NetworkRecord| {
        let there = network.uplink.iter();
        let mut same = there.filter(|there| there.parent == wanted.parent);
        same.any(|there| [there.driver, wanted.driver].contains(&UplinkDriver::Ipvlan))
    };
    match networks.iter().find(clashes) {
        Some(network) => Err(EngineError::Forbidden(format!(
            "network {} is already using parent interface {}",
            network.name, wanted.parent
        ))),
        None => Ok(()),
    }
}

fn macvlan_mode(text: &str) -> Result<macvtap::Mode> {
    match text {
        "" | "bridge" => Ok(macvtap::Mode::Bridge),
        "vepa" => Ok(macvtap::Mode::Vepa),
        "private" => Ok(macvtap::Mode::Private),
        "passthru" => Err(EngineError::NotBuilt("the macvlan mode passthru".into())),
        other => Err(EngineError::BadRequest(format!(
            "unknown macvlan mode {other:?}: want bridge, vepa or private"
        ))),
    }
}

fn ipvlan_mode(text: &str) -> Result<ipvtap::Mode> {
    match text {
        "" | "l2" => Ok(ipvtap::Mode::Layer2),
        "l3" => Ok(ipvtap::Mode::Layer3),
        "l3s" => Err(EngineError::NotBuilt("the ipvlan mode l3s".into())),
        other => Err(EngineError::BadRequest(format!(
            "unknown ipvlan mode {other:?}: want l2 or l3"
        ))),
    }
}

fn ipvlan_flag(text: &str) -> Result<Heard> {
    match text {
        "" | "bridge" => Ok(Heard::ByAll),
        "private" => Ok(Heard::ByNobody),
        "vepa" => Ok(Heard::Outside),
        other => Err(EngineError::BadRequest(format!(
            "unknown ipvlan flag {other:?}: want bridge, private or vepa"
        ))),
    }
}

/// Whether containers there have no hardware addresses to ask for.
pub(super) fn is_layer3(uplink: &Uplink) -> bool {
    let ipvlan = uplink.driver == UplinkDriver::Ipvlan;
    ipvlan && ipvlan_mode(&uplink.mode).is_ok_and(|mode| mode == ipvtap::Mode::Layer3)
}

fn parent_of(netlink: &Netlink, uplink: &Uplink) -> Result<Link> {
    let (driver, parent) = (uplink.driver.name(), &uplink.parent);
    let found = netlink.link(parent).map_err(|error| host(&error))?;
    found.ok_or_else(|| {
        EngineError::BadRequest(format!(
            "invalid {driver} parent {parent:?}: the host has no such interface (a VLAN has to be \
             made before)"
        ))
    })
}

/// Refuses what a container can't have there.
pub(super) fn check(owner: &Owner<'_>, network: &NetworkRecord, uplink: &Uplink) -> Result<()> {
    if *owner.egress == Egress::All {
        return Ok(());
    }
    Err(EngineError::BadRequest(format!(
        "an egress policy can't be kept on network {}: packets of the driver {} don't pass the host",
        network.name,
        uplink.driver.name()
    )))
}

/// The hardware address of a container.
pub(super) fn mac(
    netlink: &Netlink,
    uplink: &Uplink,
    wanted: &Wanted,
    usual: String,
) -> Result<String> {
    if uplink.driver == UplinkDriver::Macvlan {
        return Ok(wanted.mac(usual));
    }
    if wanted.mac.is_some() {
        return Err(EngineError::BadRequest(
            "ipvlan interfaces do not support custom mac address assignment".into(),
        ));
    }
    let parent = parent_of(netlink, uplink)?;
    let own: Option<[u8; 6]> = parent.address.as_slice().try_into().ok();
    own.map(pool::mac_text).ok_or_else(|| {
        EngineError::BadRequest(format!(
            "invalid ipvlan parent {:?}: it is no Ethernet interface",
            uplink.parent
        ))
    })
}

/// Bytes of a packet: what the network was made with, as far as the host's interface carries it.
pub(super) fn mtu(netlink: &Netlink, network: &NetworkRecord, uplink: &Uplink) -> Result<u16> {
    let most = u16::try_from(parent_of(netlink, uplink)?.mtu).unwrap_or(u16::MAX);
    Ok(match network.mtu {
        0 => most,
        asked => asked.min(most),
    })
}

/// Makes the tap of an end.
pub(super) fn plug(
    netlink: &Netlink,
    endpoint: &Endpoint,
    uplink: &Uplink,
    mac: [u8; 6],
) -> Result<()> {
    let parent = parent_of(netlink, uplink)?.index;
    let (name, mtu) = (endpoint.tap.as_str(), endpoint.mtu.into());
    let made = match uplink.driver {
        UplinkDriver::Macvlan => {
            let mode = macvlan_mode(&uplink.mode)?;
            let wanted = Macvtap {
                name,
                parent,
                mac,
                mtu,
                mode,
            };
            macvtap::create(netlink, &wanted)
        }
        UplinkDriver::Ipvlan => {
            let address = endpoint
                .v4
                .map(|v4| v4.address)
                .ok_or_else(|| EngineError::NotBuilt("an ipvlan network without IPv4".into()))?;
            let wanted = Ipvtap {
                name,
                parent,
                address,
                mtu,
                mode: ipvlan_mode(&uplink.mode)?,
                heard: ipvlan_flag(&uplink.flag)?,
            };
            ipvtap::create(netlink, &wanted)
        }
    };
    made.map_err(|error| host(&error))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn asked(driver: &str, options: &[(&str, &str)]) -> Result<Option<Uplink>> {
        let netlink = Netlink::open().unwrap();
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let wanted = CreateNetwork {
            driver: driver.to_owned(),
            options: options.collect::<HashMap<_, _>>(),
            ..CreateNetwork::default()
        };
        of(&netlink, &wanted)
    }

    #[test]
    fn a_network_is_on_an_interface_that_there_is() {
        assert_eq!(asked("bridge", &[("parent", "lo")]).unwrap(), None);
        let made = asked("macvlan", &[("parent", "lo"), ("macvlan_mode", "vepa")]);
        let uplink = made.unwrap().unwrap();
        assert_eq!(
            (uplink.parent.as_str(), uplink.mode.as_str()),
            ("lo", "vepa")
        );
        for (options, part) in [
            (&[][..], "parent="),
            (&[("parent", "no-such0")], "no-such0"),
            (
                &[("parent", "lo"), ("macvlan_mode", "passthru")],
                "passthru",
            ),
            (&[("parent", "lo"), ("macvlan_mode", "x")], "\"x\""),
        ] {
            let error = asked("macvlan", options).unwrap_err();
            assert!(error.message().contains(part), "{}", error.message());
        }
    }

    #[test]
    fn the_options_of_ipvlan_are_read() {
        let made = |options: &[(&str, &str)]| {
            let all: Vec<_> = [("parent", "lo")].iter().chain(options).copied().collect();
            asked("ipvlan", &all).map(Option::unwrap)
        };
        assert!(!is_layer3(&made(&[]).unwrap()));
        assert!(is_layer3(&made(&[("ipvlan_mode", "l3")]).unwrap()));
        assert_eq!(made(&[("ipvlan_flag", "vepa")]).unwrap().flag, "vepa");
        for (option, part) in [
            (("ipvlan_mode", "l3s"), "l3s"),
            (("ipvlan_mode", "x"), "\"x\""),
            (("ipvlan_flag", "y"), "\"y\""),
        ] {
            let error = made(&[option]).unwrap_err();
            assert!(error.message().contains(part), "{}", error.message());
        }
    }

    #[test]
    fn an_interface_has_one_network_of_ipvlan() {
        let uplink = asked("ipvlan", &[("parent", "lo")]).unwrap();
        let text = r#"{"id":"a","name":"first","created":"2025-01-01T00:00:00Z",
            "subnet":"10.0.0.0/24","gateway":"10.0.0.1","icc":true,"mtu":0,
            "macvlan":{"parent":"lo","mode":""}}"#;
        // As an earlier version wrote it.
        let first: NetworkRecord = serde_json::from_str(text).unwrap();
        assert_eq!(first.driver(), "macvlan");
        let error = check_free(uplink.as_ref(), std::slice::from_ref(&first)).unwrap_err();
        assert_eq!(
            error.message(),
            "network first is already using parent interface lo"
        );
        assert!(check_free(first.uplink.as_ref(), std::slice::from_ref(&first)).is_ok());
        assert!(check_free(uplink.as_ref(), &[]).is_ok());
    }
}
