//! The drivers `macvlan` and `ipvlan`: containers on the network that an interface of the host is on,
//! each under a hardware address of its own, or all under that of the interface.
//!
//! The host itself and its name server can't reach them there, as everywhere with these: names of
//! other containers are not known, ports need no publishing, and policies of egress, which are the
//! host's to enforce, are refused.

use hull_network::egress::Egress;
use hull_network::ipvtap::{self, Heard, Ipvtap};
use hull_network::macvtap::{self, Macvtap};
use hull_network::netlink::Netlink;
use hull_network::pool;

use super::manage::{host, CreateNetwork};
use super::owner::Owner;
use super::parent;
use super::records::{Endpoint, NetworkRecord, Uplink, UplinkDriver, Wanted};
use crate::error::{EngineError, Result};

/// Options of a network, as docker's drivers have them.
const PARENT_OPTION: &str = "parent";
const MACVLAN_MODES: [&str; 2] = ["macvlan_mode", "mode"];
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";

/// What a network of these drivers is made with; `None`: it is of another. `id` is the network's.
pub(super) fn of(netlink: &Netlink, wanted: &CreateNetwork, id: &str) -> Result<Option<Uplink>> {
    let driver = match wanted.driver.as_str() {
        "macvlan" => UplinkDriver::Macvlan,
        "ipvlan" => UplinkDriver::Ipvlan,
        _ => return Ok(None),
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
        }
    }
    let named = wanted
        .options
        .get(PARENT_OPTION)
        .filter(|name| !name.is_empty());
    let (parent, made) = match named {
        Some(name) => (name.clone(), parent::is_made(netlink, name)?),
        None => (parent::dummy_of(id), true),
    };
    let uplink = Uplink {
        driver,
        parent,
        mode,
        flag,
        made,
    };
    if !made {
        parent::get(netlink, &uplink)?;
    }
    Ok(Some(uplink))
}

/// Takes its place beside the other networks of its parent. All containers under one hardware
/// address have one mode, so there is one network of them.
pub(super) fn join(wanted: Option<&mut Uplink>, networks: &[NetworkRecord]) -> Result<()> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let on_it = |network: &&NetworkRecord| {
        let mut on = network.uplink.iter();
        on.any(|on| on.parent == wanted.parent)
    };
    let beside: Vec<_> = networks.iter().filter(on_it).collect();
    let clashes = |network: &&&NetworkRecord| {
        let mut on = network.uplink.iter();
        is_alone(wanted) || on.any(is_alone)
    };
    if let Some(network) = beside.iter().find(clashes) {
        return Err(EngineError::Forbidden(format!(
            "network {} is already using parent interface {}",
            network.name, wanted.parent
        )));
    }
    let mut on_made = beside.iter().filter_map(|network| network.uplink.as_ref());
    wanted.made |= on_made.any(|on| on.made);
    Ok(())
}

fn is_alone(uplink: &Uplink) -> bool {
    uplink.driver == UplinkDriver::Ipvlan || is_passthru(uplink)
}

fn is_passthru(uplink: &Uplink) -> bool {
    let macvlan = uplink.driver == UplinkDriver::Macvlan;
    macvlan && macvlan_mode(&uplink.mode).is_ok_and(|mode| mode == macvtap::Mode::Passthru)
}

fn macvlan_mode(text: &str) -> Result<macvtap::Mode> {
    match text {
        "" | "bridge" => Ok(macvtap::Mode::Bridge),
        "vepa" => Ok(macvtap::Mode::Vepa),
        "private" => Ok(macvtap::Mode::Private),
        "passthru" => Ok(macvtap::Mode::Passthru),
        other => Err(EngineError::BadRequest(format!(
            "unknown macvlan mode {other:?}: want bridge, vepa, private or passthru"
        ))),
    }
}

fn ipvlan_mode(text: &str) -> Result<ipvtap::Mode> {
    match text {
        "" | "l2" => Ok(ipvtap::Mode::Layer2),
        "l3" => Ok(ipvtap::Mode::Layer3),
        "l3s" => Err(EngineError::BadRequest(
            "the ipvlan mode l3s can't be had: what arrives goes through the host's own stack, which \
             the kernel passes to no VM; take l3"
                .into(),
        )),
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

/// Refuses what a container can't have there. `others`: containers that are on it.
pub(super) fn check(
    owner: &Owner<'_>,
    network: &NetworkRecord,
    uplink: &Uplink,
    others: &[String],
) -> Result<()> {
    if let (true, Some(other)) = (is_passthru(uplink), others.first()) {
        return Err(EngineError::Forbidden(format!(
            "network {} passes {} through to one container, which is {other}",
            network.name, uplink.parent
        )));
    }
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
    if !is_alone(uplink) {
        return Ok(wanted.mac(usual));
    }
    let what = match uplink.driver {
        UplinkDriver::Macvlan => "macvlan interfaces of the mode passthru",
        UplinkDriver::Ipvlan => "ipvlan interfaces",
    };
    if wanted.mac.is_some() {
        return Err(EngineError::BadRequest(format!(
            "{what} do not support custom mac address assignment"
        )));
    }
    let parent = parent::get(netlink, uplink)?;
    let own: Option<[u8; 6]> = parent.address.as_slice().try_into().ok();
    own.map(pool::mac_text).ok_or_else(|| {
        EngineError::BadRequest(format!(
            "invalid {} parent {:?}: it is no Ethernet interface",
            uplink.driver.name(),
            uplink.parent
        ))
    })
}

/// Bytes of a packet: what the network was made with, as far as the host's interface carries it.
pub(super) fn mtu(netlink: &Netlink, network: &NetworkRecord, uplink: &Uplink) -> Result<u16> {
    let most = u16::try_from(parent::get(netlink, uplink)?.mtu).unwrap_or(u16::MAX);
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
    let parent = parent::get(netlink, uplink)?.index;
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
            let addresses: Vec<_> = endpoint.addresses().collect();
            let wanted = Ipvtap {
                name,
                parent,
                addresses: &addresses,
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
        of(&netlink, &wanted, "0123456789abcdef")
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
        for (options, name) in [
            (&[][..], "dm-0123456789ab"),
            (&[("parent", "")], "dm-0123456789ab"),
            (&[("parent", "lo.7")], "lo.7"),
        ] {
            let made = asked("macvlan", options).unwrap().unwrap();
            assert_eq!((made.parent.as_str(), made.made), (name, true));
        }
        for (options, part) in [
            (&[("parent", "no-such0")][..], "no-such0"),
            (&[("parent", "no-such0.7")], "no-such0.7"),
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
        let uplink = |driver, options: &[(&str, &str)]| asked(driver, options).unwrap();
        let text = r#"{"id":"a","name":"first","created":"2025-01-01T00:00:00Z",
            "subnet":"10.0.0.0/24","gateway":"10.0.0.1","icc":true,"mtu":0,
            "macvlan":{"parent":"lo","mode":""}}"#;
        // As an earlier version wrote it.
        let first: NetworkRecord = serde_json::from_str(text).unwrap();
        assert_eq!(first.driver(), "macvlan");
        let join = |uplink: Option<Uplink>, networks: &[NetworkRecord]| {
            let mut uplink = uplink;
            super::join(uplink.as_mut(), networks).map(|()| uplink.unwrap().made)
        };
        let there = std::slice::from_ref(&first);
        let passthru = [("parent", "lo"), ("macvlan_mode", "passthru")];
        for alone in [
            uplink("ipvlan", &[("parent", "lo")]),
            uplink("macvlan", &passthru),
        ] {
            let error = join(alone.clone(), there).unwrap_err();
            assert_eq!(
                error.message(),
                "network first is already using parent interface lo"
            );
            assert!(!join(alone, &[]).unwrap());
        }
        let beside = uplink("macvlan", &[("parent", "lo")]);
        assert!(!join(beside.clone(), there).unwrap());
        let mut of_ours = first.clone();
        of_ours.uplink.as_mut().unwrap().made = true;
        assert!(join(beside, &[of_ours]).unwrap());
    }
}
