//! `/volumes`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use bollard_stubs::models::{EventMessageTypeEnum, VolumeCreateRequest};
use serde_json::{json, Value};

use super::respond::Answer;
use super::{body_json, Query, Shared, Version};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::label_matches;
use crate::filters;
use crate::json::Filters;
use crate::volumes::{CreateVolume, VolumeRecord, LOCAL};

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove))
}

fn view(engine: &Engine, volume: &VolumeRecord) -> Value {
    let options = (!volume.options.is_empty()).then_some(&volume.options);
    json!({
        "CreatedAt": volume.created.to_string(),
        "Driver": LOCAL,
        "Labels": volume.labels,
        "Mountpoint": engine.volumes.data(volume),
        "Name": volume.name,
        "Options": options,
        "Scope": "local",
    })
}

async fn list(engine: Shared, Query(query): Query) -> Answer<Json<Value>> {
    let filters = query.filters()?;
    filters::check(&filters, &["dangling", "driver", "label", "label!", "name"])?;
    let mut found = Vec::new();
    for volume in engine.volumes.all() {
        if matches(&engine, &volume, &filters)? {
            found.push(view(&engine, &volume));
        }
    }
    Ok(Json(json!({ "Volumes": found, "Warnings": null })))
}

/// All volumes with what they take on disk and how many containers have them.
pub(super) fn with_usage(engine: &Engine) -> Vec<Value> {
    let one = |volume: VolumeRecord| {
        let mut shown = view(engine, &volume);
        shown["UsageData"] = json!({
            "Size": engine.volume_size(&volume),
            "RefCount": engine.volume_users(&volume.name).len(),
        });
        shown
    };
    engine.volumes.all().into_iter().map(one).collect()
}

fn matches(engine: &Engine, volume: &VolumeRecord, filters: &Filters) -> Result<bool> {
    for (key, values) in filters {
        let any = |test: &dyn Fn(&str) -> bool| values.iter().any(|value| test(value));
        let holds = match key.as_str() {
            "name" => filters::finds(values, &[&volume.name]),
            "driver" => any(&|value| value == LOCAL),
            "label" => values.iter().all(|v| label_matches(v, &volume.labels)),
            "label!" => !any(&|value| label_matches(value, &volume.labels)),
            "dangling" => {
                let unused = engine.volume_users(&volume.name).is_empty();
                let wanted = filters::booleans(filters, "dangling")?;
                wanted.is_some_and(|wanted| wanted.contains(&unused))
            }
            _ => true,
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn create(engine: Shared, body: axum::body::Body) -> Answer<(StatusCode, Json<Value>)> {
    let request: VolumeCreateRequest = body_json(body).await?;
    if request.cluster_volume_spec.is_some() {
        return Err(EngineError::NotBuilt("a cluster volume".to_owned()).into());
    }
    let (volume, new) = engine.volumes.create(CreateVolume {
        name: request.name.unwrap_or_default(),
        driver: request.driver.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
        options: request.driver_opts.unwrap_or_default(),
    })?;
    if new {
        engine.publish_volume("create", &volume.name, HashMap::new());
    }
    Ok((StatusCode::CREATED, Json(view(&engine, &volume))))
}

async fn inspect(engine: Shared, Path(name): Path<String>) -> Answer<Json<Value>> {
    let volume = engine.volumes.find(&name)?;
    Ok(Json(view(&engine, &volume)))
}

async fn remove(
    engine: Shared,
    Path(name): Path<String>,
    Query(query): Query,
) -> Answer<StatusCode> {
    match engine.remove_volume(&name) {
        // `-f` is for volumes that are gone.
        Err(EngineError::NoSuchVolume(_)) if query.flag("force") => {}
        other => other?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(engine: Shared, version: Version, Query(query): Query) -> Answer<Json<Value>> {
    let mut filters = query.filters()?;
    filters::check(&filters, &["all", "label", "label!"])?;
    let all = filters.remove("all").unwrap_or_default();
    // There was no difference before, and who asks so means all.
    let all = version.is_before(42)
        || all
            .iter()
            .any(|value| matches!(value.as_str(), "1" | "true"));
    let mut deleted = Vec::new();
    let mut space = 0;
    for volume in engine.volumes.all() {
        let unused = engine.volume_users(&volume.name).is_empty();
        let wanted = (all || volume.is_anonymous()) && matches(&engine, &volume, &filters)?;
        let size = || engine.volume_size(&volume);
        if unused && wanted {
            let size = size();
            if engine.remove_volume(&volume.name).is_ok() {
                deleted.push(volume.name);
                space += size;
            }
        }
    }
    Ok(Json(
        json!({ "VolumesDeleted": deleted, "SpaceReclaimed": space }),
    ))
}

impl Engine {
    /// Ids of the containers that have a volume, also of those that do not run.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let containers = self.containers();
        let has = |id: &&String| {
            let container = containers.get(*id);
            container.is_some_and(|c| c.lock().volumes.iter().any(|volume| volume.name == name))
        };
        containers.keys().filter(has).cloned().collect()
    }

    /// Removes a volume that no container has.
    pub(crate) fn remove_volume(&self, name: &str) -> Result<()> {
        let volume = self.volumes.find(name)?;
        let users = self.volume_users(&volume.name);
        if !users.is_empty() {
            return Err(EngineError::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        self.volumes.remove(&volume.name)?;
        self.publish_volume("destroy", name, HashMap::new());
        Ok(())
    }

    /// Tells of a volume.
    pub(crate) fn publish_volume(
        &self,
        action: &str,
        name: &str,
        mut attributes: HashMap<String, String>,
    ) {
        attributes.insert("driver".to_owned(), LOCAL.to_owned());
        self.events
            .publish(EventMessageTypeEnum::VOLUME, action, name, attributes);
    }

    /// Bytes of a volume's files.
    pub(crate) fn volume_size(&self, volume: &VolumeRecord) -> u64 {
        crate::volumes::bytes_of(&self.volumes.data(volume))
    }
}
