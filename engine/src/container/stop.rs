//! Signals, stop, restart, pause.

use std::sync::Arc;
use std::time::Duration;

use super::join::other_of;
use super::{Container, WaitCondition};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::health::Health;
use crate::lifecycle::{Event, Status};
use crate::record::timeout_of;
use crate::shim::{self, Task};
use crate::spec::parse_signal;

const SIGKILL: u32 = 9;
/// How long a container may take to end after SIGKILL, its VM's end included.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// How long a shim may take to answer what it knows by itself, and to pass on a signal by which a container
/// is asked to end.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long a client waits for the end of a container that it killed.
const KILLED_LIMIT: Duration = Duration::from_secs(10);

/// How to stop a container; what is not set is as the container says.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopOptions {
    pub(crate) signal: Option<String>,
    /// Seconds; negative: wait for ever.
    pub(crate) timeout: Option<i64>,
}

impl Engine {
    /// Sends a signal (SIGKILL if none is named). After SIGKILL the container has ended, unless that
    /// takes very long: clients that look next expect it, as with dockerd.
    pub(crate) async fn kill_container(
        &self,
        container: &Container,
        signal: Option<&str>,
    ) -> Result<()> {
        let refused = |why: String| format!("cannot kill container: {}: {why}", container.name());
        let number = signal
            .map_or(Ok(SIGKILL), parse_signal)
            .map_err(|error| EngineError::BadRequest(refused(error.message())))?;
        let ends = number == SIGKILL
            || asks_to_end(container.lock().config.stop_signal.as_deref(), number);
        self.await_start(container).await;
        // Between two starts there is nothing to signal; the next start is called off.
        if ends && self.cancel_restart(container).await? {
            return Ok(());
        }
        let task = live_task(container).map_err(|_| {
            EngineError::Conflict(refused(format!(
                "container {} is not running",
                container.id()
            )))
        })?;
        // Before the signal: the end that it brings about asks for it.
        let before = match ends {
            true => Some(self.note_stop(container).await),
            false => None,
        };
        let ended = container.wait(WaitCondition::NotRunning);
        let sent = self.signal(container, &task, number).await;
        if let (Err(_), Some(false)) = (&sent, before) {
            self.note(container, false).await;
        }
        sent?;
        if ends {
            self.let_go_on(container).await?;
        }
        if number == SIGKILL && tokio::time::timeout(KILLED_LIMIT, ended).await.is_err() {
            tracing::warn!(id = container.id(), "SIGKILL has no effect yet");
        }
        Ok(())
    }

    async fn signal(&self, container: &Container, task: &Task, number: u32) -> Result<()> {
        // A process that ended in the meantime has what the signal wanted.
        match task.kill("", number, false).await {
            Err(error) if container.task().is_some() && container.status().is_live() => {
                let text = error.message();
                if !text.contains("already finished") && !text.contains("not found") {
                    return Err(error);
                }
            }
            _ => {}
        }
        self.publish(container, "kill", [("signal", number.to_string())]);
        Ok(())
    }

    /// Stops a container for a user.
    pub(crate) async fn stop_container(
        &self,
        container: &Container,
        options: &StopOptions,
    ) -> Result<()> {
        self.await_start(container).await;
        if self.cancel_restart(container).await? {
            self.publish(container, "stop", []);
            return Ok(());
        }
        if !container.status().is_live() {
            return Err(EngineError::NotModified(
                "container already stopped".to_owned(),
            ));
        }
        self.await_stops_within(container).await;
        self.stop_live(container, options, true).await?;
        self.publish(container, "stop", []);
        Ok(())
    }

    /// Waits for a start that is under way: whoever asks something of the container meanwhile means one that
    /// runs.
    pub(crate) async fn await_start(&self, container: &Container) {
        let starting = container.progress.borrow().starting;
        if starting {
            drop(container.operate().await);
        }
    }

    /// Notes that a user ends the container, so that its policy does not start it again: written down, since
    /// the end may come when another daemon looks. Returns whether one had before.
    async fn note_stop(&self, container: &Container) -> bool {
        let before = container.lock().state.stopped_by_user;
        if !before {
            self.note(container, true).await;
        }
        before
    }

    async fn note(&self, container: &Container, stopped_by_user: bool) {
        let written = self
            .update(container, |record| {
                record.state.stopped_by_user = stopped_by_user
            })
            .await;
        // It is in memory, and what was asked for is done also where nothing can be written.
        if let Err(error) = written {
            tracing::error!(id = container.id(), error = error.message(), "store");
        }
    }

    /// Asks a container to end, and kills it if it does not.
    pub(super) async fn stop_live(
        &self,
        container: &Container,
        options: &StopOptions,
        by_user: bool,
    ) -> Result<()> {
        let (signal, timeout) = {
            let record = container.lock();
            let signal = options.signal.as_deref().unwrap_or(record.stop_signal());
            let timeout = options.timeout.map_or(record.stop_timeout(), timeout_of);
            (parse_signal(signal)?, timeout)
        };
        // A stop that is refused changes nothing.
        if by_user {
            self.note_stop(container).await;
        }
        let ended = container.wait(WaitCondition::NotRunning);
        tokio::pin!(ended);
        let Some(task) = container.task() else {
            return Ok(());
        };
        let sent = self.signal(container, &task, signal);
        let sent = tokio::time::timeout(ANSWER_LIMIT, sent).await;
        let error = match sent {
            Ok(sent) => sent.err().map(|error| error.message()),
            Err(_) => Some(format!("no answer within {ANSWER_LIMIT:?}")),
        };
        if let Some(error) = error {
            tracing::warn!(id = container.id(), error, "stop signal");
        } else {
            self.let_go_on(container).await?;
            match timeout {
                None => {
                    ended.as_mut().await;
                    return Ok(());
                }
                Some(timeout) => {
                    if tokio::time::timeout(timeout, ended.as_mut()).await.is_ok() {
                        return Ok(());
                    }
                }
            }
        }
        self.kill_hard(container, &task).await
    }

    /// SIGKILL, and if even that does not end it, the end of its VM; where the shim does not answer, of both
    /// without it.
    async fn kill_hard(&self, container: &Container, task: &Task) -> Result<()> {
        let ended = container.wait(WaitCondition::NotRunning);
        tokio::pin!(ended);
        let killed = async {
            if let Err(error) = self.signal(container, task, SIGKILL).await {
                tracing::warn!(id = container.id(), error = error.message(), "SIGKILL");
            }
            ended.as_mut().await;
        };
        let answers = tokio::select! {
            () = killed => return Ok(()),
            () = stands_still(task) => false,
            () = tokio::time::sleep(KILL_LIMIT) => true,
        };
        if answers {
            tracing::warn!(id = container.id(), "SIGKILL had no effect: ending the VM");
            let _ = task.shutdown().await;
            if tokio::time::timeout(ANSWER_LIMIT, ended.as_mut())
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        let forced = self.end_shim_by_force(container).await;
        // What is left of one that has ended is tried again with its files.
        match tokio::time::timeout(KILL_LIMIT, ended).await {
            Ok(_) => Ok(()),
            Err(_) => forced.and(Err(not_ended(container, "the VM does not end".to_owned()))),
        }
    }

    /// Has the shim's program kill a shim that stands still, with its VM, and remove what they had. Who waits
    /// for the container hears of its end.
    async fn end_shim_by_force(&self, container: &Container) -> Result<()> {
        let id = container.id();
        let mode = container.lock().host.network_mode.clone();
        if let Some(other) = other_of(&mode) {
            let name = self.container(other).map(|other| other.name());
            return Err(not_ended(
                container,
                format!(
                    "its VM, which is that of container {}, does not answer: remove that one by \
                     force",
                    name.as_deref().unwrap_or(other)
                ),
            ));
        }
        tracing::warn!(id, "the shim does not answer: ending it and its VM");
        let ended = shim::delete(&self.shim, id, &self.paths.bundle(id)).await;
        ended.map_err(|error| not_ended(container, error.message()))
    }

    /// Calls off a pending automatic restart. `true` if there was one.
    async fn cancel_restart(&self, container: &Container) -> Result<bool> {
        self.end_restart(container, true).await
    }

    /// The same; `by_user`: it does not start with the daemon either, if its policy listens to users.
    pub(super) async fn end_restart(&self, container: &Container, by_user: bool) -> Result<bool> {
        if container.status() != Status::Restarting {
            return Ok(false);
        }
        let _operation = container.operate().await;
        if container.status() != Status::Restarting {
            return Ok(false);
        }
        self.update(container, |record| {
            Self::advance(record, Event::RestartCancelled);
            record.state.stopped_by_user |= by_user;
        })
        .await?;
        container
            .progress
            .send_modify(|progress| progress.restarting = false);
        Ok(true)
    }

    /// Ends a container for its removal.
    pub(super) async fn end_for_removal(&self, container: &Container) -> Result<()> {
        self.cancel_restart(container).await?;
        match container.task() {
            Some(task) if container.status().is_live() => {
                self.note_stop(container).await;
                let paused = container.status() == Status::Paused;
                let killed = self.kill_hard(container, &task);
                if paused {
                    let _ = self.unpause_container(container).await;
                }
                killed.await
            }
            _ => Ok(()),
        }
    }

    /// Stops a container if it runs, and starts it.
    pub(crate) async fn restart_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: &StopOptions,
    ) -> Result<()> {
        // Written down with the end.
        container.lock().state.restarting_by_user = true;
        let restarted = match self.stop_container(container, options).await {
            Ok(()) | Err(EngineError::NotModified(_)) => self.start_container(container).await,
            Err(error) => Err(error),
        };
        container.lock().state.restarting_by_user = false;
        restarted?;
        self.publish(container, "restart", []);
        Ok(())
    }

    /// Freezes all processes.
    pub(crate) async fn pause_container(&self, container: &Container) -> Result<()> {
        let _operation = container.operate().await;
        if container.status() == Status::Paused {
            return Err(EngineError::Conflict(format!(
                "Container {} is already paused",
                container.id()
            )));
        }
        live_task(container)?.pause().await?;
        self.update(container, |record| {
            Self::advance(record, Event::Paused);
            record.state.health.iter_mut().for_each(Health::stop);
        })
        .await?;
        self.publish(container, "pause", []);
        Ok(())
    }

    /// Lets a paused container go on that is to end. It may have ended meanwhile, or not be paused any
    /// more: that is as well.
    async fn let_go_on(&self, container: &Container) -> Result<()> {
        if container.status() != Status::Paused {
            return Ok(());
        }
        match self.unpause_container(container).await {
            Ok(()) | Err(EngineError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets them go on.
    pub(crate) async fn unpause_container(&self, container: &Container) -> Result<()> {
        let _operation = container.operate().await;
        if container.status() != Status::Paused {
            return Err(EngineError::Conflict(format!(
                "Container {} is not paused",
                container.id()
            )));
        }
        live_task(container)?.resume().await?;
        self.update(container, |record| Self::advance(record, Event::Unpaused))
            .await?;
        self.publish(container, "unpause", []);
        Ok(())
    }
}

/// Returns once a shim has not answered in time what it knows without its guest; never, if it has.
async fn stands_still(task: &Task) {
    let limit = tokio::time::sleep(ANSWER_LIMIT);
    match task.run_state().await {
        Ok(_answer) => std::future::pending().await,
        Err(_) => limit.await,
    }
}

fn not_ended(container: &Container, reason: String) -> EngineError {
    EngineError::Task {
        call: "stop",
        id: container.id().to_owned(),
        reason,
    }
}

/// Whether a signal asks a container to end, which has a stop signal of its own or none. As with dockerd:
/// without one, whoever sends any signal takes care of the container, and its policy does not.
fn asks_to_end(stop_signal: Option<&str>, number: u32) -> bool {
    match stop_signal {
        None | Some("") => true,
        Some(own) => parse_signal(own).is_ok_and(|own| own == number),
    }
}

/// The shim of a container that runs or is paused.
pub(crate) fn live_task(container: &Container) -> Result<Arc<Task>> {
    container
        .task()
        .filter(|_| container.status().is_live())
        .ok_or_else(|| not_running(container))
}

/// The error of what only a running container can do.
pub(crate) fn not_running(container: &Container) -> EngineError {
    EngineError::Conflict(match container.status() {
        Status::Restarting => format!(
            "Container {} is restarting, wait until the container is running",
            container.id()
        ),
        _ => format!("container {} is not running", container.id()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_signal_asks_one_to_end_that_names_none() {
        assert!(asks_to_end(None, 2) && asks_to_end(Some(""), 15) && asks_to_end(None, 1));
        assert!(asks_to_end(Some("SIGQUIT"), 3) && !asks_to_end(Some("SIGQUIT"), 1));
        assert!(!asks_to_end(Some("3"), 15));
    }
}
