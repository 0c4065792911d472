//! How often somebody else has cut a log off, and what was left of it: who reads along learns by it where to
//! go on.

/// As many of the last cuts are known one by one.
const KNOWN: usize = 8;

/// The times that a file has been cut off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cuts {
    count: u64,
    /// Bytes that the last ones left.
    left: [u64; KNOWN],
}

impl Cuts {
    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Notes another one, which left so many bytes.
    pub(super) fn note(&mut self, left: u64) {
        self.left[slot(self.count)] = left;
        self.count += 1;
    }

    /// The least that the file has had since there were `seen` of them. `None`: there was no other.
    pub(super) fn least_since(&self, seen: u64) -> Option<u64> {
        let missed = self.count.saturating_sub(seen);
        match missed {
            0 => None,
            missed if KNOWN as u64 <= missed => {
                let known = self.left.iter().copied().min();
                // There may have been less before these.
                known.filter(|_| missed == KNOWN as u64).or(Some(0))
            }
            _ => (seen..self.count)
                .map(|number| self.left[slot(number)])
                .min(),
        }
    }
}

fn slot(number: u64) -> usize {
    (number % KNOWN as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_since_a_look_counts() {
        let mut cuts = Cuts::default();
        assert_eq!(cuts.least_since(0), None);
        for left in [50, 300, 200] {
            cuts.note(left);
        }
        assert_eq!(cuts.least_since(3), None);
        assert_eq!(cuts.least_since(2), Some(200));
        assert_eq!(cuts.least_since(1), Some(200));
        assert_eq!(cuts.least_since(0), Some(50));
        for left in 400..405 {
            cuts.note(left);
        }
        assert_eq!(cuts.least_since(0), Some(50));
        cuts.note(500);
        assert_eq!(cuts.least_since(1), Some(200));
        // Not known any more.
        assert_eq!(cuts.least_since(0), Some(0));
    }
}
