//! Containers' files: `archive`, `changes`, `export`, and `commit`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::TryStreamExt as _;
use hull_protocol::agent::files_job::Kind;
use hull_protocol::agent::FilesJob;
use serde_json::{json, Value};

use super::respond::Answer;
use super::{body_json, Query, Shared};
use crate::commit::CommitRequest;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::files::Output;

/// Docker's header with the description of a path.
const STAT_HEADER: &str = "x-docker-container-path-stat";

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/containers/{id}/archive", get(read).head(stat).put(write))
        .route("/containers/{id}/changes", get(changes))
        .route("/containers/{id}/export", get(export))
        .route("/commit", post(commit))
}

fn job(kind: Kind, path: &str) -> FilesJob {
    FilesJob {
        kind: kind.into(),
        path: path.to_owned(),
        ..FilesJob::default()
    }
}

fn path_of(query: &super::Query) -> Result<String> {
    let path = query
        .0
        .get("path")
        .filter(|path| !path.is_empty())
        .ok_or_else(|| EngineError::BadRequest("bad parameter: path cannot be empty".to_owned()))?;
    Ok(by_words(path))
}

/// Docker's paths are the container's, whether they begin with a slash or not, and `..` takes the word before
/// it away, whatever that is in the container. What a path ends with stays: `/` and `/.` mean something.
fn by_words(path: &str) -> String {
    let mut words = Vec::new();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => _ = words.pop(),
            word => words.push(word),
        }
    }
    let clean = format!("/{}", words.join("/"));
    let end = match path.trim_end_matches('/').rsplit('/').next() {
        Some(".") => "/.",
        _ if path.ends_with('/') => "/",
        _ => "",
    };
    match (clean.as_str(), end) {
        ("/", "/") => clean,
        ("/", end) if !end.is_empty() => end.to_owned(),
        _ => clean + end,
    }
}

/// The description as Docker sends it: JSON, in base 64.
fn stat_header(answer: &[u8]) -> Result<HeaderValue> {
    let broken = || EngineError::Task {
        call: "the work on files",
        id: "a container".to_owned(),
        reason: "its answer is no description of a path".to_owned(),
    };
    let mut stat: Value = serde_json::from_slice(answer).map_err(|_| broken())?;
    let seconds = stat["mtime"].as_i64().unwrap_or_default();
    let nanoseconds = stat["mtimeNsec"].as_i64().unwrap_or_default();
    let time = jiff::Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or_default());
    stat["mtime"] = json!(time.map_err(|_| broken())?.to_string());
    if let Some(fields) = stat.as_object_mut() {
        fields.remove("mtimeNsec");
    }
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, stat.to_string());
    HeaderValue::from_str(&text).map_err(|_| broken())
}

/// The container as the client named it.
fn as_named(name: &str) -> impl Fn(EngineError) -> EngineError + '_ {
    move |error| match error {
        EngineError::NoSuchFile { path, .. } => EngineError::NoSuchFile {
            path,
            container: name.to_owned(),
        },
        other => other,
    }
}

async fn stat(engine: Shared, Path(id): Path<String>, query: Query) -> Answer<Response> {
    let path = path_of(&query)?;
    let container = engine.container(&id)?;
    let answer = engine
        .ask_of_files(&container, job(Kind::STAT, &path))
        .await
        .map_err(as_named(&id))?;
    let headers = [(STAT_HEADER, stat_header(&answer)?)];
    Ok((StatusCode::OK, headers).into_response())
}

async fn read(engine: Shared, Path(id): Path<String>, query: Query) -> Answer<Response> {
    let path = path_of(&query)?;
    let container = engine.container(&id)?;
    let session = engine.files(&container).await.map_err(as_named(&id))?;
    let answer = match session.ask(&job(Kind::STAT, &path)).await {
        Ok(answer) => answer,
        Err(error) => {
            session.close();
            return Err(as_named(&id)(error).into());
        }
    };
    let output = session.stream(job(Kind::READ, &path)).await;
    let output = output.map_err(as_named(&id))?;
    engine.publish(&container, "archive-path", []);
    let header = stat_header(&answer)?;
    let mut response = tar_response(output, "application/x-tar");
    response.headers_mut().insert(STAT_HEADER, header);
    Ok(response)
}

fn tar_response(output: Output, kind: &'static str) -> Response {
    let chunks = futures_util::stream::unfold(output, |mut output| async move {
        output.recv().await.map(|chunk| (chunk, output))
    });
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(kind));
    (StatusCode::OK, headers, Body::from_stream(chunks)).into_response()
}

async fn write(
    engine: Shared,
    Path(id): Path<String>,
    query: Query,
    body: Body,
) -> Answer<StatusCode> {
    let path = path_of(&query)?;
    let container = engine.container(&id)?;
    let user = container.record().config.user;
    let job = FilesJob {
        keep_kinds: query.0.flag("noOverwriteDirNonDir"),
        owner: user
            .filter(|_| query.0.flag("copyUIDGID"))
            .unwrap_or_default(),
        ..job(Kind::WRITE, &path)
    };
    let stream = body.into_data_stream().map_err(std::io::Error::other);
    // A client that sends nothing holds nothing.
    let input = hull_image::decompressed(tokio_util::io::StreamReader::new(stream));
    let input = input
        .await
        .map_err(|error| EngineError::io("read", "the archive", error))?;
    let session = engine.files(&container).await.map_err(as_named(&id))?;
    // An upload that is cut off ends in an error of its stream, and so does the job: by a task of its
    // own, as this one ends with its client and would leave the job behind.
    let fed = tokio::spawn(async move {
        let fed = session.feed(&job, input).await;
        session.close();
        fed
    });
    let fed = fed.await.map_err(|error| {
        EngineError::io("write", "a container's files", std::io::Error::other(error))
    })?;
    fed.map_err(as_named(&id))?;
    engine.publish(&container, "extract-to-dir", []);
    Ok(StatusCode::OK)
}

async fn changes(engine: Shared, Path(id): Path<String>) -> Answer<Json<Value>> {
    let container = engine.container(&id)?;
    let answer = engine
        .ask_of_files(&container, job(Kind::CHANGES, "/"))
        .await?;
    let lines = answer.split(|byte| *byte == b'\n');
    let changes: Vec<Value> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    Ok(Json(match changes.is_empty() {
        true => Value::Null,
        false => Value::Array(changes),
    }))
}

async fn export(engine: Shared, Path(id): Path<String>) -> Answer<Response> {
    let container = engine.container(&id)?;
    let session = engine.files(&container).await?;
    let output = session.stream(job(Kind::EXPORT, "/")).await?;
    engine.publish(&container, "export", []);
    Ok(tar_response(output, "application/octet-stream"))
}

async fn commit(engine: Shared, query: Query, body: Body) -> Answer<(StatusCode, Json<Value>)> {
    let text = |key: &str| query.0.get(key).unwrap_or_default().to_owned();
    let config = body_json(body).await?;
    let container = engine.container(&text("container"))?;
    let request = CommitRequest {
        repository: text("repo"),
        tag: text("tag"),
        author: text("author"),
        comment: text("comment"),
        changes: query.0.lines("changes"),
        pause: query.0.flag_or("pause", true),
        config,
    };
    let id = engine.commit(&container, request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_words() {
        for (path, clean) in [
            ("/tmp/..", "/"),
            ("/tmp/../", "/"),
            ("/tmp/../.", "/."),
            ("/tmp/x/..", "/tmp"),
            ("../../etc", "/etc"),
            ("/", "/"),
            (".", "/."),
            ("a//b/./c", "/a/b/c"),
            ("/a/", "/a/"),
            ("/a/.", "/a/."),
            ("/a/./", "/a/."),
            ("/..", "/"),
            ("", "/"),
        ] {
            assert_eq!(by_words(path), clean, "{path:?}");
        }
    }
}
