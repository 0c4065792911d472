//! How many conversations there may be at a time: each needs two open files, and there are other
//! things that need some.

use std::io;
use std::sync::Arc;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Open files of a conversation.
const FILES: u64 = 2;
/// Most conversations of all ports; each has buffers of 16 KiB.
const MOST: usize = 32_768;
/// Of these, what one port may have: the others' clients are served, too.
const SHARES: usize = 2;

/// Room for conversations, of all ports of a program together.
#[derive(Debug, Clone)]
pub struct Room {
    all: Arc<Semaphore>,
    of_port: usize,
}

/// Room for the conversations of one port.
#[derive(Debug)]
pub(super) struct PortRoom {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// Held by a conversation.
#[derive(Debug)]
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

impl Default for Room {
    /// Half of the files that this program may open are for conversations.
    fn default() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let all = usize::try_from(files / 2 / FILES).map_or(MOST, |room| room.clamp(2, MOST));
        Self::of(all, all / SHARES)
    }
}

impl Room {
    /// Room for so many conversations, and for so many of one port.
    pub(super) fn of(all: usize, of_port: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            of_port,
        }
    }

    pub(super) fn of_port(&self) -> PortRoom {
        PortRoom {
            all: Arc::clone(&self.all),
            own: Arc::new(Semaphore::new(self.of_port)),
        }
    }

    /// A place, if there is one now.
    pub(super) fn free_place(&self) -> Option<Place> {
        Some(Place {
            _all: Arc::clone(&self.all).try_acquire_owned().ok()?,
            _own: None,
        })
    }
}

impl PortRoom {
    /// Waits for a place.
    pub(super) async fn place(&self) -> Place {
        let wait = |room: &Arc<Semaphore>| Arc::clone(room).acquire_owned();
        loop {
            // Nobody closes them.
            if let (Ok(own), Ok(all)) = (wait(&self.own).await, wait(&self.all).await) {
                return Place {
                    _all: all,
                    _own: Some(own),
                };
            }
        }
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
