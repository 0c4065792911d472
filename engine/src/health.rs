//! Health checks: a program that runs in a container from time to time, and what its ends say.

use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::HealthConfig;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::ids;
use crate::lifecycle::Status;
use crate::record::Record;
use crate::shim::{Ended, Task};
use crate::spec::{exec_process, ExecSpec};
use crate::streams::{Fifos, Taken};

/// Docker's values for what is left out.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results that are kept.
const LOG_LENGTH: usize = 5;
/// Output of a check that is told, in bytes; more is told as `...`.
const MAX_OUTPUT: usize = 4096;
/// Shortest time of any kind but zero, in nanoseconds.
const SHORTEST: i64 = 1_000_000;
/// Exit code of a check that can't be run, as of one that takes too long.
const FAILED: i64 = -1;
/// Before its id in the names of a check's FIFOs.
pub(crate) const CHECK: &str = "health-";
/// How long a killed check may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What is to be checked, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    argv: Vec<String>,
    interval: Duration,
    /// How long one may take.
    pub(crate) timeout: Duration,
    retries: u32,
    start_period: Duration,
    start_interval: Duration,
}

/// Docker's words for how a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// No check has told anything yet.
    Starting,
    /// The last check was good.
    Healthy,
    /// Several in a row were not.
    Unhealthy,
}

impl Word {
    /// As Docker writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How a container does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// In a word.
    pub status: Word,
    /// Bad results in a row.
    #[serde(default)]
    pub streak: u32,
    /// The last results, oldest first.
    #[serde(default)]
    pub log: Vec<Outcome>,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// When the check began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 is good; -1: it took too long.
    pub exit_code: i64,
    /// What it printed, cut.
    pub output: String,
}

impl Health {
    /// Before the first check.
    pub fn starting() -> Self {
        Self {
            status: Word::Starting,
            streak: 0,
            log: Vec::new(),
        }
    }

    /// A new run begins. As dockerd: the last results of the one before stay in the log.
    pub fn begin(&mut self) {
        (self.status, self.streak) = (Word::Starting, 0);
    }

    /// Nobody checks any more. As dockerd: what is not known to be well is not.
    pub fn stop(&mut self) {
        self.status = Word::Unhealthy;
    }

    /// Takes a result in; `true` if the word changes. Bad results in the start period don't count.
    fn take(&mut self, outcome: Outcome, retries: u32, in_start_period: bool) -> bool {
        let before = self.status;
        if outcome.exit_code == 0 {
            self.status = Word::Healthy;
            self.streak = 0;
        } else if !(in_start_period && self.status == Word::Starting) {
            self.streak += 1;
            if retries <= self.streak {
                self.status = Word::Unhealthy;
            }
        }
        self.log.push(outcome);
        let surplus = self.log.len().saturating_sub(LOG_LENGTH);
        self.log.drain(..surplus);
        self.status != before
    }
}

/// Checks what a client asks for, in Docker's words.
pub(crate) fn check(config: &HealthConfig) -> Result<()> {
    let times = [
        ("Interval", config.interval),
        ("Timeout", config.timeout),
        ("StartPeriod", config.start_period),
        ("StartInterval", config.start_interval),
    ];
    for (name, time) in times {
        if time.is_some_and(|time| time != 0 && time < SHORTEST) {
            return Err(EngineError::BadRequest(format!(
                "{name} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if config.retries.is_some_and(|retries| retries < 0) {
        return Err(EngineError::BadRequest(
            "Retries in Healthcheck cannot be negative".to_owned(),
        ));
    }
    let kind = config.test.as_ref().and_then(|test| test.first());
    match kind.map(String::as_str) {
        None | Some("" | "NONE" | "CMD" | "CMD-SHELL") => Ok(()),
        Some(other) => Err(EngineError::BadRequest(format!(
            "Unknown healthcheck type {other:?} (expected 'CMD')"
        ))),
    }
}

impl Check {
    /// The check of a container; `None` if it has none.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let config = record.config.healthcheck.as_ref()?;
        let test = config.test.as_deref()?;
        let (kind, rest) = test.split_first()?;
        let argv = match kind.as_str() {
            "CMD" if !rest.is_empty() => rest.to_vec(),
            "CMD-SHELL" if !rest.is_empty() => {
                let shell = record
                    .config
                    .shell
                    .clone()
                    .filter(|shell| !shell.is_empty());
                let mut argv = shell.unwrap_or(vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                argv.push(rest.join(" "));
                argv
            }
            _ => return None,
        };
        let time = |value: Option<i64>, default| {
            let value = value.and_then(|value| u64::try_from(value).ok());
            value
                .filter(|value| 0 < *value)
                .map_or(default, Duration::from_nanos)
        };
        let retries = config
            .retries
            .and_then(|retries| u32::try_from(retries).ok());
        Some(Self {
            argv,
            interval: time(config.interval, INTERVAL),
            timeout: time(config.timeout, TIMEOUT),
            retries: retries.filter(|retries| 0 < *retries).unwrap_or(RETRIES),
            start_period: time(config.start_period, Duration::ZERO),
            start_interval: time(config.start_interval, START_INTERVAL),
        })
    }
}

impl Engine {
    /// Checks a running container's health until this run of it ends.
    pub(crate) fn follow_health(self: &Arc<Self>, container: &Arc<Container>, task: &Arc<Task>) {
        let Some(check) = Check::of(&container.record()) else {
            return;
        };
        let (engine, task) = (Arc::clone(self), Arc::clone(task));
        let checked = Arc::clone(container);
        container.while_live(async move {
            engine.check_for_ever(&checked, &task, &check).await;
        });
    }

    async fn check_for_ever(&self, container: &Container, task: &Arc<Task>, check: &Check) {
        loop {
            let pause = pause_before(&container.record(), check, container.ran());
            tokio::time::sleep(pause).await;
            if container.status() != Status::Running {
                continue;
            }
            // As dockerd: by when the check began.
            let starting = container.ran() < check.start_period;
            let outcome = self.probe(container, task, check).await;
            let mut word = None;
            let written = self
                .update(container, |record| {
                    let health = record.state.health.get_or_insert_with(Health::starting);
                    if health.take(outcome, check.retries, starting) {
                        word = Some(health.status);
                    }
                })
                .await;
            if let Err(error) = written {
                tracing::error!(id = container.id(), error = error.message(), "store");
            }
            if let Some(word) = word {
                self.publish(container, &format!("health_status: {}", word.name()), []);
            }
        }
    }

    /// Runs the check once.
    async fn probe(&self, container: &Container, task: &Arc<Task>, check: &Check) -> Outcome {
        let start = Timestamp::now();
        let outcome = |exit_code, output| Outcome {
            start,
            end: Timestamp::now(),
            exit_code,
            output,
        };
        match self.run_probe(container, task, check).await {
            Ok((code, output)) => outcome(code, output),
            Err(error) => outcome(FAILED, error.message()),
        }
    }

    async fn run_probe(
        &self,
        container: &Container,
        task: &Arc<Task>,
        check: &Check,
    ) -> Result<(i64, String)> {
        let spec = ExecSpec {
            argv: check.argv.clone(),
            ..ExecSpec::default()
        };
        let process = exec_process(&container.record(), &spec)?;
        let id = ids::new_id();
        let dir = self.paths.bundle(container.id());
        let fifos = Fifos::new(&dir, &format!("{CHECK}{id}-"), false, true);
        let opened = fifos.clone().create()?;
        let started = async {
            task.exec(&id, &process, false, &fifos).await?;
            let started = task.start(&id).await;
            if started.is_err() {
                let _ = task.delete(&id).await;
            }
            started
        };
        if let Err(error) = started.await {
            fifos.remove();
            return Err(error);
        }
        let mut output = Output::default();
        let code = output.until_end(task, &id, opened.take(), check).await;
        let _ = task.delete(&id).await;
        fifos.remove();
        Ok(match code {
            Some(code) => (code, output.text()),
            None => (FAILED, timed_out(check.timeout, &output.text())),
        })
    }
}

fn timed_out(limit: Duration, output: &str) -> String {
    let colon = if output.is_empty() { "" } else { ": " };
    format!("Health check exceeded timeout ({limit:?}){colon}{output}")
}

fn libc_sigkill() -> u32 {
    rustix::process::Signal::KILL.as_raw().unsigned_abs()
}

/// How long the next check is waited for: in the start period less, until one was good.
fn pause_before(record: &Record, check: &Check, ran: Duration) -> Duration {
    let health = record.state.health.as_ref();
    let untold = health.is_none_or(|health| health.status == Word::Starting);
    match untold && ran < check.start_period {
        true => check.start_interval.min(check.interval),
        false => check.interval,
    }
}

/// What a check prints.
#[derive(Debug, Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// Reads until the check has ended, and returns its exit code; none if it takes too long and
    /// is killed.
    async fn until_end(
        &mut self,
        task: &Task,
        id: &str,
        streams: Taken,
        check: &Check,
    ) -> Option<i64> {
        let running = self.read(task, id, streams);
        tokio::pin!(running);
        if let Ok(code) = tokio::time::timeout(check.timeout, &mut running).await {
            return Some(code);
        }
        let _ = task.kill(id, libc_sigkill(), false).await;
        // Processes that it has left may hold the streams open.
        let ended = async {
            tokio::select! {
                _ = &mut running => {}
                _ = task.wait(id) => {}
            }
        };
        let _ = tokio::time::timeout(KILL_LIMIT, ended).await;
        None
    }

    async fn read(&mut self, task: &Task, id: &str, streams: Taken) -> i64 {
        let Self { stdout, stderr } = self;
        let (ended, (), ()) = tokio::join!(
            task.wait(id),
            read_some(streams.stdout, stdout),
            read_some(streams.stderr, stderr)
        );
        match ended {
            Ended::Exited(code) => code,
            Ended::ShimLost => FAILED,
        }
    }

    fn text(&self) -> String {
        let all = [self.stdout.as_slice(), &self.stderr].concat();
        match all.split_at_checked(MAX_OUTPUT) {
            Some((kept, lost)) if !lost.is_empty() => {
                String::from_utf8_lossy(kept).into_owned() + "..."
            }
            _ => String::from_utf8_lossy(&all).into_owned(),
        }
    }
}

/// Keeps the first bytes, one more than are told, and reads to the end.
async fn read_some(stream: Option<Receiver>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    if (&mut stream)
        .take(MAX_OUTPUT as u64 + 1)
        .read_to_end(into)
        .await
        .is_ok()
    {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(exit_code: i64) -> Outcome {
        Outcome {
            start: Timestamp::UNIX_EPOCH,
            end: Timestamp::UNIX_EPOCH,
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn several_bad_results_in_a_row_are_unhealthy() {
        let mut health = Health::starting();
        assert!(!health.take(outcome(1), 2, false));
        assert!(health.take(outcome(1), 2, false));
        assert_eq!((health.status, health.streak), (Word::Unhealthy, 2));
        assert!(health.take(outcome(0), 2, false));
        assert_eq!((health.status, health.streak), (Word::Healthy, 0));
        for _ in 0..10 {
            health.take(outcome(0), 2, false);
        }
        assert_eq!(health.log.len(), LOG_LENGTH);
    }

    #[test]
    fn the_start_period_forgives() {
        let mut health = Health::starting();
        for _ in 0..5 {
            assert!(!health.take(outcome(1), 2, true));
        }
        assert_eq!((health.status, health.streak), (Word::Starting, 0));
        health.take(outcome(0), 2, true);
        health.take(outcome(1), 1, true);
        assert_eq!(health.status, Word::Unhealthy);
    }

    #[test]
    fn a_new_run_begins_with_the_log_of_the_last_one() {
        let mut health = Health::starting();
        health.take(outcome(1), 1, false);
        health.begin();
        assert_eq!((health.status, health.streak), (Word::Starting, 0));
        assert_eq!(health.log.len(), 1);
    }

    #[test]
    fn output_that_is_cut_says_so() {
        let output = |stdout: usize, stderr: usize| Output {
            stdout: vec![b'x'; stdout],
            stderr: vec![b'y'; stderr],
        };
        assert_eq!(output(4095, 1).text().len(), 4096);
        assert!(output(4096, 0).text().ends_with('x'));
        let cut = output(4096, 1).text();
        assert!(cut.ends_with("x...") && cut.len() == 4099);
        assert!(output(4000, 4097).text().ends_with("y..."));
    }

    #[test]
    fn what_nobody_checks_is_not_known_to_be_well() {
        let mut health = Health::starting();
        health.take(outcome(0), 3, false);
        health.stop();
        assert_eq!(health.status, Word::Unhealthy);
        assert!(health.take(outcome(0), 3, false), "it goes on, and is well");
    }

    #[test]
    fn checks_are_frequent_in_the_start_period_until_one_is_good() {
        let mut record = crate::record::tests::record();
        record.config.healthcheck = Some(HealthConfig {
            test: Some(vec!["CMD".to_owned(), "x".to_owned()]),
            interval: Some(60_000_000_000),
            start_period: Some(3_600_000_000_000),
            start_interval: Some(2_000_000_000),
            ..HealthConfig::default()
        });
        let check = Check::of(&record).unwrap();
        record.state.health = Some(Health::starting());
        let pause = |record: &Record, ran| {
            let pause = pause_before(record, &check, Duration::from_secs(ran));
            pause.as_secs()
        };
        assert_eq!(pause(&record, 0), 2);
        assert_eq!((pause(&record, 3599), pause(&record, 3600)), (2, 60));
        let health = record.state.health.as_mut().unwrap();
        health.take(outcome(0), 3, true);
        assert_eq!(pause(&record, 0), 60);
    }

    #[test]
    fn a_check_that_takes_too_long_is_told_with_what_it_printed() {
        let limit = Duration::from_millis(50);
        assert_eq!(
            timed_out(limit, "connecting\n"),
            "Health check exceeded timeout (50ms): connecting\n"
        );
        assert_eq!(timed_out(limit, ""), "Health check exceeded timeout (50ms)");
    }

    #[test]
    fn what_cannot_be_a_check_is_refused() {
        let config = |test: &[&str], interval| HealthConfig {
            test: Some(test.iter().map(|word| (*word).to_owned()).collect()),
            interval: Some(interval),
            ..HealthConfig::default()
        };
        assert!(check(&config(&["CMD", "x"], 0)).is_ok());
        assert!(check(&config(&["CMD", "x"], 5)).is_err());
        assert!(check(&config(&["RUN", "x"], 0)).is_err());
    }
}
