//! `/images/get` and `/images/load`: images as archives.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::TryStreamExt as _;
use hull_image::{Image, Reference, Saved};
use serde_json::json;

use super::images::{created, publish};
use super::platform;
use super::progress::{as_line, with_progress, ProgressLines};
use super::respond::{Answer, ApiError};
use super::{Query, Shared};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
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
    let mut saved: Vec<Saved> = Vec::new();
    for name in names {
        for new in named(engine, name, query).await? {
            match saved.iter_mut().find(|other| other.image == new.image) {
                Some(other) => {
                    for name in new.names {
                        if !other.names.contains(&name) {
                            other.names.push(name);
                        }
                    }
                }
                None => saved.push(new),
            }
        }
    }
    for image in saved.iter().map(|saved| saved.image.to_string()) {
        publish(engine, "save", &image, &image);
    }
    let body = Body::from_stream(engine.images.save(saved).await?);
    let kind = [(axum::http::header::CONTENT_TYPE, "application/x-tar")];
    Ok((StatusCode::OK, kind, body).into_response())
}

/// The images that a name means, and the names under which they are saved: a repository is all of
/// its tags, a tag is itself, and what is named by an id or a digest is saved without a name.
async fn named(engine: &Engine, name: &str, query: &Params) -> Result<Vec<Saved>> {
    let wanted = parse_reference(name).ok();
    if let Some(repository) = wanted.as_ref().filter(|_| is_repository(name)) {
        let mut found = Vec::new();
        for image in engine.images.list().await? {
            let names: Vec<_> = tags_of(&image)
                .filter(|tag| is_of(tag, repository))
                .collect();
            if !names.is_empty() {
                platform::check_image(name, &image, query)?;
                found.push(saved_as(&image, names));
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let image = platform::find(engine, name, query).await?;
    let same = |tag: &Reference| {
        let wanted = wanted.as_ref();
        wanted.is_some_and(|it| it.digest().is_none() && is_of(tag, it) && tag.tag() == it.tag())
    };
    let names = tags_of(&image).filter(same).collect();
    Ok(vec![saved_as(&image, names)])
}

/// Whether a name has neither a tag nor a digest.
fn is_repository(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    !last.contains([':', '@'])
}

fn saved_as(image: &Image, names: Vec<Reference>) -> Saved {
    let made = created(image).map(jiff::Timestamp::as_second);
    Saved {
        image: image.id,
        names,
        made: made.and_then(|made| made.try_into().ok()).unwrap_or(0),
    }
}

fn tags_of(image: &Image) -> impl Iterator<Item = Reference> + '_ {
    let tags = image.repo_tags.iter();
    tags.filter_map(|tag| parse_reference(tag).ok())
}

fn is_of(tag: &Reference, repository: &Reference) -> bool {
    tag.repository() == repository.repository() && tag.registry() == repository.registry()
}

pub(super) async fn load(engine: Shared, Query(query): Query, body: Body) -> Answer<Response> {
    let platform = platform::asked_once(&query)?;
    let engine = Arc::clone(&engine);
    let operation = move |progress: ProgressLines| async move {
        let pieces = body.into_data_stream().map_err(std::io::Error::other);
        let archive = tokio_util::io::StreamReader::new(Box::pin(pieces));
        let loaded = engine
            .images
            .load(archive, platform.as_ref(), &progress)
            .await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_named_without_a_tag() {
        assert!(is_repository("app") && is_repository("host:5000/team/app"));
        assert!(!is_repository("app:1") && !is_repository("host:5000/app@sha256:0"));
    }
}
