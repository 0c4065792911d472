//! `/system/df`: what takes how much disk; and `/build/prune`, where no build has left anything.

use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{json, Value};

use super::respond::Answer;
use super::{Query, Shared, Version};
use crate::container::ListOptions;
use crate::engine::Engine;
use crate::error::{EngineError, Result};

const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/system/df", get(usage))
        .route("/build/prune", post(prune_builds))
}

async fn prune_builds(query: Query) -> Answer<Json<Value>> {
    query.0.filters()?;
    Ok(Json(json!({ "CachesDeleted": null, "SpaceReclaimed": 0 })))
}

/// The kinds that `?type=A&type=B` names; all if it names none.
fn kinds(named: &[String]) -> Result<Vec<&'static str>> {
    let known = |name: &str| {
        let kind = KINDS.iter().find(|kind| **kind == name);
        kind.copied()
            .ok_or_else(|| EngineError::BadRequest(format!("unknown object type: {name}")))
    };
    let wanted = named
        .iter()
        .map(|name| known(name))
        .collect::<Result<Vec<_>>>()?;
    Ok(match wanted.is_empty() {
        true => KINDS.to_vec(),
        false => wanted,
    })
}

async fn usage(engine: Shared, version: Version, query: Query) -> Answer<Json<Value>> {
    let mut answer = json!({
        "LayersSize": 0, "Images": null, "Containers": null, "Volumes": null, "BuildCache": null,
    });
    if version.is_before(42) {
        answer["BuilderSize"] = json!(0);
    }
    for kind in kinds(query.0.all("type"))? {
        match kind {
            "image" => {
                let (images, bytes) = super::images::summaries(&engine).await?;
                answer["LayersSize"] = json!(bytes);
                answer["Images"] = json!(images);
            }
            "container" => {
                let options = ListOptions {
                    all: true,
                    sizes: true,
                    ..ListOptions::default()
                };
                answer["Containers"] = json!(engine.list_containers(&options).await?);
            }
            "volume" => answer["Volumes"] = json!(super::volumes::with_usage(&engine).await),
            _ => answer["BuildCache"] = json!([]),
        }
    }
    Ok(Json(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_chosen_by_the_query() {
        assert_eq!(kinds(&[]).unwrap(), KINDS);
        assert_eq!(
            kinds(&["image".to_owned(), "volume".to_owned()]).unwrap(),
            ["image", "volume"]
        );
        assert!(kinds(&["moon".to_owned()]).is_err());
    }
}
