//! The driver `macvlan`: containers on the network that an interface of the host is on, each under a
//! hardware address of its own.
//!
//! The host itself and its name server can't reach them there, as everywhere with macvlan: names of
//! other containers are not known, ports need no publishing, and policies of egress, which are the
//! host's to enforce, are refused.

use hull_network::egress::Egress;
use hull_network::macvtap::{self, Macvtap, Mode};
use hull_network::netlink::{Link, Netlink};

use super::attach::Owner;
use super::manage::{host, CreateNetwork};
use super::records::{Endpoint, Macvlan, NetworkRecord, MACVLAN};
use crate::error::{EngineError, Result};

/// Options of a network, as docker's driver has them.
const PARENT_OPTION: &str = "parent";
const MODE_OPTIONS: [&str; 2] = ["macvlan_mode", "mode"];

/// What a network of this driver is made with; `None`: it is of another.
pub(super) fn of(netlink: &Netlink, wanted: &CreateNetwork) -> Result<Option<Macvlan>> {
    if wanted.driver != MACVLAN {
        return Ok(None);
    }
    let Some(parent) = wanted.options.get(PARENT_OPTION) else {
        return Err(EngineError::NotBuilt(
            "a macvlan network without an interface of the host (name one with -o parent=...)"
                .into(),
        ));
    };
    let mut modes = MODE_OPTIONS
        .iter()
        .filter_map(|key| wanted.options.get(*key));
    let mode = modes.next().cloned().unwrap_or_default();
    mode_of(&mode)?;
    let macvlan = Macvlan {
        parent: parent.clone(),
        mode,
    };
    parent_of(netlink, &macvlan)?;
    Ok(Some(macvlan))
}

fn mode_of(text: &str) -> Result<Mode> {
    match text {
        "" | "bridge" => Ok(Mode::Bridge),
        "vepa" => Ok(Mode::Vepa),
        "private" => Ok(Mode::Private),
        "passthru" => Err(EngineError::NotBuilt("the macvlan mode passthru".into())),
        other => Err(EngineError::BadRequest(format!(
            "unknown macvlan mode {other:?}: want bridge, vepa or private"
        ))),
    }
}

fn parent_of(netlink: &Netlink, macvlan: &Macvlan) -> Result<Link> {
    let found = netlink
        .link(&macvlan.parent)
        .map_err(|error| host(&error))?;
    found.ok_or_else(|| {
        EngineError::BadRequest(format!(
            "invalid macvlan parent {:?}: the host has no such interface (a VLAN has to be made \
             before)",
            macvlan.parent
        ))
    })
}

/// Refuses what a container can't have there.
pub(super) fn check(owner: &Owner<'_>, network: &NetworkRecord) -> Result<()> {
    if *owner.egress == Egress::All {
        return Ok(());
    }
    Err(EngineError::BadRequest(format!(
        "an egress policy can't be kept on network {}: packets of the driver {MACVLAN} don't pass \
         the host",
        network.name
    )))
}

/// Bytes of a packet: what the network was made with, as far as the host's interface carries it.
pub(super) fn mtu(netlink: &Netlink, network: &NetworkRecord, macvlan: &Macvlan) -> Result<u16> {
    let most = u16::try_from(parent_of(netlink, macvlan)?.mtu).unwrap_or(u16::MAX);
    Ok(match network.mtu {
        0 => most,
        asked => asked.min(most),
    })
}

/// Makes the tap of an end.
pub(super) fn plug(
    netlink: &Netlink,
    endpoint: &Endpoint,
    macvlan: &Macvlan,
    mac: [u8; 6],
) -> Result<()> {
    let parent = parent_of(netlink, macvlan)?;
    let wanted = Macvtap {
        name: &endpoint.tap,
        parent: parent.index,
        mac,
        mtu: endpoint.mtu.into(),
        mode: mode_of(&macvlan.mode)?,
    };
    macvtap::create(netlink, &wanted).map_err(|error| host(&error))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn asked(driver: &str, options: &[(&str, &str)]) -> Result<Option<Macvlan>> {
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
        let macvlan = made.unwrap().unwrap();
        assert_eq!(
            (macvlan.parent.as_str(), macvlan.mode.as_str()),
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
}
