//! The agent's log: lines on the console, else in the kernel's log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

static SINK: OnceLock<Option<File>> = OnceLock::new();

/// Writes one line. Where there is neither a console nor a kernel log, nobody could read it.
pub(crate) fn log(text: &str) {
    let sink = SINK.get_or_init(|| {
        ["/dev/console", "/dev/kmsg"]
            .iter()
            .find_map(|path| OpenOptions::new().write(true).open(path).ok())
    });
    if let Some(mut file) = sink.as_ref() {
        // One write, so that lines do not mix.
        let _ = file.write_all(format!("hull-agent: {text}\n").as_bytes());
    }
}
