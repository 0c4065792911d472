//! `/containers`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bollard_stubs::models::{
    ContainerCreateResponse, ContainerSummary, ContainerTopResponse, ContainerWaitExitError,
    ContainerWaitResponse, HostConfig,
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{json, Value};
use tokio::sync::mpsc;

use super::detach::DetachKeys;
use super::import::platform;
use super::inspect::inspect;
use super::logs::{framed_log, log, Form};
use super::respond::{stream, Answer, NO_CONTENT};
use super::streams::{Attachment, Hijack};
use super::{body_bytes, body_json, websocket, Query, Shared, Version};
use crate::container::{
    live_task, Container, CreateRequest, ListOptions, StopOptions, WaitCondition,
};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::json::{fold_case, Params};
use crate::lifecycle::Status;
use crate::logs::ReadOptions;

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/prune", post(prune))
        .route("/containers/{id}", delete(remove))
        .route("/containers/{id}/{alias}", delete(remove_link))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/wait", post(wait))
        .route("/containers/{id}/logs", get(log))
        .route("/containers/{id}/attach", post(attach))
        .route("/containers/{id}/attach/ws", get(attach_by_websocket))
        .route("/containers/{id}/resize", post(resize))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/update", post(update))
        .route("/containers/{id}/top", get(top))
        .route("/containers/{id}/pause", post(pause))
        .route("/containers/{id}/unpause", post(unpause))
        .route("/hull/shutdown", post(shut_down))
        .route("/hull/containers/{id}/trace", get(trace))
        .route("/hull/containers/{id}/vm", get(vm))
}

async fn list(
    engine: Shared,
    version: Version,
    Query(query): Query,
) -> Answer<Json<Vec<ContainerSummary>>> {
    let limit = query
        .int("limit")?
        .and_then(|limit| usize::try_from(limit).ok());
    let options = ListOptions {
        all: query.flag("all"),
        sizes: query.flag("size"),
        limit: limit.filter(|limit| 0 < *limit),
        filters: query.filters()?,
    };
    let mut found = engine.list_containers(&options).await?;
    if version.is_before(46) {
        let hosts = found.iter_mut().filter_map(|one| one.host_config.as_mut());
        hosts.for_each(|host| host.annotations = None);
    }
    Ok(Json(found))
}

async fn create(
    engine: Shared,
    version: Version,
    Query(query): Query,
    body: Body,
) -> Answer<(StatusCode, Json<ContainerCreateResponse>)> {
    let mut request = CreateRequest::parse(&body_bytes(body).await?)?;
    request.adjust(version)?;
    let name = query.get("name").map(str::to_owned);
    let platform = query
        .get("platform")
        .map(|_| platform(&query))
        .transpose()?;
    if let Some(image) = request.config.image.as_deref() {
        engine
            .images
            .check_platform(image, platform.as_ref())
            .await?;
    }
    let (container, warnings) = engine.create_container(name.as_deref(), request).await?;
    let answer = ContainerCreateResponse {
        id: container.id().to_owned(),
        warnings,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn update(
    engine: Shared,
    version: Version,
    Path(id): Path<String>,
    body: Body,
) -> Answer<Json<Value>> {
    let mut body: Value = body_json(body).await?;
    fold_case::<HostConfig>(&mut body);
    if let Some(fields) = body.as_object_mut().filter(|_| version.is_before(40)) {
        fields.remove("PidsLimit");
    }
    let container = engine.container(&id)?;
    let warnings = engine.update_container(&container, &body).await?;
    Ok(Json(json!({ "Warnings": some(warnings) })))
}

/// Longest body of a start that asks for nothing, such as `{}`.
const EMPTY_BYTES: usize = 2;

async fn start(engine: Shared, Path(id): Path<String>, body: Body) -> Answer<StatusCode> {
    // Clients of old say here what dockerd takes at the creation alone. Some still say `null`.
    let body = body_bytes(body).await?;
    if EMPTY_BYTES < body.len() && body.trim_ascii() != b"null" {
        let text = "starting container with non-empty request body was deprecated since API v1.22 \
                    and removed in v1.24";
        return Err(EngineError::BadRequest(text.to_owned()).into());
    }
    let container = engine.container(&id)?;
    engine.start_container(&container).await?;
    Ok(NO_CONTENT)
}

fn stop_options(query: &Params, version: Version) -> Result<StopOptions> {
    let signal = query.get("signal").filter(|_| !version.is_before(42));
    Ok(StopOptions {
        signal: signal.map(str::to_owned),
        timeout: query.int("t")?,
    })
}

async fn stop(
    engine: Shared,
    version: Version,
    Path(id): Path<String>,
    Query(query): Query,
) -> Answer<StatusCode> {
    let container = engine.container(&id)?;
    let options = stop_options(&query, version)?;
    engine.stop_container(&container, &options).await?;
    Ok(NO_CONTENT)
}

async fn restart(
    engine: Shared,
    version: Version,
    Path(id): Path<String>,
    Query(query): Query,
) -> Answer<StatusCode> {
    let container = engine.container(&id)?;
    let options = stop_options(&query, version)?;
    engine.restart_container(&container, &options).await?;
    Ok(NO_CONTENT)
}

async fn kill(engine: Shared, Path(id): Path<String>, Query(query): Query) -> Answer<StatusCode> {
    let container = engine.container(&id)?;
    engine
        .kill_container(&container, query.get("signal"))
        .await?;
    Ok(NO_CONTENT)
}

async fn pause(engine: Shared, Path(id): Path<String>) -> Answer<StatusCode> {
    let container = engine.container(&id)?;
    engine.pause_container(&container).await?;
    Ok(NO_CONTENT)
}

async fn unpause(engine: Shared, Path(id): Path<String>) -> Answer<StatusCode> {
    let container = engine.container(&id)?;
    engine.unpause_container(&container).await?;
    Ok(NO_CONTENT)
}

async fn rename(engine: Shared, Path(id): Path<String>, Query(query): Query) -> Answer<StatusCode> {
    let container = engine.container(&id)?;
    let name = query.get("name").ok_or_else(|| {
        EngineError::BadRequest("Neither old nor new names may be empty".to_owned())
    })?;
    engine.rename_container(&container, name).await?;
    Ok(NO_CONTENT)
}

async fn remove(engine: Shared, Path(id): Path<String>, Query(query): Query) -> Answer<StatusCode> {
    if query.flag("link") {
        engine.remove_link(&id).await?;
        return Ok(NO_CONTENT);
    }
    let container = engine.container(&id)?;
    let (force, volumes) = (query.flag("force"), query.flag("v"));
    engine.remove_container(&container, force, volumes).await?;
    Ok(NO_CONTENT)
}

/// A link's name has a slash in it, which some clients send as it is.
async fn remove_link(
    engine: Shared,
    Path((id, alias)): Path<(String, String)>,
    Query(query): Query,
) -> Answer<StatusCode> {
    let name = format!("{id}/{alias}");
    if !query.flag("link") {
        return Err(EngineError::NoSuchContainer(name).into());
    }
    engine.remove_link(&name).await?;
    Ok(NO_CONTENT)
}

async fn prune(engine: Shared, Query(query): Query) -> Answer<Json<Value>> {
    let (removed, bytes) = engine.prune_containers(&query.filters()?).await?;
    Ok(Json(json!({
        "ContainersDeleted": some(removed),
        "SpaceReclaimed": bytes,
    })))
}

/// A list; as with dockerd null in the place of an empty one.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Docker's answer, and why a VM ended by itself: with `--rm` nobody could ask for it any more.
#[derive(Serialize)]
struct Waited {
    #[serde(flatten)]
    docker: ContainerWaitResponse,
    #[serde(rename = "HullReason", skip_serializing_if = "String::is_empty")]
    reason: String,
}

async fn wait(engine: Shared, Path(id): Path<String>, Query(query): Query) -> Answer<Response> {
    let container = engine.container(&id)?;
    let condition = match query.get("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => {
            return Err(EngineError::BadRequest(format!("invalid condition: {other:?}")).into());
        }
    };
    let ended = container.wait(condition);
    // The head goes out now: clients start the container once they have it.
    let body = futures_util::stream::once(async move {
        let status_code = ended.await;
        let failure = match condition {
            WaitCondition::Removed => container.progress.borrow().not_removed.clone(),
            WaitCondition::NotRunning | WaitCondition::NextExit => None,
        };
        let answer = Waited {
            docker: ContainerWaitResponse {
                status_code,
                error: failure.map(|message| ContainerWaitExitError {
                    message: Some(message),
                }),
            },
            reason: container.lock().state.error.clone(),
        };
        serde_json::to_vec(&answer).map(Bytes::from)
    });
    Ok(stream("application/json", Body::from_stream(body)))
}

async fn attach(
    engine: Shared,
    version: Version,
    Path(id): Path<String>,
    Query(query): Query,
    request: Request,
) -> Answer<Response> {
    let container = engine.container(&id)?;
    let tty = container.record().tty();
    let attachment = attachment(&engine, &container, &query, tty)?;
    Ok(Hijack::of(request).attach(attachment, version, async { None }))
}

/// As [`attach`], in the frames of a WebSocket; output is never multiplexed.
async fn attach_by_websocket(
    engine: Shared,
    Path(id): Path<String>,
    Query(query): Query,
    upgrade: WebSocketUpgrade,
) -> Answer<Response> {
    let container = engine.container(&id)?;
    let attachment = attachment(&engine, &container, &query, true)?;
    Ok(upgrade.on_upgrade(move |socket| websocket::run(socket, attachment)))
}

/// A client's part in a container's streams. `raw`: the output is not multiplexed.
fn attachment(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    query: &Params,
    raw: bool,
) -> Result<Attachment> {
    let record = container.record();
    let waits_for = match record.state.status {
        Status::Paused => Some("paused, unpause the container before attach"),
        Status::Restarting => Some("restarting, wait until the container is running"),
        _ => None,
    };
    if let Some(what) = waits_for {
        return Err(EngineError::Conflict(format!(
            "container {} is {what}",
            container.name()
        )));
    }
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    let wants_stdin = query.flag("stdin") && record.config.open_stdin.unwrap_or(false);
    let tty = record.tty();
    let keys = DetachKeys::parse(query.get("detachKeys").unwrap_or_default())?;
    // Attached before the log is read: what is written meanwhile comes from one of them at least.
    let wants_any = stdout || stderr || wants_stdin;
    let output = match query.flag("stream") && wants_any {
        true => container.hub.attach(stdout, stderr),
        false => mpsc::channel(1).1,
    };
    let before = query.flag("logs").then(|| {
        let options = ReadOptions {
            no_stdout: !stdout,
            no_stderr: !stderr,
            ..ReadOptions::default()
        };
        let form = Form {
            tty: raw,
            ..Form::default()
        };
        framed_log(container, options, form)
    });
    let detach = (tty && wants_stdin).then(|| {
        let (engine, container) = (Arc::clone(engine), Arc::clone(container));
        let told = move || engine.publish(&container, "detach", []);
        (keys, Box::new(told) as Box<dyn FnOnce() + Send>)
    });
    engine.publish(container, "attach", []);
    Ok(Attachment {
        tty: raw,
        before,
        output,
        input: wants_stdin.then(|| container.hub.stdin()),
        close_input: record.config.stdin_once.unwrap_or(false) && !tty,
        detach,
    })
}

async fn resize(engine: Shared, Path(id): Path<String>, Query(query): Query) -> Answer<StatusCode> {
    let container = engine.container(&id)?;
    let (width, height) = size_of(&query)?;
    live_task(&container)?.resize("", width, height).await?;
    engine.publish(
        &container,
        "resize",
        [("height", height.to_string()), ("width", width.to_string())],
    );
    Ok(StatusCode::OK)
}

/// Width and height of a terminal, in characters.
pub(super) fn size_of(query: &Params) -> Result<(u32, u32)> {
    let number = |key: &str, name: &str| -> Result<u32> {
        let text = query.get(key).unwrap_or_default();
        let bad =
            |why: &str| EngineError::BadRequest(format!("invalid resize {name} {text:?}: {why}"));
        let value: i64 = text.parse().map_err(|_| bad("invalid syntax"))?;
        u32::try_from(value).map_err(|_| bad("value out of range"))
    };
    let height = number("h", "height")?;
    Ok((number("w", "width")?, height))
}

async fn top(
    engine: Shared,
    Path(id): Path<String>,
    Query(query): Query,
) -> Answer<Json<ContainerTopResponse>> {
    let container = engine.container(&id)?;
    let options = query.get("ps_args").unwrap_or("-ef").split_whitespace();
    let options: Vec<_> = options.map(str::to_owned).collect();
    let columns = hull_shim::ps::columns_with_pid(&options).map_err(EngineError::Ps)?;
    let processes = live_task(&container)?.processes().await?;
    engine.publish(&container, "top", []);
    let viewer = hull_shim::ps::Viewer::read();
    let row = |process| {
        let cells = columns.iter().map(|column| column.cell(process, &viewer));
        cells.collect()
    };
    Ok(Json(ContainerTopResponse {
        titles: Some(
            columns
                .iter()
                .map(|column| column.head().to_owned())
                .collect(),
        ),
        processes: Some(processes.iter().map(row).collect()),
    }))
}

/// Stops all containers before the host goes down.
async fn shut_down(engine: Shared) -> Answer<Json<Value>> {
    let left = engine.stop_all().await;
    Ok(Json(serde_json::json!({ "NotStopped": left })))
}

/// The boot timeline that the container's shim wrote down.
async fn trace(engine: Shared, Path(id): Path<String>) -> Answer<Response> {
    let container = engine.container(&id)?;
    let id = container.id();
    let live = std::fs::read(engine.paths.trace(id));
    match live.or_else(|_| std::fs::read(engine.paths.kept_trace(id))) {
        Ok(trace) => Ok(([("content-type", "application/json")], trace).into_response()),
        Err(_) => Err(EngineError::Conflict(format!(
            "no boot timeline of container {id} was written down"
        ))
        .into()),
    }
}

/// What a running container's VM is and costs. Sizes are in bytes.
async fn vm(engine: Shared, Path(id): Path<String>) -> Answer<Json<Value>> {
    let container = engine.container(&id)?;
    let vm = live_task(&container)?.vm().await?;
    let jail: serde_json::Map<String, Value> = vm
        .jail
        .into_iter()
        .map(|fact| (fact.name, fact.value.into()))
        .collect();
    let interfaces: Vec<Value> = vm
        .interfaces
        .into_iter()
        .map(|one| serde_json::json!({ "index": one.index, "path": one.path, "queue_pairs": one.queue_pairs }))
        .collect();
    let disk = |one: hull_protocol::sandbox::Disk| {
        let mut disk = serde_json::json!({ "slot": one.slot, "engine": one.engine });
        if !one.reason.is_empty() {
            disk["reason"] = one.reason.into();
        }
        disk
    };
    let disks: Vec<Value> = vm.disks.into_iter().map(disk).collect();
    Ok(Json(serde_json::json!({
        "vmm_pid": vm.vmm_pid,
        "vcpus": vm.vcpus,
        "memory_bytes": vm.memory_bytes,
        "memory_resident_bytes": vm.memory_resident_bytes,
        "vmm_overhead_bytes": vm.vmm_overhead_bytes,
        "guest_total_bytes": vm.guest.memory_total_bytes,
        "guest_available_bytes": vm.guest.memory_available_bytes,
        "agent_resident_bytes": vm.guest.agent_resident_bytes,
        "interfaces": interfaces,
        "disks": disks,
        "jail": jail,
    })))
}
