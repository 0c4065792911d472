//! Interfaces: found, made, changed.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
#[cfg(feature = "host")]
use netlink_packet_route::link::{
    InfoData, InfoIpVtap, InfoMacVtap, InfoVlan, IpVtapFlags, IpVtapMode, MacVtapMode,
};
use netlink_packet_route::RouteNetlinkMessage;

use super::{Netlink, NetlinkError};
#[cfg(feature = "host")]
use crate::ipvtap::{self, Ipvtap};
#[cfg(feature = "host")]
use crate::macvtap::{Macvtap, Mode};

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

impl Netlink {
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
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.into())];
        let action = format!("look for the interface {name:?}");
        match self.ask(RouteNetlinkMessage::GetLink(message), 0, &action) {
            Ok(answers) => Ok(answers.into_iter().find_map(link_of)),
            Err(NetlinkError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::ENODEV) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge, and returns its index.
    pub fn add_bridge(&self, name: &str, mtu: u32) -> Result<u32, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let index = self.add(message, name, format!("make the bridge {name}"))?;
        // Not at once: br_netfilter cuts what it has put together to the size that a bridge was
        // given later, and else to 1500 bytes.
        if let Err(error) = self.set_mtu(index, mtu) {
            let _ = self.delete_link(index);
            return Err(error);
        }
        Ok(index)
    }

    /// Makes a macvtap, and returns its index.
    #[cfg(feature = "host")]
    pub(crate) fn add_macvtap(&self, wanted: &Macvtap<'_>) -> Result<u32, NetlinkError> {
        let mode = match wanted.mode {
            Mode::Bridge => MacVtapMode::Bridge,
            Mode::Vepa => MacVtapMode::Vepa,
            Mode::Private => MacVtapMode::Private,
            Mode::Passthru => MacVtapMode::Passthrough,
        };
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(wanted.name.into()),
            LinkAttribute::Link(wanted.parent),
            LinkAttribute::Address(wanted.mac.to_vec()),
            LinkAttribute::Mtu(wanted.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVtap),
                LinkInfo::Data(InfoData::MacVtap(vec![InfoMacVtap::Mode(mode)])),
            ]),
        ];
        let action = format!(
            "make the macvtap {} (module macvtap) on interface {}",
            wanted.name, wanted.parent
        );
        self.add(message, wanted.name, action)
    }

    /// Makes an ipvtap, and returns its index.
    #[cfg(feature = "host")]
    pub(crate) fn add_ipvtap(&self, wanted: &Ipvtap<'_>) -> Result<u32, NetlinkError> {
        let mode = match wanted.mode {
            ipvtap::Mode::Layer2 => IpVtapMode::L2,
            ipvtap::Mode::Layer3 => IpVtapMode::L3,
        };
        let flags = match wanted.heard {
            ipvtap::Heard::ByAll => IpVtapFlags::empty(),
            ipvtap::Heard::ByNobody => IpVtapFlags::Private,
            ipvtap::Heard::Outside => IpVtapFlags::Vepa,
        };
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(wanted.name.into()),
            LinkAttribute::Link(wanted.parent),
            LinkAttribute::Mtu(wanted.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::IpVtap),
                LinkInfo::Data(InfoData::IpVtap(vec![
                    InfoIpVtap::Mode(mode),
                    InfoIpVtap::Flags(flags),
                ])),
            ]),
        ];
        let action = format!(
            "make the ipvtap {} (module ipvtap) on interface {}",
            wanted.name, wanted.parent
        );
        self.add(message, wanted.name, action)
    }

    /// Makes the VLAN `id` (1 to 4094) of an interface, and returns its index.
    #[cfg(feature = "host")]
    pub fn add_vlan(&self, name: &str, of: u32, id: u16) -> Result<u32, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Link(of),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)])),
            ]),
        ];
        let action = format!("make {name}, the VLAN {id} (module 8021q) of interface {of}");
        self.add(message, name, action)
    }

    /// Makes an interface that leads nowhere, and returns its index.
    #[cfg(feature = "host")]
    pub fn add_dummy(&self, name: &str) -> Result<u32, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
        ];
        let action = format!("make the interface {name} (module dummy)");
        self.add(message, name, action)
    }

    /// Makes an interface, and returns its index.
    fn add(&self, message: LinkMessage, name: &str, action: String) -> Result<u32, NetlinkError> {
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
        self.set_flags(index, LinkFlags::Up, &format!("bring interface {index} up"))
    }

    /// Lets an interface send without asking for hardware addresses.
    pub fn switch_off_arp(&self, index: u32) -> Result<(), NetlinkError> {
        let action = format!("switch ARP off on interface {index}");
        self.set_flags(index, LinkFlags::Noarp, &action)
    }

    fn set_flags(&self, index: u32, flags: LinkFlags, action: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.header.change_mask = flags;
        self.change(message, action)
    }

    /// Names an interface that is down and sets the size of its packets.
    pub fn set_name_and_mtu(&self, index: u32, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(mtu)];
        self.change(message, &format!("name interface {index} {name:?}"))
    }

    /// Gives an interface, which is down, another name.
    pub fn set_name(&self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfName(name.into())];
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
