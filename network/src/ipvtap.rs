//! Taps on an interface of the host under its own hardware address (ipvtap): the kernel tells them
//! apart by their IP addresses.
//!
//! It looks for these among the addresses of its own end, so that end is given the guest's. The host
//! must not take them for its own: their local routes are removed.

use std::fs;
use std::net::IpAddr;
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
    /// The guest's addresses.
    pub addresses: &'a [IpAddr],
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
    silence_v6(wanted);
    // Up first: the kernel makes local routes of IPv6 anew for what has addresses when it comes up.
    let made = netlink.set_up(index).and_then(|()| {
        let mut all = wanted.addresses.iter();
        all.try_for_each(|address| {
            netlink.add_private_address(index, Prefix::host(*address))?;
            netlink.disown(index, *address)
        })
    });
    if made.is_err() {
        let _ = netlink.delete_link(index);
    }
    made
}

/// The host has nothing to say there. A host without IPv6 has no such settings.
fn silence_v6(wanted: &Ipvtap<'_>) {
    let has_v6 = wanted.addresses.iter().any(IpAddr::is_ipv6);
    let settings = [
        // No address of its own (the kernel's IN6_ADDR_GEN_MODE_NONE), and nobody tells it any.
        ("addr_gen_mode", "1"),
        ("accept_ra", "0"),
        ("disable_ipv6", if has_v6 { "0" } else { "1" }),
    ];
    for (name, value) in settings {
        let _ = fs::write(Path::new(IPV6).join(wanted.name).join(name), value);
    }
}
