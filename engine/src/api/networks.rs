//! `/networks`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use bollard_stubs::models::{
    EventMessageTypeEnum, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use serde_json::{json, Value};

use super::respond::Answer;
use super::{Query, Shared};
use crate::container::joins;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::events::label_matches;
use crate::filters::Patterns;
use crate::json::{decode, Filters};
use crate::logs::flag;
use crate::network::{
    self, CreateNetwork, Families, NetworkRecord, Networks, Pool, PoolRequest, Wanted, DEFAULT,
    HOST, HOST_ID, NONE, NONE_ID,
};

/// Filters of a list, and of what is pruned.
const LIST_FILTERS: [&str; 7] = ["name", "id", "driver", "scope", "type", "label", "dangling"];
/// Options by which a network is asked for its families, too.
const IPV4_OPTION: &str = "com.docker.network.enable_ipv4";
const IPV6_OPTION: &str = "com.docker.network.enable_ipv6";
const PRUNE_FILTERS: [&str; 3] = ["label", "label!", "until"];

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/networks", get(list))
        // Of all lists this one alone is asked for so, by clients of old.
        .route("/networks/", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{name}", get(inspect).delete(remove))
        .route("/networks/{name}/connect", post(connect))
        .route("/networks/{name}/disconnect", post(disconnect))
}

fn none() -> Value {
    builtin(NONE, NONE_ID, "null")
}

/// The network whose containers have the host's ports: of their own addresses nobody needs to know.
fn host(engine: &Engine, with_containers: bool) -> Value {
    let mut view = builtin(HOST, HOST_ID, "host");
    let members = engine.networks.members(HOST_ID).into_iter();
    for (id, end) in members.filter(|_| with_containers) {
        view["Containers"][&id] = json!({
            "Name": engine.containers().get(&id).map(|container| container.name()),
            "EndpointID": end.id,
            "MacAddress": "",
            "IPv4Address": "",
            "IPv6Address": "",
        });
    }
    view
}

fn builtin(name: &str, id: &str, driver: &str) -> Value {
    json!({
        "Name": name,
        "Id": id,
        "Created": "1970-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": null },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": HashMap::<String, String>::new(),
    })
}

fn view(engine: &Engine, network: &NetworkRecord, with_containers: bool) -> Value {
    let mut containers = serde_json::Map::new();
    if with_containers {
        for (id, end) in engine.networks.members(&network.id) {
            let name = engine.containers().get(&id).map(|c| c.name());
            containers.insert(
                id,
                json!({
                    "Name": name,
                    "EndpointID": end.id,
                    "MacAddress": end.mac,
                    "IPv4Address": end.v4.map(|v4| v4.prefix().to_string()).unwrap_or_default(),
                    "IPv6Address": end.v6.map(|v6| v6.prefix().to_string()).unwrap_or_default(),
                }),
            );
        }
    }
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "local",
        "Driver": network.driver(),
        "EnableIPv4": network.v4.is_some(),
        "EnableIPv6": network.v6.is_some(),
        "IPAM": {
            "Driver": "default",
            "Options": network.ipam_options,
            "Config": network.pools().map(pool_view).collect::<Vec<_>>(),
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options(engine, network),
        "Labels": network.labels,
    })
}

/// The default network's are dockerd's, by which clients know it.
fn options(engine: &Engine, network: &NetworkRecord) -> HashMap<String, String> {
    let mut options = network.options.clone();
    if network.is_default() {
        let bridge = engine.networks.bridge_name(network);
        let usual = [
            ("default_bridge", "true"),
            ("enable_icc", "true"),
            ("enable_ip_masquerade", "true"),
            ("host_binding_ipv4", "0.0.0.0"),
            ("name", &bridge),
        ];
        let mtu = engine.networks.mtu_of(network);
        options
            .entry("com.docker.network.driver.mtu".to_owned())
            .or_insert_with(|| mtu.to_string());
        for (key, value) in usual {
            let key = format!("com.docker.network.bridge.{key}");
            options.entry(key).or_insert_with(|| value.to_owned());
        }
    }
    options
}

fn pool_view(pool: &Pool) -> Value {
    let mut view = json!({ "Subnet": pool.subnet, "Gateway": pool.gateway });
    if let Some(range) = pool.range {
        view["IPRange"] = json!(range);
    }
    if !pool.reserved.is_empty() {
        view["AuxiliaryAddresses"] = json!(pool.reserved);
    }
    view
}

async fn list(engine: Shared, Query(query): Query) -> Answer<Json<Vec<Value>>> {
    let filters = query.filters()?;
    crate::filters::check(&filters, &LIST_FILTERS)?;
    crate::filters::booleans(&filters, "dangling")?;
    let mut kinds = filters.get("type").into_iter().flatten();
    if let Some(kind) = kinds.find(|kind| !["builtin", "custom"].contains(&kind.as_str())) {
        return Err(EngineError::BadRequest(format!("invalid filter 'type={kind}'")).into());
    }
    // The default network is always there, as with dockerd.
    engine.networks.find(DEFAULT)?;
    let mut all: Vec<Value> = engine
        .networks
        .all()
        .iter()
        .filter(|network| !network.host)
        .map(|network| view(&engine, network, false))
        .collect();
    all.push(host(&engine, false));
    all.push(none());
    let [names, ids] = ["name", "id"].map(|key| Patterns::of(&filters, key));
    all.retain(|network| {
        let text = |key: &str| network[key].as_str().unwrap_or_default();
        names.pass(&[text("Name")]) && ids.pass(&[text("Id")]) && passes(&engine, network, &filters)
    });
    Ok(Json(all))
}

fn passes(engine: &Engine, network: &Value, filters: &Filters) -> bool {
    let text = |key: &str| network[key].as_str().unwrap_or_default();
    let builtin = matches!(text("Name"), DEFAULT | HOST | NONE);
    filters.iter().all(|(key, wanted)| {
        let any = |test: &dyn Fn(&String) -> bool| wanted.iter().any(test);
        match key.as_str() {
            // The caller looks at these.
            "name" | "id" => true,
            "driver" => any(&|driver| text("Driver") == driver),
            "scope" => any(&|scope| scope == "local"),
            "type" => any(&|kind| kind == if builtin { "builtin" } else { "custom" }),
            "label" => {
                let labels: HashMap<String, String> =
                    serde_json::from_value(network["Labels"].clone()).unwrap_or_default();
                wanted.iter().all(|label| label_matches(label, &labels))
            }
            "dangling" => {
                let used = !engine.networks.members(text("Id")).is_empty();
                let free = !(used || builtin);
                any(&|flag| matches!(flag.as_str(), "true" | "1") == free)
            }
            _ => false,
        }
    })
}

async fn inspect(
    engine: Shared,
    Path(name): Path<String>,
    Query(query): Query,
) -> Answer<Json<Value>> {
    if let Some(text) = query.get("verbose").filter(|text| !text.is_empty()) {
        flag(text).ok_or_else(|| {
            EngineError::BadRequest(format!("invalid value for verbose: {text:?} is no bool"))
        })?;
    }
    // All are this host's.
    if query
        .get("scope")
        .is_some_and(|scope| !matches!(scope, "" | "local"))
    {
        return Err(EngineError::NoSuchNetwork(name).into());
    }
    if network::is_none(&name) {
        return Ok(Json(none()));
    }
    if Networks::is_host(&name) {
        return Ok(Json(host(&engine, true)));
    }
    let network = engine.networks.find(&name)?;
    Ok(Json(view(&engine, &network, true)))
}

async fn create(engine: Shared, body: Bytes) -> Answer<(StatusCode, Json<Value>)> {
    let request: NetworkCreateRequest = decode(&body)?;
    if request.config_only.unwrap_or(false) || request.ingress.unwrap_or(false) {
        return Err(EngineError::NotBuilt("a ConfigOnly or Ingress network".to_owned()).into());
    }
    if request
        .config_from
        .is_some_and(|from| from.network.is_some_and(|name| !name.is_empty()))
    {
        return Err(
            EngineError::NotBuilt("a network made from another (ConfigFrom)".into()).into(),
        );
    }
    if !matches!(request.scope.as_deref(), None | Some("" | "local")) {
        let text = "cannot create a swarm scoped network when swarm is not active";
        return Err(EngineError::Forbidden(text.to_owned()).into());
    }
    let options = request.options.unwrap_or_default();
    let families = families(request.enable_ipv4, request.enable_ipv6, &options)?;
    let ipam = request.ipam.unwrap_or_default();
    if !matches!(ipam.driver.as_deref(), None | Some("" | "default")) {
        let driver = ipam.driver.unwrap_or_default();
        return Err(EngineError::NoSuchPlugin(driver).into());
    }
    let ipam_options = ipam.options;
    let pools = ipam.config.unwrap_or_default();
    let pools: Vec<PoolRequest> = pools.into_iter().map(pool_request).collect();
    let ignored = |v6: bool| pools.iter().any(|pool| pool.is_v6() == v6);
    let warning = match families {
        Families::V4 if ignored(true) => {
            "IPv6 is not enabled for this network (EnableIPv6, --ipv6): its IPv6 subnet is ignored."
        }
        Families::V6 if ignored(false) => {
            "IPv4 is disabled for this network (EnableIPv4, --ipv4): its IPv4 subnet is ignored."
        }
        _ => "",
    };
    let wanted = CreateNetwork {
        name: request.name,
        driver: request.driver.unwrap_or_default(),
        families,
        pools,
        internal: request.internal.unwrap_or(false),
        attachable: request.attachable.unwrap_or(false),
        options,
        ipam_options,
        labels: request.labels.unwrap_or_default(),
    };
    let network = engine.networks.create(&wanted)?;
    let warnings = network::option_warnings(&wanted, &engine.networks.bridge_name(&network));
    let warnings: Vec<_> = [warning.to_owned()].into_iter().chain(warnings).collect();
    let warning = warnings.join(" ");
    let warning = warning.trim_start();
    publish(&engine, "create", &network);
    let answer = json!({ "Id": network.id, "Warning": warning });
    Ok((StatusCode::CREATED, Json(answer)))
}

/// The families that a client asks for, by themselves or by an option of the driver.
fn families(
    v4: Option<bool>,
    v6: Option<bool>,
    options: &HashMap<String, String>,
) -> Result<Families, EngineError> {
    let asked = |said: Option<bool>, option: &str, usual: bool| match (said, options.get(option)) {
        (Some(said), _) => Ok(said),
        (None, Some(text)) => flag(text).ok_or_else(|| {
            EngineError::BadRequest(format!("driver-opt {option:?} is not a valid bool"))
        }),
        (None, None) => Ok(usual),
    };
    let v4 = asked(v4, IPV4_OPTION, true)?;
    let v6 = asked(v6, IPV6_OPTION, false)?;
    Families::of(v4, v6).ok_or_else(|| {
        let text = "IPv4 or IPv6 must be enabled: add --ipv6, or leave out --ipv4=false";
        EngineError::BadRequest(text.into())
    })
}

fn pool_request(pool: IpamConfig) -> PoolRequest {
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    PoolRequest {
        subnet: text(pool.subnet),
        gateway: text(pool.gateway),
        range: text(pool.ip_range),
        reserved: pool.auxiliary_addresses.into_iter().flatten().collect(),
    }
}

fn publish(engine: &Engine, action: &str, network: &NetworkRecord) {
    engine.publish_network(action, Named::of(network), None);
}

/// What events tell of a network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) driver: &'a str,
}

impl<'a> Named<'a> {
    /// The network that nobody can reach anything by.
    pub(crate) const NONE: Self = Self {
        id: NONE_ID,
        name: NONE,
        driver: "null",
    };

    pub(crate) fn of(network: &'a NetworkRecord) -> Self {
        Self {
            id: &network.id,
            name: &network.name,
            driver: network.driver(),
        }
    }
}

impl Engine {
    /// Tells of a network.
    pub(crate) fn publish_network(&self, action: &str, of: Named<'_>, container: Option<&str>) {
        let attributes = [("name", of.name), ("type", of.driver)];
        let container = container.map(|id| ("container", id));
        let all = attributes.into_iter().chain(container);
        self.events.publish(
            EventMessageTypeEnum::NETWORK,
            action,
            of.id,
            all.map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        );
    }
}

fn publish_end(engine: &Engine, action: &str, network: &NetworkRecord, container: &Container) {
    engine.publish_network(action, Named::of(network), Some(container.id()));
}

fn stays_on_host() -> EngineError {
    EngineError::BadRequest(
        "container cannot be disconnected from host network or connected to host network"
            .to_owned(),
    )
}

async fn remove(engine: Shared, Path(name): Path<String>) -> Answer<StatusCode> {
    let network = engine.networks.remove(&name)?;
    publish(&engine, "destroy", &network);
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(engine: Shared, Query(query): Query) -> Answer<Json<Value>> {
    let filters = query.filters()?;
    crate::filters::check(&filters, &PRUNE_FILTERS)?;
    let until = crate::filters::until(&filters)?;
    let mut deleted = Vec::new();
    for network in engine.networks.all() {
        let wanted = filters.iter().all(|(key, values)| match key.as_str() {
            "label" => values
                .iter()
                .all(|value| label_matches(value, &network.labels)),
            "label!" => !values
                .iter()
                .any(|value| label_matches(value, &network.labels)),
            _ => until.is_none_or(|until| network.created < until),
        });
        // What a running container is on can't be removed.
        let wanted = wanted && !network.is_builtin();
        if wanted && engine.networks.remove(&network.id).is_ok() {
            publish(&engine, "destroy", &network);
            deleted.push(network.name);
        }
    }
    engine.publish_prune(EventMessageTypeEnum::NETWORK, 0);
    Ok(Json(json!({ "NetworksDeleted": deleted })))
}

async fn connect(engine: Shared, Path(name): Path<String>, body: Bytes) -> Answer<StatusCode> {
    let request: NetworkConnectRequest = decode(&body)?;
    let container = engine.container(&request.container)?;
    if joins(&container.lock().host) {
        return Err(EngineError::BadRequest(network::STAYS.to_owned()).into());
    }
    if network::is_none(&name) {
        return connect_to_none(&engine, &container);
    }
    let of_host = network::is_host_mode(&container.lock().host);
    if of_host != Networks::is_host(&name) {
        return Err(stays_on_host().into());
    }
    let network = engine.networks.find(&name)?;
    let settings = request.endpoint_config.unwrap_or_default();
    let mut wanted = Wanted {
        network: network.id.clone(),
        ..Wanted::default()
    };
    wanted.fill(&settings)?;
    wanted.check_on(&network)?;
    engine.connect_network(&container, wanted).await?;
    publish_end(&engine, "connect", &network, &container);
    Ok(StatusCode::OK)
}

/// Whether a container is on no network, which is to be on the network `none`.
fn is_on_none(container: &Container) -> bool {
    let record = container.lock();
    record.networks.is_empty() && !joins(&record.host)
}

/// Nothing is put on the network `none`: who is on it stays on it.
fn connect_to_none(engine: &Engine, container: &Container) -> Answer<StatusCode> {
    if !is_on_none(container) {
        let text =
            "container cannot be connected to multiple networks with one of the networks in \
                    private (none) mode";
        return Err(EngineError::Forbidden(text.to_owned()).into());
    }
    if container.status().is_live() {
        return Err(EngineError::Forbidden(format!(
            "endpoint with name {} already exists in network none",
            container.name()
        ))
        .into());
    }
    engine.publish_network("connect", Named::NONE, Some(container.id()));
    Ok(StatusCode::OK)
}

/// Who is taken off the network `none` can be put on others, as before.
fn disconnect_from_none(engine: &Engine, container: &Container) -> Answer<StatusCode> {
    if !is_on_none(container) {
        return Err(not_connected(container, NONE).into());
    }
    engine.publish_network("disconnect", Named::NONE, Some(container.id()));
    Ok(StatusCode::OK)
}

fn not_connected(container: &Container, network: &str) -> EngineError {
    EngineError::Forbidden(format!(
        "container {} is not connected to network {network}",
        container.id(),
    ))
}

/// A container that does not run may be on a network that is gone: who names its id takes it off.
async fn leave_what_is_gone(
    engine: &Engine,
    container: &Arc<Container>,
    id: &str,
    error: EngineError,
) -> Answer<StatusCode> {
    let on_it = container.lock().networks.iter().any(|w| w.network == id);
    if !on_it {
        return Err(error.into());
    }
    engine.disconnect_network(container, id).await?;
    Ok(StatusCode::OK)
}

async fn disconnect(engine: Shared, Path(name): Path<String>, body: Bytes) -> Answer<StatusCode> {
    let request: NetworkDisconnectRequest = decode(&body)?;
    let container = engine.container(&request.container)?;
    if network::is_host_mode(&container.lock().host) && Networks::is_host(&name) {
        return Err(stays_on_host().into());
    }
    if network::is_none(&name) {
        return disconnect_from_none(&engine, &container);
    }
    let network = match engine.networks.find(&name) {
        Err(error @ EngineError::NoSuchNetwork(_)) => {
            return leave_what_is_gone(&engine, &container, &name, error).await;
        }
        found => found?,
    };
    let there = container
        .lock()
        .networks
        .iter()
        .any(|w| w.network == network.id);
    if !there {
        return Err(not_connected(&container, &network.name).into());
    }
    engine.disconnect_network(&container, &network.id).await?;
    publish_end(&engine, "disconnect", &network, &container);
    Ok(StatusCode::OK)
}
