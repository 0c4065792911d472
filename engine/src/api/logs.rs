//! `/containers/ID/logs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::Path;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::respond::{stream, Answer};
use super::streams::{body_channel, media_type, put_framed};
use super::{Query, Shared, Version};
use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::filters;
use crate::json::Params;
use crate::logs::{self, LogRecord, ReadOptions, Stream, MAX_PART_BYTES};

/// A time; `0` is none.
fn time_of(query: &Params, key: &str) -> Result<Option<Timestamp>> {
    let text = query.get(key).filter(|text| *text != "0");
    text.map(filters::time).transpose()
}

pub(super) async fn log(
    engine: Shared,
    version: Version,
    Path(id): Path<String>,
    Query(query): Query,
) -> Answer<Response> {
    let container = engine.container(&id)?;
    let record = container.record();
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(EngineError::BadRequest(
            "Bad parameters: you must choose at least one stream".to_owned(),
        )
        .into());
    }
    if !logs::is_readable(record.host.log_config.as_ref()) {
        return Err(EngineError::UnreadableLogs.into());
    }
    let tail = match query.get("tail") {
        None | Some("all") => None,
        // As dockerd: what is no number means all.
        Some(text) => text.parse::<u64>().ok(),
    };
    let options = ReadOptions {
        tail,
        since: time_of(&query, "since")?,
        until: time_of(&query, "until")?,
        // As dockerd: while it is only about to be started there is nothing to follow. Who waits for
        // its start to follow it would read everything twice.
        follow: query.flag("follow") && container.status().is_live(),
        no_stdout: !stdout,
        no_stderr: !stderr,
    };
    let tty = record.tty();
    let form = Form {
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        tty,
    };
    let pieces = framed_log(&container, options, form);
    let (sender, body) = body_channel();
    tokio::spawn(forward(pieces, sender));
    Ok(stream(media_type(tty, version), body))
}

async fn forward(mut pieces: mpsc::Receiver<Bytes>, sender: mpsc::Sender<Bytes>) {
    loop {
        tokio::select! {
            piece = pieces.recv() => {
                let Some(piece) = piece else { return };
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
            // Lets go of the log when a follower goes away while nothing is written.
            () = sender.closed() => return,
        }
    }
}

/// How a client wants a log's records.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Form {
    pub(super) timestamps: bool,
    /// With the facts that the log options name.
    pub(super) details: bool,
    /// The output is not multiplexed.
    pub(super) tty: bool,
}

/// The log in the form for clients.
pub(super) fn framed_log(
    container: &Container,
    options: ReadOptions,
    form: Form,
) -> mpsc::Receiver<Bytes> {
    let mut batches = logs::read(Arc::clone(&container.log), options);
    let (sender, receiver) = mpsc::channel(1);
    let id = container.id().to_owned();
    tokio::spawn(async move {
        let mut lines = Lines::default();
        loop {
            let batch = tokio::select! {
                batch = batches.recv() => batch,
                () = sender.closed() => return,
            };
            let piece = match batch {
                Some(Ok(batch)) => framed(&batch, form, &mut lines),
                Some(Err(error)) => {
                    tracing::error!(id, error = error.message(), "reading a log");
                    return;
                }
                None => return,
            };
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Which streams are in the middle of a line: what a record of theirs goes on with has no time of its own.
#[derive(Default)]
struct Lines([bool; 2]);

impl Lines {
    /// Whether a record begins a line.
    fn begins(&mut self, record: &LogRecord) -> bool {
        let is_open = &mut self.0[usize::from(record.stream == Stream::Stderr)];
        // A shorter one without a line end is the last of a run.
        let goes_on = !record.log.ends_with('\n') && MAX_PART_BYTES - 4 <= record.log.len();
        !std::mem::replace(is_open, goes_on)
    }
}

fn framed(batch: &[LogRecord], form: Form, lines: &mut Lines) -> Bytes {
    let mut bytes = BytesMut::new();
    for record in batch {
        put_framed(
            &mut bytes,
            form.tty,
            record.stream,
            text_of(record, form, lines.begins(record)).as_bytes(),
        );
    }
    bytes.freeze()
}

fn text_of(record: &LogRecord, form: Form, begins: bool) -> String {
    let mut text = String::new();
    if form.timestamps && begins {
        text.push_str(&format!("{:.9} ", record.time));
    }
    if form.details && begins {
        text.push_str(&details(&record.attrs));
        text.push(' ');
    }
    text.push_str(&record.log);
    text
}

/// `key=value`, separated by commas, with what could be taken for these escaped.
fn details(attributes: &BTreeMap<String, String>) -> String {
    let escape = |text: &String| {
        let text: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        text
    };
    let pairs = attributes
        .iter()
        .map(|(key, value)| format!("{}={}", escape(key), escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_stand_between_time_and_text() {
        let record = LogRecord {
            log: "hello\n".to_owned(),
            stream: Stream::Stdout,
            attrs: [("tag", "a b"), ("com.x", "1,2")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            time: jiff::Timestamp::UNIX_EPOCH,
        };
        let shown = |timestamps, details| {
            let form = Form {
                timestamps,
                details,
                tty: true,
            };
            String::from_utf8(
                framed(std::slice::from_ref(&record), form, &mut Lines::default()).to_vec(),
            )
            .unwrap()
        };
        assert_eq!(shown(false, false), "hello\n");
        assert_eq!(shown(false, true), "com.x=1%2C2,tag=a+b hello\n");
        assert_eq!(
            shown(true, true),
            "1970-01-01T00:00:00.000000000Z com.x=1%2C2,tag=a+b hello\n"
        );
    }

    #[test]
    fn a_long_line_has_one_time() {
        let record = |stream, log: String| LogRecord {
            log,
            stream,
            attrs: Default::default(),
            time: jiff::Timestamp::UNIX_EPOCH,
        };
        let part = "x".repeat(MAX_PART_BYTES - 1);
        let batch = [
            record(Stream::Stdout, part.clone()),
            record(Stream::Stderr, "between\n".to_owned()),
            record(Stream::Stdout, part.clone()),
            record(Stream::Stdout, "end\n".to_owned()),
            // The end of a run.
            record(Stream::Stdout, "no line end".to_owned()),
            record(Stream::Stdout, "next run\n".to_owned()),
        ];
        let form = Form {
            timestamps: true,
            details: false,
            tty: true,
        };
        let mut lines = Lines::default();
        let pieces = batch.map(|record| framed(std::slice::from_ref(&record), form, &mut lines));
        let stamped = pieces.map(|piece| piece.starts_with(b"1970-"));
        assert_eq!(stamped, [true, true, false, false, true, true]);
    }
}
