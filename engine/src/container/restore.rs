//! Finding the containers of an earlier hulld again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Semaphore;

use super::exit::DRAIN_LIMIT;
use super::start::close_stdin;
use super::Container;
use crate::commit;
use crate::engine::Engine;
use crate::error::Result;
use crate::health::Health;
use crate::lifecycle::{self, Event, Left, RestartPolicy, Status, FIRST_DELAY};
use crate::logs::{self, LogOptions};
use crate::network;
use crate::shim::{self, RunState, Task};
use crate::streams::{Fifos, Pumps};

/// As [`DRAIN_LIMIT`], for a container that ended while no hulld read its output.
const ENDED_DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// Containers that are found again, or started, at once.
const AT_ONCE: usize = 16;

impl Engine {
    /// Reads all records; goes on with the containers whose shims live, writes down the end of the
    /// others, finishes interrupted removals, and starts what the restart policies say.
    pub(crate) async fn restore(self: &Arc<Self>) -> Result<()> {
        let records = self.store.all()?;
        for record in records {
            let container = Container::new(record, &self.paths);
            self.containers_mut()
                .insert(container.id().to_owned(), container);
        }
        let all: Vec<_> = self.containers().values().cloned().collect();
        // Side by side: one whose shim does not answer keeps nobody waiting.
        let found = futures_util::stream::iter(all).map(|container| async move {
            let was_live = self.reattach(&container).await;
            let record = container.record();
            let state = &record.state;
            let left = Left {
                was_live,
                by_user: state.stopped_by_user,
                code: state.finished.map(|_| state.exit_code),
                restarts: state.restarts,
            };
            let starts = lifecycle::start_with_daemon(record.restart_policy(), left);
            // One that is restarting has somebody who starts it.
            (state.status == Status::Exited && starts).then_some(container)
        });
        let to_start: Vec<_> = found.buffer_unordered(AT_ONCE).collect().await;
        self.networks.settle_default()?;
        self.sweep().await;
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        for container in to_start.into_iter().flatten() {
            let (engine, turns) = (Arc::clone(self), Arc::clone(&turns));
            tokio::spawn(async move {
                engine.await_joined_for_a_while(&container).await;
                // After that: who waits for another's start takes no turn from it.
                let _turn = turns.acquire().await;
                if let Err(error) = engine.start_container(&container).await {
                    tracing::warn!(id = container.id(), error = error.message(), "start");
                }
            });
        }
        Ok(())
    }

    /// Goes on with one container. `true` if it was live when the earlier hulld ended.
    async fn reattach(self: &Arc<Self>, container: &Arc<Container>) -> bool {
        let record = container.record();
        match record.state.status {
            Status::Removing | Status::Dead => {
                let _operation = container.operate().await;
                container.lock().state.status = Status::Exited;
                self.remove_ended(container).await;
                false
            }
            // It waits on: the other one may be down for long.
            Status::Restarting
                if self.lacks_its_vm(container) && record.restart_policy() != RestartPolicy::No =>
            {
                container
                    .progress
                    .send_modify(|progress| progress.restarting = true);
                self.release_later(container);
                self.restart_later(container, record.state.last_delay.unwrap_or(FIRST_DELAY));
                true
            }
            Status::Restarting => {
                let _ = self
                    .update(container, |record| {
                        Self::advance(record, Event::RestartCancelled)
                    })
                    .await;
                self.release_later(container);
                true
            }
            // The daemon was killed between its end and its removal. One whose start was to follow stays, as
            // with dockerd.
            Status::Exited if record.goes_with_its_end() => {
                let _operation = container.operate().await;
                self.remove_ended(container).await;
                false
            }
            Status::Created | Status::Exited => {
                // A start may have been cut off before its record was written.
                self.clean_runtime(container.id()).await;
                self.release_later(container);
                false
            }
            Status::Running | Status::Paused => {
                match self.find_shim(container).await {
                    Ok((task, pumps, found)) => {
                        container.set_task(Some(Arc::clone(&task)));
                        self.correct_pause(container, found).await;
                        let exposed = record.config.exposed_ports.as_deref();
                        let ports = network::parse_bindings(&record.host, exposed);
                        let ports = ports.unwrap_or_default();
                        self.networks
                            .resume(container.id(), &record.endpoints, ports, &record.published)
                            .await;
                        self.settle_interfaces(container, &task).await;
                        // FIFOs without a writer never tell their end.
                        let limit = match found {
                            RunState::Ended => ENDED_DRAIN_LIMIT,
                            RunState::Running | RunState::Paused => DRAIN_LIMIT,
                        };
                        self.finish_execs(container, &task);
                        self.follow_health(container, &task);
                        self.follow_host_ports(container, &task);
                        self.watch(container, task, pumps, limit);
                    }
                    Err(error) => {
                        tracing::warn!(id = container.id(), error = error.message(), "lost");
                        self.clean_runtime(container.id()).await;
                        self.release_later(container);
                        let _operation = container.operate().await;
                        self.record_lost(container).await;
                    }
                }
                true
            }
        }
    }

    /// Gives back what the container still holds of an earlier run, while the daemon goes on: a plugin
    /// may take its time.
    fn release_later(self: &Arc<Self>, container: &Arc<Container>) {
        if container.lock().held.is_empty() {
            return;
        }
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let _operation = container.operate().await;
            // Started meanwhile, it holds them anew.
            if !container.status().is_live() {
                engine.release_volumes(&container).await;
            }
        });
    }

    /// A pause, or its end, whose record the earlier daemon did not come to write.
    async fn correct_pause(&self, container: &Container, found: RunState) {
        let event = match (container.status(), found) {
            (Status::Running, RunState::Paused) => Event::Paused,
            (Status::Paused, RunState::Running) => Event::Unpaused,
            _ => return,
        };
        let paused = event == Event::Paused;
        let written = self
            .update(container, |record| {
                Self::advance(record, event);
                if paused {
                    record.state.health.iter_mut().for_each(Health::stop);
                }
            })
            .await;
        if let Err(error) = written {
            tracing::error!(id = container.id(), error = error.message(), "store");
        }
        self.publish(container, if paused { "pause" } else { "unpause" }, []);
    }

    async fn find_shim(&self, container: &Container) -> Result<(Arc<Task>, Pumps, RunState)> {
        let record = container.record();
        let address = record.shim.clone().unwrap_or_default();
        let task = shim::connect(container.id(), &address).await?;
        let task = Arc::new(task.joining(super::joins(&record.host)));
        let found = task.run_state().await?;
        let bundle = self.paths.bundle(container.id());
        let opened = Fifos::new(
            &bundle,
            "",
            record.config.open_stdin.unwrap_or(false),
            !record.tty(),
        )
        .open()?;
        let logs = logs::driver_of(record.host.log_config.as_ref()) != "none";
        if logs {
            container.log.begin(LogOptions::of(&record)?)?;
        }
        let log = logs.then_some(&container.log);
        let close = close_stdin(&task, "");
        let pumps = container
            .span()
            .in_scope(|| opened.pump(&container.hub, log, close));
        Ok((task, pumps, found))
    }

    /// Writes down that a container ended while no hulld looked. Restart policies are applied by
    /// the caller, not here.
    async fn record_lost(self: &Arc<Self>, container: &Arc<Container>) {
        let removes = container.lock().goes_with_its_end();
        let written = self
            .update(container, |record| {
                Self::advance(record, Event::Exited);
                record.shim = None;
                record.state.pid = 0;
                record.state.exit_code = 255;
                record.state.health.iter_mut().for_each(Health::stop);
                record.state.finished = Some(jiff::Timestamp::now());
                "the container's shim was gone when hulld started"
                    .clone_into(&mut record.state.error);
            })
            .await;
        if let Err(error) = written {
            tracing::error!(id = container.id(), error = error.message(), "store");
        }
        container.progress.send_modify(|progress| {
            progress.live = false;
            progress.exit_code = 255;
        });
        if removes {
            self.remove_ended(container).await;
        }
    }

    /// Removes files that belong to no container.
    async fn sweep(&self) {
        self.networks.sweep();
        let known: HashSet<String> = self.containers().keys().cloned().collect();
        let bundles = self.paths.exec_root().join("bundles");
        for id in entries(&bundles) {
            if !known.contains(&id) {
                self.clean_runtime(&id).await;
            }
        }
        for id in entries(&self.paths.containers()) {
            if !known.contains(&id) {
                drop_if_empty(&self.paths.container(&id));
            }
        }
        for name in entries(self.paths.root()) {
            if name.starts_with(commit::HALF_MADE) {
                let _ = std::fs::remove_file(self.paths.root().join(name));
            }
        }
    }
}

/// Removes the folder of a container that was never made to its end. Files that nobody knows of are
/// those of a container that was made after the store that is there now, as one from a backup: they
/// are somebody's.
fn drop_if_empty(folder: &std::path::Path) {
    if let Err(error) = std::fs::remove_dir(folder) {
        tracing::warn!(?folder, %error, "files of a container that the store does not know are left");
    }
}

fn entries(dir: &std::path::Path) -> Vec<String> {
    std::fs::read_dir(dir)
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect()
        })
        .unwrap_or_default()
}
