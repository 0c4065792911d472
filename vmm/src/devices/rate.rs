//! How much may pass in a time: token buckets that may go into debt.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hull_vm_config::Rate;

const NANOS: i128 = 1_000_000_000;
/// A bucket that is full lets this long a time's worth pass at once.
const BURST: Duration = Duration::from_millis(100);

/// Holds one direction of a device to a [`Rate`].
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes: Option<Bucket>,
    packets: Option<Bucket>,
}

impl Limiter {
    /// Full buckets.
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        let bucket = |per_second: Option<NonZeroU64>| per_second.map(|rate| Bucket::new(rate, now));
        Self {
            bytes: bucket(rate.bytes_per_second),
            packets: bucket(rate.packets_per_second),
        }
    }

    /// `None`: something may pass, whatever its size. Else: not before then.
    pub(crate) fn closed_until(&mut self) -> Option<Instant> {
        if self.bytes.is_none() && self.packets.is_none() {
            return None;
        }
        let now = Instant::now();
        let buckets = [&mut self.bytes, &mut self.packets].into_iter().flatten();
        let wait = buckets.filter_map(|bucket| bucket.wait(now)).max()?;
        Some(now + wait)
    }

    /// Pays for what has passed. Packets are counted only where there is a limit to them.
    pub(crate) fn spend(&mut self, bytes: usize, packets: impl FnOnce() -> usize) {
        if let Some(bucket) = &mut self.bytes {
            bucket.spend(bytes);
        }
        if let Some(bucket) = &mut self.packets {
            bucket.spend(packets());
        }
    }
}

/// One bucket. What is larger than the bucket passes when there is anything in it, and leaves a debt
/// that time pays: over any time, no more passes than the rate, one burst and one packet.
#[derive(Debug)]
struct Bucket {
    per_second: NonZeroU64,
    /// In billionths of a token, so that nothing is lost to rounding.
    level: i128,
    filled: Instant,
}

impl Bucket {
    fn new(per_second: NonZeroU64, now: Instant) -> Self {
        Self {
            per_second,
            level: Self::earned(per_second, BURST),
            filled: now,
        }
    }

    fn earned(per_second: NonZeroU64, time: Duration) -> i128 {
        i128::from(per_second.get()) * time.min(BURST).as_nanos() as i128
    }

    /// Fills up; `Some`: how long it stays empty.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let full = Self::earned(self.per_second, BURST);
        let time = now.saturating_duration_since(self.filled);
        self.filled = now;
        // A debt is paid over more than a burst's time.
        let earned = i128::from(self.per_second.get()) * time.as_nanos() as i128;
        self.level = (self.level + earned).min(full);
        if 0 < self.level {
            return None;
        }
        let nanos = 1 - self.level / i128::from(self.per_second.get());
        Some(Duration::from_nanos(nanos.min(i128::from(u64::MAX)) as u64))
    }

    fn spend(&mut self, count: usize) {
        self.level -= count as i128 * NANOS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_second: u64, now: Instant) -> Bucket {
        Bucket::new(NonZeroU64::new(per_second).unwrap(), now)
    }

    /// Every rate, packet size and rhythm of a small world.
    #[test]
    fn no_more_passes_than_rate_and_burst_and_no_less_than_the_rate() {
        for per_second in [1, 3, 7, 10, 64, 999, 1_000_000] {
            for size in [1, 2, 9, 100, 1500] {
                for step in [1, 37, 1000, 100_000] {
                    passes_at_its_rate(per_second, size, Duration::from_micros(step));
                }
            }
        }
    }

    /// A sender that asks at each step; 2,000 steps.
    fn passes_at_its_rate(per_second: u64, size: usize, step: Duration) {
        let start = Instant::now();
        let mut bucket = bucket(per_second, start);
        let (mut passed, mut now) = (0_u128, start);
        for _ in 0..2000 {
            now += step;
            if bucket.wait(now).is_none() {
                bucket.spend(size);
                passed += size as u128;
            }
        }
        let rate = u128::from(per_second);
        let time = (now - start).as_nanos();
        let most = rate * (time + BURST.as_nanos()) / NANOS as u128 + size as u128;
        assert!(
            passed <= most,
            "{passed} > {most} at {per_second}/s of {size}"
        );
        // One packet a step is all that this sender asks for.
        let asked = 2000 * size as u128;
        let least = (rate * time / NANOS as u128).min(asked);
        assert!(
            least <= passed + size as u128,
            "{passed} < {least} at {per_second}/s"
        );
    }

    #[test]
    fn the_wait_that_is_told_is_long_enough_and_not_longer() {
        let start = Instant::now();
        for per_second in [1, 3, 1000, 123_456_789, u64::MAX] {
            let mut bucket = bucket(per_second, start);
            let mut now = start;
            for size in [1, 1500, 70_000] {
                bucket.spend(size);
                let Some(wait) = bucket.wait(now) else {
                    continue;
                };
                let early = now + wait - Duration::from_nanos(1);
                assert!(bucket.wait(early).is_some(), "{per_second} {size}");
                now += wait;
                assert!(bucket.wait(now).is_none(), "{per_second} {size}");
            }
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_stop() {
        let start = Instant::now();
        let mut fast = bucket(u64::MAX, start);
        for _ in 0..1000 {
            fast.spend(70_000);
        }
        assert!(fast.wait(start + Duration::from_secs(1 << 32)).is_none());
        let mut slow = bucket(1, start);
        slow.spend(usize::MAX);
        let wait = slow.wait(start).unwrap();
        assert!(Duration::from_secs(1 << 33) < wait);
        // A clock that goes back pays nothing.
        let mut early = bucket(1, start + Duration::from_secs(5));
        early.spend(1);
        assert!(early.wait(start).is_some());
    }

    #[test]
    fn the_stricter_bucket_decides() {
        let now = Instant::now();
        let rate = |bytes, packets| Rate {
            bytes_per_second: NonZeroU64::new(bytes),
            packets_per_second: NonZeroU64::new(packets),
        };
        let mut none = Limiter::new(Rate::default(), now);
        none.spend(1 << 40, || 1 << 40);
        assert_eq!(none.closed_until(), None);
        for (bytes, packets) in [(0, 10), (1 << 40, 10), (10_000, 0), (10_000, 1 << 40)] {
            let mut limiter = Limiter::new(rate(bytes, packets), now);
            assert_eq!(limiter.closed_until(), None);
            limiter.spend(15_000, || 15);
            let until = limiter.closed_until().unwrap();
            assert!(now + Duration::from_secs(1) < until, "{bytes} {packets}");
        }
    }
}
