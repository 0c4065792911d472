//! How many conversations published ports have at a time.
//!
//! What one port may have depends on what is left: so many and no more. So a port that is alone has half of
//! all, and however many take what they can get, there is some left for the next one.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use tokio::sync::Notify;

use super::lock;

/// Open files of a conversation.
const FILES: u64 = 2;
/// Most conversations of all ports; each has buffers of 16 KiB.
const MOST: usize = 32_768;
/// All ports of a container together may have so many times what is left, one of them once.
const OF_CONTAINER: usize = 2;

/// Room for conversations, of all ports of a program together.
#[derive(Debug, Clone)]
pub struct Room {
    all: Arc<All>,
    /// Of these, those of one container's ports.
    container: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct All {
    most: usize,
    /// Whoever changes any of the counts holds this one.
    used: Mutex<usize>,
    freed: Notify,
}

/// Room for the conversations of one port.
#[derive(Debug)]
pub(super) struct PortRoom {
    room: Room,
    own: Arc<AtomicUsize>,
}

/// Held by a conversation.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    own: Arc<AtomicUsize>,
}

impl Default for Room {
    /// Half of the files that this program may open are for conversations.
    fn default() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let all = usize::try_from(files / 2 / FILES).map_or(MOST, |room| room.clamp(2, MOST));
        Self::of(all)
    }
}

impl Room {
    /// Room for so many conversations.
    pub(super) fn of(most: usize) -> Self {
        let all = All {
            most,
            used: Mutex::default(),
            freed: Notify::new(),
        };
        Self {
            all: Arc::new(all),
            container: Arc::default(),
        }
    }

    /// The same room, for the ports of one container more.
    pub fn for_container(&self) -> Self {
        Self {
            all: Arc::clone(&self.all),
            container: Arc::default(),
        }
    }

    pub(super) fn of_port(&self) -> PortRoom {
        PortRoom {
            room: self.clone(),
            own: Arc::default(),
        }
    }
}

impl PortRoom {
    /// A place, if there is one now.
    pub(super) fn free_place(&self) -> Option<Place> {
        let mut used = lock(&self.room.all.used);
        let left = self.room.all.most.saturating_sub(*used);
        let (own, container) = (&self.own, &self.room.container);
        let crowded = left <= own.load(Ordering::Relaxed)
            || OF_CONTAINER * left <= container.load(Ordering::Relaxed);
        if crowded {
            return None;
        }
        *used += 1;
        for count in [own, container] {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Some(Place {
            room: self.room.clone(),
            own: Arc::clone(own),
        })
    }

    /// Waits for a place.
    pub(super) async fn place(&self) -> Place {
        loop {
            // Told also of what is freed between the look and the wait.
            let mut freed = std::pin::pin!(self.room.all.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.free_place() {
                return place;
            }
            freed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut used = lock(&self.room.all.used);
            *used -= 1;
            for count in [&self.own, &self.room.container] {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.room.all.freed.notify_waiters();
    }
}

/// Lets this program open as many files as it may. What it starts may, too.
pub fn raise_descriptors() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(port: &PortRoom) -> Vec<Place> {
        std::iter::from_fn(|| port.free_place()).collect()
    }

    #[test]
    fn whoever_takes_what_it_gets_leaves_some() {
        let room = Room::of(1200);
        let hog = room.for_container();
        let first = hog.of_port();
        let held = fill(&first);
        assert_eq!(held.len(), 600);
        // Another port of the same container has some, too.
        let more = fill(&hog.of_port());
        assert_eq!(more.len(), 200);
        assert!(fill(&hog.of_port()).is_empty());
        // And each of many others.
        let mut others = Vec::new();
        for _ in 0..5 {
            let port = room.for_container().of_port();
            let taken = fill(&port);
            assert!(!taken.is_empty());
            others.push(taken);
        }
        drop((held, more, others));
        assert_eq!(fill(&first).len(), 600);
    }
}
