//! The sandbox's interfaces, as the host wants them.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use hull_network::netlink::{Link, Neighbour, Netlink, NetlinkError, Route};
use hull_network::Prefix;
use hull_protocol::agent::{
    ConfigureNetworkRequest, NetworkInterface, NetworkNeighbour, NetworkRoute,
};

use crate::device;
use crate::error::{AgentError, Context as _, Kind, Result};
use crate::sandbox::write_sysctl;

/// Name of an interface, before its index, until its own is known.
const PARKED_PREFIX: &str = "parked";

/// Names, addresses and routes of all interfaces that are asked for.
pub(crate) fn configure(request: &ConfigureNetworkRequest) -> Result<()> {
    let netlink = Netlink::open().map_err(failed)?;
    for interface in &request.interfaces {
        take_away(&netlink, interface)?;
    }
    for interface in &request.interfaces {
        configure_one(&netlink, interface)?;
    }
    Ok(())
}

/// What an interface has no longer.
fn take_away(netlink: &Netlink, wanted: &NetworkInterface) -> Result<()> {
    let (addresses, routes) = (&wanted.gone_addresses, &wanted.gone_routes);
    let neighbours = &wanted.gone_neighbours;
    if addresses.is_empty() && routes.is_empty() && neighbours.is_empty() {
        return Ok(());
    }
    let links = netlink.links().map_err(failed)?;
    let index = find(&links, wanted)?.index;
    for route in routes {
        let removed = netlink.remove_route(index, &parse_route(route)?);
        removed.map_err(failed)?;
    }
    for neighbour in neighbours {
        let removed = netlink.remove_neighbour(index, &parse_neighbour(neighbour)?);
        removed.map_err(failed)?;
    }
    for address in addresses {
        let removed = netlink.remove_address(index, prefix(address)?);
        removed.map_err(failed)?;
    }
    Ok(())
}

fn find<'a>(links: &'a [Link], wanted: &NetworkInterface) -> Result<&'a Link> {
    let address = &wanted.hardware_address;
    let found = links.iter().find(|link| link.address == *address);
    found.ok_or_else(|| {
        let text = format!("no interface has the hardware address {address:02x?}");
        AgentError::new(Kind::NotFound, text)
    })
}

fn configure_one(netlink: &Netlink, wanted: &NetworkInterface) -> Result<()> {
    if wanted.slot != 0 {
        device::bind(wanted.slot)?;
    }
    let links = netlink.links().map_err(failed)?;
    let link = find(&links, wanted)?;
    if let Some(other) = in_the_way(&links, link, &wanted.name) {
        let name = format!("{PARKED_PREFIX}{}", other.index);
        netlink.set_name(other.index, &name).map_err(failed)?;
    }
    netlink
        .set_name_and_mtu(link.index, &wanted.name, wanted.mtu)
        .map_err(failed)?;
    let addresses: Vec<Prefix> = wanted
        .addresses
        .iter()
        .map(|text| prefix(text))
        .collect::<Result<_>>()?;
    let v6_wanted = addresses.iter().any(|prefix| prefix.address.is_ipv6());
    if wanted.static_v6 {
        prepare_v6(&wanted.name, v6_wanted)?;
    }
    for (path, value) in &wanted.sysctls {
        write_sysctl(path, value)?;
    }
    // The container may have been told to do without.
    let v6_off = v6_setting(&wanted.name, "disable_ipv6").is_none_or(|value| value != "0");
    if wanted.without_arp {
        netlink.switch_off_arp(link.index).map_err(failed)?;
    }
    netlink.set_up(link.index).map_err(failed)?;
    for address in addresses {
        if v6_off && address.address.is_ipv6() {
            continue;
        }
        netlink.add_address(link.index, address).map_err(failed)?;
    }
    for route in &wanted.routes {
        let route = parse_route(route)?;
        let to = route.destination.map(|prefix| prefix.address);
        if v6_off && to.or(route.gateway).is_some_and(|to| to.is_ipv6()) {
            continue;
        }
        // There is one default route; an interface that comes later may be the one to have it.
        let elsewhere = route.destination.filter(|prefix| 0 < prefix.length);
        let made = match (elsewhere, route.metric) {
            (None, None) => netlink.replace_route(link.index, &route),
            _ => netlink.add_route(link.index, &route),
        };
        made.map_err(failed)?;
    }
    for neighbour in &wanted.neighbours {
        netlink
            .add_neighbour(link.index, &parse_neighbour(neighbour)?)
            .map_err(failed)?;
    }
    Ok(())
}

/// Who has a name that another interface is to have: the kernel names them in its own order. One
/// that is in use already keeps its name, as the kernel does not rename it then.
fn in_the_way<'a>(links: &'a [Link], link: &Link, name: &str) -> Option<&'a Link> {
    links
        .iter()
        .find(|other| other.name == name && other.index != link.index)
}

/// Where the kernel has the settings of IPv6.
const IPV6: &str = "/proc/sys/net/ipv6/conf";

fn v6_setting(interface: &str, name: &str) -> Option<String> {
    let path = Path::new(IPV6).join(interface).join(name);
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// Addresses are the host's business: nobody is asked whether one is free, or what else there is.
fn prepare_v6(interface: &str, wanted: bool) -> Result<()> {
    if !Path::new(IPV6).join(interface).exists() {
        // Its packets are too small for IPv6 (RFC 8200, section 5).
        return Ok(());
    }
    let mut settings = vec![
        ("accept_ra", "0"),
        ("accept_redirects", "0"),
        ("dad_transmits", "0"),
    ];
    if !wanted {
        settings.push(("disable_ipv6", "1"));
    }
    for (name, value) in settings {
        let path = Path::new(IPV6).join(interface).join(name);
        fs::write(&path, value).context(|| format!("failed to write {value} to {path:?}"))?;
    }
    Ok(())
}

fn parse_route(route: &NetworkRoute) -> Result<Route> {
    let destination = match route.destination.as_str() {
        "" => None,
        text => Some(prefix(text)?),
    };
    Ok(Route {
        destination,
        gateway: address(&route.gateway)?,
        source: address(&route.source)?,
        metric: Some(route.metric).filter(|metric| *metric != 0),
        onlink: route.onlink,
    })
}

fn parse_neighbour(neighbour: &NetworkNeighbour) -> Result<Neighbour> {
    let invalid = || AgentError::invalid(format!("{neighbour:?} is no neighbour"));
    Ok(Neighbour {
        address: address(&neighbour.address)?.ok_or_else(invalid)?,
        hardware_address: neighbour
            .hardware_address
            .as_slice()
            .try_into()
            .map_err(|_| invalid())?,
    })
}

/// `None` for an empty text.
fn address(text: &str) -> Result<Option<IpAddr>> {
    match text {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| AgentError::invalid(format!("{text:?} is no address"))),
    }
}

fn prefix(text: &str) -> Result<Prefix> {
    text.parse()
        .map_err(|error: hull_network::BadPrefix| AgentError::invalid(error.to_string()))
}

fn failed(error: NetlinkError) -> AgentError {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(&error) {
        text = format!("{text}: {cause}");
    }
    AgentError::new(Kind::Internal, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let route = |destination: &str, gateway: &str| {
            parse_route(&NetworkRoute {
                destination: destination.into(),
                gateway: gateway.into(),
                ..Default::default()
            })
        };
        let default = route("", "172.17.0.1").unwrap();
        assert_eq!(default.destination, None);
        assert_eq!(default.gateway, "172.17.0.1".parse().ok());
        assert!(route("10.0.0.0/8", "").unwrap().destination.is_some());
        assert!(route("10.0.0.0", "").is_err());
        assert!(route("", "gateway").is_err());
    }

    #[test]
    fn a_name_is_taken_from_another_interface_only() {
        let link = |index, name: &str| Link {
            index,
            name: name.into(),
            address: Vec::new(),
            mtu: 1500,
        };
        let links = [link(2, "eth0"), link(3, "eth1")];
        let found = |name| in_the_way(&links, &links[0], name).map(|link| link.index);
        assert_eq!(found("eth1"), Some(3));
        assert_eq!(found("eth0"), None);
        assert_eq!(found("eth2"), None);
    }

    /// In a network namespace of its own, where it may be made.
    fn in_own_namespace(work: impl FnOnce(&Netlink) + Send) {
        std::thread::scope(|scope| {
            let thread =
                scope.spawn(
                    || match crate::sys::unshare(rustix::thread::UnshareFlags::NEWNET) {
                        Ok(()) => work(&Netlink::open().unwrap()),
                        Err(error) => eprintln!("passed over: {error}"),
                    },
                );
            thread.join().unwrap();
        });
    }

    #[test]
    fn an_address_is_replaced_with_the_routes_that_need_one() {
        in_own_namespace(|netlink| {
            let index = netlink.add_bridge("eth0", 1500).unwrap();
            let link = netlink.link("eth0").unwrap().unwrap();
            let default = NetworkRoute {
                gateway: "192.0.2.1".into(),
                ..Default::default()
            };
            let interface = |addresses: &[&str], gone: &[&str]| NetworkInterface {
                hardware_address: link.address.clone(),
                name: "eth0".into(),
                mtu: 1500,
                addresses: addresses.iter().map(ToString::to_string).collect(),
                routes: vec![default.clone()],
                gone_addresses: gone.iter().map(ToString::to_string).collect(),
                gone_routes: gone.first().map(|_| default.clone()).into_iter().collect(),
                ..Default::default()
            };
            let configured = |interface| {
                configure(&ConfigureNetworkRequest {
                    interfaces: vec![interface],
                    ..Default::default()
                })
            };
            let has = |address: &str| {
                // What an interface has can't be added.
                let added = netlink.add_address(index, address.parse().unwrap());
                let had = added.is_err();
                if !had {
                    let taken = netlink.remove_address(index, address.parse().unwrap());
                    taken.unwrap();
                }
                had
            };
            let (one, two) = ("192.0.2.7/24", "192.0.2.8/24");
            configured(interface(&[one, two], &[])).unwrap();
            // The second one goes with the first, whose subnet it is in: what goes is gone already.
            configured(interface(&[two], &[one, two])).unwrap();
            assert!(!has(one) && has(two));
            let route = parse_route(&default).unwrap();
            // It is there, so it can't be added.
            assert!(netlink.add_route(index, &route).is_err());
            configured(interface(&["192.0.2.9/24"], &[two])).unwrap();
            assert!(!has(two) && has("192.0.2.9/24"));
            assert!(netlink.add_route(index, &route).is_err());
        });
    }

    #[test]
    fn an_interface_that_is_not_there_is_named_by_its_address() {
        let request = ConfigureNetworkRequest {
            interfaces: vec![NetworkInterface {
                hardware_address: vec![2, 0x42, 0xfe, 0xfe, 0xfe, 0xfe],
                ..Default::default()
            }],
            ..Default::default()
        };
        let error = configure(&request).unwrap_err();
        assert!(error.to_string().contains("fe"), "{error}");
    }
}
