//! The guest's wall clock, which the host puts right.

use hull_protocol::agent::{ClockRequest, ClockResponse};
use rustix::time::{clock_gettime, clock_settime, ClockId, Timespec};

use crate::error::{AgentError, Context as _, Result};
use crate::sys;

const SECOND_NS: i128 = 1_000_000_000;

/// Offsets below this are taken out by a clock that runs faster or slower for a while, so that time
/// neither jumps nor goes backwards; it is what the kernel's adjustment takes four minutes for.
const STEP_NS: u64 = 128_000_000;

/// Moves the clock by an offset and says what it shows then.
pub(crate) fn clock(request: &ClockRequest) -> Result<ClockResponse> {
    let offset = request.offset_ns;
    if offset.unsigned_abs() >= STEP_NS {
        let time = since_epoch() + i128::from(offset);
        let time = u64::try_from(time)
            .map_err(|_| AgentError::invalid(format!("{time} ns since the epoch is no time")))?;
        set(time)?;
    } else if offset != 0 {
        sys::slew(offset / 1000).context(|| format!("failed to slew the clock by {offset} ns"))?;
    }
    Ok(ClockResponse {
        realtime_ns: u64::try_from(since_epoch()).unwrap_or_default(),
        ..Default::default()
    })
}

/// Sets the clock to a time in nanoseconds since the epoch.
pub(crate) fn set(realtime_ns: u64) -> Result<()> {
    let time = Timespec {
        tv_sec: i64::try_from(realtime_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: (realtime_ns % 1_000_000_000) as _,
    };
    clock_settime(ClockId::Realtime, time).context(|| "failed to set the clock".to_string())
}

fn since_epoch() -> i128 {
    let now = clock_gettime(ClockId::Realtime);
    i128::from(now.tv_sec) * SECOND_NS + i128::from(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_offset_it_only_tells_the_time() {
        let before = since_epoch();
        let told = clock(&ClockRequest::default()).unwrap().realtime_ns;
        assert!((before..=since_epoch()).contains(&i128::from(told)));
    }

    #[test]
    fn a_time_before_the_epoch_is_refused() {
        let request = ClockRequest {
            offset_ns: i64::MIN,
            ..Default::default()
        };
        assert!(clock(&request).is_err());
    }
}
