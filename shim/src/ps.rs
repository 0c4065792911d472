//! What ps(1) would show of a guest's processes.

use std::collections::HashMap;

use hull_protocol::agent::ProcessInfo;

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

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the table")]
pub enum Column {
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
    /// The program's name alone.
    Program,
}

/// Options of ps(1) that mean nothing here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("ps: {0:?} is not known for the processes of a microVM: want -ef, or -o with columns among uid, pid, ppid, c, stime, tty, stat, time, cmd, args, comm")]
pub struct UnknownOption(String);

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
            "comm" | "ucmd" | "ucomm" => Self::Program,
            _ => return None,
        })
    }

    /// Its title.
    pub fn head(self) -> &'static str {
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
            Self::LongCommand | Self::Program => "COMMAND",
        }
    }

    /// What it shows of a process.
    pub fn cell(self, process: &ProcessInfo, users: &Users) -> String {
        match self {
            // As on the host, which names its own users.
            Self::Uid => users.name(process.uid),
            Self::Pid => process.pid.to_string(),
            Self::Ppid => process.ppid.to_string(),
            Self::Load => "0".to_owned(),
            Self::Start => start_time(process.started_at_ns),
            Self::Terminal if process.tty.is_empty() => "?".to_owned(),
            Self::Terminal => process.tty.clone(),
            Self::State => process.state.clone(),
            Self::Time => cpu_time(process.cpu_ns),
            Self::Command | Self::LongCommand => process.command.clone(),
            Self::Program => program(&process.command).to_owned(),
        }
    }
}

/// What options of ps(1) ask for. Which processes are shown is not theirs to say: the container's.
pub fn columns(options: &[String]) -> Result<Vec<Column>, UnknownOption> {
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
            return Err(UnknownOption(option.clone()));
        }
        letters_given.push_str(selection);
        for name in list.into_iter().flat_map(|list| list.split(',')) {
            match Column::named(name) {
                Some(column) => chosen.push(column),
                None => return Err(UnknownOption(name.to_owned())),
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

fn start_time(nanoseconds: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default();
    time.strftime("%H:%M").to_string()
}

fn cpu_time(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// Of a command line, or of a kernel thread's name in brackets.
fn program(command: &str) -> &str {
    let path = command.split(' ').next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// The users of this host, read once for a whole list.
#[derive(Debug, Clone, Default)]
pub struct Users(HashMap<u32, String>);

impl Users {
    /// Those that the host has now.
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut users = HashMap::new();
        for line in text.lines() {
            let mut fields = line.split(':');
            let name = fields.next();
            let uid = fields.nth(1).and_then(|uid| uid.parse().ok());
            if let (Some(name), Some(uid)) = (name, uid) {
                // The first name counts, as for getpwuid(3).
                users.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Self(users)
    }

    /// A user's name, else `#UID`, as runc has it.
    pub fn name(&self, uid: u32) -> String {
        let known = self.0.get(&uid).cloned();
        known.unwrap_or_else(|| format!("#{uid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Vec<Column>, UnknownOption> {
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
    fn users_have_their_first_name() {
        let users = Users::parse("root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\nodd\n:x:y:\nme:x:7:7");
        assert_eq!(users.name(0), "root");
        assert_eq!(users.name(7), "me");
        assert_eq!(users.name(4_000_000_000), "#4000000000");
    }

    #[test]
    fn a_program_is_told_from_its_path_and_arguments() {
        for (command, name) in [("/bin/sleep 1", "sleep"), ("sh", "sh"), ("", "")] {
            assert_eq!(program(command), name);
        }
    }
}
