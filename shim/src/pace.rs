//! How often something may be done for a guest, which asks as often as it can.

use std::time::Duration;

use tokio::time::{sleep_until, Instant};

/// Lets through so many turns at once, and then one in each interval.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    /// What a burst is ahead of the interval.
    ahead: Duration,
    /// When a turn would be due that is not ahead.
    due: Instant,
}

impl Pace {
    /// So many a second, after as many at once.
    pub(crate) fn per_second(count: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / count.max(1),
            ahead: Duration::from_secs(1),
            due: Instant::now(),
        }
    }

    /// Waits for the next turn.
    pub(crate) async fn turn(&mut self) {
        self.due = self.due.max(Instant::now()) + self.interval;
        sleep_until(self.due - self.ahead).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_through_and_a_flood_does_not() {
        let (begun, mut pace) = (Instant::now(), Pace::per_second(20));
        for _ in 0..20 {
            pace.turn().await;
        }
        assert!(begun.elapsed() < Duration::from_millis(10));
        for _ in 0..100 {
            pace.turn().await;
        }
        let took = begun.elapsed();
        assert!(
            Duration::from_secs(5) <= took && took < Duration::from_millis(5200),
            "{took:?}"
        );
        // A rest gives back one burst, not more.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let rested = Instant::now();
        for _ in 0..40 {
            pace.turn().await;
        }
        assert!(Duration::from_millis(900) <= rested.elapsed());
    }
}
