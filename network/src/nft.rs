//! Transactions with the kernel's nf_tables, as its netlink interface takes them (kernel header
//! `linux/netfilter/nf_tables.h`).
//!
//! Only what [`crate::rules`] needs. A transaction is applied whole or not at all.

mod attributes;
mod message;
mod set;
mod watch;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SocketAddrNetlink, NETFILTER};
use rustix::net::{sockopt, RecvFlags, SendFlags, SocketFlags, SocketType};

use message::{list_rules, messages, transaction, HEADER_BYTES};
pub use watch::Watch;

use crate::prefix::octets;
use crate::Prefix;

/// Type of an answer that carries an error, or none.
const NLMSG_ERROR: u16 = 2;
/// Type of the last message of a list.
const NLMSG_DONE: u16 = 3;
/// Largest answer, in bytes.
const ANSWER_BYTES: usize = 8 << 10;
/// Largest part of a list, in bytes.
const LIST_BYTES: usize = 64 << 10;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 of the host.
    Inet,
    /// Frames as they enter an interface.
    Netdev,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Netdev => 5,
        }
    }
}

/// Where a chain is hooked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// Packets that pass through.
    Forward,
    /// Packets for the host itself.
    Input,
    /// Packets that leave; for address translation.
    Postrouting,
    /// Packets that the host itself sends; for address translation.
    Output,
    /// Frames that enter this interface.
    Ingress(String),
    /// Frames that leave by this interface.
    Egress(String),
}

/// What a rule asks of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// The interface that it came in by is (not) this one.
    From(bool, String),
    /// The interface that it leaves by is (not) this one.
    To(bool, String),
    /// It is IPv4.
    Ipv4,
    /// It is IPv6.
    Ipv6,
    /// Its network protocol is (not) this EtherType.
    EtherType(bool, u16),
    /// Its transport protocol.
    Transport(u8),
    /// Bytes of a header are (not) these.
    Bytes {
        /// Equal, or different.
        equal: bool,
        /// Of which header.
        header: Header,
        /// Where, in bytes.
        offset: u32,
        /// The bytes, at most 16.
        value: Vec<u8>,
        /// Which bits of them count; empty: all.
        mask: Vec<u8>,
    },
    /// It belongs to no conversation that is known, and answers none.
    NewConversation,
    /// Its source address has more conversations than this. They are counted in a set of the
    /// packet's family.
    Crowded {
        /// The set.
        set: AddressSet,
        /// Conversations.
        limit: u32,
    },
}

/// A set of a table, to which rules add addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSet {
    /// Of IPv4 addresses.
    V4,
    /// Of IPv6 addresses.
    V6,
}

/// A header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Ethernet.
    Link,
    /// IP or ARP.
    Network,
    /// TCP or UDP.
    Transport,
}

impl Test {
    /// It is of the family of an address.
    pub fn family(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The source address is (not) in a network of the packet's family.
    pub fn source(equal: bool, network: Prefix) -> Self {
        let offset = if network.address.is_ipv4() { 12 } else { 8 };
        Self::address_field(equal, offset, network)
    }

    /// The destination address is (not) in a network of the packet's family.
    pub fn destination(equal: bool, network: Prefix) -> Self {
        let offset = if network.address.is_ipv4() { 16 } else { 24 };
        Self::address_field(equal, offset, network)
    }

    fn address_field(equal: bool, offset: u32, network: Prefix) -> Self {
        Self::Bytes {
            equal,
            header: Header::Network,
            offset,
            value: octets(network.first()),
            mask: network.mask_bytes(),
        }
    }

    /// Bytes of a header are (not) these.
    pub fn bytes(equal: bool, header: Header, offset: u32, value: &[u8]) -> Self {
        Self::Bytes {
            equal,
            header,
            offset,
            value: value.to_vec(),
            mask: Vec::new(),
        }
    }
}

/// What happens to a packet that passes all tests of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It ends here, and is counted.
    Drop,
    /// The chain is done with it.
    Accept,
    /// It leaves under the host's address.
    Masquerade,
    /// It goes to this port of the host instead.
    Redirect(u16),
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub tests: Vec<Test>,
    /// What follows.
    pub verdict: Verdict,
    /// Whose rule it is, at most 100 bytes; empty: nobody's. What it drops is counted for them.
    pub owner: String,
    /// Packets that count as dropped already: by rules that this one replaces.
    pub dropped: u64,
}

/// A chain with its rules, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name in the table.
    pub name: String,
    /// Where it is hooked in.
    pub hook: Hook,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A table: the whole of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Sets that its rules use.
    pub sets: Vec<AddressSet>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Puts other rules into the chains of a table. These stay, and so do its sets with what they
    /// count; what is not there yet is made.
    Rewrite(Table),
    /// Removes a table, if it is there.
    Clear {
        /// Its family.
        family: Family,
        /// Its name.
        table: String,
    },
    /// Adds a table's chains to the ones that are there, each in the place of the one of its name.
    Extend(Table),
    /// Removes a chain, which has to be there, with its rules.
    Remove {
        /// Of the table.
        family: Family,
        /// Name of the table.
        table: String,
        /// Name of the chain.
        chain: String,
    },
}

fn connect() -> io::Result<OwnedFd> {
    let family = rustix::net::AddressFamily::NETLINK;
    let kind = SocketType::RAW;
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    Ok(socket)
}

/// How many packets the rules of a table have dropped, by the owners of the rules.
pub fn dropped(family: Family, table: &str) -> io::Result<HashMap<String, u64>> {
    let socket = connect()?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(
        &socket,
        &list_rules(family, table),
        SendFlags::empty(),
        &kernel,
    )?;
    let mut all = HashMap::new();
    let mut answer = vec![0; LIST_BYTES];
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
        let bytes = answer.get(..length).unwrap_or_default();
        for message in messages(bytes) {
            match message.kind {
                NLMSG_DONE => return Ok(all),
                // There is no such table.
                NLMSG_ERROR => {
                    verdict(bytes)?;
                    return Ok(all);
                }
                _ => {}
            }
            if let Some((owner, packets)) = message.drops() {
                *all.entry(owner).or_default() += packets;
            }
        }
    }
}

/// Carries out the transaction of one change.
pub fn commit(change: &Change) -> io::Result<()> {
    let socket = connect()?;
    let bytes = transaction(change);
    make_room(&socket, bytes.len());
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &bytes, SendFlags::empty(), &kernel)?;
    let mut answer = vec![0; ANSWER_BYTES];
    // The last message is acknowledged; an error of any other comes before.
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
        if verdict(answer.get(..length).unwrap_or_default())? {
            return Ok(());
        }
    }
}

/// A batch is sent at once, so it has to fit the socket's buffer, also one that is larger than what the
/// host lets others have (`net.core.wmem_max`): rules of many addresses are.
fn make_room(socket: &OwnedFd, length: usize) {
    let room = length.saturating_mul(2).max(64 << 10);
    let forced = sockopt::set_socket_send_buffer_size_force(socket, room);
    // Without the privilege what all may have has to do.
    let _ = forced.or_else(|_| sockopt::set_socket_send_buffer_size(socket, room));
}

/// `true`: the transaction was applied. `false`: this is no answer.
fn verdict(answer: &[u8]) -> io::Result<bool> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    if kind.map(u16::from_ne_bytes) != Some(NLMSG_ERROR) {
        return Ok(false);
    }
    let code = answer
        .get(HEADER_BYTES..HEADER_BYTES + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes)
        .ok_or(io::ErrorKind::InvalidData)?;
    match code {
        0 => Ok(true),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_care() {
        assert!(!verdict(b"").unwrap());
        let mut answer = vec![0; 20];
        answer[4] = 2;
        assert!(verdict(&answer).unwrap());
        answer[16..].copy_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(verdict(&answer).unwrap_err().raw_os_error(), Some(2));
        assert!(verdict(&answer[..17]).is_err());
    }

    #[test]
    fn networks_are_masked() {
        let network = "10.1.2.3/12".parse().unwrap();
        let Test::Bytes { value, mask, .. } = Test::destination(false, network) else {
            unreachable!("a test of bytes");
        };
        assert_eq!((value, mask), (vec![10, 0, 0, 0], vec![255, 240, 0, 0]));
    }
}
