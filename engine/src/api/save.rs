//! `/images/get` and `/images/load`: images as archives.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::TryStreamExt as _;
use serde_json::json;

use super::images::publish;
use super::platform;
use super::progress::{as_line, with_progress, ProgressLines};
use super::respond::{Answer, ApiError};
use super::{Query, Shared};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::parse_reference;
use crate::json::Params;

/// `?names=A&names=B`.
pub(super) async fn save_many(engine: Shared, query: Query) -> Answer<Response> {
    let values = query.0.all("names").iter();
    let names: Vec<String> = values
        .flat_map(|value| value.split(',').map(str::to_owned))
        .collect();
    save(&engine, &names, &query.0).await
}

/// Images as an archive, if each is for the platform that the query may name.
pub(super) async fn save(
    engine: &Arc<Engine>,
    names: &[String],
    query: &Params,
) -> Answer<Response> {
    if names.is_empty() {
        return Err(EngineError::BadRequest("no image is named".to_owned()).into());
    }
    let mut saved: Vec<hull_image::Saved> = Vec::new();
    for name in names {
        let image = platform::find(engine, name, query).await?;
        // An id is saved without a name; a repository with all its tags, a tag with itself.
        let tags = image
            .repo_tags
            .iter()
            .filter_map(|tag| parse_reference(tag).ok());
        let wanted = parse_reference(name).ok();
        let own = tags.filter(|tag| {
            wanted.as_ref().is_some_and(|wanted| {
                let same = tag.repository() == wanted.repository();
                same && tag.registry() == wanted.registry()
                    && (wanted.tag().is_none() || wanted.tag() == tag.tag())
            })
        });
        let own: Vec<_> = own.collect();
        match saved.iter_mut().find(|other| other.image == image.id) {
            Some(other) => other.names.extend(own),
            None => saved.push(hull_image::Saved {
                image: image.id,
                names: own,
            }),
        }
    }
    let body = Body::from_stream(engine.images.save(saved).await?);
    let kind = [(axum::http::header::CONTENT_TYPE, "application/x-tar")];
    Ok((StatusCode::OK, kind, body).into_response())
}

pub(super) async fn load(engine: Shared, Query(query): Query, body: Body) -> Answer<Response> {
    platform::check_own(&query)?;
    let engine = Arc::clone(&engine);
    let operation = move |progress: ProgressLines| async move {
        let pieces = body.into_data_stream().map_err(std::io::Error::other);
        let archive = tokio_util::io::StreamReader::new(Box::pin(pieces));
        let loaded = engine.images.load(archive, &progress).await?;
        let mut lines = Vec::new();
        for image in loaded {
            let id = image.image.id.to_string();
            publish(&engine, "load", &id, &id);
            if image.names.is_empty() {
                lines.push(json!({ "stream": format!("Loaded image ID: {id}\n") }));
            }
            for name in &image.names {
                lines.push(json!({ "stream": format!("Loaded image: {name}\n") }));
            }
        }
        Ok(lines)
    };
    with_progress(operation, query.flag("quiet"))
        .await
        .or_else(|ApiError(error)| Ok(as_line(&error)))
}
