//! Taps on an interface of the host under its own hardware address (ipvtap): the kernel tells them
//! apart by their IP addresses.
//!
//! It looks for these among the addresses of its own end, so that end is given the guest's. The host
//! must not take them for its own: their local routes are removed.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::netlink::{Netlink, NetlinkError};
use crate::Prefix;

/// Where the kernel has the settings of IPv6.
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// What is passed on (the kernel's modes of ipvlan).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Frames, with what is for all of them.
    Layer2,
    /// Packets, by the host's routes.
    Layer3,
}

/// Who hears whom (the kernel's flags of ipvlan).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Those of one parent hear each other.
    ByAll,
    /// They don't.
    ByNobody,
    /// All goes out by the parent; a switch there may send it back.
    Outside,
}

/// What is made.
#[derive(Debug, Clone, Copy)]
pub struct Ipvtap<'a> {
    /// Its name.
    pub name: &'a str,
    /// Index of the interface that it is on.
    pub parent: u32,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Bytes of a packet, at most the parent's.
    pub mtu: u32,
    /// What is passed on. All of one parent have the last one's.
    pub mode: Mode,
    /// Who hears it. All of one parent have the last one's.
    pub heard: Heard,
}

/// Makes one, which is up and stays until [`crate::tap::remove`].
pub fn create(netlink: &Netlink, wanted: &Ipvtap<'_>) -> Result<(), NetlinkError> {
    let index = netlink.add_ipvtap(wanted)?;
    // The host has nothing to say there; a host without IPv6 has no such setting.
    let _ = fs::write(Path::new(IPV6).join(wanted.name).join("disable_ipv6"), "1");
    let address = Prefix {
        address: wanted.address.into(),
        length: 32,
    };
    let made = netlink
        .add_private_address(index, address)
        .and_then(|()| netlink.set_up(index))
        .and_then(|()| netlink.disown(index, wanted.address));
    if made.is_err() {
        let _ = netlink.delete_link(index);
    }
    made
}
