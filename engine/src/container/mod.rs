//! Containers in memory and what can be done with them.

mod connect;
mod create;
mod defaults;
mod exit;
mod host_ports;
mod join;
mod links;
mod list;
mod networks;
mod remove;
mod request;
mod restore;
mod start;
mod stop;
mod stop_all;
mod trust;
mod turn;
mod update;
mod uses;
mod view;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{watch, Notify};
use tracing::{Instrument as _, Span};

use crate::lifecycle::Status;
use crate::logs::Log;
use crate::paths::Paths;
use crate::record::Record;
use crate::shim::Task;
use crate::streams::Hub;

pub(crate) use join::{joins, other_of, PREFIX};
pub use list::ListOptions;
pub(crate) use request::{clean_path, CreateRequest};
pub(crate) use start::close_stdin;
use turn::Turns;

pub(crate) use stop::{live_task, not_running, StopOptions};
pub(crate) use trust::UNTRUSTED_ANNOTATION;
pub(crate) use view::is_mounted;

/// A container.
pub struct Container {
    id: String,
    record: Arc<Mutex<Record>>,
    /// Taken while the container is started, finished or removed ([`Container::operate`]). Signals
    /// do not take it: a stop waits for an end that [`exit`] brings about. A VM for work on files
    /// may be kept for the next work.
    pub(crate) turns: Turns<Arc<Task>>,
    task: Mutex<Option<Arc<Task>>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) log: Arc<Log>,
    pub(crate) progress: watch::Sender<Progress>,
    exit_event: Notify,
    /// When the present run began, by the clock that nobody sets.
    began: Mutex<Option<Instant>>,
}

/// What waiters wait for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Runs that have ended.
    pub(crate) exits: u64,
    /// An init process exists.
    pub(crate) live: bool,
    /// The next one is about to be started, by its restart policy.
    pub(crate) restarting: bool,
    /// It is being started: its VM boots.
    pub(crate) starting: bool,
    /// The container is gone.
    pub(crate) removed: bool,
    /// Why its removal failed.
    pub(crate) not_removed: Option<String>,
    /// Exit code of the last run.
    pub(crate) exit_code: i64,
}

/// Conditions of `/wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// At once if it does not run.
    NotRunning,
    /// The next end of a run.
    NextExit,
    /// It is gone, or cannot be removed.
    Removed,
}

/// When that was, by the clock that nobody sets, as far as the other one can be trusted.
fn ago(time: Option<Timestamp>) -> Option<Instant> {
    let ran = Timestamp::now().duration_since(time?);
    Instant::now().checked_sub(ran.try_into().unwrap_or_default())
}

impl Container {
    pub(crate) fn new(record: Record, paths: &Paths) -> Arc<Self> {
        let progress = watch::Sender::new(Progress {
            live: record.state.status.is_live(),
            exit_code: record.state.exit_code,
            ..Progress::default()
        });
        Arc::new(Self {
            id: record.id.clone(),
            turns: Turns::default(),
            task: Mutex::default(),
            hub: Hub::new(),
            log: Arc::new(Log::new(paths.log(&record.id))),
            progress,
            exit_event: Notify::new(),
            began: Mutex::new(ago(record.state.started)),
            record: Arc::new(Mutex::new(record)),
        })
    }

    /// 64 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A copy of the record.
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// Its present state.
    pub fn status(&self) -> Status {
        self.lock().state.status
    }

    /// Its name, without slash.
    pub fn name(&self) -> String {
        self.lock().name.clone()
    }

    /// Tells the record as it is when it is asked, to who writes it.
    pub(crate) fn latest(&self) -> impl FnOnce() -> Record + Send + 'static {
        let record = Arc::clone(&self.record);
        move || {
            let record = record.lock().unwrap_or_else(|poison| poison.into_inner());
            record.clone()
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Record> {
        self.record
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    pub(crate) fn task(&self) -> Option<Arc<Task>> {
        self.task
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
            .clone()
    }

    fn set_task(&self, task: Option<Arc<Task>>) {
        *self
            .task
            .lock()
            .unwrap_or_else(|poison| poison.into_inner()) = task;
    }

    pub(crate) fn note_exit_event(&self) {
        self.exit_event.notify_one();
    }

    /// In which all that is logged names it.
    pub(crate) fn span(&self) -> Span {
        tracing::info_span!("container", id = self.id)
    }

    fn began(&self) -> MutexGuard<'_, Option<Instant>> {
        self.began
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// How long its present run, or the last one, has lasted by now. The host's clock may jump.
    pub(crate) fn ran(&self) -> Duration {
        let began = *self.began();
        began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Attributes of its events: image, name and labels.
    pub(crate) fn event_attributes(&self) -> HashMap<String, String> {
        let record = self.lock();
        let mut attributes = record.config.labels.clone().unwrap_or_default();
        attributes.insert("image".to_owned(), record.image.reference.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        attributes
    }

    /// Runs something beside the container, until the present run of it ends.
    pub(crate) fn while_live(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut progress = self.progress.subscribe();
        let lives = async move {
            let over = progress.wait_for(|progress| !progress.live);
            tokio::select! {
                _ = over => {}
                () = work => {}
            }
        };
        tokio::spawn(lives.instrument(self.span()));
    }

    /// Waits for a condition; the result is the exit code of the last run.
    pub(crate) fn wait(
        &self,
        condition: WaitCondition,
    ) -> impl Future<Output = i64> + Send + 'static {
        // Subscribed before this returns: an end right after it is not missed.
        let mut progress = self.progress.subscribe();
        let exits = progress.borrow().exits;
        async move {
            let done = progress
                .wait_for(|now| {
                    now.removed
                        || match condition {
                            // Between two starts it counts as one that runs, but each end is
                            // one for who waited before.
                            WaitCondition::NotRunning => {
                                exits < now.exits || !(now.live || now.restarting || now.starting)
                            }
                            WaitCondition::NextExit => exits < now.exits,
                            WaitCondition::Removed => now.not_removed.is_some(),
                        }
                })
                .await;
            done.map_or(0, |now| now.exit_code)
        }
    }
}
