//! Interfaces, addresses and routes of this network namespace, by rtnetlink.
//!
//! Calls block for as long as the kernel takes, which is far below a millisecond.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NetlinkMessage, NetlinkPayload, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE,
    NLM_F_REQUEST,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::Prefix;

/// Largest answer that is read at once, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Why the kernel did not do something.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// It refused.
    #[error("failed to {action}")]
    Refused {
        /// What was tried.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// It said what can't be read.
    #[error("failed to read the kernel's answer about {action}: {reason}")]
    Answer {
        /// What was tried.
        action: String,
        /// Why.
        reason: String,
    },
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address.
    pub address: Vec<u8>,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

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

/// A permanent neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub hardware_address: [u8; 6],
}

/// A connection to the kernel's rtnetlink.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Connects.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE, which is number 0.
            None,
        );
        let socket = socket.map_err(|errno| NetlinkError::Refused {
            action: "open a netlink socket".into(),
            source: errno.into(),
        })?;
        Ok(Self { socket })
    }

    /// All interfaces.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let action = "list the interfaces";
        let answers = self.ask(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            NLM_F_DUMP,
            action,
        )?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// The interface of this name, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let all = self.links()?;
        Ok(all.into_iter().find(|link| link.name == name))
    }

    /// Makes a bridge, and returns its index.
    pub fn add_bridge(&self, name: &str, mtu: u32) -> Result<u32, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let action = format!("make the bridge {name}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RouteNetlinkMessage::NewLink(message), flags, &action)?;
        let made = self.link(name)?;
        made.map(|link| link.index)
            .ok_or_else(|| NetlinkError::Answer {
                action,
                reason: "it is not there".into(),
            })
    }

    /// Removes an interface.
    pub fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.ask(
            RouteNetlinkMessage::DelLink(message),
            0,
            &format!("remove interface {index}"),
        )?;
        Ok(())
    }

    /// Brings an interface up.
    pub fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(message, &format!("bring interface {index} up"))
    }

    /// Names an interface that is down and sets the size of its packets.
    pub fn set_name_and_mtu(&self, index: u32, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(mtu)];
        self.change(message, &format!("name interface {index} {name:?}"))
    }

    /// Sets the size of an interface's packets, in bytes.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::Mtu(mtu)];
        self.change(
            message,
            &format!("set the MTU of interface {index} to {mtu}"),
        )
    }

    /// Plugs an interface into a bridge.
    pub fn set_controller(&self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::Controller(bridge)];
        self.change(message, &format!("plug interface {index} into a bridge"))
    }

    /// Lets a port of a bridge reach the bridge itself, and no other port of this kind.
    pub fn isolate_port(&self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let isolated = InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)]);
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(isolated),
        ])];
        // A port's own settings are changed by making what is there anew.
        let action = format!("isolate interface {index} on its bridge");
        self.ask(RouteNetlinkMessage::NewLink(message), 0, &action)?;
        Ok(())
    }

    fn change(&self, message: LinkMessage, action: &str) -> Result<(), NetlinkError> {
        self.ask(RouteNetlinkMessage::SetLink(message), 0, action)?;
        Ok(())
    }

    /// Gives an interface an address. IPv6 addresses are usable at once: whoever gives them out
    /// gives each only once.
    pub fn add_address(&self, index: u32, prefix: Prefix) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix.length;
        message.header.family = family(prefix.address);
        message.header.scope = AddressScope::Universe;
        message.attributes = vec![
            AddressAttribute::Local(prefix.address),
            AddressAttribute::Address(prefix.address),
        ];
        match prefix.address {
            IpAddr::V4(_) => {
                if let Some(broadcast) = broadcast(prefix) {
                    message
                        .attributes
                        .push(AddressAttribute::Broadcast(broadcast));
                }
            }
            IpAddr::V6(_) => message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad)),
        }
        let action = format!("give interface {index} the address {prefix}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RouteNetlinkMessage::NewAddress(message), flags, &action)?;
        Ok(())
    }

    /// Adds a route through an interface.
    pub fn add_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        let some = route.destination.map(|prefix| prefix.address);
        let mut message = RouteMessage::default();
        message.header.address_family = some.or(route.gateway).map_or(AddressFamily::Inet, family);
        message.header.destination_prefix_length =
            route.destination.map_or(0, |prefix| prefix.length);
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
        let to = destination.map_or("default".to_owned(), |prefix| prefix.to_string());
        let action = format!("add the route to {to} on interface {index}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RouteNetlinkMessage::NewRoute(message), flags, &action)?;
        Ok(())
    }

    /// Adds a permanent neighbour.
    pub fn add_neighbour(&self, index: u32, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(neighbour.address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(match neighbour.address {
                IpAddr::V4(address) => NeighbourAddress::Inet(address),
                IpAddr::V6(address) => NeighbourAddress::Inet6(address),
            }),
            NeighbourAttribute::LinkLayerAddress(neighbour.hardware_address.to_vec()),
        ];
        let action = format!(
            "add the neighbour {} on interface {index}",
            neighbour.address
        );
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewNeighbour(message), flags, &action)?;
        Ok(())
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

    /// Sends one request and reads to the end of its answer.
    pub(crate) fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let refused = |source: io::Error| NetlinkError::Refused {
            action: action.to_owned(),
            source,
        };
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        if flags & NLM_F_DUMP != NLM_F_DUMP {
            request.header.flags |= NLM_F_ACK;
        }
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)
            .map_err(|errno| refused(errno.into()))?;

        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())
                .map_err(|errno| refused(errno.into()))?;
            if read_answers(&buffer[..length], action, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Reads the messages of one datagram; `true` at the end of the answer.
fn read_answers(
    mut bytes: &[u8],
    action: &str,
    answers: &mut Vec<RouteNetlinkMessage>,
) -> Result<bool, NetlinkError> {
    while !bytes.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map_err(|error| {
                NetlinkError::Answer {
                    action: action.to_owned(),
                    reason: error.to_string(),
                }
            })?;
        let length = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(_) => Err(NetlinkError::Refused {
                        action: action.to_owned(),
                        source: error.to_io(),
                    }),
                };
            }
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            _ => {}
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(false)
}

fn link_of(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        address: Vec::new(),
        mtu: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(address) => link.address = address,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            _ => {}
        }
    }
    Some(link)
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

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn broadcast(prefix: Prefix) -> Option<std::net::Ipv4Addr> {
    match prefix.last() {
        IpAddr::V4(last) if prefix.length < 31 => Some(last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert_eq!(lo.index, 1);
        assert!(lo.mtu > 0);
        assert_eq!(netlink.link("no-such-link").unwrap(), None);
        netlink.destinations().unwrap();
        netlink.uplink_mtu().unwrap();
    }

    #[test]
    fn a_refusal_says_what_was_tried() {
        let netlink = Netlink::open().unwrap();
        let error = netlink.delete_link(u32::MAX - 1).unwrap_err();
        assert!(error.to_string().contains("remove interface"), "{error}");
    }
}
