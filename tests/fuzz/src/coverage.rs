//! Which edges of Hull's code inputs have reached.

use std::sync::atomic::Ordering;

use crate::sys::counters;

/// The edges that were reached so far.
#[derive(Debug)]
pub struct Coverage {
    seen: Vec<bool>,
    edges: usize,
}

impl Coverage {
    /// `None` in a program that was built without counters.
    pub fn begin() -> Option<Self> {
        let all = counters();
        (!all.is_empty()).then(|| Self {
            seen: vec![false; all.len()],
            edges: 0,
        })
    }

    /// Forgets what ran since the last input.
    pub fn clear(&self) {
        for counter in counters() {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Notes what ran since [`Coverage::clear`]; whether any of it is new.
    pub fn note(&mut self) -> bool {
        let before = self.edges;
        for (seen, counter) in self.seen.iter_mut().zip(counters()) {
            if !*seen && counter.load(Ordering::Relaxed) != 0 {
                *seen = true;
                self.edges += 1;
            }
        }
        self.edges != before
    }

    /// Edges that were reached.
    pub fn edges(&self) -> usize {
        self.edges
    }
}
