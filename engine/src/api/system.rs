//! `/_ping`, `/version`, `/info`, `/events`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bollard_stubs::models::{
    EventMessage, IndexInfo, LocalNodeState, PluginsInfo, RegistryServiceConfig, Runtime,
    SwarmInfo, SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum, SystemVersion,
    SystemVersionComponents, SystemVersionPlatform,
};
use bytes::Bytes;
use hull_shim::cpu_list::CpuList;
use jiff::Timestamp;
use serde_json::{json, Value};
use tokio::sync::{broadcast, mpsc};

use super::respond::{stream, Answer};
use super::streams::body_channel;
use super::{Query, Shared, Version};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::matches;
use crate::filters;
use crate::json::{Filters, Params};
use crate::lifecycle::Status;
use crate::logs;
use crate::volumes::LOCAL;
use crate::{API_VERSION, MIN_API_VERSION};

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/_ping", get(ping))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/events", get(events))
}

/// `HEAD` is answered by the same handler, without the body.
async fn ping() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
        (
            header::CACHE_CONTROL.as_str(),
            "no-cache, no-store, must-revalidate",
        ),
        (header::PRAGMA.as_str(), "no-cache"),
        ("swarm", "inactive"),
    ];
    (headers, "OK")
}

async fn version() -> Json<SystemVersion> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(SystemVersion {
        // Said where it is so alone.
        experimental: None,
        platform: Some(SystemVersionPlatform {
            name: "Hull".to_owned(),
        }),
        components: Some(vec![SystemVersionComponents {
            name: "Engine".to_owned(),
            version: version.clone(),
            details: Some(HashMap::from([
                ("ApiVersion".to_owned(), API_VERSION.to_owned()),
                ("BuildTime".to_owned(), String::new()),
                ("Experimental".to_owned(), "false".to_owned()),
                ("GitCommit".to_owned(), String::new()),
                ("GoVersion".to_owned(), String::new()),
                ("MinAPIVersion".to_owned(), MIN_API_VERSION.to_owned()),
                ("Os".to_owned(), "linux".to_owned()),
                ("Arch".to_owned(), "amd64".to_owned()),
                ("KernelVersion".to_owned(), kernel_release()),
            ])),
        }]),
        version: Some(version),
        api_version: Some(API_VERSION.to_owned()),
        min_api_version: Some(MIN_API_VERSION.to_owned()),
        git_commit: Some(String::new()),
        go_version: Some(String::new()),
        os: Some("linux".to_owned()),
        arch: Some("amd64".to_owned()),
        kernel_version: Some(kernel_release()),
        build_time: Some(String::new()),
    })
}

fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn operating_system() -> String {
    std::fs::read_to_string("/etc/os-release")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "Linux".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

async fn info(engine: Shared, version: Version) -> Answer<Json<Value>> {
    let mut info = json!(system_info(&engine).await?);
    if version.is_before(50) {
        info["BridgeNfIptables"] = json!(false);
        info["BridgeNfIp6tables"] = json!(false);
    }
    Ok(Json(info))
}

async fn system_info(engine: &Engine) -> Result<SystemInfo> {
    let statuses: Vec<Status> = engine.containers().values().map(|c| c.status()).collect();
    let count = |wanted: &[Status]| {
        let count = statuses
            .iter()
            .filter(|status| wanted.contains(status))
            .count();
        i64::try_from(count).ok()
    };
    let memory = rustix::system::sysinfo();
    let memory = u64::from(memory.mem_unit).saturating_mul(memory.totalram);
    let cpus = CpuList::of_host().count();
    let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    Ok(SystemInfo {
        id: Some(engine.id.clone()),
        containers: i64::try_from(statuses.len()).ok(),
        containers_running: count(&[Status::Running]),
        containers_paused: count(&[Status::Paused]),
        // As dockerd: all the others.
        containers_stopped: count(&[
            Status::Created,
            Status::Restarting,
            Status::Removing,
            Status::Exited,
            Status::Dead,
        ]),
        images: i64::try_from(engine.images.list().await?.len()).ok(),
        driver: Some("erofs".to_owned()),
        driver_status: Some(vec![
            vec!["Image file system".to_owned(), "erofs".to_owned()],
            vec!["Writable layer".to_owned(), "ext4".to_owned()],
        ]),
        docker_root_dir: Some(engine.paths.root().to_string_lossy().into_owned()),
        plugins: Some(PluginsInfo {
            volume: Some(volume_drivers(engine).await),
            network: list(&["bridge", "host", "ipvlan", "macvlan", "null"]),
            authorization: None,
            log: Some(log_drivers()),
        }),
        memory_limit: Some(true),
        swap_limit: Some(true),
        cpu_cfs_period: Some(true),
        cpu_cfs_quota: Some(true),
        cpu_shares: Some(true),
        cpu_set: Some(true),
        pids_limit: Some(true),
        oom_kill_disable: Some(false),
        ipv4_forwarding: Some(true),
        debug: Some(false),
        system_time: Some(Timestamp::now().to_string()),
        logging_driver: Some(logs::driver_of(Some(&engine.defaults.log)).to_owned()),
        // The agent's, in the guest. `none` would tell clients that there are no limits.
        cgroup_driver: Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        cgroup_version: Some(SystemInfoCgroupVersionEnum::_2),
        kernel_version: Some(kernel_release()),
        operating_system: Some(operating_system()),
        os_type: Some("linux".to_owned()),
        architecture: Some("x86_64".to_owned()),
        ncpu: i64::try_from(cpus).ok(),
        mem_total: i64::try_from(memory).ok(),
        registry_config: Some(registries(&engine.images.registries)),
        index_server_address: Some("https://index.docker.io/v1/".to_owned()),
        name: Some(host_name()),
        labels: Some(engine.defaults.labels.clone()),
        experimental_build: Some(false),
        server_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        runtimes: Some(HashMap::from([("hull".to_owned(), Runtime::default())])),
        default_runtime: Some("hull".to_owned()),
        swarm: Some(SwarmInfo {
            local_node_state: Some(LocalNodeState::INACTIVE),
            ..SwarmInfo::default()
        }),
        live_restore_enabled: Some(true),
        init_binary: Some("docker-init".to_owned()),
        security_options: list(&["name=microvm"]),
        warnings: Some(kvm_warning().into_iter().collect()),
        ..SystemInfo::default()
    })
}

/// As dockerd: not to write a log is no driver's work.
fn log_drivers() -> Vec<String> {
    let drivers = logs::DRIVERS.iter().filter(|name| **name != "none");
    drivers.map(|name| (*name).to_owned()).collect()
}

async fn volume_drivers(engine: &Engine) -> Vec<String> {
    let plugins = engine.plugins.volume_drivers().await;
    let mut names = vec![LOCAL.to_owned()];
    names.extend(plugins.iter().map(|driver| driver.name().to_owned()));
    names
}

/// How registries are talked to, in docker's shape: Docker Hub and those that were named.
fn registries(config: &hull_image::RegistryConfig) -> RegistryServiceConfig {
    const HUB: &str = "docker.io";
    let mirrors = |registry: &str| -> Vec<String> {
        let mirrors = config.mirrors.iter();
        let of_it = mirrors.filter(|mirror| mirror.of() == registry);
        of_it
            .map(|mirror| format!("{}/", mirror.address()))
            .collect()
    };
    let named = config.mirrors.iter().map(hull_image::Mirror::of);
    let named = named.chain(config.insecure.iter().map(String::as_str));
    let index = |name: &str| IndexInfo {
        name: Some(name.to_owned()),
        mirrors: Some(mirrors(name)),
        secure: Some(!config.insecure.iter().any(|insecure| insecure == name)),
        official: Some(name == HUB),
    };
    let indexes = named
        .chain([HUB])
        .map(|name| (name.to_owned(), index(name)));
    RegistryServiceConfig {
        insecure_registry_cidrs: Some(vec!["::1/128".to_owned(), "127.0.0.0/8".to_owned()]),
        index_configs: Some(indexes.collect()),
        mirrors: Some(mirrors(HUB)),
    }
}

/// What stands between this host and a microVM, if anything.
fn kvm_warning() -> Option<String> {
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    let error = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .err()?;
    Some(match error.kind() {
        NotFound => "/dev/kvm does not exist: no container can start. Enable virtualization in \
                     the firmware, or nested virtualization where this machine is itself virtual, \
                     and load the module kvm_intel or kvm_amd."
            .to_owned(),
        PermissionDenied => "/dev/kvm may not be opened: no container can start. Add hulld's user \
                             to the group kvm."
            .to_owned(),
        _ => format!("/dev/kvm can't be opened: no container can start ({error})"),
    })
}

fn time_of(query: &Params, key: &str) -> Result<Option<Timestamp>> {
    let text = query.get(key);
    text.map(filters::time).transpose()
}

async fn events(engine: Shared, Query(query): Query) -> Answer<Response> {
    let filters = query.filters()?;
    let (since, until) = (time_of(&query, "since")?, time_of(&query, "until")?);
    if let (Some(from), Some(to)) = (since, until) {
        if to < from {
            let said = |key: &str| query.get(key).unwrap_or_default();
            return Err(EngineError::BadRequest(format!(
                "`since` time ({}) cannot be after `until` time ({})",
                said("since"),
                said("until")
            ))
            .into());
        }
    }
    let (recent, receiver) = engine.events.subscribe();
    let mut past = Vec::new();
    if since.is_some() || until.is_some() {
        past = recent;
        past.retain(|event| {
            let time = event.time_nano.map_or(0, i128::from);
            since.is_none_or(|since| since.as_nanosecond() <= time)
                && until.is_none_or(|until| time <= until.as_nanosecond())
        });
    }
    let (sender, body) = body_channel();
    tokio::spawn(async move {
        for event in past.iter().filter(|event| matches(event, &filters)) {
            if sender.send(event_line(event)).await.is_err() {
                return;
            }
        }
        follow(receiver, &filters, until, &sender).await;
    });
    Ok(stream("application/json", body))
}

async fn follow(
    mut receiver: broadcast::Receiver<EventMessage>,
    filters: &Filters,
    until: Option<Timestamp>,
    sender: &mpsc::Sender<Bytes>,
) {
    let end = async {
        match until {
            Some(until) => {
                let left = until.duration_since(Timestamp::now());
                tokio::time::sleep(left.try_into().unwrap_or_default()).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        let event = tokio::select! {
            event = receiver.recv() => event,
            () = &mut end => return,
            () = sender.closed() => return,
        };
        match event {
            Ok(event) if matches(&event, filters) => {
                if sender.send(event_line(&event)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            // A client that reads too slowly loses the oldest events.
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                tracing::warn!(lost, "a reader of events is too slow");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// The event with the fields that older clients read as well.
fn event_line(event: &EventMessage) -> Bytes {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    let typ = event.typ.map(|typ| typ.to_string()).unwrap_or_default();
    if matches!(typ.as_str(), "container" | "image") {
        let actor = event.actor.clone().unwrap_or_default();
        value["status"] = json!(event.action);
        value["id"] = json!(actor.id);
        value["from"] = match actor.attributes.as_ref().and_then(|all| all.get("image")) {
            Some(image) => json!(image),
            None => Value::Null,
        };
        if value["from"].is_null() {
            if let Some(map) = value.as_object_mut() {
                map.remove("from");
            }
        }
    }
    Bytes::from(format!("{value}\n"))
}
