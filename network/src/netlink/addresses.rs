//! Addresses and neighbours of interfaces.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::RouteNetlinkMessage;

use super::{family, Netlink, NetlinkError};
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
        self.add_scoped_address(index, prefix, AddressScope::Universe)
    }

    /// As [`Netlink::add_address`], but never taken as the source of what leaves by another
    /// interface.
    #[cfg(feature = "host")]
    pub(crate) fn add_private_address(
        &self,
        index: u32,
        prefix: Prefix,
    ) -> Result<(), NetlinkError> {
        self.add_scoped_address(index, prefix, AddressScope::Host)
    }

    fn add_scoped_address(
        &self,
        index: u32,
        prefix: Prefix,
        scope: AddressScope,
    ) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix.length;
        message.header.family = family(prefix.address);
        message.header.scope = scope;
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
}

fn broadcast(prefix: Prefix) -> Option<std::net::Ipv4Addr> {
    match prefix.last() {
        IpAddr::V4(last) if prefix.length < 31 => Some(last),
        _ => None,
    }
}
