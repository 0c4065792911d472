//! The options of ps(1), as far as they mean something for the processes of a microVM. Which processes are
//! shown is not theirs to say: the container's.

use super::{Column, What};

/// Options that ps(1) or Docker refuses, in their words, or that mean nothing here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PsError {
    /// No column of ps(1).
    #[error("ps: error: unknown user-defined format specifier {0:?}")]
    UnknownColumn(String),
    /// A column of ps(1) that the guest does not tell.
    #[error(
        "ps: the column {name:?} is not known for the processes of a microVM: want some of {known}"
    )]
    NotTold {
        /// The column.
        name: String,
        /// Those that are.
        known: String,
    },
    /// An option of ps(1) that means nothing here.
    #[error("ps: the option {0:?} means nothing for the processes of a microVM: want some of -e, -f, -j, a, u, x, w, or -o with columns")]
    Option(String),
    /// The list would not say which process is which.
    #[error("Couldn't find PID field in ps output")]
    NoPid,
    /// Another column is given out for the PIDs.
    #[error("specifying \"{0}\" is not allowed")]
    FalsePid(String),
}

const FULL: &[(&str, What)] = &[
    // As on the host, which names its own users.
    ("UID", What::User),
    ("PID", What::Pid),
    ("PPID", What::Parent),
    ("C", What::Load),
    ("STIME", What::Start),
    ("TTY", What::Terminal),
    ("TIME", What::Time),
    ("CMD", What::Command),
];
const USERS: &[(&str, What)] = &[
    ("USER", What::User),
    ("PID", What::Pid),
    ("%CPU", What::CpuShare),
    ("%MEM", What::MemoryShare),
    ("VSZ", What::Virtual),
    ("RSS", What::Resident),
    ("TTY", What::Terminal),
    ("STAT", What::Status),
    ("START", What::Start),
    ("TIME", What::ShortTime),
    ("COMMAND", What::Command),
];
const JOBS: &[(&str, What)] = &[
    ("PID", What::Pid),
    ("PGID", What::Group),
    ("SID", What::Session),
    ("TTY", What::Terminal),
    ("TIME", What::Time),
    ("CMD", What::Program),
];
const WITH_STATUS: &[(&str, What)] = &[
    ("PID", What::Pid),
    ("TTY", What::Terminal),
    ("STAT", What::Status),
    ("TIME", What::ShortTime),
    ("COMMAND", What::Command),
];
const SHORT: &[(&str, What)] = &[
    ("PID", What::Pid),
    ("TTY", What::Terminal),
    ("TIME", What::Time),
    ("CMD", What::Program),
];

/// What the options have asked for so far.
#[derive(Default)]
struct Asked {
    chosen: Vec<Column>,
    /// The letters, those of BSD's ps apart: they were given without a dash.
    letters: String,
    bsd_letters: String,
}

/// The columns that options of ps(1) ask for; without any, those of `-ef`.
pub fn columns(options: &[String]) -> Result<Vec<Column>, PsError> {
    let mut asked = Asked::default();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        if let Some(list) = asked.take(option)? {
            match list {
                "" => asked.choose(options.next().map_or("", String::as_str))?,
                list => asked.choose(list)?,
            }
        }
    }
    Ok(asked.columns())
}

/// As [`columns`], for a list that has to say which process is which, as Docker's has.
pub fn columns_with_pid(options: &[String]) -> Result<Vec<Column>, PsError> {
    let columns = columns(options)?;
    let false_pid = columns
        .iter()
        .find(|column| column.head.starts_with("PID") && column.what != What::Pid);
    if let Some(column) = false_pid {
        let text = format!("{}={}", column.name, column.head);
        return Err(PsError::FalsePid(text));
    }
    match columns.iter().any(|column| column.head == "PID") {
        true => Ok(columns),
        false => Err(PsError::NoPid),
    }
}

impl Asked {
    /// Takes one word. The result is the list of columns in it, which may come in the next one.
    fn take<'a>(&mut self, option: &'a str) -> Result<Option<&'a str>, PsError> {
        let unknown = || Err(PsError::Option(option.to_owned()));
        if let Some(long) = option.strip_prefix("--") {
            return match long.split_once('=').unwrap_or((long, "")) {
                ("format", list) => Ok(Some(list)),
                _ => unknown(),
            };
        }
        let (letters, with_dash) = match option.strip_prefix('-') {
            Some(letters) => (letters, true),
            None => (option, false),
        };
        let (letters, list) = match letters.split_once('o') {
            Some((before, list)) => (before, Some(list)),
            None => (letters, None),
        };
        // As ps(1) takes it, which has a warning for it.
        let bsd = !with_dash || ["aux", "axu"].contains(&letters);
        let known = match bsd {
            true => "auxw",
            false => "Aaefjwx",
        };
        if !letters.chars().all(|letter| known.contains(letter)) {
            return unknown();
        }
        match bsd {
            true => self.bsd_letters.push_str(letters),
            false => self.letters.push_str(letters),
        }
        Ok(list)
    }

    /// Takes a list of columns, each with a head of its own or without.
    fn choose(&mut self, list: &str) -> Result<(), PsError> {
        for word in list.split(',') {
            let (name, head) = match word.split_once('=') {
                Some((name, head)) => (name, Some(head)),
                None => (word, None),
            };
            let mut column = Column::named(name)?;
            if let Some(head) = head {
                head.clone_into(&mut column.head);
            }
            self.chosen.push(column);
        }
        Ok(())
    }

    fn columns(self) -> Vec<Column> {
        if !self.chosen.is_empty() {
            return self.chosen;
        }
        let nothing = self.letters.is_empty() && self.bsd_letters.is_empty();
        let columns = if self.bsd_letters.contains('u') {
            USERS
        } else if nothing || self.letters.contains('f') {
            FULL
        } else if self.letters.contains('j') {
            JOBS
        } else if !self.bsd_letters.is_empty() || self.letters.contains('x') {
            WITH_STATUS
        } else {
            SHORT
        };
        columns
            .iter()
            .map(|(head, what)| Column {
                name: "",
                head: (*head).to_owned(),
                what: *what,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn heads(line: &str) -> String {
        let columns = columns(&words(line)).unwrap();
        let heads: Vec<_> = columns.iter().map(|column| column.head.as_str()).collect();
        heads.join(" ")
    }

    fn refusal(line: &str) -> String {
        columns_with_pid(&words(line)).unwrap_err().to_string()
    }

    #[test]
    fn options_choose_columns() {
        for line in ["", "-ef", "-e -f", "-A -f"] {
            assert_eq!(heads(line), "UID PID PPID C STIME TTY TIME CMD", "{line:?}");
        }
        for line in ["aux", "-aux", "a u x", "auxw"] {
            let want = "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND";
            assert_eq!(heads(line), want, "{line:?}");
        }
        for line in ["-e -x", "x", "ax"] {
            assert_eq!(heads(line), "PID TTY STAT TIME COMMAND", "{line:?}");
        }
        assert_eq!(heads("-e"), "PID TTY TIME CMD");
        assert_eq!(heads("-ej"), "PID PGID SID TTY TIME CMD");
        for line in [
            "-o pid,args",
            "-eo pid,args",
            "-o pid -o command",
            "-opid,args",
            "axo pid,args",
            "--format=pid,args",
            "--format pid,args",
        ] {
            assert_eq!(heads(line), "PID COMMAND", "{line:?}");
        }
        assert_eq!(heads("-o pid=,cmd=WHAT"), " WHAT");
    }

    #[test]
    fn columns_that_ps_does_not_know_are_told_in_its_words() {
        for (line, name) in [("-o pid,foo", "foo"), ("-o", ""), ("-o pid,,cmd", "")] {
            let want = format!("ps: error: unknown user-defined format specifier {name:?}");
            assert_eq!(refusal(line), want);
        }
    }

    #[test]
    fn what_a_guest_does_not_tell_is_named() {
        let text = refusal("-o pid,psr");
        assert!(text.contains("\"psr\"") && text.contains("pcpu"), "{text}");
        for option in ["--forest", "-l", "-u", "f", "ef", "--sort=pid", "-L"] {
            let text = refusal(option);
            assert!(text.contains(&format!("{option:?}")), "{text}");
        }
    }

    #[test]
    fn a_list_says_which_process_is_which() {
        for line in ["-o cmd", "-o pid=,cmd", "-o pid=P,cmd", "-o ppid"] {
            assert_eq!(refusal(line), "Couldn't find PID field in ps output");
        }
        let text = refusal("-o pid,cmd=PID1");
        assert_eq!(text, "specifying \"cmd=PID1\" is not allowed");
        assert!(columns_with_pid(&words("-o tgid=PID,cmd")).is_ok());
        assert!(columns(&words("-o cmd")).is_ok());
    }
}
