//! Requests with large bodies: how long they take says nothing, only whether the body moves.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a registry may check and store a body that it has whole.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// A body that counts what is taken of it.
#[derive(Debug, Clone)]
pub(crate) struct Moving {
    taken: Arc<AtomicU64>,
    length: u64,
}

impl Moving {
    /// Of `length` bytes.
    pub(crate) fn new(length: u64) -> Self {
        Self {
            taken: Arc::default(),
            length,
        }
    }

    /// `total` bytes are taken.
    pub(crate) fn taken(&self, total: u64) {
        self.taken.store(total, Ordering::Relaxed);
    }

    /// The answer; `None` if no byte was taken for `limit`, or if there is no answer
    /// [`ANSWER_TIMEOUT`] after the last one.
    pub(crate) async fn or_stalled<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            if let Ok(answer) = tokio::time::timeout(limit / 4, &mut answer).await {
                return Some(answer);
            }
            let now = self.taken.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            let patience = match seen < self.length {
                true => limit,
                false => ANSWER_TIMEOUT,
            };
            if patience <= since.elapsed() {
                return None;
            }
        }
    }
}
