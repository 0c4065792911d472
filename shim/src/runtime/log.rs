//! The log as runc writes it: conmon, containerd and buildah read it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use super::cli::{Global, LogFormat};
use super::error::{io_error, Result};

/// Where and how messages go.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(super) fn open(global: &Global) -> Result<Self> {
        let open = |path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o644)
                .open(path)
        };
        let file = global
            .log
            .as_ref()
            .map(|path| open(path).map_err(io_error("open the log", path)));
        Ok(Self {
            file: file.transpose()?,
            format: global.log_format,
            debug: global.debug,
        })
    }

    /// To stderr, for a log that can't be opened.
    pub(super) fn to_stderr(global: &Global) -> Self {
        Self {
            file: None,
            format: global.log_format,
            debug: false,
        }
    }

    /// The error that ends the program; with a log file, stderr gets it too.
    pub(super) fn error(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            eprintln!("{message}");
        }
    }

    pub(super) fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    pub(super) fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let line = line(self.format, level, message, &now());
        // A log that can't be written has nobody to be told to.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn now() -> String {
    let seconds = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}

fn line(format: LogFormat, level: &str, message: &str, time: &str) -> String {
    match format {
        LogFormat::Json => {
            let entry = serde_json::json!({"level": level, "msg": message, "time": time});
            format!("{entry}\n")
        }
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={}\n", quote(message)),
    }
}

/// Go's quoting of a string, as far as log readers need it.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            control if control.is_control() => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-25T11:15:01Z";

    #[test]
    fn lines_are_runcs() {
        assert_eq!(
            line(LogFormat::Json, "error", "container does not exist", TIME),
            "{\"level\":\"error\",\"msg\":\"container does not exist\",\"time\":\"2026-11-25T11:15:01Z\"}\n"
        );
        assert_eq!(
            line(LogFormat::Text, "error", "exec \"x\"\n", TIME),
            "time=\"2026-11-25T11:15:01Z\" level=error msg=\"exec \\\"x\\\"\\n\"\n"
        );
    }

    #[test]
    fn the_time_has_whole_seconds() {
        assert_eq!(now().len(), TIME.len());
    }
}
