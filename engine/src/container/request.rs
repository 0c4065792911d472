//! What a client asks for when it makes a container.

use std::collections::HashMap;

use bollard_stubs::models::{ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig};
use serde_json::Value;

use crate::api::Version;
use crate::error::{EngineError, Result};
use crate::json::{decode, fold_case, lists_from_strings};
use crate::network::{self, KNOWN_ENDPOINT_OPTIONS};
use crate::{health, scratch, spec};

/// Longest host name that Linux takes, in bytes.
const MAX_HOSTNAME: usize = 64;

/// The body of `/containers/create`.
#[derive(Debug, Default)]
pub(crate) struct CreateRequest {
    pub(crate) config: ContainerConfig,
    pub(crate) host: HostConfig,
    pub(crate) networks: HashMap<String, EndpointSettings>,
    pub(crate) mac_address: Option<String>,
    /// What the body has that nobody knows, for warnings.
    pub(crate) unknown: Vec<String>,
}

impl CreateRequest {
    /// Reads the body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        let bad =
            |error: serde_json::Error| EngineError::BadRequest(format!("invalid JSON: {error}"));
        let mut value: Value = decode(body)?;
        fold_names(&mut value);
        if !names_a_config(&value) {
            return Err(EngineError::BadRequest(
                "config cannot be empty in order to create a container".to_owned(),
            ));
        }
        lists_from_strings(&mut value, &["Cmd", "Entrypoint", "Shell"]);
        let mut host = value
            .get_mut("HostConfig")
            .map(Value::take)
            .unwrap_or_default();
        lists_from_strings(&mut host, &["CapAdd", "CapDrop"]);
        spec::check_words(&host)?;
        let networks = value
            .pointer_mut("/NetworkingConfig/EndpointsConfig")
            .map(Value::take)
            .unwrap_or_default();
        let networks: Option<HashMap<String, Option<EndpointSettings>>> =
            serde_json::from_value(networks).map_err(bad)?;
        let networks = networks
            .into_iter()
            .flatten()
            .map(|(name, settings)| (name, settings.unwrap_or_default()))
            .collect();
        let mac_address = value["MacAddress"].as_str().map(str::to_owned);
        let unknown = spec::unknown(&host, spec::HOST).map(|name| format!("HostConfig.{name}"));
        let beside = ["MacAddress", "NetworkingConfig", "HostConfig"];
        let of_config = spec::unknown(&value, spec::CONFIG).filter(|name| !beside.contains(name));
        let unknown = unknown.chain(of_config.map(str::to_owned)).collect();
        Ok(Self {
            unknown,
            mac_address: mac_address.filter(|mac| !mac.is_empty()),
            config: serde_json::from_value(value).map_err(bad)?,
            host: match host {
                Value::Null => HostConfig::default(),
                host => serde_json::from_value(host).map_err(bad)?,
            },
            networks,
        })
    }

    /// What clients mean that speak an older version of the API.
    pub(crate) fn adjust(&mut self, version: Version) -> Result<()> {
        if version.is_before(44) && 1 < self.networks.len() {
            return Err(EngineError::BadRequest(
                "Container cannot be created with multiple network endpoints".to_owned(),
            ));
        }
        if version.is_before(44) {
            let health = self.config.healthcheck.as_mut();
            health.map(|health| health.start_interval.take());
        }
        if version.is_before(42) {
            self.host.console_size = None;
        }
        let ipc = &mut self.host.ipc_mode;
        if version.is_before(40) && ipc.as_deref().is_none_or(str::is_empty) {
            *ipc = Some("shareable".to_owned());
        }
        Ok(())
    }

    /// What is wrong with it, or warnings.
    pub(crate) fn check(&self) -> Result<Vec<String>> {
        self.check_hostname()?;
        self.check_environment()?;
        scratch::wanted_bytes(&self.host)?;
        network::egress_of(&self.host)?;
        network::parse_bindings(&self.host, self.config.exposed_ports.as_deref())?;
        if let Some(signal) = self
            .config
            .stop_signal
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            spec::parse_signal(signal)?;
        }
        spec::check_cpu_count(&self.host)?;
        if let Some(config) = &self.config.healthcheck {
            health::check(config)?;
        }
        let mut warnings = spec::accept(&self.host)?;
        let unknown = self.unknown.iter();
        warnings.extend(unknown.map(|name| format!("{name} is not known: discarded.")));
        if self.networks.values().any(asks_for_link_local) {
            warnings.push(
                "LinkLocalIPs are shown, but the interface does not get them: the network pins a \
                 container to one address of each family."
                    .to_owned(),
            );
        }
        warnings.extend(self.networks.iter().flat_map(idle_options));
        Ok(warnings)
    }

    /// Variables have a name.
    fn check_environment(&self) -> Result<()> {
        let mut variables = self.config.env.iter().flatten();
        match variables.find(|variable| variable.is_empty() || variable.starts_with('=')) {
            Some(variable) => Err(EngineError::BadRequest(format!(
                "invalid environment variable: {variable}"
            ))),
            None => Ok(()),
        }
    }

    fn check_hostname(&self) -> Result<()> {
        match self.config.hostname.as_deref() {
            Some(name) if MAX_HOSTNAME < name.len() => Err(EngineError::BadRequest(format!(
                "invalid hostname: {name:?}"
            ))),
            Some(name) if !name.is_empty() && self.host.uts_mode.as_deref() == Some("host") => {
                Err(EngineError::BadRequest(
                    "conflicting options: hostname and the UTS mode".to_owned(),
                ))
            }
            _ => Ok(()),
        }
    }
}

/// The parts of the body that a typed form is made of.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(dead_code, reason = "only its members' names are wanted")]
struct Body {
    #[serde(default)]
    host_config: Option<HostConfig>,
    #[serde(default)]
    networking_config: Option<NetworkingConfig>,
    #[serde(default)]
    mac_address: Option<String>,
}

/// Gives members their names that are written in another case.
fn fold_names(body: &mut Value) {
    fold_case::<ContainerConfig>(body);
    fold_case::<Body>(body);
    // Once more each by itself: what the other can't be decoded for does not hide it.
    if let Some(host) = body.get_mut("HostConfig") {
        fold_case::<HostConfig>(host);
    }
    if let Some(networks) = body.get_mut("NetworkingConfig") {
        fold_case::<NetworkingConfig>(networks);
    }
}

/// An absolute path without what adds nothing to it.
pub(crate) fn clean_path(path: &str) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Options of a network's driver that mean nothing here.
fn idle_options<'a>(
    (network, settings): (&'a String, &'a EndpointSettings),
) -> impl Iterator<Item = String> + 'a {
    let options = settings.driver_opts.iter().flatten();
    let options = options.filter(|(option, _)| !KNOWN_ENDPOINT_OPTIONS.contains(&option.as_str()));
    options.map(move |(option, _)| {
        format!(
            "DriverOpts {option} of network {network} is shown, but changes nothing; see --sysctl."
        )
    })
}

fn asks_for_link_local(settings: &EndpointSettings) -> bool {
    let ipam = settings.ipam_config.as_ref();
    let asked = ipam.and_then(|ipam| ipam.link_local_ips.as_ref());
    asked.is_some_and(|asked| !asked.is_empty())
}

/// Whether the body says anything about the container itself, and not only of its place.
fn names_a_config(body: &Value) -> bool {
    let beside = ["HostConfig", "NetworkingConfig"];
    let mut fields = body.as_object().into_iter().flatten();
    fields.any(|(name, _)| !beside.contains(&name.as_str()))
}

pub(super) fn has_hostname(config: &ContainerConfig) -> bool {
    has_text(&config.hostname)
}

pub(super) fn has_text(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn create_body_of_the_docker_command_line_is_read() {
        let body = r#"{"Hostname":"","User":"","AttachStdin":false,"ExposedPorts":{"80/tcp":{}},
            "Tty":false,"Env":null,"Cmd":"true","Image":"busybox","Volumes":{},"WorkingDir":"",
            "Entrypoint":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"",
            "LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},
            "RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":true,
            "VolumeDriver":"","VolumesFrom":null,"ConsoleSize":[24,80],"CapAdd":null,
            "CapDrop":null,"CgroupnsMode":"","Dns":[],"Isolation":"","Memory":0,
            "Devices":[],"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,
            "MaskedPaths":null},"NetworkingConfig":{"EndpointsConfig":{"default":{}}}}"#;
        let request = CreateRequest::parse(body.as_bytes()).unwrap();
        assert_eq!(
            request.config.cmd.as_deref(),
            Some(&["true".to_owned()][..])
        );
        assert_eq!(
            request.config.exposed_ports.as_deref(),
            Some(&["80/tcp".to_owned()][..])
        );
        assert!(request.networks.contains_key("default"));
        assert!(request.check().unwrap().is_empty());
    }

    #[test]
    fn members_are_read_in_any_case() {
        let body = json!({ "image": "x", "CMD": ["true"], "hostconfig": { "memory": 1 << 30 },
            "networkingConfig": { "endpointsConfig": { "web": { "ipamConfig": null } } } });
        let request = CreateRequest::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(request.config.image.as_deref(), Some("x"));
        assert_eq!(request.config.cmd.map(|cmd| cmd.len()), Some(1));
        assert_eq!(request.host.memory, Some(1 << 30));
        assert!(request.networks.contains_key("web"));
        assert!(request.unknown.is_empty(), "{:?}", request.unknown);
    }

    #[test]
    fn a_working_directory_is_written_down_clean() {
        for (path, clean) in [
            ("/tmp/", "/tmp"),
            ("/", "/"),
            ("//a/./b/../c", "/a/c"),
            ("/..", "/"),
            ("a/", "a/"),
        ] {
            assert_eq!(clean_path(path), clean, "{path}");
        }
    }

    #[test]
    fn options_of_a_networks_driver_are_warned_of() {
        let body = json!({ "Image": "x", "NetworkingConfig": { "EndpointsConfig": {
            "web": { "DriverOpts": { "some.option": "1" } }, "other": {} } } });
        let request = CreateRequest::parse(body.to_string().as_bytes()).unwrap();
        let warnings = request.check().unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("some.option of network web"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_variable_has_a_name() {
        let check = |variable: &str| {
            let body = json!({ "Image": "x", "Env": [variable] }).to_string();
            CreateRequest::parse(body.as_bytes()).unwrap().check()
        };
        for bad in ["", "=", "=value"] {
            let text = check(bad).unwrap_err().to_string();
            assert_eq!(text, format!("invalid environment variable: {bad}"));
        }
        assert!(check("NAME=").is_ok() && check("NAME").is_ok());
    }

    #[test]
    fn malformed_bodies_are_bad_requests() {
        for bad in [
            "",
            "[]",
            "{",
            r#"{"Cmd":1}"#,
            r#"{"Image":"x","HostConfig":{"Memory":"x"}}"#,
            "{}",
            r#"{"HostConfig":{}}"#,
        ] {
            let error = CreateRequest::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::BadRequest, "{bad}");
        }
    }
}
