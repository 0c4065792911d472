//! `state`, `list` and `events`.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use serde::Serialize;
use serde_json::{json, Value};
use tokio::time::{Instant, MissedTickBehavior};

use super::cli::{EventsArgs, Format, IdArgs, ListArgs};
use super::client::{Status, Task};
use super::control::{find, look, Found};
use super::error::{system, Result, RuntimeError};
use super::{only_id, Context};
use crate::ps::Users;

/// How often `events` looks for kills of the OOM killer.
const OOM_INTERVAL: Duration = Duration::from_millis(250);

/// A container as runc prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: u32,
    status: &'static str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    owner: String,
}

impl<'a> State<'a> {
    fn of(found: &'a Found, owner: String) -> Self {
        let record = &found.record;
        Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: match found.status {
                Status::Stopped => 0,
                _ => record.pid,
            },
            status: found.status.name(),
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner,
        }
    }
}

pub(super) fn print(out: &mut impl Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes())
        .map_err(system("write to stdout"))
}

pub(super) fn to_json(value: &impl Serialize, pretty: bool) -> Result<String> {
    let text = match pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    text.map_err(|source| RuntimeError::Json {
        what: "the answer".into(),
        source,
    })
}

/// `state`.
pub(super) async fn state(context: &Context, args: &IdArgs, out: &mut impl Write) -> Result<u8> {
    let found = find(context, only_id(&args.id)?).await?;
    print(out, &to_json(&State::of(&found, String::new()), true)?)?;
    Ok(0)
}

/// `list`.
pub(super) async fn list(context: &Context, args: &ListArgs, out: &mut impl Write) -> Result<u8> {
    super::control::sweep(context).await;
    let records = context.store.list()?;
    if args.quiet {
        for (record, _) in &records {
            print(out, &format!("{}\n", record.id))?;
        }
        return Ok(0);
    }
    let (mut all, users) = (Vec::new(), Users::read());
    for (record, uid) in records {
        all.push((look(record).await, users.name(uid)));
    }
    let states: Vec<_> = all
        .iter()
        .map(|(found, owner)| State::of(found, owner.clone()))
        .collect();
    let text = match args.format {
        // Go's empty list.
        Format::Json if states.is_empty() => "null\n".to_owned(),
        Format::Json => to_json(&states, false)? + "\n",
        Format::Table => table(&states),
    };
    print(out, &text)?;
    Ok(0)
}

fn table(states: &[State<'_>]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = states.iter().map(|state| {
        [
            state.id.to_owned(),
            state.pid.to_string(),
            state.status.to_owned(),
            state.bundle.display().to_string(),
            state.created.to_owned(),
            state.owner.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    aligned(&rows)
}

/// Columns at least 12 wide with 3 blanks between them, as runc's; the last one ends as it does.
pub(super) fn aligned<R: AsRef<[String]>>(rows: &[R]) -> String {
    let columns = rows.iter().map(|row| row.as_ref().len()).max();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.as_ref().get(column));
        let widths = cells.map(|cell| cell.chars().count() + 3);
        widths.max().unwrap_or_default().max(12)
    };
    let widths: Vec<usize> = (0..columns.unwrap_or_default()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.as_ref().iter().enumerate() {
            match column + 1 == widths.len() {
                true => text.push_str(cell),
                false => text.push_str(&format!("{cell:<width$}", width = widths[column])),
            }
        }
        text.push('\n');
    }
    text
}

/// `events`.
pub(super) async fn events(
    context: &Context,
    args: &EventsArgs,
    out: &mut impl Write,
) -> Result<u8> {
    let id = only_id(&args.id.id)?;
    let interval = parse_duration(&args.interval)
        .filter(|interval| !interval.is_zero())
        .ok_or_else(|| RuntimeError::Usage("duration interval must be greater than 0".into()))?;
    let found = find(context, id).await?;
    if found.status == Status::Stopped {
        return Err(RuntimeError::State(format!(
            "container with id {id} is not running"
        )));
    }
    let task = found.task()?;
    if args.stats {
        print(out, &stats_line(id, task).await?)?;
        return Ok(0);
    }
    let mut ooms = Ooms::default();
    let ended = task.wait("");
    tokio::pin!(ended);
    let mut next = tokio::time::interval_at(Instant::now() + interval, interval);
    let mut look = tokio::time::interval(OOM_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut ended => {
                // What ended it, perhaps.
                if let Ok(stats) = task.stats().await {
                    ooms.tell(id, &stats, out)?;
                }
                return Ok(0);
            }
            _ = look.tick() => {
                let Ok(stats) = task.stats().await else { continue };
                ooms.tell(id, &stats, out)?;
            }
            _ = next.tick() => {
                let Ok(stats) = task.stats().await else { continue };
                ooms.tell(id, &stats, out)?;
                print(out, &event_line("stats", id, Some(figures(&stats)))?)?;
                out.flush().map_err(system("write to stdout"))?;
            }
        }
    }
}

/// How many kills of the OOM killer have been told.
#[derive(Default)]
struct Ooms(Option<u64>);

impl Ooms {
    /// Tells of those since the last time; the first time, of none.
    fn tell(&mut self, id: &str, stats: &Metrics, out: &mut impl Write) -> Result<()> {
        let now = stats.memory_events.oom_kill;
        if self.0.replace(now).is_some_and(|before| before < now) {
            print(out, &event_line("oom", id, None)?)?;
            out.flush().map_err(system("write to stdout"))?;
        }
        Ok(())
    }
}

async fn stats_line(id: &str, task: &Task) -> Result<String> {
    let stats = task.stats().await?;
    event_line("stats", id, Some(figures(&stats)))
}

/// One line of `events`, whose readers may expect runc's order.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn event_line(kind: &str, id: &str, data: Option<Value>) -> Result<String> {
    Ok(to_json(&Event { kind, id, data }, false)? + "\n")
}

/// runc's figures.
fn figures(stats: &Metrics) -> Value {
    let memory = &stats.memory;
    let limit = memory.usage_limit;
    let raw = json!({
        "anon": memory.anon,
        "file": memory.file,
        "kernel_stack": memory.kernel_stack,
        "slab": memory.slab,
        "shmem": memory.shmem,
        "inactive_anon": memory.inactive_anon,
        "active_anon": memory.active_anon,
        "inactive_file": memory.inactive_file,
        "active_file": memory.active_file,
        "pgfault": memory.pgfault,
        "pgmajfault": memory.pgmajfault,
    });
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds(stats.cpu.usage_usec),
                "kernel": nanoseconds(stats.cpu.system_usec),
                "user": nanoseconds(stats.cpu.user_usec),
            },
            "throttling": {
                "periods": stats.cpu.nr_periods,
                "throttledPeriods": stats.cpu.nr_throttled,
                "throttledTime": nanoseconds(stats.cpu.throttled_usec),
            },
        },
        "cpuset": {},
        "memory": {
            "cache": memory.file,
            "usage": {
                "limit": limit,
                "usage": memory.usage,
                "max": memory.max_usage,
                "failcnt": stats.memory_events.max,
            },
            "swap": {
                "limit": memory.swap_limit,
                "usage": memory.swap_usage,
                "failcnt": 0,
            },
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": raw,
        },
        "pids": {"current": stats.pids.current, "limit": stats.pids.limit},
        "blkio": {"ioServiceBytesRecursive": io_bytes(stats)},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn io_bytes(stats: &Metrics) -> Vec<Value> {
    let entry = |io: &containerd_shim_protos::cgroups_v2::metrics::IOEntry,
                 op: &str,
                 value: u64| {
        json!({"major": io.major, "minor": io.minor, "op": op, "value": value})
    };
    let usage = stats.io.usage.iter();
    usage
        .flat_map(|io| [entry(io, "Read", io.rbytes), entry(io, "Write", io.wbytes)])
        .collect()
}

/// Go's durations: "5s", "500ms", "1m30s".
fn parse_duration(text: &str) -> Option<Duration> {
    let mut left = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    while !left.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, rest) = left.split_at(left.find(|c| !is_number(c))?);
        let (unit, rest) = rest.split_at(rest.find(is_number).unwrap_or(rest.len()));
        let number: f64 = number.parse().ok()?;
        seconds += match unit {
            "ns" => number / 1e9,
            "us" | "µs" | "μs" => number / 1e6,
            "ms" => number / 1000.0,
            "s" => number,
            "m" => number * 60.0,
            "h" => number * 3600.0,
            _ => return None,
        };
        left = rest;
    }
    let is_given = !text.is_empty();
    let duration = is_given.then(|| Duration::try_from_secs_f64(seconds).ok());
    duration.flatten()
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::record;
    use super::*;

    fn stopped(id: &str) -> Found {
        Found {
            record: record(id),
            status: Status::Stopped,
            task: None,
            stands_still: false,
        }
    }

    #[test]
    fn a_state_is_runcs() {
        let found = stopped("c1");
        let text = to_json(&State::of(&found, String::new()), true).unwrap();
        let want = r#"{
  "ociVersion": "1.0.2",
  "id": "c1",
  "pid": 0,
  "status": "stopped",
  "bundle": "/b",
  "rootfs": "/b/rootfs",
  "created": "2026-11-25T11:15:01.5Z",
  "owner": ""
}"#;
        assert_eq!(text, want);
    }

    #[test]
    fn an_empty_table_has_runcs_head() {
        let want = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
        assert_eq!(table(&[]), want);
    }

    #[test]
    fn columns_grow_with_their_content() {
        let found = stopped("a-long-container-id");
        let text = table(&[State::of(&found, "root".into())]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].find("PID"), lines[1].find("0 "));
        assert!(lines[1].ends_with("Z   root"), "{text}");
    }

    #[test]
    fn an_event_begins_with_its_type_and_id() {
        let line = event_line("stats", "c1", Some(json!({"pids": {}}))).unwrap();
        assert_eq!(
            line,
            "{\"type\":\"stats\",\"id\":\"c1\",\"data\":{\"pids\":{}}}\n"
        );
        let line = event_line("oom", "c1", None).unwrap();
        assert_eq!(line, "{\"type\":\"oom\",\"id\":\"c1\"}\n");
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse_duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250us"), Some(Duration::from_micros(250)));
        for none in ["5", "x", "", "1m30", "s", "1.2.3s", "5s "] {
            assert_eq!(parse_duration(none), None, "{none:?}");
        }
    }

    #[test]
    fn an_oom_is_told_once_and_not_what_was_before() {
        let mut out = Vec::new();
        let mut ooms = Ooms::default();
        for kills in [2, 2, 3, 3, 5] {
            let mut stats = Metrics::default();
            stats.memory_events.mut_or_insert_default().oom_kill = kills;
            ooms.tell("c1", &stats, &mut out).unwrap();
        }
        let line = "{\"type\":\"oom\",\"id\":\"c1\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), line.repeat(2));
    }
}
