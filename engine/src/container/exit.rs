//! What follows the end of a container's init process.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::Instrument as _;

use super::Container;
use crate::engine::Engine;
use crate::health::Health;
use crate::lifecycle::{self, Event, Exit, Status};
use crate::shim::{Ended, Task};
use crate::streams::Pumps;

/// How long output may take to arrive after the process ended.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long the events before the exit event may take after the exit itself is known.
const EVENT_LIMIT: Duration = Duration::from_millis(300);
/// Exit code of a container whose shim was lost: as of one that was killed.
const LOST_EXIT_CODE: i64 = 137;

impl Engine {
    /// Watches a running container to its end.
    pub(super) fn watch(
        self: &Arc<Self>,
        container: &Arc<Container>,
        task: Arc<Task>,
        pumps: Pumps,
        drain_limit: Duration,
    ) {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        let span = container.span();
        let watched = async move {
            let ended = task.wait("").await;
            // Deleting is what ends streams that a left-over process holds open.
            tokio::join!(
                pumps.drain(drain_limit),
                engine.free(&container, &task, ended)
            );
            engine.finish(&container, &task, ended).await;
        };
        tokio::spawn(watched.instrument(span));
    }

    /// Ends a run: writes the record, tells the waiters, ends the VM, restarts or removes.
    async fn finish(self: &Arc<Self>, container: &Arc<Container>, task: &Task, ended: Ended) {
        let _operation = container.operate().await;
        let (code, error) = match ended {
            Ended::Exited(code) => (code, self.vm_end(container.id(), code)),
            Ended::ShimLost if super::joins(&container.lock().host) => (
                LOST_EXIT_CODE,
                "the VM of the container that it had joined ended".to_owned(),
            ),
            Ended::ShimLost => (
                LOST_EXIT_CODE,
                "the container's shim or VM was lost".to_owned(),
            ),
        };
        if code != 0 && ended != Ended::ShimLost {
            // An OOM event precedes the exit event.
            let _ = tokio::time::timeout(EVENT_LIMIT, container.exit_event.notified()).await;
        }
        container.set_task(None);
        let restart = self.record_end(container, code, error).await;
        // Who waits for the end need not wait for the VM's; who starts or removes does, by the lock.
        self.end_shim(container.id(), task, ended).await;
        self.release_volumes(container).await;
        self.networks.detach(container.id()).await;
        self.publish_given_back(container);
        match restart {
            Some(delay) => self.restart_later(container, delay),
            None if container.lock().goes_with_its_end() => self.remove_ended(container).await,
            None => {}
        }
    }

    /// Why the VM ended, where that is what ended the container; else nothing.
    fn vm_end(&self, id: &str, code: i64) -> String {
        if code != LOST_EXIT_CODE {
            return String::new();
        }
        let reason = std::fs::read_to_string(self.paths.vm_end(id));
        reason.map_or_else(
            |_| String::new(),
            |reason| format!("the VM ended: {reason}"),
        )
    }

    /// Writes the end of a run down and tells everybody. The result is the delay after which the
    /// container is to be started again.
    async fn record_end(
        &self,
        container: &Container,
        code: i64,
        error: String,
    ) -> Option<Duration> {
        let now = Timestamp::now();
        let mut restart = None;
        let ran = container.ran();
        let written = self
            .update(container, |record| {
                restart = lifecycle::restart_after(
                    record.restart_policy(),
                    Exit {
                        code,
                        by_user: record.state.stopped_by_user || self.is_stopping_all(),
                        ran,
                        restarts: record.state.restarts,
                        last_delay: record.state.last_delay,
                    },
                );
                let event = match restart {
                    Some(_) => Event::ExitedToRestart,
                    None => Event::Exited,
                };
                Self::advance(record, event);
                record.shim = None;
                let state = &mut record.state;
                state.pid = 0;
                state.exit_code = code;
                state.error = error;
                state.health.iter_mut().for_each(Health::stop);
                state.finished = Some(now);
                if let Some(delay) = restart {
                    state.restarts += 1;
                    state.last_delay = Some(delay);
                }
            })
            .await;
        if let Err(error) = written {
            tracing::error!(id = container.id(), error = error.message(), "store");
        }
        self.drop_execs(container.id());
        self.publish(
            container,
            "die",
            [
                ("exitCode", code.to_string()),
                ("execDuration", ran.as_secs().to_string()),
            ],
        );
        let log = Arc::clone(&container.log);
        // It may wait for the disk.
        let _ = tokio::task::spawn_blocking(move || log.end()).await;
        container.hub.close();
        container.progress.send_modify(|progress| {
            progress.exits += 1;
            progress.live = false;
            progress.restarting = restart.is_some();
            progress.exit_code = code;
        });
        restart
    }

    pub(super) fn restart_later(self: &Arc<Self>, container: &Arc<Container>, delay: Duration) {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        let span = container.span();
        let restarted = async move {
            let mut progress = container.progress.subscribe();
            loop {
                tokio::time::sleep(delay).await;
                let called_off = progress.wait_for(|progress| !progress.restarting);
                tokio::select! {
                    _ = called_off => return,
                    () = engine.await_joined(&container) => {}
                }
                if engine.restart_now(&container).await {
                    return;
                }
            }
        };
        tokio::spawn(restarted.instrument(span));
    }

    /// Starts a container that waits for that. `false`: the one that it joins ended meanwhile, and it waits
    /// on.
    async fn restart_now(self: &Arc<Self>, container: &Arc<Container>) -> bool {
        let _operation = container.operate().await;
        if container.status() != Status::Restarting {
            return true;
        }
        // Boxed: the future of a start holds, by way of this, that of the next start.
        let started = Box::pin(self.start_locked(container));
        if let Err(error) = started.await {
            tracing::warn!(
                id = container.id(),
                error = error.message(),
                "restart failed"
            );
        }
        container.status() != Status::Restarting
    }

    async fn free(&self, container: &Container, task: &Task, ended: Ended) {
        if ended != Ended::ShimLost {
            self.keep_trace(container.id());
            if let Err(error) = task.delete("").await {
                tracing::warn!(id = container.id(), error = error.message(), "freeing");
            }
        }
    }

    async fn end_shim(&self, id: &str, task: &Task, ended: Ended) {
        if ended != Ended::ShimLost {
            match task.shutdown().await {
                Ok(()) => {
                    let _ = std::fs::remove_dir_all(self.paths.bundle(id));
                    return;
                }
                Err(error) => tracing::warn!(id, error = error.message(), "ending the shim"),
            }
        }
        self.clean_runtime(id).await;
    }

    /// Keeps the boot timeline for `hull trace` of an ended container.
    fn keep_trace(&self, id: &str) {
        let _ = std::fs::copy(self.paths.trace(id), self.paths.kept_trace(id));
    }
}
