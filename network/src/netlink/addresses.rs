//! Addresses and neighbours of interfaces.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
#[cfg(feature = "host")]
use netlink_packet_route::address::{AddressScope, CacheInfo};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::RouteNetlinkMessage;

use super::{family, gone, Netlink, NetlinkError};
use crate::Prefix;

/// A permanent neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub hardware_address: [u8; 6],
}

impl Netlink {
    /// Gives an interface an address. IPv6 addresses are usable at once: whoever gives them out
    /// gives each only once.
    pub fn add_address(&self, index: u32, prefix: Prefix) -> Result<(), NetlinkError> {
        let (message, action) = address_message(index, prefix);
        self.give(message, &action)
    }

    /// As [`Netlink::add_address`], but not taken as the source of what leaves by another
    /// interface, and without a route to it.
    #[cfg(feature = "host")]
    pub(crate) fn add_private_address(
        &self,
        index: u32,
        prefix: Prefix,
    ) -> Result<(), NetlinkError> {
        let (mut message, action) = address_message(index, prefix);
        message.header.scope = AddressScope::Host;
        if prefix.address.is_ipv6() {
            // There the scope says nothing; an address that is deprecated is taken last.
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            let mut lives = CacheInfo::default();
            lives.ifa_valid = u32::MAX;
            message
                .attributes
                .retain(|attribute| !matches!(attribute, AddressAttribute::Flags(_)));
            message.attributes.push(AddressAttribute::Flags(flags));
            message.attributes.push(AddressAttribute::CacheInfo(lives));
        }
        self.give(message, &action)
    }

    fn give(&self, message: AddressMessage, action: &str) -> Result<(), NetlinkError> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RouteNetlinkMessage::NewAddress(message), flags, action)?;
        Ok(())
    }

    /// Takes an address from an interface; that it has not got it is no error.
    pub fn remove_address(&self, index: u32, prefix: Prefix) -> Result<(), NetlinkError> {
        let (mut message, _) = address_message(index, prefix);
        let is_address = |it: &AddressAttribute| {
            matches!(
                it,
                AddressAttribute::Local(_) | AddressAttribute::Address(_)
            )
        };
        message.attributes.retain(is_address);
        let action = format!("take the address {prefix} from interface {index}");
        let request = RouteNetlinkMessage::DelAddress(message);
        gone(self.ask(request, 0, &action), libc::EADDRNOTAVAIL)
    }

    /// Adds a permanent neighbour.
    pub fn add_neighbour(&self, index: u32, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let message = neighbour_message(index, neighbour);
        let action = format!(
            "add the neighbour {} on interface {index}",
            neighbour.address
        );
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewNeighbour(message), flags, &action)?;
        Ok(())
    }

    /// Forgets a neighbour; one that is not known is no error.
    pub fn remove_neighbour(&self, index: u32, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let message = neighbour_message(index, neighbour);
        let action = format!(
            "remove the neighbour {} on interface {index}",
            neighbour.address
        );
        let request = RouteNetlinkMessage::DelNeighbour(message);
        gone(self.ask(request, 0, &action), libc::ENOENT)
    }
}

fn neighbour_message(index: u32, neighbour: &Neighbour) -> NeighbourMessage {
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
    message
}

/// The request that gives an interface an address, and what it is for.
fn address_message(index: u32, prefix: Prefix) -> (AddressMessage, String) {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix.length;
    message.header.family = family(prefix.address);
    message.attributes = vec![
        AddressAttribute::Local(prefix.address),
        AddressAttribute::Address(prefix.address),
    ];
    let further = match prefix.address {
        IpAddr::V4(_) => broadcast(prefix).map(AddressAttribute::Broadcast),
        IpAddr::V6(_) => Some(AddressAttribute::Flags(AddressFlags::Nodad)),
    };
    message.attributes.extend(further);
    let action = format!("give interface {index} the address {prefix}");
    (message, action)
}

fn broadcast(prefix: Prefix) -> Option<std::net::Ipv4Addr> {
    match prefix.last() {
        IpAddr::V4(last) if prefix.length < 31 => Some(last),
        _ => None,
    }
}
