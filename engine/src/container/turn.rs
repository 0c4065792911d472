//! Whose turn a container's operations are: one at a time, and a VM that is kept for work on files
//! makes way for any of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::Container;

/// Ends what was kept, and gives the turn back at its end.
type Ending = Box<dyn FnOnce(OwnedMutexGuard<()>) + Send>;

/// What keeps the turn though nothing is under way.
struct Kept<T> {
    value: T,
    guard: OwnedMutexGuard<()>,
    end: Ending,
    number: u64,
}

/// The turns of one container. `T` may be kept between two of them.
pub(crate) struct Turns<T> {
    operation: Arc<tokio::sync::Mutex<()>>,
    waiting: AtomicUsize,
    kept: Mutex<(u64, Option<Kept<T>>)>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            operation: Arc::default(),
            waiting: AtomicUsize::new(0),
            kept: Mutex::new((0, None)),
        }
    }
}

/// Somebody waits for the turn.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<T> Turns<T> {
    fn kept(&self) -> MutexGuard<'_, (u64, Option<Kept<T>>)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn. What is kept ends first.
    pub(crate) async fn take(&self) -> OwnedMutexGuard<()> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        self.end_kept(None);
        Arc::clone(&self.operation).lock_owned().await
    }

    /// What is kept, with the turn, if there is something.
    pub(crate) fn take_kept(&self) -> Option<(T, OwnedMutexGuard<()>)> {
        let kept = self.kept().1.take()?;
        Some((kept.value, kept.guard))
    }

    /// Keeps a value with the turn, unless somebody waits for it: then it ends. Returns the number
    /// to [`Turns::end_kept`] it by.
    pub(crate) fn keep(
        &self,
        value: T,
        guard: OwnedMutexGuard<()>,
        end: impl FnOnce(OwnedMutexGuard<()>) + Send + 'static,
    ) -> Option<u64> {
        let mut kept = self.kept();
        // Who waits from here on finds it.
        if self.waiting.load(Ordering::SeqCst) != 0 {
            drop(kept);
            end(guard);
            return None;
        }
        kept.0 += 1;
        let number = kept.0;
        kept.1 = Some(Kept {
            value,
            guard,
            end: Box::new(end),
            number,
        });
        Some(number)
    }

    /// Whether something is kept.
    pub(crate) fn has_kept(&self) -> bool {
        self.kept().1.is_some()
    }

    /// Ends what is kept, if it is that of a number.
    pub(crate) fn end_kept(&self, number: Option<u64>) {
        let kept = {
            let mut kept = self.kept();
            match &kept.1 {
                Some(found) if number.is_none_or(|number| number == found.number) => kept.1.take(),
                _ => None,
            }
        };
        if let Some(kept) = kept {
            (kept.end)(kept.guard);
        }
    }
}

impl Container {
    /// Waits until no other operation is under way on it.
    pub(crate) async fn operate(&self) -> OwnedMutexGuard<()> {
        self.turns.take().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_taken_again_or_makes_way() {
        let turns: Turns<u8> = Turns::default();
        let ended = Arc::new(AtomicUsize::new(0));
        let end = || {
            let ended = Arc::clone(&ended);
            move |_guard| {
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };
        let guard = turns.take().await;
        let first = turns.keep(7, guard, end());
        assert_eq!(first, Some(1));
        let (value, guard) = turns.take_kept().unwrap();
        assert_eq!((value, ended.load(Ordering::SeqCst)), (7, 0));
        // The first one's time is up when the second one is kept.
        assert_eq!(turns.keep(8, guard, end()), Some(2));
        turns.end_kept(first);
        assert_eq!(ended.load(Ordering::SeqCst), 0);
        let guard = turns.take().await;
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        assert!(turns.take_kept().is_none());
        // Nothing is kept from somebody who waits.
        let turns = Arc::new(turns);
        let waiting = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { drop(turns.take().await) }
        });
        while turns.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(turns.keep(9, guard, end()), None);
        assert_eq!(ended.load(Ordering::SeqCst), 2);
        waiting.await.unwrap();
    }
}
