//! `POST /hull/images/repair`: the store's blobs are read, and damaged ones pulled again.

use axum::Json;
use serde_json::{json, Value};

use super::respond::Answer;
use super::Shared;

pub(super) async fn repair(engine: Shared) -> Answer<Json<Value>> {
    let repairs = engine.images.repair().await?;
    let problems: Vec<Value> = repairs
        .into_iter()
        .map(|repair| {
            json!({
                "Digest": repair.digest.to_string(),
                "Problem": repair.problem,
                "Image": repair.image,
                "Error": repair.outcome.err(),
            })
        })
        .collect();
    Ok(Json(json!({ "Problems": problems })))
}
