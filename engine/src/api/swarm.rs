//! Swarm's objects, as an engine answers that is no swarm manager, and plugins: none.

use std::sync::Arc;

use axum::extract::Path;
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::Value;

use super::respond::Answer;
use super::ApiError;
use crate::engine::Engine;
use crate::error::EngineError;

/// Objects of a swarm manager.
const OBJECTS: [&str; 5] = ["/nodes", "/services", "/tasks", "/secrets", "/configs"];

pub(super) fn routes() -> Router<Arc<Engine>> {
    let swarm = OBJECTS.iter().fold(Router::new(), |router, path| {
        router
            .route(path, any(no_swarm))
            .route(&format!("{path}/{{*rest}}"), any(no_swarm))
    });
    swarm
        .route("/swarm", get(no_swarm))
        .route("/swarm/unlockkey", get(no_swarm))
        .route("/swarm/update", any(no_swarm))
        .route("/swarm/leave", any(no_part))
        .route("/swarm/{*rest}", any(no_swarm))
        .route("/plugins", get(plugins))
        .route("/plugins/{*rest}", any(plugin))
}

async fn no_swarm() -> ApiError {
    EngineError::NoSwarm.into()
}

async fn no_part() -> ApiError {
    EngineError::NoPartOfSwarm.into()
}

async fn plugins() -> Json<Vec<Value>> {
    Json(Vec::new())
}

/// `pull`, `create` and `privileges` make plugins; the rest is about one.
async fn plugin(Path(rest): Path<String>) -> Answer<Json<Value>> {
    match rest.as_str() {
        "pull" | "create" | "privileges" => {
            Err(EngineError::NotBuilt(format!("/plugins/{rest}")).into())
        }
        _ => {
            let name = rest
                .rsplit_once('/')
                .map_or(rest.as_str(), |(name, action)| {
                    let actions = ["json", "enable", "disable", "set", "push", "upgrade"];
                    if actions.contains(&action) {
                        name
                    } else {
                        &rest
                    }
                });
            Err(EngineError::NoSuchPlugin(name.to_owned()).into())
        }
    }
}
