//! `/images`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::Path;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bollard_stubs::models::{
    EventMessageTypeEnum, ImageConfig, ImageDeleteResponseItem, ImageHistoryResponseItem,
    ImageInspect, ImageInspectMetadata, ImageInspectRootFs, ImagePruneResponse, ImageSummary,
};
use hull_image::{DiffId, Digest, Image, Removed};
use serde_json::{json, Value};

use super::platform;
use super::respond::Answer;
use super::save::{load, save, save_many};
use super::transfer::{create, push};
use super::{older_images as older, Query, Shared, Version};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::label_matches;
use crate::filters;
use crate::glob::{BadGlob, Glob};
use crate::images::labels as labels_of;
use crate::json::{Filters, Params};

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/create", post(create))
        .route("/images/load", post(load))
        .route("/images/get", get(save_many))
        .route("/images/prune", post(prune))
        .route("/hull/images/repair", post(super::repair::repair))
        .route("/images/{*rest}", any(one))
}

/// Names contain slashes, so these routes are told apart by their ends.
async fn one(
    engine: Shared,
    version: Version,
    method: Method,
    Path(rest): Path<String>,
    Query(query): Query,
    headers: HeaderMap,
) -> Answer<Response> {
    let (name, action) = match rest.rsplit_once('/') {
        Some((name, action)) if method != Method::DELETE => (name, action),
        _ => (rest.as_str(), ""),
    };
    match (method.as_str(), action) {
        ("GET", "json") => {
            let image = platform::find(&engine, name, &query).await?;
            Ok(Json(older::inspected(inspect(&image)?, &image, version)?).into_response())
        }
        ("GET", "history") => {
            let image = platform::find(&engine, name, &query).await?;
            Ok(Json(history(&image)?).into_response())
        }
        ("GET", "get") => save(&engine, &[name.to_owned()], &query).await,
        ("POST", "push") => push(&engine, name, &query, &headers).await,
        ("POST", "tag") => tag(&engine, name, &query).await,
        ("DELETE", _) => remove(&engine, name, &query).await,
        _ => Err(EngineError::NotBuilt(format!("{method} /images/{rest}")).into()),
    }
}

async fn list(engine: Shared, version: Version, Query(query): Query) -> Answer<Json<Vec<Value>>> {
    let mut filters = query.filters()?;
    older::filter(&mut filters, &query, version);
    filters::check(&filters, &LIST_FILTERS)?;
    filters::booleans(&filters, "dangling")?;
    let references = references(&filters)?;
    let until = filters::earliest_until(&filters)?;
    let before = bounds(&engine, &filters, "before").await?.into_iter().min();
    let since = bounds(&engine, &filters, "since").await?.into_iter().max();
    let users = users(&engine);
    let mut found = Vec::new();
    let images = engine.images.list().await?;
    let sharing = query.flag("shared-size").then(|| Sharing::of(&images));
    for image in &images {
        let mut image = image.clone();
        let time = created(&image);
        let in_time = before.is_none_or(|bound| time < bound)
            && since.is_none_or(|bound| bound < time)
            && until.is_none_or(|bound| time.is_some_and(|time| time < bound));
        let labels = labels_of(&image);
        let named = references.as_ref().is_none_or(|patterns| {
            let mut tags = image.repo_tags.iter();
            tags.any(|tag| patterns.iter().any(|pattern| is_named(pattern, tag)))
        });
        if in_time && named && matches(&image, &labels, &filters) {
            if let Some(patterns) = &references {
                keep_named(&mut image, patterns);
            }
            let summary = ImageSummary {
                shared_size: sharing.as_ref().map_or(-1, |all| all.shared(&image)),
                ..summary(&users, &image, labels)
            };
            found.push(older::listed(json!(summary), version));
        }
    }
    Ok(Json(found))
}

const LIST_FILTERS: [&str; 7] = [
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];

/// When the images were made that a filter names.
async fn bounds(
    engine: &Engine,
    filters: &Filters,
    key: &str,
) -> Result<Vec<Option<jiff::Timestamp>>> {
    let mut bounds = Vec::new();
    for name in filters.get(key).into_iter().flatten() {
        bounds.push(created(&engine.images.find(name).await?));
    }
    Ok(bounds)
}

/// The patterns of the filter `reference`, if it is there.
fn references(filters: &Filters) -> Result<Option<Vec<Glob>>> {
    let Some(patterns) = filters.get("reference") else {
        return Ok(None);
    };
    let read = |pattern: &String| {
        pattern.parse().map_err(|error: BadGlob| {
            EngineError::BadRequest(format!("invalid filter 'reference={pattern}': {error}"))
        })
    };
    patterns.iter().map(read).collect::<Result<_>>().map(Some)
}

/// Leaves of an image's names those that the filter `reference` asks for.
fn keep_named(image: &mut Image, patterns: &[Glob]) {
    image
        .repo_tags
        .retain(|tag| patterns.iter().any(|pattern| is_named(pattern, tag)));
    image.repo_digests.retain(|digest| {
        let name = digest.split('@').next().unwrap_or_default();
        patterns.iter().any(|pattern| pattern.matches(name))
    });
}

/// Whether a pattern means a tag: with or without the tag, by its short name or the whole one.
fn is_named(pattern: &Glob, tag: &str) -> bool {
    let whole = tag.parse::<hull_image::Reference>();
    let whole = whole.map_or_else(|_| tag.to_owned(), |reference| reference.to_string());
    let means = |name: &str| {
        let repository = name.rsplit_once(':').map_or(name, |(name, _)| name);
        pattern.matches(name) || pattern.matches(repository)
    };
    means(tag) || means(&whole)
}

/// What images have in common: each layer is on disk once.
struct Sharing<'a> {
    /// Bytes of each layer, and how many images have it.
    layers: HashMap<&'a DiffId, (u64, u64)>,
}

/// An image's layers, each once.
fn layers_of(image: &Image) -> HashMap<&DiffId, u64> {
    let ids = image.layers.iter().map(|layer| &layer.diff_id);
    ids.zip(image.layer_sizes.iter().copied()).collect()
}

impl<'a> Sharing<'a> {
    fn of(images: &'a [Image]) -> Self {
        let mut layers: HashMap<_, (u64, u64)> = HashMap::new();
        for (layer, bytes) in images.iter().flat_map(layers_of) {
            let known = layers.entry(layer).or_default();
            *known = (bytes, known.1 + 1);
        }
        Self { layers }
    }

    /// Bytes of an image that another has, too.
    fn shared(&self, image: &Image) -> i64 {
        let is_shared = |layer| {
            self.layers
                .get(layer)
                .is_some_and(|(_, images)| 1 < *images)
        };
        let layers = layers_of(image).into_iter();
        let shared = layers.filter(|(layer, _)| is_shared(*layer));
        i64::try_from(shared.map(|(_, bytes)| bytes).sum::<u64>()).unwrap_or(i64::MAX)
    }

    /// Bytes that the images count more than once, all together.
    fn repeated(&self) -> i64 {
        let layers = self.layers.values();
        let repeated = layers.map(|(bytes, images)| bytes.saturating_mul(images.saturating_sub(1)));
        i64::try_from(repeated.fold(0, u64::saturating_add)).unwrap_or(i64::MAX)
    }
}

/// All images, and the bytes that they take.
pub(super) async fn summaries(engine: &Engine) -> Result<(Vec<ImageSummary>, i64)> {
    let users = users(engine);
    let images = engine.images.list().await?;
    let sharing = Sharing::of(&images);
    let summary = |image: &Image| ImageSummary {
        shared_size: sharing.shared(image),
        ..summary(&users, image, labels_of(image))
    };
    let found: Vec<_> = images.iter().map(summary).collect();
    let all: i64 = found.iter().map(|image| image.size).sum();
    Ok((found, (all - sharing.repeated()).max(0)))
}

fn matches(image: &Image, labels: &HashMap<String, String>, filters: &Filters) -> bool {
    filters.iter().all(|(key, wanted)| match key.as_str() {
        "label" => wanted.iter().all(|text| label_matches(text, labels)),
        "label!" => !wanted.iter().any(|text| label_matches(text, labels)),
        "dangling" => wanted.iter().any(|text| {
            let wants = matches!(text.as_str(), "true" | "1");
            image.repo_tags.is_empty() == wants
        }),
        _ => true,
    })
}

pub(super) fn created(image: &Image) -> Option<jiff::Timestamp> {
    image
        .config
        .created()
        .as_deref()
        .and_then(|text| text.parse().ok())
}

/// How many containers have each image, by its id.
fn users(engine: &Engine) -> HashMap<String, i64> {
    let mut users = HashMap::new();
    for container in engine.containers().values() {
        let record = container.lock();
        let ids: BTreeSet<&str> = record.images().map(|image| image.id.as_str()).collect();
        for id in ids {
            *users.entry(id.to_owned()).or_default() += 1;
        }
    }
    users
}

fn summary(
    users: &HashMap<String, i64>,
    image: &Image,
    labels: HashMap<String, String>,
) -> ImageSummary {
    let id = image.id.to_string();
    ImageSummary {
        parent_id: String::new(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        created: created(image).map_or(0, |time| time.as_second()),
        size: size_of(image),
        shared_size: -1,
        labels,
        containers: users.get(&id).copied().unwrap_or_default(),
        manifests: None,
        descriptor: None,
        id,
    }
}

/// What the image takes on disk once it is unpacked.
fn size_of(image: &Image) -> i64 {
    i64::try_from(image.unpacked_size.unwrap_or(image.size)).unwrap_or(i64::MAX)
}

/// An image's comment, which OCI keeps with the last step of its history.
fn comment(config: &Value) -> String {
    let own = config["comment"].as_str().filter(|text| !text.is_empty());
    let last = config["history"].as_array().and_then(|steps| steps.last());
    let of_last = || last.and_then(|step| step["comment"].as_str());
    own.or_else(of_last).unwrap_or_default().to_owned()
}

fn inspect(image: &Image) -> Result<ImageInspect> {
    let decode = |source| EngineError::Json {
        what: "decode the image's configuration",
        source,
    };
    let whole: Value = serde_json::from_slice(&image.config_json).map_err(decode)?;
    let text = |key: &str| Some(whole[key].as_str().unwrap_or_default().to_owned());
    let config: Option<ImageConfig> = match &whole["config"] {
        Value::Null => None,
        config => Some(serde_json::from_value(config.clone()).map_err(decode)?),
    };
    let tagged = i64::try_from(image.last_tagged)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    Ok(ImageInspect {
        id: Some(image.id.to_string()),
        repo_tags: Some(image.repo_tags.clone()),
        repo_digests: Some(image.repo_digests.clone()),
        comment: Some(comment(&whole)),
        created: created(image).map(|time| time.to_string()),
        author: text("author"),
        config,
        architecture: text("architecture"),
        variant: whole["variant"].as_str().map(str::to_owned),
        os: text("os"),
        size: Some(size_of(image)),
        root_fs: Some(ImageInspectRootFs {
            typ: "layers".to_owned(),
            layers: Some(
                image
                    .layers
                    .iter()
                    .map(|layer| layer.diff_id.to_string())
                    .collect(),
            ),
        }),
        metadata: Some(ImageInspectMetadata {
            last_tag_time: tagged.map(|time| time.to_string()),
        }),
        ..ImageInspect::default()
    })
}

fn history(image: &Image) -> Result<Vec<ImageHistoryResponseItem>> {
    let decode = |source| EngineError::Json {
        what: "decode the image's configuration",
        source,
    };
    let whole: Value = serde_json::from_slice(&image.config_json).map_err(decode)?;
    let mut sizes = image.layer_sizes.iter().copied();
    let mut items: Vec<ImageHistoryResponseItem> = whole["history"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let empty = entry["empty_layer"].as_bool().unwrap_or(false);
            let size = if empty { 0 } else { sizes.next().unwrap_or(0) };
            ImageHistoryResponseItem {
                id: "<missing>".to_owned(),
                created: text("created")
                    .parse::<jiff::Timestamp>()
                    .map_or(0, |t| t.as_second()),
                created_by: text("created_by"),
                tags: Vec::new(),
                size: i64::try_from(size).unwrap_or(i64::MAX),
                comment: text("comment"),
            }
        })
        .collect();
    items.reverse();
    if let Some(newest) = items.first_mut() {
        newest.id = image.id.to_string();
        newest.tags.clone_from(&image.repo_tags);
    }
    Ok(items)
}

/// A repository whose own tag gives way to another one; the port of a registry is none.
fn without_tag(repository: &str) -> &str {
    let name = repository.rfind('/').map_or(0, |slash| slash + 1);
    match repository[name..].find(':') {
        Some(colon) => &repository[..name + colon],
        None => repository,
    }
}

async fn tag(engine: &Engine, name: &str, query: &Params) -> Answer<Response> {
    let repository = query.get("repo").unwrap_or_default();
    let target = match query.get("tag").filter(|tag| !tag.is_empty()) {
        Some(tag) => format!("{}:{tag}", without_tag(repository)),
        None => repository.to_owned(),
    };
    engine.images.tag(name, &target).await?;
    let target = target
        .parse::<hull_image::Reference>()
        .map_or(target, |target| target.familiar());
    publish(
        engine,
        "tag",
        &engine.images.find(name).await?.id.to_string(),
        &target,
    );
    Ok(StatusCode::CREATED.into_response())
}

pub(super) fn publish(engine: &Engine, action: &str, id: &str, name: &str) {
    let attributes = [("name".to_owned(), name.to_owned())].into();
    engine
        .events
        .publish(EventMessageTypeEnum::IMAGE, action, id, attributes);
}

/// Each with a container that has it, which is one that runs if any does.
fn images_in_use(engine: &Engine) -> BTreeMap<Digest, String> {
    let mut containers: Vec<_> = engine.containers().values().cloned().collect();
    containers.sort_by_key(|container| container.status().is_up());
    containers
        .iter()
        .flat_map(|container| {
            let record = container.record();
            let images = record.images();
            let images = images.filter_map(|image| image.id.parse().ok());
            let used: Vec<_> = images.map(|id| (id, record.id.clone())).collect();
            used
        })
        .collect()
}

async fn remove(engine: &Engine, name: &str, query: &Params) -> Answer<Response> {
    platform::check(engine, name, query, "platforms").await?;
    let (id, tags) = engine.images.resolve(name).await?;
    let _uses = engine.image_uses.write().await;
    let in_use = images_in_use(engine);
    let user = in_use.get(&id).and_then(|id| engine.container(id).ok());
    // Not even with force: a running container needs its file system. A name goes with force.
    let forced_name = query.flag("force") && !means_id(name, &id.to_string());
    if let Some(user) = user.filter(|user| user.status().is_up()) {
        if tags <= 1 && !forced_name {
            return Err(EngineError::Conflict(format!(
                "conflict: unable to delete {name} (cannot be forced) - image is being used by \
                 running container {}",
                crate::ids::short(user.id())
            ))
            .into());
        }
    }
    let removed = engine
        .images
        .remove(name, query.flag("force"), in_use)
        .await?;
    for item in &removed {
        match item {
            Removed::Untagged(name) => publish(engine, "untag", &id.to_string(), name),
            Removed::Deleted(id) => publish(engine, "delete", &id.to_string(), &id.to_string()),
        }
    }
    Ok(Json(removed.into_iter().map(removed_item).collect::<Vec<_>>()).into_response())
}

/// Whether an image is named by (the beginning of) its id.
fn means_id(name: &str, id: &str) -> bool {
    let digits = |text: &str| text.strip_prefix("sha256:").unwrap_or(text).to_owned();
    digits(id).starts_with(&digits(name))
}

fn removed_item(removed: Removed) -> ImageDeleteResponseItem {
    match removed {
        Removed::Untagged(name) => ImageDeleteResponseItem {
            untagged: Some(name),
            deleted: None,
        },
        Removed::Deleted(id) => ImageDeleteResponseItem {
            untagged: None,
            deleted: Some(id.to_string()),
        },
    }
}

async fn prune(engine: Shared, Query(query): Query) -> Answer<Json<ImagePruneResponse>> {
    let filters = query.filters()?;
    filters::check(&filters, &["dangling", "label", "label!", "until"])?;
    filters::booleans(&filters, "dangling")?;
    let until = filters::until(&filters)?;
    let dangling_only = filters.get("dangling").is_none_or(|values| {
        values
            .iter()
            .any(|value| matches!(value.as_str(), "true" | "1"))
    });
    let _uses = engine.image_uses.write().await;
    let mut kept: BTreeSet<Digest> = images_in_use(&engine).into_keys().collect();
    // What the filters spare is kept as what is in use.
    for image in engine.images.list().await? {
        let labels = labels_of(&image);
        // An image that does not tell when it was made is as old as can be, as docker has it.
        let is_old = |until| created(&image).is_none_or(|created| created < until);
        if !until.is_none_or(is_old) || !filters::labels_pass(&filters, &labels) {
            kept.insert(image.id);
        }
    }
    let report = engine.images.prune(!dangling_only, &kept).await?;
    let bytes = i64::try_from(report.reclaimed).unwrap_or(i64::MAX);
    engine.publish_prune(EventMessageTypeEnum::IMAGE, bytes);
    Ok(Json(ImagePruneResponse {
        images_deleted: Some(report.removed.into_iter().map(removed_item).collect()),
        space_reclaimed: Some(bytes),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_replaces_the_repositorys_own() {
        for (repository, bare) in [
            ("a", "a"),
            ("a:b", "a"),
            ("reg:5000/a", "reg:5000/a"),
            ("reg:5000/a:b", "reg:5000/a"),
            ("", ""),
        ] {
            assert_eq!(without_tag(repository), bare);
        }
    }

    #[test]
    fn the_comment_is_that_of_the_last_step() {
        let history = serde_json::json!({ "history": [{ "comment": "a" }, { "comment": "b" }] });
        assert_eq!(comment(&history), "b");
        let own = serde_json::json!({ "comment": "own", "history": [{ "comment": "b" }] });
        assert_eq!(comment(&own), "own");
        assert_eq!(comment(&Value::Null), "");
    }

    #[test]
    fn globs_match_names_as_in_docker_images() {
        let is_named = |pattern: &str, tag: &str| is_named(&pattern.parse().unwrap(), tag);
        assert!(is_named("busybox*", "busybox:latest") && is_named("b?sybox", "busybox:1"));
        assert!(is_named("busy[b]ox", "busybox:1") && is_named("*/busybox", "localhost/busybox:1"));
        assert!(!is_named("busy*", "localhost/busybox:1") && !is_named("", "x:1"));
        assert!(
            is_named("docker.io/library/busybox", "busybox:1") && is_named("busybox", "busybox:1")
        );
        assert!(is_named("*5000*/*", "host:5000/app:2") && !is_named("busybox:2", "busybox:1"));
        let bad = Filters::from([("reference".to_owned(), vec!["a[".to_owned()])]);
        assert!(references(&bad).is_err());
    }
}
