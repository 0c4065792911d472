//! Volumes of all drivers: those of Hull's own, and those that plugins make.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use bollard_stubs::models::EventMessageTypeEnum;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::OwnedMutexGuard;

use super::{check_name, CreateVolume, VolumeRecord, Volumes, ANONYMOUS_LABEL, LOCAL};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{chain, EngineError, Result};
use crate::ids;
use crate::plugins::{CallError, Patience, PluginError, PluginVolume, VolumeDriver};
use crate::record::Record;

/// A volume of a plugin that a container holds, from before its mount until after it is given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) name: String,
    pub(crate) driver: String,
    /// Its directory; `None` while nobody knows whether it is mounted.
    #[serde(default)]
    pub(crate) mountpoint: Option<PathBuf>,
}

/// A volume with all that is to be said of it.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) record: VolumeRecord,
    /// When it was made; a plugin need not know.
    pub(crate) created: Option<String>,
    pub(crate) mountpoint: String,
    pub(crate) scope: &'static str,
    pub(crate) status: Option<Map<String, Value>>,
}

impl Shown {
    fn of_plugin(driver: &str, volume: PluginVolume, record: Option<VolumeRecord>) -> Self {
        let created = record.as_ref().map(|record| record.created.to_string());
        Self {
            created: volume
                .created_at
                .filter(|text| !text.is_empty())
                .or(created),
            mountpoint: volume.mountpoint.unwrap_or_default(),
            scope: "local",
            status: volume.status.filter(|status| !status.is_empty()),
            record: record.unwrap_or_else(|| VolumeRecord {
                name: volume.name,
                driver: driver.to_owned(),
                created: Timestamp::UNIX_EPOCH,
                labels: HashMap::new(),
                options: HashMap::new(),
            }),
        }
    }
}

/// What a plugin's error means for a volume.
fn failed(error: CallError) -> EngineError {
    EngineError::Plugin(chain(&error))
}

impl Engine {
    async fn volume_driver(&self, volume: &str, name: &str) -> Result<VolumeDriver> {
        let driver = self.plugins.volume_driver(name, Patience::Work).await;
        driver.map_err(|error| match error {
            PluginError::NotFound(driver) => EngineError::NoSuchVolumePlugin {
                volume: volume.to_owned(),
                driver,
            },
            other => EngineError::Plugin(format!(
                "error looking up volume plugin {name}: {}",
                chain(&other)
            )),
        })
    }

    /// Makes a volume, or finds the one of this name. `true`: it is new.
    pub(crate) async fn create_volume(&self, wanted: CreateVolume) -> Result<(VolumeRecord, bool)> {
        let (record, new) = self.made_volume(wanted).await?;
        if new {
            self.publish_volume("create", &record.name, &record.driver, HashMap::new());
        }
        Ok((record, new))
    }

    async fn made_volume(&self, mut wanted: CreateVolume) -> Result<(VolumeRecord, bool)> {
        let there = self.volumes.find(&wanted.name).ok();
        match (&there, wanted.driver.as_str()) {
            (Some(there), "") if !there.is_local() => return Ok((there.clone(), false)),
            (Some(there), driver) if !driver.is_empty() && driver != there.driver => {
                return Err(EngineError::Conflict(format!(
                    "create {}: driver '{}' already has volume '{}': volume name must be unique",
                    wanted.name, there.driver, there.name
                )));
            }
            (None, "") if !wanted.name.is_empty() => {
                // Somebody else may have made it.
                if let Some((driver, _)) = self.volume_of_plugins(&wanted.name).await {
                    wanted.driver = driver.name().to_owned();
                }
            }
            _ => {}
        }
        if matches!(wanted.driver.as_str(), "" | LOCAL) {
            return self.on_disk(move |volumes| volumes.create(wanted)).await;
        }
        self.create_by_plugin(wanted, there).await
    }

    async fn create_by_plugin(
        &self,
        mut wanted: CreateVolume,
        there: Option<VolumeRecord>,
    ) -> Result<(VolumeRecord, bool)> {
        if wanted.name.is_empty() {
            wanted.name = ids::new_id();
            wanted
                .labels
                .insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        check_name(&wanted.name)?;
        let driver = self.volume_driver(&wanted.name, &wanted.driver).await?;
        let exists = driver.get(&wanted.name).await.is_ok();
        if !exists {
            let created = driver.create(&wanted.name, &wanted.options).await;
            created.map_err(|error| {
                EngineError::Plugin(format!("create {}: {}", wanted.name, chain(&error)))
            })?;
        }
        let record = match there {
            Some(there) if exists => return Ok((there, false)),
            _ => VolumeRecord {
                name: wanted.name,
                driver: wanted.driver,
                created: Timestamp::now(),
                labels: wanted.labels,
                options: wanted.options,
            },
        };
        self.volumes.register(&record)?;
        Ok((record, !exists))
    }

    /// A volume that a plugin knows, and nobody here.
    async fn volume_of_plugins(&self, name: &str) -> Option<(VolumeDriver, PluginVolume)> {
        for driver in self.plugins.volume_drivers().await {
            if let Ok(volume) = driver.get(name).await {
                return Some((driver, volume));
            }
        }
        None
    }

    /// One volume, by its name.
    pub(crate) async fn show_volume(&self, name: &str) -> Result<Shown> {
        let record = match self.volumes.find(name) {
            Ok(record) if record.is_local() => return Ok(self.show_local(record)),
            Ok(record) => record,
            Err(missing) => {
                let (driver, volume) = self.volume_of_plugins(name).await.ok_or(missing)?;
                let scope = driver.scope().await;
                let shown = Shown::of_plugin(driver.name(), volume, None);
                return Ok(Shown { scope, ..shown });
            }
        };
        let driver = self.volume_driver(name, &record.driver).await?;
        let volume = driver.get(name).await.map_err(|error| match error {
            CallError::Refused { .. } => EngineError::NoSuchVolume(name.to_owned()),
            other => failed(other),
        })?;
        let shown = Shown::of_plugin(driver.name(), volume, Some(record));
        let scope = driver.scope().await;
        Ok(Shown { scope, ..shown })
    }

    /// One that was just made: of a plugin's, without what only it knows if it does not tell.
    pub(crate) async fn show_made(&self, record: VolumeRecord) -> Shown {
        match self.show_volume(&record.name).await {
            Ok(shown) => shown,
            Err(_) => self.show_known(record),
        }
    }

    fn show_local(&self, record: VolumeRecord) -> Shown {
        Shown {
            created: Some(record.created.to_string()),
            mountpoint: self.volumes.data(&record).to_string_lossy().into_owned(),
            scope: "local",
            status: None,
            record,
        }
    }

    /// What is known of a plugin's without asking it.
    fn show_known(&self, record: VolumeRecord) -> Shown {
        let volume = PluginVolume {
            name: record.name.clone(),
            ..PluginVolume::default()
        };
        Shown::of_plugin(&record.driver.clone(), volume, Some(record))
    }

    /// All volumes, by name, and what is missing in the list.
    pub(crate) async fn list_volumes(&self) -> (Vec<Shown>, Vec<String>) {
        let (local, of_plugins): (Vec<_>, Vec<_>) = self
            .volumes
            .all()
            .into_iter()
            .partition(VolumeRecord::is_local);
        let mut all: Vec<_> = local
            .into_iter()
            .map(|record| self.show_local(record))
            .collect();
        let mut warnings = Vec::new();
        let drivers = self.plugins.volume_drivers().await;
        let answers = drivers
            .iter()
            .map(|driver| async move { (driver.list().await, driver.scope().await) });
        let answers = futures_util::future::join_all(answers).await;
        let mut answered = BTreeSet::new();
        for (driver, (listed, scope)) in drivers.iter().zip(answers) {
            match listed {
                Ok(listed) => {
                    answered.insert(driver.name().to_owned());
                    all.extend(listed.into_iter().map(|volume| {
                        let is_it = |known: &&VolumeRecord| {
                            known.name == volume.name && known.driver == driver.name()
                        };
                        let known = of_plugins.iter().find(is_it).cloned();
                        let shown = Shown::of_plugin(driver.name(), volume, known);
                        Shown { scope, ..shown }
                    }));
                }
                Err(error) => warnings.push(chain(&error)),
            }
        }
        for record in of_plugins {
            if !answered.contains(&record.driver) {
                warnings.push(format!(
                    "volume {}: its plugin {} does not answer",
                    record.name, record.driver
                ));
                all.push(self.show_known(record));
            }
        }
        all.sort_by(|one, other| one.record.name.cmp(&other.record.name));
        (all, warnings)
    }

    /// Removes a volume that no container has. With `force`, one of a plugin is forgotten even if
    /// that does not answer.
    pub(crate) async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let (name, driver) = match self.volumes.find(name) {
            Ok(record) => (record.name, record.driver),
            Err(missing) => {
                let (driver, volume) = self.volume_of_plugins(name).await.ok_or(missing)?;
                (volume.name, driver.name().to_owned())
            }
        };
        let users = self.volume_users(&name);
        if !users.is_empty() {
            return Err(EngineError::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        if driver != LOCAL {
            match self.remove_by_plugin(&name, &driver).await {
                Err(error) if force => {
                    tracing::warn!(name, error = error.message(), "a volume is forgotten");
                }
                other => other?,
            }
        }
        let gone = name.clone();
        match self.on_disk(move |volumes| volumes.remove(&gone)).await {
            Err(EngineError::NoSuchVolume(_)) if driver != LOCAL => {}
            other => drop(other?),
        }
        self.publish_volume("destroy", &name, &driver, HashMap::new());
        Ok(())
    }

    /// Making a file system and removing a million files take their time, in which others go on.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Volumes) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let volumes = Arc::clone(&self.volumes);
        let done = tokio::task::spawn_blocking(move || work(&volumes)).await;
        let ended = |error: tokio::task::JoinError| {
            EngineError::io("work on", &self.volumes.root, std::io::Error::other(error))
        };
        done.map_err(ended)?
    }

    async fn remove_by_plugin(&self, name: &str, driver: &str) -> Result<()> {
        let driver = self.volume_driver(name, driver).await?;
        let removed = driver.remove(name).await;
        removed.map_err(|error| EngineError::Plugin(format!("remove {name}: {}", chain(&error))))
    }

    /// Waits until nobody else fills the container's empty volumes. To be kept until its guest has
    /// mounted them.
    pub(crate) async fn alone_at_empty_volumes(&self, record: &Record) -> Vec<OwnedMutexGuard<()>> {
        // In one order, so that no two wait for each other.
        let names: BTreeSet<&str> = record
            .volumes
            .iter()
            .filter(|wanted| !wanted.no_copy)
            .map(|wanted| wanted.name.as_str())
            .collect();
        let mut alone = Vec::new();
        for name in names {
            let may_be_filled = |volume: VolumeRecord| {
                volume.is_local()
                    && !volume.is_disk()
                    && volume.tmpfs().is_none()
                    && self.volumes.is_empty(&volume)
            };
            if self.volumes.find(name).is_ok_and(may_be_filled) {
                alone.push(self.volumes.fill(name).lock_owned().await);
            }
        }
        alone
    }

    /// Mounts a container's volumes of plugins. What has been mounted when it fails is given back by
    /// [`Engine::release_volumes`], also by a later hulld: the record says it before it is so.
    pub(crate) async fn hold_volumes(&self, container: &Container) -> Result<()> {
        let record = container.record();
        let mut held: Vec<Held> = Vec::new();
        for wanted in &record.volumes {
            let volume = self.volumes.find(&wanted.name)?;
            if !volume.is_local() && !held.iter().any(|held| held.name == volume.name) {
                held.push(Held {
                    name: volume.name,
                    driver: volume.driver,
                    mountpoint: None,
                });
            }
        }
        if held.is_empty() && record.held.is_empty() {
            return Ok(());
        }
        // What an earlier run could not give back is still to be given back.
        for left in &record.held {
            if !held.iter().any(|held| held.name == left.name) {
                held.push(left.clone());
            }
        }
        self.update(container, |record| record.held.clone_from(&held))
            .await?;
        for held in held.iter_mut() {
            if !record.volumes.iter().any(|wanted| wanted.name == held.name) {
                continue;
            }
            let mounted = async {
                let driver = self.volume_driver(&held.name, &held.driver).await?;
                driver
                    .mount(&held.name, container.id())
                    .await
                    .map_err(failed)
            };
            let mounted = mounted.await.map_err(|error| {
                EngineError::Plugin(format!(
                    "error while mounting volume '{}': {}",
                    held.name,
                    error.message()
                ))
            })?;
            held.mountpoint = Some(mounted);
        }
        self.update(container, |record| record.held = held).await
    }

    /// Gives a container's volumes back to their plugins. One that does not answer is asked again
    /// with the container's next end, or by the next hulld.
    pub(crate) async fn release_volumes(&self, container: &Container) {
        let held = container.record().held;
        if held.is_empty() {
            return;
        }
        let mut left = Vec::new();
        for held in held {
            let driver = self
                .plugins
                .volume_driver(&held.driver, Patience::None)
                .await;
            let (silent, why) = match driver {
                Ok(driver) => match driver.unmount(&held.name, container.id()).await {
                    Ok(()) => continue,
                    Err(error) => (error.is_silence(), chain(&error)),
                },
                Err(error) => (true, chain(&error)),
            };
            tracing::warn!(
                id = container.id(),
                volume = held.name,
                error = why,
                "giving a volume back"
            );
            if silent {
                left.push(Held {
                    mountpoint: None,
                    ..held
                });
            }
        }
        if let Err(error) = self.update(container, |record| record.held = left).await {
            tracing::error!(id = container.id(), error = error.message(), "store");
        }
    }

    /// Ids of the containers that have a volume, also of those that do not run.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let containers = self.containers();
        let has = |id: &&String| {
            let container = containers.get(*id);
            container.is_some_and(|c| c.lock().volumes.iter().any(|volume| volume.name == name))
        };
        containers.keys().filter(has).cloned().collect()
    }

    /// Tells of a volume.
    pub(crate) fn publish_volume(
        &self,
        action: &str,
        name: &str,
        driver: &str,
        mut attributes: HashMap<String, String>,
    ) {
        attributes.insert("driver".to_owned(), driver.to_owned());
        self.events
            .publish(EventMessageTypeEnum::VOLUME, action, name, attributes);
    }

    /// Bytes of a volume's files; what a plugin has is not counted.
    pub(crate) fn volume_size(&self, volume: &VolumeRecord) -> Option<u64> {
        volume
            .is_local()
            .then(|| super::bytes_of(&self.volumes.data(volume)))
    }
}
