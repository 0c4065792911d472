//! Events that the host waits for with `NextEvent`.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use hull_protocol::agent::{event, Event, OomEvent, WatchedEvent};
use rustix::fs::inotify;
use tokio::sync::Notify;

use crate::cgroup::Cgroup;
use crate::{console, sys};

/// Most events kept for a host that is not listening.
const KEPT: usize = 256;

#[derive(Default)]
struct Log {
    last: u64,
    events: VecDeque<Event>,
}

/// The log of events.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<(Mutex<Log>, Notify)>);

impl Events {
    fn push(&self, kind: event::Kind) {
        {
            let mut log = self.0 .0.lock().unwrap_or_else(PoisonError::into_inner);
            log.last += 1;
            let event = Event {
                sequence: log.last,
                kind: Some(kind),
                ..Default::default()
            };
            log.events.push_back(event);
            if log.events.len() > KEPT {
                log.events.pop_front();
            }
        }
        self.0 .1.notify_waiters();
    }

    /// Somebody watches files of shared directories.
    pub(crate) fn watched(&self) {
        self.push(event::Kind::Watched(WatchedEvent::default()));
    }

    /// The first event after a sequence number, waiting for it if need be.
    pub(crate) async fn next(&self, after: u64) -> Event {
        loop {
            let notified = self.0 .1.notified();
            {
                let log = self.0 .0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(event) = log.events.iter().find(|event| after < event.sequence) {
                    return event.clone();
                }
            }
            notified.await;
        }
    }
}

/// Reports OOM kills in a container until its group is gone.
pub(crate) fn watch_oom(id: &str, cgroup: &Cgroup, events: &Events) {
    let (id, cgroup, events) = (id.to_string(), cgroup.clone(), events.clone());
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .and_then(|fd| {
            inotify::add_watch(&fd, cgroup.memory_events(), inotify::WatchFlags::MODIFY)?;
            Ok(fd)
        });
    let watch = match watch.map_err(std::io::Error::from).and_then(sys::watch) {
        Ok(watch) => watch,
        // No memory controller: then there are no such kills either.
        Err(error) => return console::log(&format!("no OOM events for container {id}: {error}")),
    };
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            let Ok(mut ready) = watch.readable().await else {
                return;
            };
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let mut reader = inotify::Reader::new(watch.as_fd(), &mut buffer);
            let mut gone = false;
            while let Ok(event) = reader.next() {
                gone |= event.events().contains(inotify::ReadFlags::IGNORED);
            }
            ready.clear_ready();
            let kills = cgroup.oom_kills();
            if seen < kills {
                seen = kills;
                let oom = OomEvent {
                    container_id: id.clone(),
                    ..Default::default()
                };
                events.push(event::Kind::Oom(oom));
            }
            if gone {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_waited_for_and_repeated() {
        let events = Events::default();
        let waiting = {
            let events = events.clone();
            tokio::spawn(async move { events.next(0).await.sequence })
        };
        tokio::task::yield_now().await;
        events.push(event::Kind::Oom(OomEvent::default()));
        assert_eq!(waiting.await.unwrap(), 1);
        assert_eq!(events.next(0).await.sequence, 1);
    }
}
