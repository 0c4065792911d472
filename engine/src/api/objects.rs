//! `/networks` and `/volumes`: only the built-in network `none` so far; no plugins.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{json, Value};

use super::respond::Answer;
use super::{Query, Shared};
use crate::engine::Engine;
use crate::error::EngineError;

/// Id of the network `none`: the same in every engine.
const NONE_ID: &str = "6e6f6e6500000000000000000000000000000000000000000000000000000000";

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/networks", get(networks))
        .route("/networks/{name}", get(network))
        .route("/volumes", get(volumes))
        .route("/volumes/{name}", get(volume))
        .route("/plugins", get(plugins))
        .route("/plugins/{name}/json", get(plugin))
}

fn none() -> Value {
    json!({
        "Name": "none",
        "Id": NONE_ID,
        "Created": "1970-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": "null",
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [] },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": HashMap::<String, String>::new(),
    })
}

async fn networks(Query(query): Query) -> Answer<Json<Vec<Value>>> {
    let filters = query.filters()?;
    let shown = filters.iter().all(|(key, wanted)| match key.as_str() {
        "name" => wanted.iter().any(|name| "none".contains(name.as_str())),
        "id" => wanted.iter().any(|id| NONE_ID.starts_with(id.as_str())),
        "driver" => wanted.iter().any(|driver| driver == "null"),
        "scope" => wanted.iter().any(|scope| scope == "local"),
        "type" => wanted.iter().any(|kind| kind == "builtin"),
        _ => false,
    });
    Ok(Json(if shown { vec![none()] } else { Vec::new() }))
}

async fn network(Path(name): Path<String>) -> Answer<Json<Value>> {
    let is_id = 3 < name.len() && NONE_ID.starts_with(&name);
    if name == "none" || is_id {
        return Ok(Json(none()));
    }
    Err(EngineError::NoSuchNetwork(name).into())
}

async fn volumes(_: Shared) -> Json<Value> {
    Json(json!({ "Volumes": [], "Warnings": [] }))
}

async fn volume(Path(name): Path<String>) -> Answer<Json<Value>> {
    Err(EngineError::NoSuchVolume(name).into())
}

async fn plugins() -> Json<Vec<Value>> {
    Json(Vec::new())
}

async fn plugin(Path(name): Path<String>) -> Answer<Json<Value>> {
    Err(EngineError::NoSuchPlugin(name).into())
}
