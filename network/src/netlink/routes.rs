//! Routes, and which of them leads out.

use std::net::IpAddr;
#[cfg(feature = "host")]
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{family, gone, Netlink, NetlinkError};
use crate::Prefix;

/// The table of what is this host's own (`RT_TABLE_LOCAL`).
#[cfg(feature = "host")]
const LOCAL_TABLE: u8 = 255;
/// How long the kernel may take to make such a route.
#[cfg(feature = "host")]
const LOCAL_ROUTE_WAIT: Duration = Duration::from_secs(2);

/// A route of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// `None`: the default route, of the gateway's family.
    pub destination: Option<Prefix>,
    /// `None`: straight through the interface.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric.
    pub metric: Option<u32>,
    /// The gateway is there though no address of the interface says so.
    pub onlink: bool,
}

impl Netlink {
    /// Adds a route through an interface.
    pub fn add_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        self.make_route(index, route, NLM_F_EXCL)
    }

    /// Adds a route through an interface, in the place of one that leads to the same destination.
    pub fn replace_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        self.make_route(index, route, NLM_F_REPLACE)
    }

    /// Removes a route through an interface; that it is not there is no error.
    pub fn remove_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        let mut message = route_message(index, route);
        // Whoever made it, with whatever scope.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        let to = shown(route);
        let action = format!("remove the route to {to} on interface {index}");
        let request = RouteNetlinkMessage::DelRoute(message);
        gone(self.ask(request, 0, &action), libc::ESRCH)
    }

    fn make_route(&self, index: u32, route: &Route, how: u16) -> Result<(), NetlinkError> {
        let message = route_message(index, route);
        let to = shown(route);
        let action = format!("add the route to {to} on interface {index}");
        let flags = NLM_F_CREATE | how;
        self.ask(RouteNetlinkMessage::NewRoute(message), flags, &action)?;
        Ok(())
    }

    /// Has this host take an address of an interface that is up for somebody else's.
    #[cfg(feature = "host")]
    pub(crate) fn disown(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let one = Prefix::host(address);
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = one.length;
        message.header.table = LOCAL_TABLE;
        message.header.scope = RouteScope::NoWhere;
        message.header.kind = RouteType::Local;
        message.attributes = vec![
            RouteAttribute::Destination(route_address(address)),
            RouteAttribute::Oif(index),
        ];
        let action = format!("remove the local route to {address}");
        let deadline = Instant::now() + LOCAL_ROUTE_WAIT;
        loop {
            let message = RouteNetlinkMessage::DelRoute(message.clone());
            match self.ask(message, 0, &action) {
                // The kernel makes those of IPv6 a moment after the address is there.
                Err(NetlinkError::Refused { source, .. })
                    if source.raw_os_error() == Some(libc::ESRCH) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => return other.map(drop),
            }
        }
    }

    /// The destinations that this namespace has routes to, without the default routes.
    pub fn destinations(&self) -> Result<Vec<Prefix>, NetlinkError> {
        let routes = self.routes()?;
        Ok(routes.iter().filter_map(destination_of).collect())
    }

    /// Size in bytes of the largest packet that leaves by the default route, if there is one.
    pub fn uplink_mtu(&self) -> Result<Option<u32>, NetlinkError> {
        let routes = self.routes()?;
        let Some(uplink) = routes.iter().filter_map(uplink_of).min() else {
            return Ok(None);
        };
        let links = self.links()?;
        let link = links.iter().find(|link| link.index == uplink.interface);
        Ok(link.map(|link| link.mtu))
    }

    /// The routes of both families, in all tables.
    fn routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let action = "list the routes";
            let answers = self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, action)?;
            routes.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            }));
        }
        Ok(routes)
    }
}

fn shown(route: &Route) -> String {
    match route.destination.filter(|prefix| 0 < prefix.length) {
        Some(prefix) => prefix.to_string(),
        None => "default".to_owned(),
    }
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
    let some = route.destination.map(|prefix| prefix.address);
    let mut message = RouteMessage::default();
    message.header.address_family = some.or(route.gateway).map_or(AddressFamily::Inet, family);
    message.header.destination_prefix_length = route.destination.map_or(0, |prefix| prefix.length);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = match route.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    message.header.kind = RouteType::Unicast;
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Oif(index));
    let destination = route.destination.filter(|prefix| 0 < prefix.length);
    let attributes = [
        destination.map(|prefix| RouteAttribute::Destination(route_address(prefix.address))),
        route
            .gateway
            .map(|by| RouteAttribute::Gateway(route_address(by))),
        route
            .source
            .map(|from| RouteAttribute::PrefSource(route_address(from))),
        route.metric.map(RouteAttribute::Priority),
    ];
    message.attributes.extend(attributes.into_iter().flatten());
    message
}

fn destination_of(route: &RouteMessage) -> Option<Prefix> {
    let length = route.header.destination_prefix_length;
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                Some(IpAddr::from(*address))
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                Some(IpAddr::from(*address))
            }
            _ => None,
        })?;
    (0 < length).then_some(Prefix { address, length })
}

/// A way out; the one that comes first is used, IPv4 before IPv6.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Uplink {
    v6: bool,
    metric: u32,
    interface: u32,
}

fn uplink_of(route: &RouteMessage) -> Option<Uplink> {
    let header = &route.header;
    let default = header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && header.table == RouteHeader::RT_TABLE_MAIN;
    let mut interface = None;
    let mut metric = 0;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(hops) => {
                interface = hops.first().map(|hop| hop.interface_index);
            }
            _ => {}
        }
    }
    Some(Uplink {
        v6: header.address_family == AddressFamily::Inet6,
        metric,
        interface: interface.filter(|_| default)?,
    })
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
