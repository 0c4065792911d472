//! Logs that a server gets. A task of its own delivers them: a server that is slow or down costs
//! messages once the buffer is full, and never stops the container.

mod address;
mod connection;
pub(super) mod fluentd;
pub(super) mod gelf;
pub(super) mod journald;
mod queue;
pub(super) mod syslog;
mod tls;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Stream;
use crate::ids;
use queue::Queue;

/// What may wait for a server unless the options say otherwise.
pub(super) const DEFAULT_BUFFER_BYTES: usize = 1 << 20;
/// How long what is left may take after the container's end.
const LAST_LIMIT: Duration = Duration::from_secs(5);
/// Between attempts at a server that is down; each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two words about lost messages.
const TELL_PAUSE: Duration = Duration::from_secs(30);

/// Who gets the log of a container.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Id of the container, for the daemon's own log.
    pub(super) container: String,
    /// What may wait.
    pub(super) buffer_bytes: usize,
    pub(super) kind: Kind,
}

/// The protocol, with what it says of the container.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// With the tag.
    Syslog(syslog::Options, String),
    Journald(journald::Fields),
    Gelf(gelf::Options, gelf::Fields),
    Fluentd(fluentd::Options, fluentd::Fields),
}

/// A line, or a part of one that is too long.
#[derive(Debug, Clone)]
struct Message {
    stream: Stream,
    time: Timestamp,
    /// Without its line end.
    text: Vec<u8>,
    part: Option<Part>,
}

/// Which part of a long line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// The same for all parts of a line.
    id: Arc<str>,
    /// From 1.
    ordinal: u32,
    last: bool,
}

/// Why a message was not delivered.
#[derive(Debug)]
enum SendError {
    /// The server never takes this one.
    Refused(io::Error),
    /// The server can't be reached now.
    Down(io::Error),
}

/// The way to a server, for one run of a container.
#[derive(Debug)]
pub(super) struct Remote {
    queue: Arc<Queue>,
    /// Of each stream, the last part of a line that goes on.
    long: [Option<Part>; 2],
}

impl Remote {
    /// Starts to deliver. To be called within the runtime.
    pub(super) fn start(target: Target) -> Self {
        let queue = Arc::new(Queue::new(target.buffer_bytes));
        let deliverer = Deliverer {
            queue: Arc::clone(&queue),
            container: target.container,
            sink: match target.kind {
                Kind::Syslog(options, tag) => Sink::Syslog(syslog::Sink::new(options, tag)),
                Kind::Journald(fields) => Sink::Journald(journald::Sink::new(fields)),
                Kind::Gelf(options, fields) => Sink::Gelf(gelf::Sink::new(options, fields)),
                Kind::Fluentd(options, fields) => {
                    Sink::Fluentd(fluentd::Sink::new(options, fields))
                }
            },
            is_down: false,
            told: None,
        };
        tokio::spawn(deliverer.run());
        Self {
            queue,
            long: [None, None],
        }
    }

    /// Hands a part of a line over; `ends`: the line ends with it.
    pub(super) fn push(&mut self, stream: Stream, text: &[u8], ends: bool, time: Timestamp) {
        let slot = &mut self.long[usize::from(stream.number() - 1)];
        let part = match (slot.take(), ends) {
            (None, true) => None,
            (before, last) => Some(match before {
                None => Part {
                    id: ids::new_id().into(),
                    ordinal: 1,
                    last,
                },
                Some(before) => Part {
                    ordinal: before.ordinal.saturating_add(1),
                    last,
                    ..before
                },
            }),
        };
        if !ends {
            slot.clone_from(&part);
        }
        self.queue.push(Message {
            stream,
            time,
            text: text.strip_suffix(b"\n").unwrap_or(text).to_owned(),
            part,
        });
    }

    /// Waits until everything so far is delivered.
    pub(super) fn drained(&self) -> impl std::future::Future<Output = ()> + Send + 'static {
        let queue = Arc::clone(&self.queue);
        async move { queue.drained().await }
    }
}

/// The run is over; what is left is delivered still, for a while.
impl Drop for Remote {
    fn drop(&mut self) {
        self.queue.close();
    }
}

enum Sink {
    Syslog(syslog::Sink),
    Journald(journald::Sink),
    Gelf(gelf::Sink),
    Fluentd(fluentd::Sink),
}

impl Sink {
    async fn send(&mut self, message: &Message) -> Result<(), SendError> {
        match self {
            Self::Syslog(sink) => sink.send(message).await,
            Self::Journald(sink) => sink.send(message).await,
            Self::Gelf(sink) => sink.send(message).await,
            Self::Fluentd(sink) => sink.send(message).await,
        }
    }
}

struct Deliverer {
    queue: Arc<Queue>,
    container: String,
    sink: Sink,
    is_down: bool,
    /// When a loss was told last.
    told: Option<Instant>,
}

impl Deliverer {
    async fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        let too_long = async {
            queue.closed().await;
            tokio::time::sleep(LAST_LIMIT).await;
        };
        tokio::select! {
            () = self.deliver() => {}
            () = too_long => queue.abandon(),
        }
        self.tell_lost();
    }

    async fn deliver(&mut self) {
        while let Some(message) = self.queue.next().await {
            let mut pause = FIRST_PAUSE;
            loop {
                match self.sink.send(&message).await {
                    Ok(()) => break,
                    Err(SendError::Refused(error)) => {
                        tracing::warn!(container = self.container, %error, "a log message is lost");
                        break;
                    }
                    Err(SendError::Down(error)) => self.tell_down(&error),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            self.tell_up();
        }
    }

    /// Once for each time that the server is away, however many messages wait.
    fn tell_down(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_down, true) {
            tracing::warn!(container = self.container, %error, "the log server is not reached");
        }
    }

    fn tell_up(&mut self) {
        if std::mem::take(&mut self.is_down) {
            tracing::info!(
                container = self.container,
                "the log server is reached again"
            );
        }
        if self.told.is_none_or(|told| TELL_PAUSE < told.elapsed()) {
            self.tell_lost();
        }
    }

    fn tell_lost(&mut self) {
        let lost = self.queue.take_lost();
        if 0 < lost {
            self.told = Some(Instant::now());
            tracing::warn!(
                container = self.container,
                lost,
                "log messages were lost: the server did not take them in time"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn message(text: &str) -> Message {
        Message {
            stream: Stream::Stdout,
            time: Timestamp::UNIX_EPOCH,
            text: text.as_bytes().to_owned(),
            part: None,
        }
    }

    #[tokio::test]
    async fn parts_of_a_long_line_are_numbered() {
        let queue = Arc::new(Queue::new(1 << 20));
        let mut remote = Remote {
            queue: Arc::clone(&queue),
            long: [None, None],
        };
        let now = Timestamp::UNIX_EPOCH;
        remote.push(Stream::Stdout, b"whole\n", true, now);
        remote.push(Stream::Stdout, b"one", false, now);
        remote.push(Stream::Stderr, b"other\n", true, now);
        remote.push(Stream::Stdout, b"two", false, now);
        remote.push(Stream::Stdout, b"three\n", true, now);
        remote.push(Stream::Stdout, b"rest", true, now);
        drop(remote);
        let mut seen = Vec::new();
        let mut ids = std::collections::BTreeSet::new();
        while let Some(message) = queue.next().await {
            let part = message.part.as_ref().map(|part| (part.ordinal, part.last));
            seen.push((String::from_utf8(message.text.clone()).unwrap(), part));
            ids.extend(message.part.map(|part| part.id));
        }
        let expected = [
            ("whole", None),
            ("one", Some((1, false))),
            ("other", None),
            ("two", Some((2, false))),
            ("three", Some((3, true))),
            ("rest", None),
        ];
        assert_eq!(seen, expected.map(|(text, part)| (text.to_owned(), part)));
        assert_eq!(ids.len(), 1);
    }
}
