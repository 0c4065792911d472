//! `/volumes`.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use bollard_stubs::models::{EventMessageTypeEnum, VolumeCreateRequest};
use serde_json::{json, Value};

use super::respond::Answer;
use super::{body_json, ApiError, Query, Shared, Version};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::label_matches;
use crate::filters::{self, Patterns};
use crate::json::Filters;
use crate::volumes::{CreateVolume, Shown, VolumeRecord};

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove).put(update))
}

fn view(volume: &Shown) -> Value {
    let record = &volume.record;
    let options = (!record.options.is_empty()).then_some(&record.options);
    let mut view = json!({
        "Driver": record.driver,
        "Labels": (!record.labels.is_empty()).then_some(&record.labels),
        "Mountpoint": volume.mountpoint,
        "Name": record.name,
        "Options": options,
        "Scope": volume.scope,
    });
    if let Some(created) = &volume.created {
        view["CreatedAt"] = json!(created);
    }
    if let Some(status) = &volume.status {
        view["Status"] = json!(status);
    }
    view
}

async fn list(engine: Shared, Query(query): Query) -> Answer<Json<Value>> {
    let filters = query.filters()?;
    filters::check(&filters, &["dangling", "driver", "label", "label!", "name"])?;
    let names = Patterns::of(&filters, "name");
    let (all, warnings) = engine.list_volumes().await;
    let mut found = Vec::new();
    for volume in all {
        let named = names.pass(&[&volume.record.name]);
        if named && matches(&engine, &volume.record, &filters)? {
            found.push(view(&volume));
        }
    }
    let warnings = (!warnings.is_empty()).then_some(warnings);
    Ok(Json(json!({ "Volumes": found, "Warnings": warnings })))
}

/// All volumes with what they take on disk, where that can be told, and how many containers have
/// them.
pub(super) async fn with_usage(engine: &Arc<Engine>) -> Vec<Value> {
    let mut all = Vec::new();
    for volume in engine.list_volumes().await.0 {
        let mut shown = view(&volume);
        let size = size_of(engine, &volume.record).await;
        shown["UsageData"] = json!({
            "Size": size.map_or(json!(-1), |size| json!(size)),
            "RefCount": engine.volume_users(&volume.record.name).len(),
        });
        all.push(shown);
    }
    all
}

/// What a volume takes on disk. It may have any number of files, and the daemon has others to serve.
async fn size_of(engine: &Arc<Engine>, volume: &VolumeRecord) -> Option<u64> {
    let (engine, volume) = (Arc::clone(engine), volume.clone());
    let size = tokio::task::spawn_blocking(move || engine.volume_size(&volume));
    size.await.ok().flatten()
}

fn matches(engine: &Engine, volume: &VolumeRecord, filters: &Filters) -> Result<bool> {
    for (key, values) in filters {
        let any = |test: &dyn Fn(&str) -> bool| values.iter().any(|value| test(value));
        let holds = match key.as_str() {
            "driver" => any(&|value| value == volume.driver),
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

/// Volumes of a cluster alone can be changed.
async fn update() -> ApiError {
    EngineError::NoSwarm.into()
}

async fn create(engine: Shared, body: axum::body::Body) -> Answer<(StatusCode, Json<Value>)> {
    let request: VolumeCreateRequest = body_json(body).await?;
    if request.cluster_volume_spec.is_some() {
        return Err(EngineError::NotBuilt("a cluster volume".to_owned()).into());
    }
    let wanted = CreateVolume {
        name: request.name.unwrap_or_default(),
        driver: request.driver.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
        options: request.driver_opts.unwrap_or_default(),
    };
    let (volume, _) = engine.create_volume(wanted).await?;
    let shown = engine.show_made(volume).await;
    Ok((StatusCode::CREATED, Json(view(&shown))))
}

async fn inspect(engine: Shared, Path(name): Path<String>) -> Answer<Json<Value>> {
    Ok(Json(view(&engine.show_volume(&name).await?)))
}

async fn remove(
    engine: Shared,
    Path(name): Path<String>,
    Query(query): Query,
) -> Answer<StatusCode> {
    let force = query.flag("force");
    match engine.remove_volume(&name, force).await {
        // `-f` is for volumes that are gone.
        Err(EngineError::NoSuchVolume(_)) if force => {}
        other => other?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(engine: Shared, version: Version, Query(query): Query) -> Answer<Json<Value>> {
    let mut filters = query.filters()?;
    filters::check(&filters, &["all", "label", "label!"])?;
    let all = filters::booleans(&filters, "all")?.unwrap_or_default();
    filters.remove("all");
    // There was no difference before, and who asks so means all.
    let all = version.is_before(42) || all.contains(&true);
    let mut deleted = Vec::new();
    let mut space = 0;
    // As dockerd: what plugins have is theirs.
    for volume in engine
        .volumes
        .all()
        .into_iter()
        .filter(VolumeRecord::is_local)
    {
        let unused = engine.volume_users(&volume.name).is_empty();
        let wanted = (all || volume.is_anonymous()) && matches(&engine, &volume, &filters)?;
        if unused && wanted {
            let size = size_of(&engine, &volume).await.unwrap_or_default();
            if engine.remove_volume(&volume.name, false).await.is_ok() {
                deleted.push(volume.name);
                space += size;
            }
        }
    }
    engine.publish_prune(EventMessageTypeEnum::VOLUME, space);
    Ok(Json(
        json!({ "VolumesDeleted": deleted, "SpaceReclaimed": space }),
    ))
}
