//! `process.scheduler`, `process.ioPriority` and `linux.personality`.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, Scheduler,
};
use serde::{Deserialize, Serialize};

use crate::error::{AgentError, Context, Kind, Result};
use crate::sys::{self, SchedulerAttributes};

/// `PER_LINUX32`; `PER_LINUX` is 0.
const PER_LINUX32: u64 = 8;
/// Class and level of an I/O priority share a number (linux/ioprio.h).
const IOPRIO_CLASS_SHIFT: u32 = 13;
/// Levels of an I/O priority.
const IOPRIO_LEVELS: i64 = 8;

/// What of it a process gets; all of it is inherited by its children.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SchedulePlan {
    pub(crate) scheduler: Option<SchedulerAttributes>,
    pub(crate) io_priority: Option<u32>,
    /// A container's, for all its processes.
    pub(crate) personality: Option<u64>,
}

impl SchedulePlan {
    /// What is not named is as in `other`.
    pub(super) fn complete(&mut self, other: &Self) {
        self.scheduler = self.scheduler.take().or_else(|| other.scheduler.clone());
        self.io_priority = self.io_priority.or(other.io_priority);
        self.personality = self.personality.or(other.personality);
    }

    /// Needs the privileges that a process gives up.
    pub(super) fn apply(&self) -> Result<()> {
        if let Some(scheduler) = &self.scheduler {
            sys::set_scheduler(scheduler).context(|| "failed to set the scheduler".to_string())?;
        }
        if let Some(priority) = self.io_priority {
            sys::set_io_priority(priority)
                .context(|| "failed to set the I/O priority".to_string())?;
        }
        if let Some(personality) = self.personality {
            sys::set_personality(personality)
                .context(|| "failed to set the personality".to_string())?;
        }
        Ok(())
    }
}

/// Numbers of sched(7).
pub(super) fn scheduler(scheduler: &Scheduler) -> Result<SchedulerAttributes> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
        LinuxSchedulerPolicy::SchedIso => {
            let text = "scheduler policy SCHED_ISO: no Linux has it";
            return Err(AgentError::new(Kind::Unsupported, text));
        }
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let priority = scheduler.priority().unwrap_or_default();
    Ok(SchedulerAttributes {
        policy,
        flags: scheduler.flags().iter().flatten().map(flag).sum(),
        nice: scheduler.nice().unwrap_or_default(),
        priority: u32::try_from(priority).map_err(|_| {
            AgentError::invalid(format!("scheduler.priority {priority} is negative"))
        })?,
        runtime: scheduler.runtime().unwrap_or_default(),
        deadline: scheduler.deadline().unwrap_or_default(),
        period: scheduler.period().unwrap_or_default(),
    })
}

/// The number of ioprio_set(2).
pub(super) fn io_priority(priority: &LinuxIOPriority) -> Result<u32> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = Some(priority.priority()).filter(|level| (0..IOPRIO_LEVELS).contains(level));
    let level = level.and_then(|level| u32::try_from(level).ok());
    let level = level.ok_or_else(|| {
        AgentError::invalid(format!(
            "ioPriority.priority {} is not from 0 to 7",
            priority.priority()
        ))
    })?;
    Ok(class << IOPRIO_CLASS_SHIFT | level)
}

/// The number of personality(2).
pub(super) fn personality(personality: &LinuxPersonality) -> Result<u64> {
    if personality.flags().iter().flatten().next().is_some() {
        let text = "personality flags are not supported: the specification defines none";
        return Err(AgentError::new(Kind::Unsupported, text));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_the_kernels_numbers() {
        let fifo = serde_json::json!({"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_RESET_ON_FORK"]});
        let fifo = scheduler(&serde_json::from_value(fifo).unwrap()).unwrap();
        assert_eq!((fifo.policy, fifo.priority, fifo.flags), (1, 7, 1));
        let idle = serde_json::json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
        let idle = io_priority(&serde_json::from_value(idle).unwrap()).unwrap();
        assert_eq!(idle, 3 << 13);
        let old = serde_json::json!({"domain": "LINUX32"});
        let old = personality(&serde_json::from_value(old).unwrap()).unwrap();
        assert_eq!(old, 8);
    }

    #[test]
    fn what_no_kernel_does_is_refused() {
        let iso = serde_json::json!({"policy": "SCHED_ISO"});
        assert!(scheduler(&serde_json::from_value(iso).unwrap()).is_err());
        let negative = serde_json::json!({"policy": "SCHED_FIFO", "priority": -1});
        assert!(scheduler(&serde_json::from_value(negative).unwrap()).is_err());
        let high = serde_json::json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
        assert!(io_priority(&serde_json::from_value(high).unwrap()).is_err());
    }
}
