//! The bytes of a transaction: netlink messages between the marks of a batch.

use super::attributes::{Attributes, NESTED, REGISTER};
use super::{Chain, Change, Family, Hook, Rule, Table, Verdict};

/// Message types of nfnetlink: begin and end of a batch, and the number of nf_tables.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_SET: u16 = 9;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const DUMP: u16 = 0x300;
/// Attributes of a rule and of a counter.
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const COUNTER_PACKETS: u16 = 2;
/// In a rule's user data: what `nft` shows as a comment.
const COMMENT: u8 = 0;
/// Bytes of such a comment.
const MAX_COMMENT: usize = 100;
/// What is said of a table, chain or rule that is gone.
pub(super) const DELETED: [u16; 3] = [
    NF_TABLES << 8 | DELETE_TABLE,
    NF_TABLES << 8 | DELETE_CHAIN,
    NF_TABLES << 8 | DELETE_RULE,
];
/// Sequence number of a transaction's first message. Its high byte is in what the kernel tells
/// others of the change, and is how this program knows its own.
pub(super) const FIRST_SEQUENCE: u32 = 0x4800_0000;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// Length of a netlink header, in bytes.
pub(super) const HEADER_BYTES: usize = 16;
/// Where that has its flags.
const FLAGS: usize = 6;
/// Length of what nfnetlink puts after it.
const GENERIC_BYTES: usize = 4;

/// The bytes of the transaction of one change.
pub(super) fn transaction(change: &Change) -> Vec<u8> {
    let mut batch = Batch {
        bytes: Vec::new(),
        sequence: FIRST_SEQUENCE,
        last: 0,
    };
    batch.control(BATCH_BEGIN);
    batch.change(change);
    batch.control(BATCH_END);
    batch.bytes
}

/// Whether a message is about a change of this program's.
pub(super) fn is_own(sequence: u32) -> bool {
    sequence >> 24 == FIRST_SEQUENCE >> 24
}

/// A message of the kernel's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) attributes: &'a [u8],
}

/// The messages of one datagram, up to the first that is cut off.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes.get(..length)?;
        let found = Message {
            kind: u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(message.get(8..12)?.try_into().ok()?),
            attributes: message
                .get(HEADER_BYTES + GENERIC_BYTES..)
                .unwrap_or_default(),
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

impl Message<'_> {
    /// For a rule that has an owner and counts what it drops: both.
    pub(super) fn drops(&self) -> Option<(String, u64)> {
        let owner = attribute(self.attributes, RULE_USERDATA)?;
        // A type, a length, and a text that ends with a zero byte.
        let text = owner.strip_prefix(&[COMMENT])?.get(1..)?;
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        let owner = std::str::from_utf8(text).ok()?.to_owned();
        let expressions = attribute(self.attributes, RULE_EXPRESSIONS)?;
        let counter = attributes(expressions)
            .map(|(_, expression)| expression)
            .find(|expression| attribute(expression, 1) == Some(b"counter\0"))?;
        let packets = attribute(attribute(counter, 2)?, COUNTER_PACKETS)?;
        Some((owner, u64::from_be_bytes(packets.try_into().ok()?)))
    }
}

/// Kinds and values of attributes, up to the first that is cut off.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// The value of the first attribute of a kind.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = attributes(bytes);
    all.find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// The question for all rules of a table.
pub(super) fn list_rules(family: Family, table: &str) -> Vec<u8> {
    let mut batch = Batch {
        bytes: Vec::new(),
        sequence: FIRST_SEQUENCE,
        last: 0,
    };
    let mut name = Attributes::default();
    name.text(1, table);
    batch.tables(GET_RULE, DUMP, family, &name);
    batch.bytes
}

#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where its last message begins.
    last: usize,
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
        self.last = self.bytes.len();
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

    fn change(&mut self, change: &Change) {
        match change {
            Change::Rewrite(table) => self.extend(table, Self::flush),
            Change::Extend(table) => self.extend(table, Self::renew),
            Change::Clear { family, table } => {
                let mut name = Attributes::default();
                name.text(1, table);
                // Made first, so that there is one to delete.
                self.tables(NEW_TABLE, CREATE, *family, &name);
                self.tables(DELETE_TABLE, 0, *family, &name);
            }
            Change::Remove {
                family,
                table,
                chain,
            } => {
                let name = chain_name(table, chain);
                self.tables(DELETE_CHAIN, 0, *family, &name);
            }
        }
        self.acknowledge();
    }

    /// Has the last message answered.
    fn acknowledge(&mut self) {
        let flags = self.last + FLAGS;
        if let Some(low) = self.bytes.get_mut(flags..flags + 2) {
            let value = [low[0], low[1]];
            low.copy_from_slice(&(u16::from_ne_bytes(value) | ACK).to_ne_bytes());
        }
    }

    /// Makes what is not there of a table and its sets, and its chains with their rules. `prepare` has a
    /// chain there that has none.
    fn extend(&mut self, table: &Table, prepare: fn(&mut Self, &Table, &Chain)) {
        let family = table.family;
        let mut name = Attributes::default();
        name.text(1, &table.name);
        self.tables(NEW_TABLE, CREATE, family, &name);
        for set in &table.sets {
            let attributes = set.attributes(&table.name);
            self.tables(NEW_SET, CREATE, family, &attributes);
        }
        for chain in &table.chains {
            prepare(self, table, chain);
            for rule in &chain.rules {
                let attributes = rule_attributes(&table.name, &chain.name, rule);
                self.tables(NEW_RULE, CREATE | APPEND, family, &attributes);
            }
        }
    }

    /// In the place of the one of its name, which may be hooked in elsewhere.
    fn renew(&mut self, table: &Table, chain: &Chain) {
        let name = chain_name(&table.name, &chain.name);
        // Made first, so that there is one to delete.
        self.tables(NEW_CHAIN, CREATE, table.family, &name);
        self.tables(DELETE_CHAIN, 0, table.family, &name);
        let attributes = chain_attributes(&table.name, chain);
        self.tables(NEW_CHAIN, CREATE, table.family, &attributes);
    }

    /// The one of its name stays where it is hooked in.
    fn flush(&mut self, table: &Table, chain: &Chain) {
        let attributes = chain_attributes(&table.name, chain);
        self.tables(NEW_CHAIN, CREATE, table.family, &attributes);
        // Of a chain without a rule's number: all of them.
        let all = rules_of(&table.name, &chain.name);
        self.tables(DELETE_RULE, 0, table.family, &all);
    }
}

fn chain_name(table: &str, chain: &str) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.text(1, table);
    attributes.text(3, chain);
    attributes
}

/// Names the chain of rules.
fn rules_of(table: &str, chain: &str) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.text(1, table);
    attributes.text(2, chain);
    attributes
}

fn chain_attributes(table: &str, chain: &Chain) -> Attributes {
    let (number, priority, kind) = match &chain.hook {
        Hook::Input => (1, 0i32, "filter"),
        Hook::Forward => (2, 0, "filter"),
        Hook::Postrouting => (4, 100, "nat"),
        Hook::Output => (3, -100, "nat"),
        Hook::Ingress(_) => (0, 0, "filter"),
        Hook::Egress(_) => (1, 0, "filter"),
    };
    let mut attributes = chain_name(table, &chain.name);
    attributes.nest(4, |hook| {
        hook.number(1, number);
        hook.number(2, priority as u32);
        if let Hook::Ingress(interface) | Hook::Egress(interface) = &chain.hook {
            hook.text(3, interface);
        }
    });
    attributes.number(5, 1);
    attributes.text(7, kind);
    attributes
}

fn rule_attributes(table: &str, chain: &str, rule: &Rule) -> Attributes {
    let mut attributes = rules_of(table, chain);
    attributes.nest(4, |list| {
        for test in &rule.tests {
            list.test(test);
        }
        match rule.verdict {
            Verdict::Drop => {
                list.expression("counter", |counter| {
                    counter.raw(COUNTER_PACKETS, &rule.dropped.to_be_bytes());
                });
                list.verdict(0);
            }
            Verdict::Accept => list.verdict(1),
            Verdict::Masquerade => list.expression("masq", |_| {}),
            Verdict::Redirect(port) => {
                list.expression("immediate", |immediate| {
                    immediate.number(1, REGISTER);
                    immediate.nest(2, |data| data.raw(1, &port.to_be_bytes()));
                });
                list.expression("redir", |redirect| redirect.number(1, REGISTER));
            }
        }
    });
    if !rule.owner.is_empty() && rule.owner.len() < MAX_COMMENT {
        let mut comment = vec![COMMENT, rule.owner.len() as u8 + 1];
        comment.extend(rule.owner.bytes());
        comment.push(0);
        attributes.raw(RULE_USERDATA, &comment);
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::super::Test;
    use super::*;

    /// Splits a batch into message types and lengths, as the kernel does.
    fn messages(mut bytes: &[u8]) -> Vec<(u16, u16)> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
            assert!(HEADER_BYTES < length && length <= bytes.len() && length.is_multiple_of(4));
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
            sets: Vec::new(),
            chains,
        }
    }

    #[test]
    fn a_batch_is_framed_and_its_last_message_is_acknowledged() {
        let rule = Rule {
            tests: vec![
                Test::From(true, "a".into()),
                Test::source(true, "10.0.0.9/8".parse().unwrap()),
                Test::NewConversation,
            ],
            verdict: Verdict::Drop,
            owner: "tap".into(),
            dropped: 0,
        };
        let chain = Chain {
            name: "c".into(),
            hook: Hook::Forward,
            rules: vec![rule.clone(), rule],
        };
        let all = messages(&transaction(&Change::Rewrite(table(vec![chain]))));
        let kinds: Vec<u16> = all.iter().map(|(kind, _)| *kind & 0xff).collect();
        assert_eq!(
            kinds,
            [
                0x10,
                NEW_TABLE,
                NEW_CHAIN,
                DELETE_RULE,
                NEW_RULE,
                NEW_RULE,
                0x11
            ]
        );
        let acknowledged: Vec<bool> = all.iter().map(|(_, flags)| flags & ACK != 0).collect();
        assert_eq!(acknowledged.iter().position(|yes| *yes), Some(5));
        assert_eq!(acknowledged.iter().filter(|yes| **yes).count(), 1);
    }

    #[test]
    fn a_chain_takes_the_place_of_the_one_of_its_name() {
        let chain = Chain {
            name: "c".into(),
            hook: Hook::Ingress("tap".into()),
            rules: Vec::new(),
        };
        let all = messages(&transaction(&Change::Extend(table(vec![chain]))));
        let kinds: Vec<u16> = all.iter().map(|(kind, _)| *kind & 0xff).collect();
        assert_eq!(
            kinds,
            [0x10, NEW_TABLE, NEW_CHAIN, DELETE_CHAIN, NEW_CHAIN, 0x11]
        );
        let acknowledged = all.iter().map(|(_, flags)| flags & ACK != 0);
        assert_eq!(acknowledged.filter(|yes| *yes).count(), 1);
    }

    #[test]
    fn a_rule_goes_on_counting() {
        let rule = Rule {
            tests: vec![Test::Ipv4],
            verdict: Verdict::Drop,
            owner: "tap".into(),
            dropped: 41,
        };
        let attributes = rule_attributes("t", "c", &rule);
        let message = Message {
            kind: 0,
            sequence: 0,
            attributes: &attributes.0,
        };
        assert_eq!(message.drops(), Some(("tap".to_owned(), 41)));
    }

    #[test]
    fn counters_are_read_with_care() {
        let mut rule = Attributes::default();
        rule.nest(RULE_EXPRESSIONS, |list| {
            list.meta(6);
            list.expression("counter", |counter| {
                counter.raw(COUNTER_PACKETS, &7u64.to_be_bytes());
            });
        });
        rule.raw(RULE_USERDATA, b"\0\x04tap\0");
        let drops = |attributes: &[u8]| {
            let message = Message {
                kind: 0,
                sequence: 0,
                attributes,
            };
            message.drops()
        };
        assert_eq!(drops(&rule.0), Some(("tap".to_owned(), 7)));
        for end in 0..rule.0.len() - 4 {
            assert_eq!(drops(&rule.0[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_table_goes() {
        let all = messages(&transaction(&Change::Clear {
            family: Family::Inet,
            table: "t".into(),
        }));
        assert_eq!(all[2].0 & 0xff, DELETE_TABLE);
        assert_ne!(all[2].1 & ACK, 0);
    }
}
