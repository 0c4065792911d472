//! `ps`: the guest's processes, in the columns that ps(1) would show.

use std::io::Write;

use hull_protocol::agent::ProcessInfo;

use super::cli::{Format, PsArgs};
use super::client::Status;
use super::control::find;
use super::error::{Result, RuntimeError};
use super::inspect::{aligned, print, to_json, user_name};
use super::Context;

/// What `ps -ef` shows.
const FULL: &[Column] = &[
    Column::Uid,
    Column::Pid,
    Column::Ppid,
    Column::Load,
    Column::Start,
    Column::Terminal,
    Column::Time,
    Column::Command,
];

/// What `ps x` and `ps -e` show.
const WITH_STATE: &[Column] = &[
    Column::Pid,
    Column::Terminal,
    Column::State,
    Column::Time,
    Column::LongCommand,
];
const SHORT: &[Column] = &[Column::Pid, Column::Terminal, Column::Time, Column::Command];

/// `ps`. The table shows the guest's processes, which the host does not see. As JSON the list is for
/// programs that look its PIDs up on the host (`docker top` does): those that stand for the first
/// process and for execs.
pub(super) async fn ps(context: &Context, args: &PsArgs, out: &mut impl Write) -> Result<u8> {
    let (id, options) = args
        .target
        .split_first()
        .ok_or_else(|| super::usage_error("requires a minimum of 1 argument(s)"))?;
    let columns = columns(options)?;
    let found = find(context, id).await?;
    let is_stopped = found.status == Status::Stopped;
    let text = match args.format {
        Format::Json if is_stopped => "[]\n".to_owned(),
        Format::Json => to_json(&found.task()?.pids().await?, false)? + "\n",
        Format::Table if is_stopped => table(&columns, &[]),
        Format::Table => table(&columns, &found.task()?.processes().await?),
    };
    print(out, &text)?;
    Ok(0)
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Uid,
    Pid,
    Ppid,
    Load,
    Start,
    Terminal,
    State,
    Time,
    Command,
    /// The same under another head.
    LongCommand,
}

impl Column {
    /// By a name that ps(1) knows it by.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "uid" | "euid" | "user" | "euser" => Self::Uid,
            "pid" | "tgid" => Self::Pid,
            "ppid" => Self::Ppid,
            "c" => Self::Load,
            "stime" | "start_time" | "start" => Self::Start,
            "tty" | "tt" | "tname" => Self::Terminal,
            "stat" | "s" | "state" => Self::State,
            "time" | "cputime" => Self::Time,
            "cmd" => Self::Command,
            "args" | "command" => Self::LongCommand,
            _ => return None,
        })
    }

    fn head(self) -> &'static str {
        match self {
            Self::Uid => "UID",
            Self::Pid => "PID",
            Self::Ppid => "PPID",
            Self::Load => "C",
            Self::Start => "STIME",
            Self::Terminal => "TTY",
            Self::State => "STAT",
            Self::Time => "TIME",
            Self::Command => "CMD",
            Self::LongCommand => "COMMAND",
        }
    }

    fn cell(self, process: &ProcessInfo) -> String {
        match self {
            // As on the host, which names its own users.
            Self::Uid => user_name(process.uid),
            Self::Pid => process.pid.to_string(),
            Self::Ppid => process.ppid.to_string(),
            Self::Load => "0".to_owned(),
            Self::Start => start_time(process.started_at_ns),
            Self::Terminal if process.tty.is_empty() => "?".to_owned(),
            Self::Terminal => process.tty.clone(),
            Self::State => process.state.clone(),
            Self::Time => cpu_time(process.cpu_ns),
            Self::Command | Self::LongCommand => process.command.clone(),
        }
    }
}

/// What options of ps(1) ask for. Which processes are shown is not theirs to say: the container's.
fn columns(options: &[String]) -> Result<Vec<Column>> {
    let (mut chosen, mut letters_given) = (Vec::new(), String::new());
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let letters = option.strip_prefix('-').unwrap_or(option);
        let (selection, list) = match letters.split_once('o') {
            None => (letters, None),
            Some((before, "")) => (before, Some(options.next().map_or("", String::as_str))),
            Some((before, list)) => (before, Some(list)),
        };
        if !selection.chars().all(|letter| "aefuxAw".contains(letter)) {
            return unknown(option);
        }
        letters_given.push_str(selection);
        for name in list.into_iter().flat_map(|list| list.split(',')) {
            match Column::named(name) {
                Some(column) => chosen.push(column),
                None => return unknown(name),
            }
        }
    }
    let given = |letter: char| letters_given.contains(letter);
    Ok(if !chosen.is_empty() {
        chosen
    } else if letters_given.is_empty() || given('f') || given('u') {
        FULL.to_vec()
    } else if given('x') {
        WITH_STATE.to_vec()
    } else {
        SHORT.to_vec()
    })
}

fn unknown<T>(what: &str) -> Result<T> {
    Err(RuntimeError::Usage(format!(
        "ps: {what:?} is not known for the processes of a microVM: want -ef, or -o with columns among uid, pid, ppid, c, stime, tty, stat, time, cmd"
    )))
}

fn table(columns: &[Column], processes: &[ProcessInfo]) -> String {
    let head = columns.iter().map(|column| column.head().to_owned());
    let rows = processes
        .iter()
        .map(|process| columns.iter().map(|column| column.cell(process)).collect());
    let rows: Vec<Vec<String>> = std::iter::once(head.collect()).chain(rows).collect();
    aligned(&rows)
}

fn start_time(nanoseconds: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default();
    time.strftime("%H:%M").to_string()
}

fn cpu_time(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Vec<Column>> {
        let options: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        columns(&options)
    }

    #[test]
    fn options_choose_columns() {
        for line in ["", "-ef", "aux", "-e -f"] {
            assert_eq!(of(line).unwrap(), FULL, "{line:?}");
        }
        assert_eq!(of("-e -x").unwrap(), WITH_STATE);
        assert_eq!(of("-e").unwrap(), SHORT);
        let want = [Column::Pid, Column::LongCommand];
        for line in [
            "-o pid,args",
            "-eo pid,args",
            "-o pid -o command",
            "-opid,args",
        ] {
            assert_eq!(of(line).unwrap(), want, "{line:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (line, what) in [
            ("-o pid,rss", "\"rss\""),
            ("-o", "\"\""),
            ("--forest", "\"--forest\""),
        ] {
            let error = of(line).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_table_has_its_columns_only() {
        let process = ProcessInfo {
            pid: 7,
            command: "sleep 1".into(),
            ..ProcessInfo::default()
        };
        let text = table(&[Column::Pid, Column::Command], &[process]);
        assert_eq!(text, "PID         CMD\n7           sleep 1\n");
    }
}
