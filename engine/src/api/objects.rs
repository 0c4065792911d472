//! `/plugins`: none so far.

use std::sync::Arc;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;

use super::respond::Answer;
use crate::engine::Engine;
use crate::error::EngineError;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/plugins", get(plugins))
        .route("/plugins/{name}/json", get(plugin))
}

async fn plugins() -> Json<Vec<Value>> {
    Json(Vec::new())
}

async fn plugin(Path(name): Path<String>) -> Answer<Json<Value>> {
    Err(EngineError::NoSuchPlugin(name).into())
}
