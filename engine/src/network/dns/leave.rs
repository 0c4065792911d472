//! How much is worked on at the same time, of all and of one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What may be worked on at the same time.
#[derive(Debug, Clone)]
pub(super) struct Leaves {
    permits: Arc<Semaphore>,
    of_one: usize,
    /// What is worked on, by asker.
    busy: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Leave to work on one thing.
pub(super) struct Leave {
    _permit: OwnedSemaphorePermit,
    busy: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Leaves {
    /// For so many at a time, and so many of one asker: it leaves the others theirs.
    pub(super) fn new(all: usize, of_one: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(all)),
            of_one,
            busy: Arc::default(),
        }
    }

    /// `None`: too much is worked on already.
    pub(super) fn take(&self, peer: IpAddr) -> Option<Leave> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let count = busy.entry(peer).or_default();
        if self.of_one <= *count {
            return None;
        }
        *count += 1;
        drop(busy);
        Some(Leave {
            _permit: permit,
            busy: Arc::clone(&self.busy),
            peer,
        })
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        match busy.get_mut(&self.peer) {
            Some(count) if 1 < *count => *count -= 1,
            _ => {
                busy.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_asks_too_much_leaves_room_for_others() {
        let (one, other) = ([10, 0, 0, 2].into(), [10, 0, 0, 3].into());
        let leaves = Leaves::new(9, 8);
        let mut all: Vec<_> = (0..8).map(|_| leaves.take(one)).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(leaves.take(one).is_none());
        let others = leaves.take(other);
        assert!(others.is_some());
        all.pop();
        assert!(leaves.take(one).is_some());
        drop((all, others));
        assert!(leaves.busy.lock().unwrap().is_empty());
    }
}
