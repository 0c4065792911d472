//! The methods of a driver of volumes.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::client::{Call, CallError, Patience};
use super::Address;

/// Longest path that a plugin may name, in bytes.
const MAX_PATH: usize = 4096;
/// Longest name of a volume, in bytes.
const MAX_NAME: usize = 255;

/// A driver of volumes that a plugin is.
#[derive(Debug, Clone)]
pub(crate) struct VolumeDriver {
    name: String,
    address: Address,
}

/// A volume, as its plugin describes it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PluginVolume {
    pub(crate) name: String,
    pub(crate) mountpoint: Option<String>,
    pub(crate) created_at: Option<String>,
    pub(crate) status: Option<Map<String, Value>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Named<'a> {
    name: &'a str,
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opts: Option<&'a HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mounted {
    #[serde(default)]
    mountpoint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    #[serde(default)]
    volume: Option<PluginVolume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    #[serde(default)]
    volumes: Option<Vec<PluginVolume>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Capabilities {
    capabilities: Option<Capability>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Capability {
    scope: Option<String>,
}

impl VolumeDriver {
    pub(super) fn new(name: &str, address: Address) -> Self {
        Self {
            name: name.to_owned(),
            address,
        }
    }

    /// The plugin's.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn prepared(&self, method: &'static str, patience: Patience) -> Call<'_> {
        Call {
            plugin: &self.name,
            address: &self.address,
            method,
            patience,
        }
    }

    async fn work<T: DeserializeOwned>(
        &self,
        method: &'static str,
        request: &Named<'_>,
    ) -> Result<T, CallError> {
        self.prepared(method, Patience::Work)
            .send(Some(request))
            .await
    }

    /// Makes a volume.
    pub(crate) async fn create(
        &self,
        name: &str,
        options: &HashMap<String, String>,
    ) -> Result<(), CallError> {
        let request = Named {
            opts: Some(options),
            ..named(name)
        };
        let Nothing {} = self.work("VolumeDriver.Create", &request).await?;
        Ok(())
    }

    /// Removes one.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), CallError> {
        let Nothing {} = self.work("VolumeDriver.Remove", &named(name)).await?;
        Ok(())
    }

    /// One that is there.
    pub(crate) async fn get(&self, name: &str) -> Result<PluginVolume, CallError> {
        let call = self.prepared("VolumeDriver.Get", Patience::None);
        let found: Found = call.send(Some(&named(name))).await?;
        let volume = found.volume.filter(|volume| volume.name == name);
        volume.ok_or_else(|| call.garbled(&"it is of another volume"))
    }

    /// All. Names that no volume can have are left out.
    pub(crate) async fn list(&self) -> Result<Vec<PluginVolume>, CallError> {
        let call = self.prepared("VolumeDriver.List", Patience::None);
        let list: List = call.send(Some(&Map::new())).await?;
        let mut volumes = list.volumes.unwrap_or_default();
        volumes.retain(|volume| is_name(&volume.name));
        Ok(volumes)
    }

    /// Where volumes of this driver are: `global` or `local`.
    pub(crate) async fn scope(&self) -> &'static str {
        let call = self.prepared("VolumeDriver.Capabilities", Patience::None);
        let answer: Result<Capabilities, _> = call.send(Some(&Map::new())).await;
        let scope = answer
            .unwrap_or_default()
            .capabilities
            .and_then(|found| found.scope);
        match scope.as_deref() {
            Some("global") => "global",
            _ => "local",
        }
    }

    /// Mounts a volume for a user of it, by whose id it is given back. Returns the directory.
    pub(crate) async fn mount(&self, name: &str, id: &str) -> Result<PathBuf, CallError> {
        let request = Named {
            id: Some(id),
            ..named(name)
        };
        let method = "VolumeDriver.Mount";
        let mounted: Mounted = self.work(method, &request).await?;
        let path = PathBuf::from(mounted.mountpoint.unwrap_or_default());
        check_mountpoint(&path)
            .map_err(|why| self.prepared(method, Patience::Work).garbled(&why))?;
        Ok(path)
    }

    /// Gives it back.
    pub(crate) async fn unmount(&self, name: &str, id: &str) -> Result<(), CallError> {
        let request = Named {
            id: Some(id),
            ..named(name)
        };
        let Nothing {} = self.work("VolumeDriver.Unmount", &request).await?;
        Ok(())
    }
}

fn named(name: &str) -> Named<'_> {
    Named {
        name,
        id: None,
        opts: None,
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// A guest gets what is there: it has to be a directory of its own, told without detours.
fn check_mountpoint(path: &Path) -> Result<(), String> {
    let straight = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if MAX_PATH < path.as_os_str().len() || !path.is_absolute() || !straight {
        return Err(format!("{path:?} is no absolute path"));
    }
    if path.parent().is_none() {
        return Err("the host's own root is no volume".to_owned());
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{path:?} is no directory")),
        Err(error) => Err(format!("{path:?}: {error}")),
    }
}
