//! Transactions with the kernel's nf_tables, as its netlink interface takes them (kernel header
//! `linux/netfilter/nf_tables.h`).
//!
//! Only what [`crate::rules`] needs. A transaction is applied whole or not at all.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink::{SocketAddrNetlink, NETFILTER};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

/// Message types of nfnetlink: begin and end of a batch, and the number of nf_tables.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
/// Type of an answer that carries an error, or none.
const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
/// Length of a netlink header, in bytes.
const HEADER_BYTES: usize = 16;
/// Largest answer, in bytes.
const ANSWER_BYTES: usize = 8 << 10;
/// The register that conditions use.
const REGISTER: u32 = 1;

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
    /// Frames that enter this interface.
    Ingress(String),
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
    /// The IPv4 source address is (not) in a network.
    pub fn source(equal: bool, address: Ipv4Addr, length: u8) -> Self {
        Self::ipv4_field(equal, 12, address, length)
    }

    /// The IPv4 destination address is (not) in a network.
    pub fn destination(equal: bool, address: Ipv4Addr, length: u8) -> Self {
        Self::ipv4_field(equal, 16, address, length)
    }

    fn ipv4_field(equal: bool, offset: u32, address: Ipv4Addr, length: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let value = u32::from(address) & mask;
        Self::Bytes {
            equal,
            header: Header::Network,
            offset,
            value: value.to_be_bytes().to_vec(),
            mask: mask.to_be_bytes().to_vec(),
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
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub tests: Vec<Test>,
    /// What follows.
    pub verdict: Verdict,
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
    /// Its chains. Without any, the table is not there.
    pub chains: Vec<Chain>,
}

/// The bytes of one transaction that puts tables in place of the ones of the same names.
pub fn transaction(tables: &[Table]) -> Vec<u8> {
    let mut batch = Batch::default();
    batch.control(BATCH_BEGIN);
    for table in tables {
        batch.replace(table);
    }
    batch.control(BATCH_END);
    batch.bytes
}

/// Carries out one transaction.
pub fn commit(tables: &[Table]) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    )?;
    let bytes = transaction(tables);
    // The whole batch is one message; it has to fit the socket's buffer.
    let room = bytes.len().saturating_mul(2).max(64 << 10);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, room);
    rustix::net::sendto(
        &socket,
        &bytes,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut answer = vec![0; ANSWER_BYTES];
    // The end of the batch is acknowledged last; an error of any message comes before.
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
        if verdict(&answer[..length])? {
            return Ok(());
        }
    }
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

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn control(&mut self, kind: u16) {
        // The subsystem that the batch is for, in network order.
        let family = 0;
        let resource = NF_TABLES.to_be_bytes();
        let flags = REQUEST;
        self.message(kind, flags, [family, 0, resource[0], resource[1]], &[]);
    }

    fn message(&mut self, kind: u16, flags: u16, generic: [u8; 4], attributes: &[u8]) {
        let length = HEADER_BYTES + generic.len() + attributes.len();
        self.bytes.extend((length as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(generic);
        self.bytes.extend(attributes);
        self.sequence += 1;
    }

    fn tables(&mut self, kind: u16, flags: u16, family: Family, attributes: &Attributes) {
        let kind = (NF_TABLES << 8) | kind;
        let generic = [family.number(), 0, 0, 0];
        self.message(kind, REQUEST | flags, generic, &attributes.0);
    }

    fn replace(&mut self, table: &Table) {
        let family = table.family;
        let mut name = Attributes::default();
        name.text(1, &table.name);
        // Made first, so that there is one to delete.
        self.tables(NEW_TABLE, CREATE, family, &name);
        let last = table.chains.is_empty();
        let acknowledge = if last { ACK } else { 0 };
        self.tables(DELETE_TABLE, acknowledge, family, &name);
        if last {
            return;
        }
        self.tables(NEW_TABLE, CREATE, family, &name);
        for (index, chain) in table.chains.iter().enumerate() {
            let last = index + 1 == table.chains.len();
            let acknowledge = if last && chain.rules.is_empty() { ACK } else { 0 };
            let attributes = chain_attributes(&table.name, chain);
            self.tables(NEW_CHAIN, CREATE | acknowledge, family, &attributes);
            for (index, rule) in chain.rules.iter().enumerate() {
                let last = last && index + 1 == chain.rules.len();
                let acknowledge = if last { ACK } else { 0 };
                let attributes = rule_attributes(&table.name, &chain.name, rule);
                let flags = CREATE | APPEND | acknowledge;
                self.tables(NEW_RULE, flags, family, &attributes);
            }
        }
    }
}

fn chain_attributes(table: &str, chain: &Chain) -> Attributes {
    let (number, priority, kind) = match &chain.hook {
        Hook::Input => (1, 0i32, "filter"),
        Hook::Forward => (2, 0, "filter"),
        Hook::Postrouting => (4, 100, "nat"),
        Hook::Ingress(_) => (0, 0, "filter"),
    };
    let mut attributes = Attributes::default();
    attributes.text(1, table);
    attributes.text(3, &chain.name);
    attributes.nest(4, |hook| {
        hook.number(1, number);
        hook.number(2, priority as u32);
        if let Hook::Ingress(interface) = &chain.hook {
            hook.text(3, interface);
        }
    });
    attributes.number(5, 1);
    attributes.text(7, kind);
    attributes
}

fn rule_attributes(table: &str, chain: &str, rule: &Rule) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.text(1, table);
    attributes.text(2, chain);
    attributes.nest(4, |list| {
        for test in &rule.tests {
            list.test(test);
        }
        match rule.verdict {
            Verdict::Drop => {
                list.expression("counter", |_| {});
                list.verdict(0);
            }
            Verdict::Accept => list.verdict(1),
            Verdict::Masquerade => list.expression("masq", |_| {}),
        }
    });
    attributes
}

/// Attributes of a netlink message. Numbers are in network order, as nf_tables has them.
#[derive(Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn raw(&mut self, kind: u16, value: &[u8]) {
        let length = value.len() + 4;
        self.0.extend((length as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.raw(kind | NESTED, &inner.0);
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nest(1, |element| {
            element.text(1, name);
            element.nest(2, fill);
        });
    }

    fn meta(&mut self, key: u32) {
        self.expression("meta", |meta| {
            meta.number(1, REGISTER);
            meta.number(2, key);
        });
    }

    fn compare(&mut self, equal: bool, value: &[u8]) {
        self.expression("cmp", |compare| {
            compare.number(1, REGISTER);
            compare.number(2, u32::from(!equal));
            compare.nest(3, |data| data.raw(1, value));
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, REGISTER);
            bitwise.number(2, REGISTER);
            bitwise.number(3, mask.len() as u32);
            bitwise.nest(4, |data| data.raw(1, mask));
            bitwise.nest(5, |data| data.raw(1, &vec![0; mask.len()]));
        });
    }

    fn verdict(&mut self, code: u32) {
        self.expression("immediate", |immediate| {
            immediate.number(1, 0);
            immediate.nest(2, |data| data.nest(2, |verdict| verdict.number(1, code)));
        });
    }

    fn test(&mut self, test: &Test) {
        match test {
            Test::From(equal, name) => {
                self.meta(6);
                self.compare(*equal, &interface_name(name));
            }
            Test::To(equal, name) => {
                self.meta(7);
                self.compare(*equal, &interface_name(name));
            }
            Test::Ipv4 => {
                self.meta(15);
                self.compare(true, &[2]);
            }
            Test::EtherType(equal, kind) => {
                self.meta(1);
                self.compare(*equal, &kind.to_be_bytes());
            }
            Test::Transport(protocol) => {
                self.meta(16);
                self.compare(true, &[*protocol]);
            }
            Test::Bytes {
                equal,
                header,
                offset,
                value,
                mask,
            } => {
                self.expression("payload", |payload| {
                    payload.number(1, REGISTER);
                    payload.number(
                        2,
                        match header {
                            Header::Link => 0,
                            Header::Network => 1,
                            Header::Transport => 2,
                        },
                    );
                    payload.number(3, *offset);
                    payload.number(4, value.len() as u32);
                });
                if !mask.is_empty() {
                    self.mask(mask);
                }
                self.compare(*equal, value);
            }
            Test::NewConversation => {
                self.expression("ct", |ct| {
                    ct.number(1, REGISTER);
                    ct.number(2, 0);
                });
                // Established and related, in the host's order.
                self.mask(&6u32.to_ne_bytes());
                self.compare(true, &0u32.to_ne_bytes());
            }
        }
    }
}

/// A name as the kernel compares it: sixteen bytes.
fn interface_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a batch into message types and lengths, as the kernel does.
    fn messages(mut bytes: &[u8]) -> Vec<(u16, u16)> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
            assert!(HEADER_BYTES < length && length <= bytes.len() && length % 4 == 0);
            let field = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
            all.push((field(4), field(6)));
            bytes = &bytes[length..];
        }
        all
    }

    fn table(chains: Vec<Chain>) -> Table {
        Table {
            family: Family::Inet,
            name: "t".into(),
            chains,
        }
    }

    #[test]
    fn a_batch_is_framed_and_its_last_message_is_acknowledged() {
        let rule = Rule {
            tests: vec![
                Test::From(true, "a".into()),
                Test::source(true, Ipv4Addr::new(10, 0, 0, 9), 8),
                Test::NewConversation,
            ],
            verdict: Verdict::Drop,
        };
        let chain = Chain {
            name: "c".into(),
            hook: Hook::Forward,
            rules: vec![rule.clone(), rule],
        };
        let all = messages(&transaction(&[table(vec![chain])]));
        let kinds: Vec<u16> = all.iter().map(|(kind, _)| *kind & 0xff).collect();
        assert_eq!(kinds, [0x10, 0, 2, 0, 3, 6, 6, 0x11]);
        let acknowledged: Vec<bool> = all.iter().map(|(_, flags)| flags & ACK != 0).collect();
        assert_eq!(acknowledged.iter().position(|yes| *yes), Some(6));
        assert_eq!(acknowledged.iter().filter(|yes| **yes).count(), 1);
    }

    #[test]
    fn an_empty_table_goes() {
        let all = messages(&transaction(&[table(Vec::new())]));
        assert_eq!(all[2].0 & 0xff, DELETE_TABLE);
        assert_ne!(all[2].1 & ACK, 0);
    }

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
        let Test::Bytes { value, mask, .. } =
            Test::destination(false, Ipv4Addr::new(10, 1, 2, 3), 12)
        else {
            unreachable!("a test of bytes");
        };
        assert_eq!((value, mask), (vec![10, 0, 0, 0], vec![255, 240, 0, 0]));
    }
}
