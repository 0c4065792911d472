//! Making a container.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bollard_stubs::models::{ContainerConfig, EndpointSettings, HostConfig};
use jiff::Timestamp;
use serde_json::Value;

use super::{defaults, join, trust, Container};
use crate::api::Version;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::images::ImageInfo;
use crate::json::{decode, lists_from_strings};
use crate::network::{self, Networks, Wanted, STAYS};
use crate::record::{ImageMount, ImageUse, Record, State};
use crate::volumes::VolumeUse;
use crate::{health, ids, logs, names, scratch, spec, volumes};

/// Attempts at a free random name.
const NAME_ATTEMPTS: usize = 20;

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
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if self
            .host
            .nano_cpus
            .is_some_and(|nano| cpus as i64 * 1_000_000_000 < nano)
        {
            return Err(EngineError::BadRequest(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )));
        }
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
            Some(name) if 63 < name.len() => Err(EngineError::BadRequest(format!(
                "invalid hostname: {name:?}"
            ))),
            _ => Ok(()),
        }
    }
}

impl Engine {
    /// Makes a container. Returns it and warnings for the user.
    pub(crate) async fn create_container(
        &self,
        name: Option<&str>,
        mut request: CreateRequest,
    ) -> Result<(Arc<Container>, Vec<String>)> {
        let name = name.map(|name| name.strip_prefix('/').unwrap_or(name));
        if let Some(name) = name {
            if !names::is_valid(name) {
                return Err(EngineError::InvalidName(name.to_owned()));
            }
        }
        // Before the check: it looks at the options as they are together.
        let log = request.host.log_config.get_or_insert_default();
        logs::merge_defaults(log, &self.defaults.log);
        trust::fill(&mut request.host, &self.defaults)?;
        let warnings = request.check()?;
        defaults::fill(&mut request.host, spec::MASKED_PATHS, spec::READONLY_PATHS);
        if request.config.network_disabled.unwrap_or(false) {
            request.host.network_mode = Some(network::NONE.to_owned());
        }
        self.check_host_network(&request.host)?;
        let mac = request.mac_address.is_some()
            || request
                .networks
                .values()
                .any(|one| has_text(&one.mac_address));
        join::check(&request.host, &request.config, mac)?;
        self.resolve_joined(&mut request.host)
            .map_err(not_of_the_image)?;
        if network::is_host_mode(&request.host) && !has_hostname(&request.config) {
            request.config.hostname = Some(host_name());
        }
        let reference = request.config.image.clone().unwrap_or_default();
        if reference.is_empty() {
            return Err(EngineError::BadRequest("no image specified".to_owned()));
        }
        let image = self.images.get(&reference).await?;
        let rootfs = self.images.rootfs(&image).await?;
        // Not found means to clients that the image is not there, and they pull it.
        let wanted = self.wanted_networks(&request).map_err(not_of_the_image)?;
        let mut record = new_record(request, &image, rootfs, reference)?;
        record.networks = wanted;
        record.image_mounts = self.mounted_images(&record.host).await?;
        // Everything that the specification can refuse is refused now.
        spec::build(
            &record,
            spec::Host {
                bundle: &self.paths.bundle(&record.id),
                volumes: &[],
                defaults: &self.defaults,
                linked: &[],
                joined: None,
                disks: &spec::host_disks(&record.host),
            },
        )?;
        check_bind_sources(&record)?;
        let container = self.reserve(name, record)?;
        let made = match self.take_volumes(&container).await {
            Ok(()) => self.make_files(&container).await,
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            self.containers_mut().remove(container.id());
            self.drop_own_volumes(&container).await;
            let _ = std::fs::remove_dir_all(self.paths.container(container.id()));
            return Err(error);
        }
        self.publish(&container, "create", []);
        Ok((container, warnings))
    }

    /// The images that are to be mounted, as they are now.
    async fn mounted_images(&self, host: &HostConfig) -> Result<Vec<ImageMount>> {
        let mut all = Vec::new();
        for wanted in spec::image_mounts(host)? {
            let image = self.images.get(&wanted.reference).await;
            let image = image.map_err(not_of_the_image)?;
            let rootfs = self.images.rootfs(&image).await?;
            all.push(ImageMount {
                image: ImageUse {
                    reference: wanted.reference,
                    id: image.id.to_string(),
                    rootfs: rootfs.metadata,
                    layers: rootfs.layers,
                },
                target: wanted.target,
                subpath: wanted.subpath,
            });
        }
        Ok(all)
    }

    /// Finds or makes the container's volumes.
    async fn take_volumes(&self, container: &Container) -> Result<()> {
        let record = container.record();
        let find = |name: &str| self.container(name).map(|other| other.record());
        let wanted = volumes::wanted(&record.config, &record.host, find);
        let wanted = wanted.map_err(not_of_the_image)?;
        {
            let mut record = container.lock();
            record.volumes = wanted.volumes;
            record.inherited_binds = wanted.inherited;
            record.inherited_tmpfs = wanted.tmpfs;
            record.image_mounts.extend(wanted.images);
        }
        for asked in wanted.asked {
            let made = self.create_volume(asked.create).await;
            let (volume, new) = made.map_err(not_of_the_image)?;
            container.lock().volumes.push(VolumeUse {
                own: new && volume.is_anonymous(),
                name: volume.name,
                ..asked.place
            });
        }
        Ok(())
    }

    /// Removes the volumes that were made for a container, unless another has them too.
    pub(super) async fn drop_own_volumes(&self, container: &Container) {
        let record = container.record();
        for volume in record.volumes.iter().filter(|volume| volume.own) {
            if let Err(error) = self.remove_volume(&volume.name, false).await {
                tracing::debug!(volume = volume.name, error = error.message(), "stays");
            }
        }
    }

    /// The networks of a container that is to be made; each must exist now.
    fn wanted_networks(&self, request: &CreateRequest) -> Result<Vec<Wanted>> {
        let mode = request.host.network_mode.as_deref().unwrap_or_default();
        if mode == network::NONE {
            return without_network(request).map(|()| Vec::new());
        }
        if super::joins(&request.host) {
            return match request.networks.is_empty() {
                true => Ok(Vec::new()),
                false => Err(EngineError::BadRequest(STAYS.to_owned())),
            };
        }
        if mode == network::HOST {
            let others = request.networks.keys().any(|name| !Networks::is_host(name));
            let settings = request.networks.values();
            let mac = request.mac_address.is_some()
                || settings.clone().any(|one| has_text(&one.mac_address));
            let links = request.host.links.iter().flatten().next().is_some();
            network::check_conflicts(mac, links, others)?;
        }
        let main = self.networks.find(mode)?;
        let mut wanted = vec![Wanted {
            network: main.id.clone(),
            ..Wanted::default()
        }];
        for (name, settings) in &request.networks {
            let network = self.networks.find(name)?;
            let known = wanted
                .iter()
                .position(|wanted| wanted.network == network.id);
            let index = known.unwrap_or_else(|| {
                wanted.push(Wanted {
                    network: network.id.clone(),
                    ..Wanted::default()
                });
                wanted.len() - 1
            });
            wanted[index].fill(settings)?;
            wanted[index].check_on(&network)?;
        }
        network::check_count(wanted.len())?;
        if wanted[0].mac.is_none() {
            wanted[0].mac = request.mac_address.clone();
            wanted[0].check_mac()?;
        }
        for text in request.host.links.iter().flatten() {
            wanted[0].links.push(text.parse()?);
        }
        // On other networks a link is a name, which may be of one that comes later.
        if network::is_default_mode(mode) {
            self.check_links(&wanted[0])?;
        }
        Ok(wanted)
    }

    /// Refuses the network `host` where whoever runs this engine does not want it.
    pub(super) fn check_host_network(&self, host: &HostConfig) -> Result<()> {
        match network::is_host_mode(host) && self.defaults.no_host_network {
            true => Err(EngineError::Forbidden(
                "network mode \"host\" is switched off (hulld --no-host-network): publish ports \
                 with -p"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }

    /// Refuses links to containers that are not there.
    fn check_links(&self, wanted: &Wanted) -> Result<()> {
        for link in &wanted.links {
            self.container(&link.target).map_err(|error| {
                EngineError::BadRequest(format!(
                    "could not get container for {}: {}",
                    link.target,
                    error.message()
                ))
            })?;
        }
        Ok(())
    }

    /// Takes the name (a random one if there is none) and shows the container to lookups.
    fn reserve(&self, name: Option<&str>, mut record: Record) -> Result<Arc<Container>> {
        let mut containers = self.containers_mut();
        let holder = |name: &str| {
            containers
                .values()
                .find(|other| other.lock().name == name)
                .map(|c| c.id().to_owned())
        };
        record.name = match name {
            Some(name) => match holder(name) {
                Some(holder) => {
                    return Err(EngineError::NameInUse {
                        name: name.to_owned(),
                        holder,
                    })
                }
                None => name.to_owned(),
            },
            None => (0..NAME_ATTEMPTS)
                .map(names::random)
                .find(|name| holder(name).is_none())
                .unwrap_or_else(|| ids::short(&record.id).to_owned()),
        };
        let container = Container::new(record, &self.paths);
        containers.insert(container.id().to_owned(), Arc::clone(&container));
        Ok(container)
    }

    async fn make_files(&self, container: &Container) -> Result<()> {
        let dir = self.paths.container(container.id());
        std::fs::create_dir_all(&dir).map_err(|source| EngineError::io("create", &dir, source))?;
        let scratch = self.paths.scratch(container.id());
        let record = container.record();
        scratch::of_container(&self.paths.scratch_template(), &scratch, &record.host).await?;
        self.store.put(&record).await
    }

    /// Gives a container another name.
    pub(crate) async fn rename_container(&self, container: &Container, name: &str) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(name);
        if !names::is_valid(name) {
            return Err(EngineError::BadRequest(format!(
                "Error when allocating new name: {}",
                EngineError::InvalidName(format!("/{name}"))
            )));
        }
        let old = {
            // The write lock keeps two renames from taking one name.
            let containers = self.containers_mut();
            if let Some(holder) = containers.values().find(|other| other.lock().name == name) {
                if holder.id() == container.id() {
                    return Err(EngineError::BadRequest(
                        "Renaming a container with the same name as its current name".to_owned(),
                    ));
                }
                return Err(EngineError::NameInUse {
                    name: name.to_owned(),
                    holder: holder.id().to_owned(),
                });
            }
            std::mem::replace(&mut container.lock().name, name.to_owned())
        };
        if let Err(error) = self.update(container, |_| {}).await {
            container.lock().name = old;
            return Err(error);
        }
        self.rename_on_networks(container, &old, name).await;
        self.publish(container, "rename", [("oldName", format!("/{old}"))]);
        Ok(())
    }
}

/// An absolute path without what adds nothing to it.
fn clean_path(path: &str) -> String {
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

/// What has to be there already, and is not.
pub(super) fn check_bind_sources(record: &Record) -> Result<()> {
    let mut binds = spec::binds_of(record)?.into_iter();
    match binds.find(|bind| !bind.create && !Path::new(&bind.source).exists()) {
        None => Ok(()),
        Some(missing) => Err(EngineError::BadRequest(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            missing.source
        ))),
    }
}

/// Refuses what only a network could give.
fn without_network(request: &CreateRequest) -> Result<()> {
    if request.host.links.iter().flatten().next().is_some() {
        return Err(EngineError::BadRequest(
            "conflicting options: links can't be had on the network none".to_owned(),
        ));
    }
    let address = |settings: &EndpointSettings| {
        let ipam = settings.ipam_config.clone().unwrap_or_default();
        let set = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
        set(ipam.ipv4_address) || set(ipam.ipv6_address)
    };
    match request.networks.values().any(address) {
        true => Err(EngineError::BadRequest(
            "invalid config for network none: user specified IP address is supported on user \
             defined networks only"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

pub(super) fn has_hostname(config: &ContainerConfig) -> bool {
    has_text(&config.hostname)
}

fn has_text(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

/// The host's own name.
fn host_name() -> String {
    let about = rustix::system::uname();
    about.nodename().to_string_lossy().into_owned()
}

/// What else is missing is a fault of the request.
fn not_of_the_image(error: EngineError) -> EngineError {
    match error.kind() {
        Kind::NotFound => EngineError::BadRequest(error.message()),
        _ => error,
    }
}

fn new_record(
    request: CreateRequest,
    image: &ImageInfo,
    rootfs: hull_image::Rootfs,
    reference: String,
) -> Result<Record> {
    let mut config = spec::merge_image(request.config, &image.config);
    config.working_dir = config.working_dir.map(|path| clean_path(&path));
    Ok(Record {
        id: ids::new_id(),
        name: String::new(),
        created: Timestamp::now(),
        image: ImageUse {
            reference,
            id: image.id.to_string(),
            rootfs: rootfs.metadata,
            layers: rootfs.layers,
        },
        image_mounts: Vec::new(),
        argv: spec::argv_of(&config)?,
        config,
        host: request.host,
        state: State::created(),
        shim: None,
        volumes: Vec::new(),
        held: Vec::new(),
        inherited_binds: Vec::new(),
        inherited_tmpfs: Vec::new(),
        networks: Vec::new(),
        endpoints: Vec::new(),
        replugged: None,
    })
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
