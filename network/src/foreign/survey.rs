//! What interfaces a namespace has.

use std::collections::HashMap;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Interface;
use crate::netlink::{Neighbour, Netlink, NetlinkError, Route};
use crate::Prefix;

/// The interfaces of a namespace.
#[derive(Debug, Default)]
pub struct Surveyed {
    /// Ethernet interfaces that are up and have an address.
    pub interfaces: Vec<Interface>,
    /// Those that are up and have none.
    pub bare: Vec<Interface>,
    /// Names of others that have addresses.
    pub strange: Vec<String>,
}

pub(super) fn interfaces(netlink: &Netlink) -> Result<Surveyed, NetlinkError> {
    let addresses = addresses(netlink)?;
    let routes = routes(netlink)?;
    let neighbours = neighbours(netlink)?;
    let links = netlink.ask(
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        NLM_F_DUMP,
        "list the interfaces",
    )?;
    let mut all = Surveyed::default();
    for answer in links {
        let RouteNetlinkMessage::NewLink(link) = answer else {
            continue;
        };
        let index = link.header.index;
        let own = addresses.get(&index).cloned().unwrap_or_default();
        let up = link.header.flags.contains(LinkFlags::Up);
        if link.header.flags.contains(LinkFlags::Loopback) || !up {
            continue;
        }
        let has_addresses = !own.all.is_empty();
        let found = interface(&link).map(|interface| Interface {
            addresses: own.all,
            advertised: own.advertised,
            routes: routes.get(&index).cloned().unwrap_or_default(),
            neighbours: neighbours.get(&index).cloned().unwrap_or_default(),
            ..interface
        });
        match found {
            Some(interface) if has_addresses => all.interfaces.push(interface),
            Some(interface) => all.bare.push(interface),
            None if has_addresses => all.strange.push(name_of(&link)),
            None => {}
        }
    }
    Ok(all)
}

fn name_of(link: &LinkMessage) -> String {
    let name = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    };
    link.attributes.iter().find_map(name).unwrap_or_default()
}

/// `None` for what is no Ethernet.
fn interface(link: &LinkMessage) -> Option<Interface> {
    if link.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let mut address = None;
    let mut mtu = 1500;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => address = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            _ => {}
        }
    }
    Some(Interface {
        index: link.header.index,
        name: name_of(link),
        hardware_address: address?,
        mtu,
        addresses: Vec::new(),
        advertised: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
    })
}

/// The addresses of an interface.
#[derive(Debug, Clone, Default)]
struct Addresses {
    all: Vec<Prefix>,
    advertised: Vec<Prefix>,
}

fn addresses(netlink: &Netlink) -> Result<HashMap<u32, Addresses>, NetlinkError> {
    let answers = netlink.ask(
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        NLM_F_DUMP,
        "list the addresses",
    )?;
    let mut by_link: HashMap<u32, Addresses> = HashMap::new();
    for answer in answers {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        let Some(prefix) = address(&message) else {
            continue;
        };
        let own = by_link.entry(message.header.index).or_default();
        own.all.push(prefix);
        if is_advertised(&message) {
            own.advertised.push(prefix);
        }
    }
    Ok(by_link)
}

/// `None` for one that is not to be seen beyond its link.
fn address(message: &AddressMessage) -> Option<Prefix> {
    if message.header.scope != AddressScope::Universe {
        return None;
    }
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point interface the other end is the `Address`.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    let length = message.header.prefix_len;
    address.map(|address| Prefix { address, length })
}

fn is_advertised(message: &AddressMessage) -> bool {
    let header = &message.header;
    header.family == AddressFamily::Inet6 && !header.flags.contains(AddressHeaderFlags::Permanent)
}

fn routes(netlink: &Netlink) -> Result<HashMap<u32, Vec<Route>>, NetlinkError> {
    let mut by_link: HashMap<u32, Vec<Route>> = HashMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = netlink.ask(
            RouteNetlinkMessage::GetRoute(message),
            NLM_F_DUMP,
            "list the routes",
        )?;
        for answer in answers {
            let RouteNetlinkMessage::NewRoute(message) = answer else {
                continue;
            };
            if let Some((index, route)) = route(&message) {
                by_link.entry(index).or_default().push(route);
            }
        }
    }
    for routes in by_link.values_mut() {
        routes.sort_by_key(|route| route.gateway.is_some());
    }
    Ok(by_link)
}

/// `None` for routes that the kernel makes by itself, and those of other tables.
fn route(message: &RouteMessage) -> Option<(u32, Route)> {
    let header = &message.header;
    let by_kernel = matches!(header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra);
    if header.table != RouteHeader::RT_TABLE_MAIN || by_kernel || header.kind != RouteType::Unicast
    {
        return None;
    }
    let mut index = None;
    let mut route = Route {
        destination: None,
        gateway: None,
        source: None,
        metric: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Destination(address) => {
                route.destination = address_of(address).map(|address| Prefix {
                    address,
                    length: header.destination_prefix_length,
                });
            }
            RouteAttribute::Gateway(address) => route.gateway = address_of(address),
            RouteAttribute::PrefSource(address) => route.source = address_of(address),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            _ => {}
        }
    }
    // Without a destination and a gateway its family is not to be seen.
    if route.destination.is_none() && route.gateway.is_none() {
        let address = match header.address_family {
            AddressFamily::Inet6 => IpAddr::from([0u16; 8]),
            _ => IpAddr::from([0u8; 4]),
        };
        route.destination = Some(Prefix { address, length: 0 });
    }
    Some((index?, route))
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbours(netlink: &Netlink) -> Result<HashMap<u32, Vec<Neighbour>>, NetlinkError> {
    let answers = netlink.ask(
        RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        NLM_F_DUMP,
        "list the neighbours",
    )?;
    let mut by_link: HashMap<u32, Vec<Neighbour>> = HashMap::new();
    for answer in answers {
        let RouteNetlinkMessage::NewNeighbour(message) = answer else {
            continue;
        };
        if message.header.state != NeighbourState::Permanent {
            continue;
        }
        let mut address: Option<IpAddr> = None;
        let mut hardware_address = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => {
                    address = Some((*to).into());
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(to)) => {
                    address = Some((*to).into());
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    hardware_address = bytes.as_slice().try_into().ok();
                }
                _ => {}
            }
        }
        if let (Some(address), Some(hardware_address)) = (address, hardware_address) {
            let own = by_link.entry(message.header.ifindex).or_default();
            own.push(Neighbour {
                address,
                hardware_address,
            });
        }
    }
    Ok(by_link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_namespaces_interfaces_are_read() {
        let netlink = Netlink::open().unwrap();
        let surveyed = interfaces(&netlink).unwrap();
        assert!(surveyed.interfaces.iter().all(|i| i.name != "lo"));
        for interface in surveyed.interfaces {
            assert!(!interface.addresses.is_empty() && 0 < interface.mtu);
        }
    }

    #[test]
    fn addresses_of_a_routers_word_are_told_apart() {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = 64;
        let own: IpAddr = "2001:db8::7".parse().unwrap();
        message.attributes = vec![AddressAttribute::Address(own)];
        assert_eq!(address(&message), "2001:db8::7/64".parse().ok());
        assert!(is_advertised(&message));
        message.header.flags = AddressHeaderFlags::Permanent;
        assert!(!is_advertised(&message));
        message.header.scope = AddressScope::Link;
        assert_eq!(address(&message), None);
        // Those of IPv4 that run out are renewed by who asked for them.
        message.header.family = AddressFamily::Inet;
        message.header.flags = AddressHeaderFlags::empty();
        assert!(!is_advertised(&message));
    }

    #[test]
    fn the_kernels_own_routes_are_left_out() {
        let mut message = RouteMessage::default();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.protocol = RouteProtocol::Boot;
        message.attributes = vec![
            RouteAttribute::Oif(2),
            RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into())),
        ];
        let (index, found) = route(&message).unwrap();
        assert_eq!(index, 2);
        assert_eq!(found.gateway, Some([10, 0, 0, 1].into()));
        assert_eq!(found.destination, None);
        message.header.protocol = RouteProtocol::Kernel;
        assert_eq!(route(&message), None);
    }
}
