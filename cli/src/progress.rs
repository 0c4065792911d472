//! Progress of pulls and loads: bars on a terminal, plain lines otherwise.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::Response;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::client::broken;
use crate::error::{CliError, Result};

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// Standard output: the command's own result.
    Stdout,
    /// Standard error: beside the command's result.
    Stderr,
    /// Nowhere.
    Quiet,
}

/// Shows the JSON lines of an answer to its end. Returns the lines that are results.
pub(crate) async fn show(response: Response<Incoming>, to: To) -> Result<Vec<String>> {
    let mut body = response.into_body();
    let mut pending = BytesMut::new();
    let mut display = Display::new(to);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(end + 1);
            if let Ok(value) = serde_json::from_slice(&line) {
                display.take(&value)?;
            }
        }
    }
    Ok(display.finish())
}

struct Display {
    to: To,
    bars: Option<Bars>,
    /// Last status of each layer, so that a plain line is printed once.
    said: HashMap<String, String>,
    results: Vec<String>,
}

struct Bars {
    all: MultiProgress,
    by_id: HashMap<String, ProgressBar>,
}

impl Display {
    fn new(to: To) -> Self {
        let target = match to {
            To::Stdout if std::io::stdout().is_terminal() => Some(ProgressDrawTarget::stdout()),
            To::Stderr if std::io::stderr().is_terminal() => Some(ProgressDrawTarget::stderr()),
            _ => None,
        };
        let bars = target.map(|target| Bars {
            all: MultiProgress::with_draw_target(target),
            by_id: HashMap::new(),
        });
        Self {
            to,
            bars,
            said: HashMap::new(),
            results: Vec::new(),
        }
    }

    fn take(&mut self, value: &Value) -> Result<()> {
        let error = value["errorDetail"]["message"]
            .as_str()
            .or(value["error"].as_str());
        if let Some(message) = error {
            self.clear();
            return Err(CliError::Engine {
                status: 0,
                message: message.to_owned(),
            });
        }
        if let Some(text) = value["stream"].as_str() {
            self.results.push(text.trim_end().to_owned());
            return Ok(());
        }
        let Some(status) = value["status"].as_str() else {
            return Ok(());
        };
        match value["id"].as_str() {
            Some(id) => self.layer(id, status, &value["progressDetail"]),
            None => {
                self.say(status);
                self.results.push(status.to_owned());
            }
        }
        Ok(())
    }

    fn layer(&mut self, id: &str, status: &str, detail: &Value) {
        let Some(bars) = &mut self.bars else {
            if self.said.get(id).is_none_or(|said| said != status) {
                self.said.insert(id.to_owned(), status.to_owned());
                self.say(&format!("{id}: {status}"));
            }
            return;
        };
        let bar = bars.by_id.entry(id.to_owned()).or_insert_with(|| {
            let bar = bars.all.add(ProgressBar::new(0));
            bar.set_prefix(id.to_owned());
            bar
        });
        let (current, total) = (detail["current"].as_u64(), detail["total"].as_u64());
        let template = match current {
            Some(_) => "{prefix}: {msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}",
            None => "{prefix}: {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_message(status.to_owned());
        bar.set_position(current.unwrap_or(0));
        bar.tick();
    }

    fn say(&self, line: &str) {
        match (&self.bars, self.to) {
            (Some(bars), _) => {
                let _ = bars.all.println(line);
            }
            (None, To::Stdout) => {
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            (None, To::Stderr) => {
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            (None, To::Quiet) => {}
        }
    }

    fn clear(&mut self) {
        for bar in self.bars.iter().flat_map(|bars| bars.by_id.values()) {
            bar.abandon();
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.clear();
        self.results
    }
}
