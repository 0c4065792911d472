//! How many packets were denied, by the taps that they came from.

use std::collections::HashMap;

use crate::nft::{self, Family};

/// Counts by taps. Rules that replace others go on counting where these were ([`super::pin`],
/// [`crate::egress::Restricted::denied`]), so the kernel has the sums, also for an engine that starts
/// anew; what was seen last is kept for when somebody flushes the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denied {
    /// By rules between networks.
    pub between: HashMap<String, u64>,
    /// By the rules that pin addresses.
    pub guards: HashMap<String, u64>,
}

impl Denied {
    /// What the kernel has counted.
    pub fn read(table: &str) -> Self {
        let dropped = |family| {
            nft::dropped(family, table).unwrap_or_else(|error| {
                tracing::debug!(table, %error, "no counters");
                HashMap::new()
            })
        };
        Self {
            between: dropped(Family::Inet),
            guards: dropped(Family::Netdev),
        }
    }

    /// Takes over what was read later.
    pub fn observe(&mut self, later: Self) {
        let both = [
            (&mut self.between, later.between),
            (&mut self.guards, later.guards),
        ];
        for (known, later) in both {
            for (tap, packets) in later {
                let known = known.entry(tap).or_default();
                *known = packets.max(*known);
            }
        }
    }

    /// Of a tap, by rules between networks.
    pub fn between(&self, tap: &str) -> u64 {
        self.between.get(tap).copied().unwrap_or_default()
    }

    /// Of a tap, by the rules that pin its addresses.
    pub fn guard(&self, tap: &str) -> u64 {
        self.guards.get(tap).copied().unwrap_or_default()
    }

    /// Of a tap, by all rules.
    pub fn of(&self, tap: &str) -> u64 {
        self.between(tap).saturating_add(self.guard(tap))
    }

    /// A tap is gone.
    pub fn forget(&mut self, tap: &str) {
        self.between.remove(tap);
        self.guards.remove(tap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(between: u64, guards: u64) -> Denied {
        let of = |packets| HashMap::from([("tap".to_owned(), packets)]);
        Denied {
            between: of(between),
            guards: of(guards),
        }
    }

    #[test]
    fn what_was_seen_outlives_a_flush() {
        let mut denied = Denied::default();
        denied.observe(counts(3, 4));
        denied.observe(Denied::default());
        denied.observe(counts(0, 5));
        assert_eq!(
            (denied.between("tap"), denied.guard("tap"), denied.of("tap")),
            (3, 5, 8)
        );
        assert_eq!(denied.of("other"), 0);
        denied.forget("tap");
        assert_eq!(denied.of("tap"), 0);
    }
}
