//! The states of a container and the moves between them, without I/O.
//!
//! ```text
//!            start             pause
//!  created ---------> running <-------> paused
//!     |                |  ^             |
//!     |           exit |  | start       | exit
//!     |                v  |             |
//!     |              exited <-----------+
//!     |                |                |
//!     v                |           exit, restart wanted
//!  removing <----------+                v
//!     |                            restarting --start--> running
//!     +---> gone, or dead where removal failed
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// State of a container, named as Docker names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its init process runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Ended, and waiting to be started again by its restart policy.
    Restarting,
    /// Being removed.
    Removing,
    /// Its init process has ended.
    Exited,
    /// Its removal failed half-way; only removal is possible.
    Dead,
}

impl Status {
    /// The word of the Docker API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether an init process exists.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Whether users see it as one that runs: also while it waits for its next start.
    pub fn is_up(self) -> bool {
        self.is_live() || self == Self::Restarting
    }
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its init process was started.
    Started,
    /// Starting it failed.
    StartFailed,
    /// Its processes were frozen.
    Paused,
    /// They go on.
    Unpaused,
    /// Its init process ended, and it stays so.
    Exited,
    /// Its init process ended, and the restart policy will start it again.
    ExitedToRestart,
    /// Its restart was called off.
    RestartCancelled,
    /// Removal began.
    RemoveBegun,
    /// Removal failed.
    RemoveFailed,
}

/// The event is not possible in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {} can not take {event:?}", from.name())]
pub struct Refused {
    /// The state.
    pub from: Status,
    /// The event.
    pub event: Event,
}

/// The state after an event.
pub fn next(from: Status, event: Event) -> Result<Status, Refused> {
    use Status::{Created, Dead, Exited, Paused, Removing, Restarting, Running};
    match (from, event) {
        (Created | Exited | Restarting, Event::Started) => Ok(Running),
        // As dockerd: a container whose first start failed stays created.
        (Created, Event::StartFailed) => Ok(Created),
        (Exited | Restarting, Event::StartFailed) => Ok(Exited),
        (Running, Event::Paused) => Ok(Paused),
        (Paused, Event::Unpaused) => Ok(Running),
        (Running | Paused, Event::Exited) => Ok(Exited),
        (Running | Paused, Event::ExitedToRestart) => Ok(Restarting),
        (Restarting, Event::RestartCancelled) => Ok(Exited),
        (Created | Exited | Dead, Event::RemoveBegun) => Ok(Removing),
        (Removing, Event::RemoveFailed) => Ok(Dead),
        _ => Err(Refused { from, event }),
    }
}

/// Docker's restart policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Stay ended.
    No,
    /// Start again whatever the exit code.
    Always,
    /// As `Always`, but not after a stop that a user asked for, also not when hulld starts.
    UnlessStopped,
    /// Start again after a failure, at most so many times (0: no bound).
    OnFailure {
        /// Bound on restarts in a row.
        retries: u32,
    },
}

/// Facts about an exit on which the restart is decided.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// 0..255.
    pub code: i64,
    /// A user asked for the end (stop, kill).
    pub by_user: bool,
    /// How long the process ran.
    pub ran: Duration,
    /// Restarts in a row before this exit.
    pub restarts: u32,
    /// Back-off of the restart before.
    pub last_delay: Option<Duration>,
}

/// Back-off of the first restart.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(60);
/// A container that ran so long is taken for healthy: its back-off starts afresh.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// After what delay the container is started again; `None`: it stays ended.
pub fn restart_after(policy: RestartPolicy, exit: Exit) -> Option<Duration> {
    let wanted = match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => !exit.by_user,
        RestartPolicy::OnFailure { retries } => {
            !exit.by_user && exit.code != 0 && (retries == 0 || exit.restarts < retries)
        }
    };
    wanted.then(|| match exit.last_delay {
        Some(last) if exit.ran < HEALTHY_AFTER => (last * 2).min(MAX_DELAY),
        _ => FIRST_DELAY,
    })
}

/// How a container was left when an earlier hulld ended.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    /// It ran, or waited for its next start.
    pub was_live: bool,
    /// A user asked for its end.
    pub by_user: bool,
    /// Exit code of its last run; `None`: there was none.
    pub code: Option<i64>,
    /// Restarts in a row before that.
    pub restarts: u32,
}

/// Whether hulld starts the container when it starts itself.
pub fn start_with_daemon(policy: RestartPolicy, left: Left) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !left.by_user,
        // What an orderly end of the host has stopped has failed, unless it ended well by then.
        RestartPolicy::OnFailure { retries } => {
            let failed = left.code.is_some_and(|code| code != 0);
            let goes_on = retries == 0 || left.restarts < retries;
            !left.by_user && (left.was_live || failed && goes_on)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Status; 7] = [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Removing,
        Status::Exited,
        Status::Dead,
    ];

    #[test]
    fn only_live_containers_exit_and_only_dead_ones_are_removed() {
        for from in ALL {
            assert_eq!(
                next(from, Event::Exited).is_ok(),
                from.is_live(),
                "{from:?}"
            );
            assert_eq!(
                next(from, Event::ExitedToRestart).is_ok(),
                from.is_live(),
                "{from:?}"
            );
            if from.is_live() {
                assert!(next(from, Event::RemoveBegun).is_err(), "{from:?}");
                assert!(next(from, Event::Started).is_err(), "{from:?}");
            }
        }
    }

    #[test]
    fn pause_and_unpause_are_inverse() {
        assert_eq!(next(Status::Running, Event::Paused), Ok(Status::Paused));
        assert_eq!(next(Status::Paused, Event::Unpaused), Ok(Status::Running));
        assert!(next(Status::Exited, Event::Paused).is_err());
    }

    fn exit(code: i64, by_user: bool, restarts: u32) -> Exit {
        Exit {
            code,
            by_user,
            ran: Duration::from_secs(1),
            restarts,
            last_delay: None,
        }
    }

    #[test]
    fn policies_decide_as_dockers() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        assert_eq!(restart_after(No, exit(1, false, 0)), None);
        assert!(restart_after(Always, exit(0, false, 0)).is_some());
        assert_eq!(restart_after(Always, exit(0, true, 0)), None);
        assert!(restart_after(UnlessStopped, exit(0, false, 0)).is_some());
        assert_eq!(
            restart_after(OnFailure { retries: 0 }, exit(0, false, 0)),
            None
        );
        assert!(restart_after(OnFailure { retries: 2 }, exit(1, false, 1)).is_some());
        assert_eq!(
            restart_after(OnFailure { retries: 2 }, exit(1, false, 2)),
            None
        );
    }

    #[test]
    fn what_failed_starts_with_the_daemon_where_its_policy_has_it_so() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let ended = |code, by_user| Left {
            was_live: false,
            by_user,
            code,
            restarts: 1,
        };
        let lost = |by_user| Left {
            was_live: true,
            ..ended(Some(255), by_user)
        };
        let on_failure = |retries| OnFailure { retries };
        for (policy, left, starts) in [
            (No, lost(false), false),
            (Always, ended(Some(0), true), true),
            (UnlessStopped, ended(Some(0), false), true),
            (UnlessStopped, ended(Some(1), true), false),
            (on_failure(0), ended(Some(143), false), true),
            (on_failure(0), ended(Some(143), true), false),
            (on_failure(0), ended(Some(0), false), false),
            (on_failure(0), ended(None, false), false),
            (on_failure(2), ended(Some(1), false), true),
            (on_failure(1), ended(Some(1), false), false),
            (on_failure(1), lost(false), true),
            (on_failure(1), lost(true), false),
        ] {
            assert_eq!(
                start_with_daemon(policy, left),
                starts,
                "{policy:?} {left:?}"
            );
        }
    }

    #[test]
    fn back_off_doubles_to_a_minute_and_resets_after_a_long_run() {
        let mut exit = exit(1, false, 0);
        let mut last = FIRST_DELAY;
        for _ in 0..20 {
            exit.last_delay = Some(last);
            let Some(delay) = restart_after(RestartPolicy::Always, exit) else {
                panic!("always restarts");
            };
            assert!(last <= delay && delay <= MAX_DELAY);
            last = delay;
        }
        assert_eq!(last, MAX_DELAY);
        exit.ran = HEALTHY_AFTER;
        assert_eq!(
            restart_after(RestartPolicy::Always, exit),
            Some(FIRST_DELAY)
        );
    }
}
