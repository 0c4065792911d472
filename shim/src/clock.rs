//! The guest's wall clock follows the host's.
//!
//! A guest counts time by the processor's counter, from what it was told at its start. The host's
//! clock is steered by others meanwhile: slowly, so that the two drift apart by seconds in a day, and
//! at once, when it is set or when the host wakes from a sleep in which no counter ran.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hull_protocol::agent::ClockRequest;
use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags,
    Timespec,
};
use tokio::io::unix::AsyncFd;

use crate::agent::{Agent, AgentError, CALL_LIMIT};
use crate::report::chain;
use crate::sys::async_fd;

/// How often drift is looked at: what a host's clock may be steered by in that time, 500 ppm, is
/// slewed away in as much again.
const INTERVAL: Duration = Duration::from_secs(300);

/// Offsets from here on are no drift, but the will of who set the guest's clock.
const DRIFT_LIMIT_NS: i128 = 128_000_000;

/// Below this an offset is not worth an adjustment.
const PRECISION_NS: i128 = 1_000_000;

/// Why the clocks are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Some time has passed.
    Interval,
    /// The host's clock was set, or it woke up.
    HostSet,
}

/// Keeps the guest's clock at the host's until the VM ends.
pub(crate) async fn follow(agent: Agent) {
    let mut set = match HostClock::new() {
        Ok(clock) => Some(clock),
        Err(error) => {
            tracing::warn!(%error, "the host's clock cannot be watched: a guest hears late that it is set");
            None
        }
    };
    loop {
        let reason = tokio::select! {
            () = tokio::time::sleep(INTERVAL) => Reason::Interval,
            () = was_set(&mut set) => Reason::HostSet,
            _ = agent.vm().ended() => return,
        };
        match compare(&agent, reason).await {
            Ok(()) => {}
            Err(AgentError::VmEnded { .. }) => return,
            Err(error) => tracing::warn!(error = chain(&error), "the guest's clock is not set"),
        }
    }
}

async fn was_set(clock: &mut Option<HostClock>) {
    match clock {
        Some(host) => {
            if let Err(error) = host.set().await {
                tracing::warn!(%error, "the host's clock is not watched any more");
                *clock = None;
            }
        }
        None => std::future::pending().await,
    }
}

/// Asks what time it is in the guest, and has it put right.
async fn compare(agent: &Agent, reason: Reason) -> Result<(), AgentError> {
    let asked = Instant::now();
    let guest = clock(agent, 0).await?;
    let round_trip = asked.elapsed();
    let offset = offset(since_epoch(), guest, round_trip);
    match adjustment(offset, round_trip, reason) {
        Some(offset) => {
            tracing::info!(
                offset_ns = offset,
                ?reason,
                "the guest's clock is put right"
            );
            clock(agent, offset).await.map(drop)
        }
        None => Ok(()),
    }
}

/// Moves the guest's clock by so many nanoseconds, and tells what it says then.
async fn clock(agent: &Agent, offset_ns: i64) -> Result<u64, AgentError> {
    let request = ClockRequest {
        offset_ns,
        ..Default::default()
    };
    let answer = agent
        .call("Clock", CALL_LIMIT, |client, context| async move {
            client.clock(context, &request).await
        })
        .await?;
    Ok(answer.realtime_ns)
}

/// How far the guest's clock is behind: it said `guest` in the middle of a round trip that ended when
/// the host's said `host`.
fn offset(host: u64, guest: u64, round_trip: Duration) -> i128 {
    i128::from(host) - round_trip.as_nanos() as i128 / 2 - i128::from(guest)
}

/// What to move the guest's clock by, if at all. The guest may say anything: what comes back to it is
/// a time of its own.
fn adjustment(offset: i128, round_trip: Duration, reason: Reason) -> Option<i64> {
    // Half of the round trip is how much the offset may be wrong.
    let precision = PRECISION_NS.max(round_trip.as_nanos() as i128 / 2);
    let drift = offset.abs() < DRIFT_LIMIT_NS;
    if offset.abs() <= precision || (reason == Reason::Interval && !drift) {
        return None;
    }
    i64::try_from(offset).ok()
}

fn since_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Hears when the host's clock is set: a timer that nobody waits for is cancelled by that.
struct HostClock {
    timer: AsyncFd<OwnedFd>,
}

impl HostClock {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        Ok(Self {
            timer: async_fd(timer)?,
        })
    }

    /// Returns once the clock was set since the last call.
    async fn set(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
            match read {
                Ok(Err(error)) if error.raw_os_error() == Some(CANCELED) => {
                    return Ok(arm(self.timer.get_ref())?);
                }
                Ok(Err(error)) => return Err(error),
                // It was none, or the end of time.
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }
}

/// What reading from a timer that was cancelled ends in, timerfd_create(2).
const CANCELED: i32 = rustix::io::Errno::CANCELED.raw_os_error();

fn arm(timer: &OwnedFd) -> rustix::io::Result<()> {
    let never = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: i64::MAX / 1_000_000_000,
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &never).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn drift_is_slewed_and_a_time_that_somebody_set_is_left() {
        let quick = Duration::from_micros(200);
        let by = |offset, reason| adjustment(offset, quick, reason);
        assert_eq!(by(5_000_000, Reason::Interval), Some(5_000_000));
        assert_eq!(by(-5_000_000, Reason::Interval), Some(-5_000_000));
        assert_eq!(by(3600 * SECOND, Reason::Interval), None);
        assert_eq!(
            by(-3600 * SECOND, Reason::HostSet),
            Some(-3_600_000_000_000)
        );
        assert_eq!(by(500_000, Reason::HostSet), None);
    }

    #[test]
    fn an_offset_within_the_answers_time_is_none() {
        let slow = Duration::from_millis(50);
        assert_eq!(adjustment(20_000_000, slow, Reason::Interval), None);
        assert_eq!(
            adjustment(30_000_000, slow, Reason::Interval),
            Some(30_000_000)
        );
    }

    #[test]
    fn a_guest_may_say_any_time() {
        for guest in [0, 1, u64::MAX] {
            let offset = offset(1_700_000_000_000_000_000, guest, Duration::from_secs(9));
            let _ = adjustment(offset, Duration::MAX, Reason::HostSet);
            let _ = adjustment(offset, Duration::ZERO, Reason::HostSet);
        }
        assert_eq!(offset(0, u64::MAX, Duration::ZERO), -i128::from(u64::MAX));
        assert_eq!(
            adjustment(i128::from(u64::MAX), Duration::ZERO, Reason::HostSet),
            None
        );
    }

    #[tokio::test]
    async fn an_untouched_clock_tells_nothing() {
        let mut clock = HostClock::new().unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(20), clock.set()).await;
        assert!(waited.is_err());
    }
}
