//! Sets of addresses, whose conversations are counted.

use super::attributes::{Attributes, REGISTER};
use super::{AddressSet, Header};

/// The set is changed by rules.
const EVALUATED: u32 = 0x20;
/// Most addresses of a set.
const SIZE: u32 = 65_535;
/// A connection limit holds for what is above it.
const ABOVE: u32 = 1;

impl AddressSet {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "conversations4",
            Self::V6 => "conversations6",
        }
    }

    /// Number in its transaction.
    fn id(self) -> u32 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// What `nft` calls the type of its addresses, and their length in bytes.
    fn key(self) -> (u32, u32) {
        match self {
            Self::V4 => (7, 4),
            Self::V6 => (8, 16),
        }
    }

    /// Where a packet has its source address.
    fn source(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }

    /// The attributes that make it.
    pub(super) fn attributes(self, table: &str) -> Attributes {
        let (kind, length) = self.key();
        let mut attributes = Attributes::default();
        attributes.text(1, table);
        attributes.text(2, self.name());
        attributes.number(3, EVALUATED);
        attributes.number(4, kind);
        attributes.number(5, length);
        attributes.nest(9, |description| description.number(1, SIZE));
        attributes.number(10, self.id());
        attributes
    }

    /// The expressions of a rule that goes on where the packet's source has more conversations than
    /// `limit`.
    pub(super) fn count(self, rule: &mut Attributes, limit: u32) {
        rule.payload(Header::Network, self.source(), self.key().1);
        rule.expression("dynset", |dynamic| {
            dynamic.text(1, self.name());
            dynamic.number(2, self.id());
            // Add, if it is not there.
            dynamic.number(3, 0);
            dynamic.number(4, REGISTER);
            dynamic.nest(7, |expression| {
                expression.text(1, "connlimit");
                expression.nest(2, |limits| {
                    limits.number(1, limit);
                    limits.number(2, ABOVE);
                });
            });
        });
    }
}
