//! How many connections are served at once, and which one makes room for the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::Busy;

/// How long a connection that is closed may take until the next one is.
const PATIENCE: Duration = Duration::from_millis(500);

/// Of the silent ones, one in so many is closed at once.
const SHARE: usize = 16;

/// The connections that are served. When there is no room, those that have been silent for longest
/// make some: whoever opens many and says nothing shuts nobody out.
#[derive(Debug)]
pub(crate) struct Connections {
    slots: Arc<Semaphore>,
    served: Mutex<Served>,
}

#[derive(Debug, Default)]
struct Served {
    next: u64,
    by_number: HashMap<u64, Busy>,
}

/// Room for one connection.
#[derive(Debug)]
pub(crate) struct Slot {
    connections: Arc<Connections>,
    number: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(most)),
            served: Mutex::default(),
        })
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more.
    pub(crate) async fn slot(self: &Arc<Self>) -> Slot {
        let permit = loop {
            let free = Arc::clone(&self.slots).try_acquire_owned();
            if let Ok(permit) = free {
                break permit;
            }
            self.make_room();
            let freed = Arc::clone(&self.slots).acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(PATIENCE, freed).await {
                break permit;
            }
        };
        Slot {
            connections: Arc::clone(self),
            number: None,
            _permit: permit,
        }
    }

    /// Closes those that have been silent for longest, if any are: some at once, since who has filled
    /// all may have more that wait.
    pub(crate) fn make_room(&self) {
        let served = self.served();
        let silent = served.by_number.values();
        let silent = silent.filter_map(|busy| Some((busy.idle_since()?, busy)));
        let mut silent: Vec<_> = silent.collect();
        silent.sort_by_key(|(since, _)| *since);
        let closed = silent.len().div_ceil(SHARE);
        for (_, busy) in silent.iter().take(closed) {
            busy.close();
        }
    }
}

impl Slot {
    /// A connection has come for it.
    pub(crate) fn begin(&mut self) -> Busy {
        let busy = Busy::default();
        let mut served = self.connections.served();
        let number = served.next;
        served.next += 1;
        served.by_number.insert(number, busy.clone());
        self.number = Some(number);
        busy
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.connections.served().by_number.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;
    use axum::Router;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    /// Serves one connection in a slot.
    async fn connect(connections: &Arc<Connections>) -> DuplexStream {
        let mut slot = connections.slot().await;
        let (client, server) = tokio::io::duplex(4096);
        let busy = slot.begin();
        tokio::spawn(async move {
            api::serve(server, Router::new(), busy, api::Way::Unix).await;
            drop(slot);
        });
        client
    }

    async fn ask(client: &mut DuplexStream) -> bool {
        let asked = client.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut bytes = [0; 64];
        asked.await.is_ok() && matches!(client.read(&mut bytes).await, Ok(1..))
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_for_longest_makes_room() {
        let connections = Connections::new(2);
        let mut first = connect(&connections).await;
        std::thread::sleep(Duration::from_millis(5));
        let mut second = connect(&connections).await;
        std::thread::sleep(Duration::from_millis(5));
        assert!(ask(&mut first).await);
        let mut third = connect(&connections).await;
        assert!(!ask(&mut second).await, "it was the silent one");
        assert!(ask(&mut first).await && ask(&mut third).await);
    }
}
