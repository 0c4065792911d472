//! `/exec` and `/containers/{id}/exec`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bollard_stubs::models::ExecInspectResponse;
use serde::Deserialize;
use serde_json::{json, Value};

use super::containers::size_of;
use super::detach::DetachKeys;
use super::respond::Answer;
use super::streams::{Attachment, Hijack};
use super::{body_json, Query, Shared, Version};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::exec::{console_size, ExecCreate};

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

async fn create(
    engine: Shared,
    version: Version,
    Path(id): Path<String>,
    body: Body,
) -> Answer<(StatusCode, Json<Value>)> {
    let mut request: ExecCreate = body_json(body).await?;
    if version.is_before(42) {
        request.console_size = None;
    }
    let container = engine.container(&id)?;
    let keys = request.detach_keys.as_deref().unwrap_or_default();
    if DetachKeys::parse(keys).is_err() {
        let text = format!("Invalid escape keys ({keys}) provided");
        return Err(EngineError::BadRequest(text).into());
    }
    let exec = engine.create_exec(&container, request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": exec.id }))))
}

/// Body of `/exec/{id}/start`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartBody {
    detach: Option<bool>,
    tty: Option<bool>,
    console_size: Option<Vec<u32>>,
}

async fn start(
    engine: Shared,
    version: Version,
    Path(id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let (hijack, body) = Hijack::with_body(request);
    let mut options: StartBody = body_json(body).await?;
    if version.is_before(42) {
        options.console_size = None;
    }
    let exec = engine.exec(&id)?;
    let size = console_size(options.console_size.as_deref()).or(exec.size);
    let exec_keys = DetachKeys::parse(&exec.detach_keys)?;
    engine.claim_exec(&exec)?;
    let engine = Arc::clone(&engine);
    if options.detach.unwrap_or(false) {
        engine.start_exec(&exec, size).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let detach = (exec.spec.tty && exec.attach_stdin).then(|| {
        let (engine, exec) = (Arc::clone(&engine), Arc::clone(&exec));
        let told = move || engine.publish_exec(&exec, "exec_detach", None);
        (exec_keys, Box::new(told) as Box<dyn FnOnce() + Send>)
    });
    let attachment = Attachment {
        // As dockerd: the form of the output is the start's to choose.
        tty: options.tty.unwrap_or(exec.spec.tty),
        detach,
        before: None,
        output: exec.hub.attach(exec.attach_stdout, exec.attach_stderr),
        input: exec.attach_stdin.then(|| exec.hub.stdin()),
        close_input: exec.attach_stdin,
    };
    let started = async move {
        let started = tokio::spawn(async move { engine.start_exec(&exec, size).await });
        match started.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.message()),
            Err(error) => Some(error.to_string()),
        }
    };
    Ok(hijack.attach(attachment, version, started))
}

async fn resize(engine: Shared, Path(id): Path<String>, Query(query): Query) -> Answer<StatusCode> {
    let exec = engine.exec(&id)?;
    let (width, height) = size_of(&query)?;
    engine.resize_exec(&exec, width, height).await?;
    Ok(StatusCode::OK)
}

async fn inspect(engine: Shared, Path(id): Path<String>) -> Answer<Json<ExecInspectResponse>> {
    Ok(Json(engine.exec(&id)?.inspect()))
}
