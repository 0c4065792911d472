//! `/containers/ID/json`: the description of a container, as Docker's clients expect it.

use axum::extract::Path;
use axum::Json;
use serde_json::{json, Value};

use super::respond::Answer;
use super::{Query, Shared};
use crate::error::EngineError;
use crate::network;
use crate::spec;

/// Fields of an endpoint that are there with no value, too.
const OF_ENDPOINTS: [&str; 3] = ["IPAMConfig", "Links", "DriverOpts"];
/// Fields of the default network's endpoint that stand once more above it (API before 1.52), and
/// what they are without it.
const OF_DEFAULT: [(&str, Value); 8] = [
    ("EndpointID", Value::String(String::new())),
    ("Gateway", Value::String(String::new())),
    ("GlobalIPv6Address", Value::String(String::new())),
    ("GlobalIPv6PrefixLen", Value::Null),
    ("IPAddress", Value::String(String::new())),
    ("IPPrefixLen", Value::Null),
    ("IPv6Gateway", Value::String(String::new())),
    ("MacAddress", Value::String(String::new())),
];

pub(super) async fn inspect(
    engine: Shared,
    Path(id): Path<String>,
    Query(query): Query,
) -> Answer<Json<Value>> {
    let container = engine.container(&id)?;
    let mut shown = engine.inspect_container(&container);
    if query.flag("size") {
        let (writable, whole) = engine.disk_sizes(&container.record());
        (shown.size_rw, shown.size_root_fs) = (Some(writable), Some(whole));
    }
    let mut shown = serde_json::to_value(shown).map_err(|source| EngineError::Json {
        what: "describe the container",
        source,
    })?;
    for (key, fields) in [("HostConfig", spec::HOST), ("Config", spec::CONFIG)] {
        if let Some(object) = shown[key].as_object_mut() {
            spec::complete(object, fields);
        }
    }
    for list in ["/ExecIDs", "/Config/Env"] {
        if let Some(list) = shown.pointer_mut(list) {
            if list.as_array().is_some_and(Vec::is_empty) {
                *list = Value::Null;
            }
        }
    }
    complete_networks(&mut shown["NetworkSettings"]);
    Ok(Json(shown))
}

/// Adds what clients look for and the typed form has no place for.
fn complete_networks(settings: &mut Value) {
    for endpoint in settings["Networks"]
        .as_object_mut()
        .into_iter()
        .flat_map(serde_json::Map::values_mut)
    {
        for field in OF_ENDPOINTS {
            if let Some(endpoint) = endpoint.as_object_mut() {
                endpoint.entry(field).or_insert(Value::Null);
            }
        }
    }
    let default = settings["Networks"][network::DEFAULT].clone();
    for (field, absent) in OF_DEFAULT {
        settings[field] = match (&default[field], absent) {
            (Value::Null, Value::Null) => json!(0),
            (Value::Null, absent) => absent,
            (value, _) => value.clone(),
        };
    }
    for text in ["Bridge", "SandboxID", "SandboxKey"] {
        settings[text] = json!("");
    }
    settings["HairpinMode"] = json!(false);
    settings["LinkLocalIPv6Address"] = json!("");
    settings["LinkLocalIPv6PrefixLen"] = json!(0);
    settings["SecondaryIPAddresses"] = Value::Null;
    settings["SecondaryIPv6Addresses"] = Value::Null;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_networks_addresses_stand_above_it() {
        let mut settings = json!({ "Networks": { "bridge": {
            "IPAddress": "172.17.0.2", "IPPrefixLen": 16, "MacAddress": "02:42:ac:11:00:02",
        } } });
        complete_networks(&mut settings);
        assert_eq!(settings["IPAddress"], "172.17.0.2");
        assert_eq!(settings["IPPrefixLen"], 16);
        assert_eq!(settings["Gateway"], "");
        assert_eq!(settings["Networks"]["bridge"]["IPAMConfig"], Value::Null);
        let mut other = json!({ "Networks": { "mine": { "IPAddress": "10.0.0.2" } } });
        complete_networks(&mut other);
        assert_eq!(other["IPAddress"], "");
        assert_eq!(other["GlobalIPv6PrefixLen"], 0);
    }
}
