//! Images from and to registries: `/images/create` and `/images/NAME/push`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use hull_image::{Credentials, Reference};
use serde_json::json;

use super::auth;
use super::images::publish;
use super::import;
use super::platform;
use super::progress::{with_progress, ProgressLines};
use super::respond::Answer;
use super::{Query, Shared};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::images::parse_reference;
use crate::json::Params;

/// The image that a request names, and who asks its registry.
fn wanted(
    name: &str,
    query: &Params,
    headers: &HeaderMap,
) -> Result<(Reference, Option<Credentials>)> {
    let credentials = auth::of_headers(headers)?;
    Ok((named(name, query.get("tag"))?, credentials))
}

fn named(name: &str, tag: Option<&str>) -> Result<Reference> {
    parse_reference(&match tag {
        Some(digest) if digest.contains(':') => format!("{name}@{digest}"),
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    })
}

pub(super) async fn create(
    engine: Shared,
    Query(query): Query,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    match (query.get("fromImage"), query.get("fromSrc")) {
        (Some(name), _) => pull(&engine, name, &query, &headers).await,
        (None, Some(source)) => import::import(&engine, source, &query, body).await,
        (None, None) => {
            let text = "neither an image (fromImage) nor a source (fromSrc) is named";
            Err(EngineError::BadRequest(text.to_owned()).into())
        }
    }
}

async fn pull(
    engine: &Arc<Engine>,
    name: &str,
    query: &Params,
    headers: &HeaderMap,
) -> Answer<Response> {
    let (reference, credentials) = wanted(name, query, headers)?;
    let platform = import::platform(query)?;
    let all_tags = query.get("tag").is_none_or(str::is_empty) && !says_which(name);
    let engine = Arc::clone(engine);
    let operation = move |progress: ProgressLines| async move {
        let references = match all_tags {
            true => engine.images.tags(&reference, credentials.clone()).await?,
            false => vec![reference],
        };
        let mut lines = Vec::new();
        for reference in references {
            let image = &engine.images;
            let before = image.find(&reference.familiar()).await.ok();
            let image = image
                .pull(&reference, &platform, credentials.clone(), &progress)
                .await?;
            let name = reference.familiar();
            publish(&engine, "pull", &name, &name);
            let status = match before.is_some_and(|before| before.id == image.id) {
                true => format!("Status: Image is up to date for {name}"),
                false => format!("Status: Downloaded newer image for {name}"),
            };
            lines.push(json!({ "status": status }));
        }
        Ok(lines)
    };
    with_progress(operation, false).await
}

/// Whether a name has a tag or a digest; without both, all tags of the repository are meant.
fn says_which(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains([':', '@'])
}

/// The tag that a push is of; `None`: all of the repository, which is meant where neither the name nor the
/// request has one.
fn pushed_tag<'a>(name: &str, tag: Option<&str>, wanted: &'a Reference) -> Result<Option<&'a str>> {
    if wanted.digest().is_some() {
        let text = "cannot push a digest reference";
        return Err(EngineError::BadRequest(text.to_owned()));
    }
    Ok(wanted.tag().filter(|_| tag.is_some() || says_which(name)))
}

pub(super) async fn push(
    engine: &Arc<Engine>,
    name: &str,
    query: &Params,
    headers: &HeaderMap,
) -> Answer<Response> {
    let (wanted, credentials) = wanted(name, query, headers)?;
    let of_tag = pushed_tag(name, query.get("tag"), &wanted)?;
    let all = engine.images.list().await?;
    let tags = all.iter().flat_map(|image| &image.repo_tags);
    let references: Vec<_> = tags
        .filter_map(|tag| parse_reference(tag).ok())
        .filter(|tag| {
            let same =
                tag.registry() == wanted.registry() && tag.repository() == wanted.repository();
            same && (of_tag.is_none() || tag.tag() == of_tag)
        })
        .collect();
    for reference in &references {
        platform::check(engine, &reference.familiar(), query, "platform").await?;
    }
    if references.is_empty() {
        return Err(EngineError::BadRequest(format!(
            "An image does not exist locally with the tag: {}",
            wanted.familiar_name()
        ))
        .into());
    }
    let engine = Arc::clone(engine);
    let operation = move |progress: ProgressLines| async move {
        let mut lines = Vec::new();
        for reference in references {
            let pushed = engine
                .images
                .push(&reference, credentials.clone(), &progress)
                .await?;
            let name = reference.familiar();
            publish(&engine, "push", &name, &name);
            let tag = reference.tag().unwrap_or("latest");
            let (digest, size) = (pushed.digest.to_string(), pushed.size);
            lines.push(json!({ "status": format!("{tag}: digest: {digest} size: {size}") }));
            lines.push(json!({
                "progressDetail": {},
                "aux": { "Tag": tag, "Digest": digest, "Size": size },
            }));
        }
        Ok(lines)
    };
    with_progress(operation, false).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_of_what_is_named() {
        let of = |name: &str, tag| {
            let wanted = named(name, tag)?;
            pushed_tag(name, tag, &wanted).map(|tag| tag.map(str::to_owned))
        };
        for (name, tag, pushed) in [
            ("reg:5000/x:a", None, Some("a")),
            ("reg:5000/x", Some("a"), Some("a")),
            ("reg:5000/x", Some("latest"), Some("latest")),
            ("reg:5000/x", None, None),
            ("x", None, None),
        ] {
            assert_eq!(of(name, tag).unwrap().as_deref(), pushed, "{name} {tag:?}");
        }
        let digest = format!("sha256:{}", "ab".repeat(32));
        let by_name = format!("reg:5000/x@{digest}");
        let by_both = format!("reg:5000/x:a@{digest}");
        for (name, tag) in [
            (by_name.as_str(), None),
            (&by_both, None),
            ("reg:5000/x", Some(digest.as_str())),
            ("reg:5000/x@sha256", Some(&digest[7..])),
        ] {
            let error = of(name, tag).unwrap_err().to_string();
            assert!(error.contains("digest reference"), "{error}");
        }
    }
}
