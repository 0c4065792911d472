//! Docker's plugins: programs of others that serve a socket on this host, such as drivers of volumes.
//! What they answer is foreign: it is bounded in time and size, and looked at before it is used.

mod client;
mod discover;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

pub(crate) use client::{CallError, Patience};
pub(crate) use discover::Address;
pub(crate) use volumes::{PluginVolume, VolumeDriver};

/// The kind of plugin that makes volumes.
const VOLUME_DRIVER: &str = "VolumeDriver";

/// Why there is no driver of this name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    /// Nothing of this name is there.
    #[error("plugin \"{0}\" not found")]
    NotFound(String),
    /// What is there does not say where the plugin listens.
    #[error("plugin \"{name}\": {path:?}: {why}")]
    Specification {
        name: String,
        path: PathBuf,
        why: String,
    },
    /// It is a plugin, but of another kind.
    #[error("plugin \"{0}\" does not implement the requested interface: VolumeDriver")]
    OtherKind(String),
    /// It did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// All plugins of this host.
#[derive(Debug)]
pub(crate) struct Plugins {
    places: discover::Places,
    /// What the plugins are that said so already.
    active: Mutex<BTreeMap<String, Active>>,
}

#[derive(Debug, Clone)]
struct Active {
    address: Address,
    kinds: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Activation {
    #[serde(default)]
    implements: Option<BTreeSet<String>>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self::in_places(discover::Places::default())
    }
}

impl Plugins {
    fn in_places(places: discover::Places) -> Self {
        Self {
            places,
            active: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver of volumes with a name. A plugin is asked once what it is.
    pub(crate) async fn volume_driver(
        &self,
        name: &str,
        patience: Patience,
    ) -> Result<VolumeDriver, PluginError> {
        let address = self.places.find(name)?;
        let known = self.lock().get(name).cloned();
        let active = match known.filter(|known| known.address == address) {
            Some(active) => active,
            None => {
                let active = activate(name, &address, patience).await?;
                self.lock().insert(name.to_owned(), active.clone());
                active
            }
        };
        match active.kinds.contains(VOLUME_DRIVER) {
            true => Ok(VolumeDriver::new(name, address)),
            false => Err(PluginError::OtherKind(name.to_owned())),
        }
    }

    /// All drivers of volumes that answer now.
    pub(crate) async fn volume_drivers(&self) -> Vec<VolumeDriver> {
        let names = self.places.names();
        let asked = names
            .iter()
            .map(|name| self.volume_driver(name, Patience::None));
        let answers = futures_util::future::join_all(asked).await;
        answers
            .into_iter()
            .filter_map(|answer| {
                answer
                    .inspect_err(|error| tracing::debug!(%error, "a plugin is left out"))
                    .ok()
            })
            .collect()
    }
}

async fn activate(name: &str, address: &Address, patience: Patience) -> Result<Active, CallError> {
    let call = client::Call {
        plugin: name,
        address,
        method: "Plugin.Activate",
        patience,
    };
    let answer: Activation = call.send(None::<&()>).await?;
    Ok(Active {
        address: address.clone(),
        kinds: answer.implements.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
