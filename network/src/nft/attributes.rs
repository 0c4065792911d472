//! What messages say: attributes, and among them the expressions that a rule tests a packet by.

use super::{Header, Test};

/// A kind with this bit has attributes as its value.
pub(super) const NESTED: u16 = 0x8000;
/// The register that conditions use.
pub(super) const REGISTER: u32 = 1;

/// States of a conversation, as bits.
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const NEW: u32 = 1 << 3;

/// Attributes of a netlink message. Numbers are in network order, as nf_tables has them.
#[derive(Debug, Default)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    pub(super) fn raw(&mut self, kind: u16, value: &[u8]) {
        let length = value.len() + 4;
        self.0.extend((length as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes);
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.raw(kind | NESTED, &inner.0);
    }

    pub(super) fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nest(1, |element| {
            element.text(1, name);
            element.nest(2, fill);
        });
    }

    pub(super) fn meta(&mut self, key: u32) {
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

    /// Loads bytes of a header.
    pub(super) fn payload(&mut self, header: Header, offset: u32, length: u32) {
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
            payload.number(3, offset);
            payload.number(4, length);
        });
    }

    /// The state of a packet's conversation is none, or is one, of these.
    fn state(&mut self, none: bool, of: u32) {
        self.expression("ct", |ct| {
            ct.number(1, REGISTER);
            ct.number(2, 0);
        });
        // In the host's order.
        self.mask(&of.to_ne_bytes());
        self.compare(none, &0u32.to_ne_bytes());
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

    pub(super) fn verdict(&mut self, code: u32) {
        self.expression("immediate", |immediate| {
            immediate.number(1, 0);
            immediate.nest(2, |data| data.nest(2, |verdict| verdict.number(1, code)));
        });
    }

    pub(super) fn test(&mut self, test: &Test) {
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
            Test::Ipv6 => {
                self.meta(15);
                self.compare(true, &[10]);
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
                self.payload(*header, *offset, value.len() as u32);
                if !mask.is_empty() {
                    self.mask(mask);
                }
                self.compare(*equal, value);
            }
            Test::NewConversation => self.state(true, ESTABLISHED | RELATED),
            Test::Crowded { set, limit } => {
                self.state(false, NEW);
                set.count(self, *limit);
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
