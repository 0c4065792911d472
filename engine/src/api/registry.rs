//! What registries have: `/distribution/NAME/json` and `/images/search`.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use hull_image::{Distribution, Found, Platform};
use serde_json::{json, Value};

use super::auth;
use super::respond::Answer;
use super::{Query, Shared};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::filters;
use crate::images::parse_reference;
use crate::json::Filters;

/// Results of a search that names no limit, as dockerd has it.
const DEFAULT_LIMIT: i64 = 25;
const MAX_LIMIT: i64 = 100;
const DOCKER_HUB: &str = "docker.io";

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/distribution/{*rest}", get(distribution))
        .route("/images/search", get(search))
}

async fn distribution(
    engine: Shared,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Answer<Json<Value>> {
    let name = rest
        .strip_suffix("/json")
        .ok_or(EngineError::PageNotFound)?;
    let credentials = auth::of_headers(&headers)?;
    let reference = parse_reference(name)?;
    let found = engine.images.look(&reference, credentials).await?;
    Ok(Json(distribution_json(&found)))
}

/// Docker's `DistributionInspect`.
fn distribution_json(found: &Distribution) -> Value {
    let platforms: Vec<Value> = found.platforms.iter().map(platform_json).collect();
    json!({
        "Descriptor": {
            "mediaType": found.media_type,
            "digest": found.digest.to_string(),
            "size": found.size,
        },
        "Platforms": platforms,
    })
}

fn platform_json(platform: &Platform) -> Value {
    let mut value = json!({ "architecture": platform.architecture, "os": platform.os });
    if let Some(variant) = &platform.variant {
        value["variant"] = json!(variant);
    }
    value
}

async fn search(
    engine: Shared,
    Query(query): Query,
    headers: HeaderMap,
) -> Answer<Json<Vec<Found>>> {
    let term = query
        .get("term")
        .ok_or_else(|| EngineError::BadRequest("no term to search for".to_owned()))?;
    let filters = query.filters()?;
    filters::check(&filters, &["is-automated", "is-official", "stars"])?;
    let wanted = Wanted::of(&filters)?;
    let limit = match query.int("limit")?.unwrap_or(0) {
        0 => DEFAULT_LIMIT,
        limit => limit,
    };
    let limit = u32::try_from(limit)
        .ok()
        .filter(|limit| i64::from(*limit) <= MAX_LIMIT)
        .ok_or_else(|| {
            EngineError::BadRequest(format!(
                "limit {limit} is outside the range of [1, {MAX_LIMIT}]"
            ))
        })?;
    let (registry, term) = split_term(term)?;
    let credentials = auth::of_headers(&headers)?;
    let mut found = engine
        .images
        .search(registry, term, limit, credentials)
        .await?;
    found.retain(|found| wanted.has(found));
    Ok(Json(found))
}

/// The registry that a term names by its first part, as references do, and the rest.
fn split_term(term: &str) -> Result<(&str, &str)> {
    if term.contains("://") {
        return Err(EngineError::BadRequest(format!(
            "invalid repository name ({term}): it has a scheme"
        )));
    }
    Ok(match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => (DOCKER_HUB, term.strip_prefix("library/").unwrap_or(term)),
    })
}

/// What a search is narrowed to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    official: Option<bool>,
    automated: Option<bool>,
    stars: i64,
}

impl Wanted {
    fn of(filters: &Filters) -> Result<Self> {
        let bad = |key: &str, value: &str| {
            EngineError::BadRequest(format!("invalid filter '{key}={value}'"))
        };
        let flag = |key: &str| match filters.get(key).and_then(|values| values.first()) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                other => Err(bad(key, other)),
            },
        };
        let mut stars = 0;
        for value in filters.get("stars").into_iter().flatten() {
            let number: i64 = value.parse().map_err(|_| bad("stars", value))?;
            stars = stars.max(number);
        }
        Ok(Self {
            official: flag("is-official")?,
            automated: flag("is-automated")?,
            stars,
        })
    }

    fn has(&self, found: &Found) -> bool {
        self.official
            .is_none_or(|wanted| wanted == found.is_official)
            && self
                .automated
                .is_none_or(|wanted| wanted == found.is_automated)
            && self.stars <= found.star_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_name_its_registry() {
        assert_eq!(split_term("redis").unwrap(), ("docker.io", "redis"));
        assert_eq!(split_term("me/redis").unwrap(), ("docker.io", "me/redis"));
        assert_eq!(split_term("library/redis").unwrap(), ("docker.io", "redis"));
        assert_eq!(split_term("h:5000/a/b").unwrap(), ("h:5000", "a/b"));
        assert!(split_term("https://h/x").is_err());
    }

    #[test]
    fn results_are_narrowed_by_filters() {
        let filters = |text: &str| crate::json::parse_filters(text).unwrap();
        let wanted = Wanted::of(&filters(r#"{"stars":["3"],"is-official":["true"]}"#)).unwrap();
        let found = |star_count, is_official| Found {
            star_count,
            is_official,
            ..Found::default()
        };
        assert!(wanted.has(&found(3, true)));
        assert!(!wanted.has(&found(2, true)) && !wanted.has(&found(9, false)));
        assert!(Wanted::of(&filters(r#"{"stars":["x"]}"#)).is_err());
        assert!(Wanted::of(&filters(r#"{"is-official":["x"]}"#)).is_err());
    }
}
