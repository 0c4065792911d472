//! Docker's description of one container.

use std::collections::HashMap;
use std::path::Path;

use bollard_stubs::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, DriverData,
    EndpointIpamConfig, EndpointSettings, MountPoint, NetworkSettings, PortBinding, PortMap,
    PortSummary, PortSummaryTypeEnum,
};
use bollard_stubs::models::{Health, HealthcheckResult};
use hull_network::rules::Denied;
use jiff::Timestamp;

use super::Container;
use crate::engine::Engine;
use crate::health::Word;
use crate::lifecycle::Status;
use crate::logs;
use crate::network::{self, add_exposed, Endpoint, Wanted, HOST_ID};
use crate::record::Record;
use crate::spec::{binds_of, tmpfs_of, VolumePlace};

/// Docker's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn time_text(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

impl Engine {
    /// Bytes on disk of a container's writable layer, and of that and its image together.
    pub(crate) fn disk_sizes(&self, record: &Record) -> (i64, i64) {
        use std::os::unix::fs::MetadataExt as _;
        let blocks = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |m| m.blocks());
        // What the empty file system takes is nobody's data.
        let empty = blocks(&self.paths.scratch_template());
        let own = blocks(&self.paths.scratch(&record.id)).saturating_sub(empty);
        let files = std::iter::once(&record.image.rootfs).chain(&record.image.layers);
        let image: u64 = files
            .map(|path| std::fs::metadata(path).map_or(0, |m| m.len()))
            .sum();
        let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        (bytes(own * 512), bytes(own * 512 + image))
    }

    /// Everything about one container.
    pub(crate) fn inspect_container(&self, container: &Container) -> ContainerInspectResponse {
        let record = container.record();
        let bundle = self.paths.bundle(container.id());
        let file = |name: &str| Some(bundle.join(name).to_string_lossy().into_owned());
        let mut exec_ids: Vec<String> = self
            .execs()
            .values()
            .filter(|exec| exec.container.id() == container.id() && exec.is_running())
            .map(|exec| exec.id.clone())
            .collect();
        exec_ids.sort();
        let live = record.state.status.is_live();
        let denied = live.then(|| self.networks.denied());
        ContainerInspectResponse {
            id: Some(record.id.clone()),
            created: Some(record.created.to_string()),
            path: record.argv.first().cloned(),
            args: Some(record.argv.iter().skip(1).cloned().collect()),
            state: Some(state(&record)),
            image: Some(record.image.id.clone()),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: Some(log_path(container, &record)),
            name: Some(format!("/{}", record.name)),
            restart_count: Some(i64::from(record.state.restarts)),
            driver: Some("erofs".to_owned()),
            platform: Some("linux".to_owned()),
            mount_label: Some(String::new()),
            process_label: Some(String::new()),
            app_armor_profile: Some(String::new()),
            exec_ids: Some(exec_ids),
            graph_driver: Some(DriverData {
                name: "erofs".to_owned(),
                data: HashMap::from([
                    (
                        "Image".to_owned(),
                        record.image.rootfs.to_string_lossy().into_owned(),
                    ),
                    (
                        "Scratch".to_owned(),
                        self.paths
                            .scratch(&record.id)
                            .to_string_lossy()
                            .into_owned(),
                    ),
                ]),
            }),
            mounts: Some(mount_points(&record, &self.volume_places(&record))),
            network_settings: Some(NetworkSettings {
                ports: Some(self.ports(&record)),
                networks: Some(self.endpoint_settings(&record, denied.as_ref())),
                ..NetworkSettings::default()
            }),
            config: Some({
                let mut config = record.config.clone();
                config.hostname = Some(crate::spec::hostname(&record).to_owned());
                config.image = Some(record.image.reference.clone());
                config
            }),
            host_config: Some({
                let links = self.shown_links(&record);
                let mut host = record.host;
                host.links = links.or(host.links);
                host
            }),
            ..ContainerInspectResponse::default()
        }
    }
}

/// The log's file, where it is one for others to read.
fn log_path(container: &Container, record: &Record) -> String {
    match logs::driver_of(record.host.log_config.as_ref()) {
        logs::DEFAULT_DRIVER => container.log.path().to_string_lossy().into_owned(),
        _ => String::new(),
    }
}

/// Under driver options: packets that packet rules denied since the container is on the network.
const DENIED: &str = "dev.hull.denied";
/// Ports of a container of the network `host`: those that the host has for it, and those that it
/// could not have.
const HOST_PORTS: [&str; 2] = ["dev.hull.host-ports", "dev.hull.host-ports-refused"];

impl Engine {
    /// Docker's map of the networks that a container is on, by name. `denied`: what to tell of
    /// denied packets, if it is asked for.
    pub(super) fn endpoint_settings(
        &self,
        record: &Record,
        denied: Option<&Denied>,
    ) -> HashMap<String, EndpointSettings> {
        if super::joins(&record.host) {
            return HashMap::new();
        }
        if record.networks.is_empty() {
            let none = EndpointSettings {
                network_id: Some(network::NONE_ID.to_owned()),
                ..EndpointSettings::default()
            };
            return HashMap::from([(network::NONE.to_owned(), none)]);
        }
        let live = record.state.status.is_live();
        let mut all = HashMap::new();
        for wanted in &record.networks {
            let end = record.endpoints.iter().filter(|_| live);
            let end = end.into_iter().find(|end| end.network_id == wanted.network);
            let Ok(network) = self.networks.find(&wanted.network) else {
                continue;
            };
            if network.host {
                all.insert(network.name, self.host_settings(record, end, denied));
                continue;
            }
            let name = network.name;
            let (v4, v6) = (end.and_then(|end| end.v4), end.and_then(|end| end.v6));
            all.insert(
                name,
                EndpointSettings {
                    network_id: Some(wanted.network.clone()),
                    endpoint_id: Some(end.map(|end| end.id.clone()).unwrap_or_default()),
                    gateway: Some(
                        v4.and_then(|v4| v4.gateway)
                            .map(|gateway| gateway.to_string())
                            .unwrap_or_default(),
                    ),
                    ip_address: Some(v4.map(|v4| v4.address.to_string()).unwrap_or_default()),
                    ip_prefix_len: Some(v4.map_or(0, |v4| v4.prefix_length.into())),
                    mac_address: Some(match end {
                        Some(end) => end.mac.clone(),
                        // What was asked for is known before.
                        None => wanted.mac.clone().unwrap_or_default(),
                    }),
                    ipv6_gateway: Some(
                        v6.and_then(|v6| v6.gateway)
                            .map(|gateway| gateway.to_string())
                            .unwrap_or_default(),
                    ),
                    global_ipv6_address: Some(
                        v6.map(|v6| v6.address.to_string()).unwrap_or_default(),
                    ),
                    global_ipv6_prefix_len: Some(v6.map_or(0, |v6| v6.prefix_length.into())),
                    ipam_config: ipam_config(wanted),
                    driver_opts: driver_opts(
                        wanted,
                        end.zip(denied).map(|(end, denied)| denied.of(&end.tap)),
                    ),
                    links: links(wanted),
                    gw_priority: Some(wanted.priority),
                    aliases: (!wanted.aliases.is_empty()).then(|| wanted.aliases.clone()),
                    dns_names: end.map(|end| end.names.clone()),
                },
            );
        }
        all
    }

    /// On the network `host` a container has the host's addresses, so none is shown.
    fn host_settings(
        &self,
        record: &Record,
        end: Option<&Endpoint>,
        denied: Option<&Denied>,
    ) -> EndpointSettings {
        let mut options = HashMap::new();
        if let Some((end, denied)) = end.zip(denied) {
            options.insert(DENIED.to_owned(), denied.of(&end.tap).to_string());
            let open = self.networks.open_of(&record.id);
            let lists = HOST_PORTS.iter().zip([open.ports, open.refused]);
            options.extend(lists.map(|(key, ports)| ((*key).to_owned(), ports.join(","))));
        }
        EndpointSettings {
            network_id: Some(HOST_ID.to_owned()),
            endpoint_id: Some(end.map(|end| end.id.clone()).unwrap_or_default()),
            gateway: Some(String::new()),
            ip_address: Some(String::new()),
            ip_prefix_len: Some(0),
            mac_address: Some(String::new()),
            driver_opts: (!options.is_empty()).then_some(options),
            ..EndpointSettings::default()
        }
    }

    /// Docker's map of a running container's ports: the published ones, and those that it only
    /// exposes where others find it by its address.
    fn ports(&self, record: &Record) -> PortMap {
        let mut map = network::port_map(&self.networks.published(&record.id));
        let mut ends = record.endpoints.iter();
        let bridged = ends.any(|end| !end.on_uplink && end.network_id != HOST_ID);
        if bridged && record.state.status.is_live() {
            add_exposed(&mut map, record.config.exposed_ports.as_deref());
        }
        map
    }

    pub(super) fn port_summaries(&self, record: &Record) -> Vec<PortSummary> {
        let mut ports = Vec::new();
        for (key, bindings) in self.ports(record) {
            let (port, protocol) = key.split_once('/').unwrap_or((&key, "tcp"));
            let summary = |binding: PortBinding| PortSummary {
                ip: binding.host_ip,
                private_port: port.parse().unwrap_or_default(),
                public_port: binding.host_port.and_then(|port| port.parse().ok()),
                typ: Some(match protocol {
                    "udp" => PortSummaryTypeEnum::UDP,
                    "sctp" => PortSummaryTypeEnum::SCTP,
                    _ => PortSummaryTypeEnum::TCP,
                }),
            };
            let bindings = bindings.unwrap_or_else(|| vec![PortBinding::default()]);
            ports.extend(bindings.into_iter().map(summary));
        }
        ports.sort_by_key(|port| (port.private_port, port.public_port));
        ports
    }
}

/// What was asked for, and how many packets were denied if the container is there.
fn driver_opts(wanted: &Wanted, denied: Option<u64>) -> Option<HashMap<String, String>> {
    let mut all = wanted.driver_opts.clone();
    if let Some(packets) = denied {
        all.insert(DENIED.to_owned(), packets.to_string());
    }
    (!all.is_empty()).then_some(all)
}

/// The addresses that were asked for.
fn ipam_config(wanted: &Wanted) -> Option<EndpointIpamConfig> {
    let shown = EndpointIpamConfig {
        ipv4_address: wanted.address.map(|address| address.to_string()),
        ipv6_address: wanted.address_v6.map(|address| address.to_string()),
        link_local_ips: (!wanted.link_local.is_empty()).then(|| wanted.link_local.clone()),
    };
    (shown != EndpointIpamConfig::default()).then_some(shown)
}

fn links(wanted: &Wanted) -> Option<Vec<String>> {
    let text = |link: &crate::network::Link| format!("{}:{}", link.target, link.alias);
    (!wanted.links.is_empty()).then(|| wanted.links.iter().map(text).collect())
}

fn state(record: &Record) -> ContainerState {
    let status = record.state.status;
    ContainerState {
        status: Some(match status {
            Status::Created => ContainerStateStatusEnum::CREATED,
            Status::Running => ContainerStateStatusEnum::RUNNING,
            Status::Paused => ContainerStateStatusEnum::PAUSED,
            Status::Restarting => ContainerStateStatusEnum::RESTARTING,
            Status::Removing => ContainerStateStatusEnum::REMOVING,
            Status::Exited => ContainerStateStatusEnum::EXITED,
            Status::Dead => ContainerStateStatusEnum::DEAD,
        }),
        running: Some(status.is_up()),
        paused: Some(status == Status::Paused),
        restarting: Some(status == Status::Restarting),
        oom_killed: Some(record.state.oom_killed),
        dead: Some(status == Status::Dead),
        pid: Some(i64::from(record.state.pid)),
        exit_code: Some(record.state.exit_code),
        error: Some(record.state.error.clone()),
        started_at: Some(time_text(record.state.started)),
        finished_at: Some(time_text(record.state.finished)),
        health: state_health(record),
    }
}

fn state_health(record: &Record) -> Option<Health> {
    let health = record.state.health.as_ref()?;
    let outcome = |outcome: &crate::health::Outcome| HealthcheckResult {
        start: Some(outcome.start.to_string()),
        end: Some(outcome.end.to_string()),
        exit_code: Some(outcome.exit_code),
        output: Some(outcome.output.clone()),
    };
    Some(Health {
        status: health.status.name().parse().ok(),
        failing_streak: Some(i64::from(health.streak)),
        log: Some(health.log.iter().map(outcome).collect()),
    })
}

/// ` (healthy)` and the like.
pub(super) fn health_text(record: &Record) -> String {
    match record.state.health.as_ref().map(|health| health.status) {
        None => String::new(),
        Some(Word::Starting) => " (health: starting)".to_owned(),
        Some(word) => format!(" ({})", word.name()),
    }
}

/// Whether something is mounted in a container's root at a path, or above it.
pub(crate) fn is_mounted(record: &Record, path: &Path) -> bool {
    let mut points = mount_points(record, &[]).into_iter();
    points.any(|point| point.destination.is_some_and(|at| path.starts_with(at)))
}

pub(super) fn mount_points(record: &Record, places: &[VolumePlace]) -> Vec<MountPoint> {
    let volumes = record.volumes.iter().map(|volume| {
        let place = places.iter().find(|place| place.name == volume.name);
        MountPoint {
            typ: Some("volume".to_owned()),
            name: Some(volume.name.clone()),
            source: place.map(|place| place.data.to_string_lossy().into_owned()),
            destination: Some(volume.target.clone()),
            driver: place.map(|place| place.driver.clone()),
            mode: Some(if volume.read_only { "ro" } else { "z" }.to_owned()),
            rw: Some(!volume.read_only),
            propagation: Some(String::new()),
        }
    });
    let images = record.image_mounts.iter().map(|mount| MountPoint {
        typ: Some("image".to_owned()),
        name: Some(mount.image.reference.clone()),
        source: Some(mount.image.rootfs.to_string_lossy().into_owned()),
        destination: Some(mount.target.clone()),
        mode: Some("ro".to_owned()),
        rw: Some(false),
        propagation: Some(String::new()),
        ..MountPoint::default()
    });
    let memory = tmpfs_of(record).map(|mount| MountPoint {
        typ: Some("tmpfs".to_owned()),
        source: Some(String::new()),
        destination: mount.target.clone(),
        mode: Some(String::new()),
        rw: Some(!mount.read_only.unwrap_or(false)),
        propagation: Some(String::new()),
        ..MountPoint::default()
    });
    binds_of(record)
        .unwrap_or_default()
        .into_iter()
        .map(|bind| MountPoint {
            typ: Some("bind".to_owned()),
            source: Some(bind.source),
            destination: Some(bind.target),
            mode: Some(if bind.read_only { "ro" } else { "" }.to_owned()),
            rw: Some(!bind.read_only),
            propagation: Some(if bind.follow { "rslave" } else { "rprivate" }.to_owned()),
            ..MountPoint::default()
        })
        .chain(volumes)
        .chain(images)
        .chain(memory)
        .collect()
}
