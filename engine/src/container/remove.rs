//! Removing containers.

use std::sync::Arc;

use bollard_stubs::models::EventMessageTypeEnum;

use super::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::filters;
use crate::json::Filters;
use crate::lifecycle::{Event, Status};

/// Whether a container's state lets it be removed.
fn check_removable(container: &Container, force: bool) -> Result<()> {
    let status = container.status();
    if status == Status::Removing {
        return Err(EngineError::Conflict(format!(
            "removal of container {} is already in progress",
            container.id()
        )));
    }
    if force || !status.is_up() {
        return Ok(());
    }
    let what = match status {
        Status::Paused => "paused and must be unpaused first".to_owned(),
        other => format!(
            "{}: stop the container before removing or force remove",
            other.name()
        ),
    };
    Err(EngineError::Conflict(format!(
        "cannot remove container \"{}\": container is {what}",
        container.name()
    )))
}

impl Engine {
    /// Removes a container; with `force`, also one that runs.
    pub(crate) async fn remove_container(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<()> {
        let _operation = loop {
            check_removable(container, force)?;
            if container.status().is_up() {
                self.end_for_removal(container).await?;
            }
            let operation = container.operate().await;
            // It may have been started while this waited for its turn.
            if !container.status().is_up() {
                break operation;
            }
        };
        // With --rm its end has removed it meanwhile.
        if !container.progress.borrow().removed {
            self.remove_locked(container).await?;
        }
        if volumes {
            self.drop_own_volumes(container).await;
        }
        Ok(())
    }

    /// As [`Engine::remove_locked`], where nobody waits for the answer: it is in the log.
    pub(super) async fn remove_ended(&self, container: &Arc<Container>) {
        let _ = self.remove_locked(container).await;
    }

    /// Removes an ended container, with the operation lock held. What can't be deleted now is
    /// deleted when hulld starts.
    pub(super) async fn remove_locked(&self, container: &Arc<Container>) -> Result<()> {
        let id = container.id();
        let begun = self
            .update(container, |record| {
                Self::advance(record, Event::RemoveBegun)
            })
            .await;
        if let Err(error) = begun {
            tracing::error!(id, error = error.message(), "store");
        }
        self.clean_runtime(id).await;
        self.release_volumes(container).await;
        self.networks.detach(id).await;
        let dir = self.paths.container(id);
        let removed = match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::io("remove", dir, error))
            }
            _ => self.store.remove(id).await,
        };
        if let Err(error) = removed {
            tracing::error!(id, error = error.message(), "removing the container");
            let _ = self
                .update(container, |record| {
                    Self::advance(record, Event::RemoveFailed)
                })
                .await;
            container.progress.send_modify(|progress| {
                progress.not_removed = Some(error.message());
            });
            return Err(error);
        }
        self.containers_mut().remove(id);
        if container.lock().auto_remove() {
            self.drop_own_volumes(container).await;
        }
        self.drop_execs(id);
        self.publish(container, "destroy", []);
        container.hub.close();
        container
            .progress
            .send_modify(|progress| progress.removed = true);
        Ok(())
    }

    /// Removes all ended containers that pass the filters. Returns their ids, and how many bytes of
    /// the disk they had.
    pub(crate) async fn prune_containers(&self, filters: &Filters) -> Result<(Vec<String>, i64)> {
        filters::check(filters, &["label", "label!", "until"])?;
        let until = filters::until(filters)?;
        let all: Vec<_> = self.containers().values().cloned().collect();
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for container in all {
            let record = container.record();
            let (writable, _) = self.disk_sizes(&record);
            let labels = record.config.labels.unwrap_or_default();
            let ended = matches!(
                record.state.status,
                Status::Created | Status::Exited | Status::Dead
            );
            let wanted = filters::labels_pass(filters, &labels)
                && until.is_none_or(|until| record.created < until);
            if ended
                && wanted
                && self
                    .remove_container(&container, false, false)
                    .await
                    .is_ok()
            {
                removed.push(container.id().to_owned());
                bytes += writable;
            }
        }
        self.publish_prune(EventMessageTypeEnum::CONTAINER, bytes);
        Ok((removed, bytes))
    }
}
