//! The end of all containers before the host goes down: each gets its signal and its time, and those that
//! come back with the daemon do so after the boot.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use futures_util::future::join_all;

use super::{joins, Container, StopOptions};
use crate::engine::Engine;
use crate::error::{EngineError, Result};

/// While it is there, restart policies start nothing, and nobody else does.
struct Stopping<'a>(&'a AtomicUsize);

impl<'a> Stopping<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Engine {
    /// Whether all containers are being stopped.
    pub(super) fn is_stopping_all(&self) -> bool {
        0 < self.stopping.load(Ordering::SeqCst)
    }

    /// Refuses a start while all are being stopped.
    pub(super) fn check_not_stopping(&self) -> Result<()> {
        match self.is_stopping_all() {
            false => Ok(()),
            true => Err(EngineError::Conflict(
                "all containers are being stopped, since this host goes down".to_owned(),
            )),
        }
    }

    /// Stops all containers, side by side. No user has asked for that: whoever runs with the daemon runs
    /// again when it begins anew. The result are the names of those that did not end.
    pub(crate) async fn stop_all(&self) -> Vec<String> {
        let _stopping = Stopping::begin(&self.stopping);
        let all: Vec<_> = self.containers().values().cloned().collect();
        // Those in another's VM end with it: they come first.
        let (joining, owners): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|container| joins(&container.lock().host));
        let mut left = Vec::new();
        for containers in [joining, owners] {
            let stopped = containers.iter().map(|container| self.stop_one(container));
            left.extend(join_all(stopped).await.into_iter().flatten());
        }
        left
    }

    async fn stop_one(&self, container: &Arc<Container>) -> Option<String> {
        self.await_start(container).await;
        let stopped = async {
            if self.end_restart(container, false).await? || !container.status().is_live() {
                return Ok(());
            }
            self.stop_live(container, &StopOptions::default(), false)
                .await?;
            self.publish(container, "stop", []);
            // Its VM is ended and its volumes are given back after its program is.
            drop(container.operate().await);
            Ok::<_, EngineError>(())
        };
        let error = stopped.await.err()?;
        tracing::error!(id = container.id(), error = error.message(), "stopping");
        Some(container.name())
    }
}
