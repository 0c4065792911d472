//! Docker's descriptions of containers.

use std::collections::HashMap;

use bollard_stubs::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryHostConfig, ContainerSummaryNetworkSettings, ContainerSummaryStateEnum,
    DriverData, EndpointIpamConfig, EndpointSettings, MountPoint, NetworkSettings, PortSummary,
    PortSummaryTypeEnum,
};
use bollard_stubs::models::{Health, HealthcheckResult};
use jiff::Timestamp;

use super::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::label_matches;
use crate::filters;
use crate::health::Word;
use crate::ids;
use crate::json::Filters;
use crate::lifecycle::Status;
use crate::network::Wanted;
use crate::record::Record;
use crate::spec::{binds_of, VolumePlace};

/// What `/containers/json` lists.
#[derive(Debug, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// With the sizes of their file systems.
    pub sizes: bool,
    /// Only so many, newest first.
    pub limit: Option<usize>,
    /// Only those that pass.
    pub filters: Filters,
}

/// Docker's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn time_text(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

impl Engine {
    /// The list of containers, newest first.
    pub(crate) fn list_containers(&self, options: &ListOptions) -> Result<Vec<ContainerSummary>> {
        check_filters(&options.filters)?;
        let bounds = ["before", "since"].map(|key| self.bound(&options.filters, key));
        let [before, since] = bounds;
        let (before, since) = (before?, since?);
        let mut records: Vec<Record> = self
            .containers()
            .values()
            .map(|container| container.record())
            .collect();
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        // `status` and a limit mean all states.
        let all = options.all || options.limit.is_some() || options.filters.contains_key("status");
        let mut found: Vec<_> = records
            .iter()
            .filter(|record| all || record.state.status.is_live())
            .filter(|record| before.is_none_or(|time| record.created < time))
            .filter(|record| since.is_none_or(|time| time < record.created))
            .filter(|record| matches(record, &options.filters))
            .filter(|record| self.network_passes(record, &options.filters))
            .map(|record| {
                let mut summary = summary(
                    record,
                    self.port_summaries(&record.id),
                    self.endpoint_settings(record, &HashMap::new()),
                );
                if options.sizes {
                    let (writable, whole) = self.disk_sizes(record);
                    (summary.size_rw, summary.size_root_fs) = (Some(writable), Some(whole));
                }
                summary
            })
            .collect();
        if let Some(limit) = options.limit {
            found.truncate(limit);
        }
        Ok(found)
    }

    /// When the container was made that `before` or `since` names.
    fn bound(&self, filters: &Filters, key: &str) -> Result<Option<Timestamp>> {
        let wanted = filters.get(key).and_then(|values| values.first());
        let container = wanted.map(|name| self.container(name)).transpose()?;
        Ok(container.map(|container| container.record().created))
    }

    /// The filter `network`: a name, an id or the beginning of one.
    fn network_passes(&self, record: &Record, filters: &Filters) -> bool {
        let Some(wanted) = filters.get("network") else {
            return true;
        };
        if record.networks.is_empty() {
            return wanted.iter().any(|text| text == crate::network::NONE);
        }
        let mut ids = record.networks.iter().map(|wanted| &wanted.network);
        ids.any(|id| {
            let name = self.networks.find(id).map(|network| network.name);
            let name = name.unwrap_or_default();
            wanted
                .iter()
                .any(|text| *text == name || (!text.is_empty() && id.starts_with(text)))
        })
    }

    /// Bytes on disk of a container's writable layer, and of that and its image together.
    pub(crate) fn disk_sizes(&self, record: &Record) -> (i64, i64) {
        use std::os::unix::fs::MetadataExt as _;
        let blocks = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |m| m.blocks());
        // What the empty file system takes is nobody's data.
        let empty = blocks(&self.paths.scratch_template());
        let own = blocks(&self.paths.scratch(&record.id)).saturating_sub(empty);
        let image = std::fs::metadata(&record.image.rootfs).map_or(0, |m| m.len());
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
        let denied = match record.state.status.is_live() {
            true => self.networks.denied(),
            false => HashMap::new(),
        };
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
            log_path: Some(container.log.path().to_string_lossy().into_owned()),
            name: Some(format!("/{}", record.name)),
            restart_count: Some(i64::from(record.state.restarts)),
            driver: Some("erofs".to_owned()),
            platform: Some("linux".to_owned()),
            mount_label: Some(String::new()),
            process_label: Some(String::new()),
            app_armor_profile: Some(String::new()),
            exec_ids: (!exec_ids.is_empty()).then_some(exec_ids),
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
                ports: Some(self.networks.published(&record.id)),
                networks: Some(self.endpoint_settings(&record, &denied)),
                ..NetworkSettings::default()
            }),
            config: Some({
                let mut config = record.config.clone();
                config.hostname = Some(crate::spec::hostname(&record).to_owned());
                config.image = Some(record.image.reference.clone());
                config
            }),
            host_config: Some(record.host),
            ..ContainerInspectResponse::default()
        }
    }
}

/// Under driver options: packets that packet rules denied since these were last changed.
const DENIED: &str = "dev.hull.denied";

impl Engine {
    /// Docker's map of the networks that a container is on, by name.
    fn endpoint_settings(
        &self,
        record: &Record,
        denied: &HashMap<String, u64>,
    ) -> HashMap<String, EndpointSettings> {
        if record.networks.is_empty() {
            let none = EndpointSettings::default();
            return HashMap::from([(crate::network::NONE.to_owned(), none)]);
        }
        let live = record.state.status.is_live();
        let mut all = HashMap::new();
        for wanted in &record.networks {
            let end = record.endpoints.iter().filter(|_| live);
            let end = end.into_iter().find(|end| end.network_id == wanted.network);
            let name = match self.networks.find(&wanted.network) {
                Ok(network) => network.name,
                Err(_) => continue,
            };
            let v6 = end.and_then(|end| end.v6);
            all.insert(
                name,
                EndpointSettings {
                    network_id: Some(wanted.network.clone()),
                    endpoint_id: Some(end.map(|end| end.id.clone()).unwrap_or_default()),
                    gateway: Some(
                        end.and_then(|end| end.gateway)
                            .map(|gateway| gateway.to_string())
                            .unwrap_or_default(),
                    ),
                    ip_address: Some(end.map(|end| end.address.to_string()).unwrap_or_default()),
                    ip_prefix_len: Some(end.map_or(0, |end| end.prefix_length.into())),
                    mac_address: Some(end.map(|end| end.mac.clone()).unwrap_or_default()),
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
                    driver_opts: end.map(|end| {
                        let packets = denied.get(&end.tap).copied().unwrap_or_default();
                        HashMap::from([(DENIED.to_owned(), packets.to_string())])
                    }),
                    links: links(wanted),
                    gw_priority: Some(wanted.priority),
                    aliases: Some(wanted.aliases.clone()),
                    dns_names: end.map(|end| end.names.clone()),
                },
            );
        }
        all
    }

    fn port_summaries(&self, id: &str) -> Vec<PortSummary> {
        let mut ports = Vec::new();
        for (key, bindings) in self.networks.published(id) {
            let (port, protocol) = key.split_once('/').unwrap_or((&key, "tcp"));
            for binding in bindings.into_iter().flatten() {
                ports.push(PortSummary {
                    ip: binding.host_ip,
                    private_port: port.parse().unwrap_or_default(),
                    public_port: binding.host_port.and_then(|port| port.parse().ok()),
                    typ: Some(match protocol {
                        "udp" => PortSummaryTypeEnum::UDP,
                        _ => PortSummaryTypeEnum::TCP,
                    }),
                });
            }
        }
        ports.sort_by_key(|port| (port.private_port, port.public_port));
        ports
    }
}

/// The addresses that were asked for.
fn ipam_config(wanted: &Wanted) -> Option<EndpointIpamConfig> {
    let any = wanted.address.is_some() || wanted.address_v6.is_some();
    any.then(|| EndpointIpamConfig {
        ipv4_address: wanted.address.map(|address| address.to_string()),
        ipv6_address: wanted.address_v6.map(|address| address.to_string()),
        ..EndpointIpamConfig::default()
    })
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
        running: Some(status.is_live() || status == Status::Restarting),
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
fn health_text(record: &Record) -> String {
    match record.state.health.as_ref().map(|health| health.status) {
        None => String::new(),
        Some(Word::Starting) => " (health: starting)".to_owned(),
        Some(word) => format!(" ({})", word.name()),
    }
}

fn mount_points(record: &Record, places: &[VolumePlace]) -> Vec<MountPoint> {
    let volumes = record.volumes.iter().map(|volume| {
        let place = places.iter().find(|place| place.name == volume.name);
        MountPoint {
            typ: Some("volume".to_owned()),
            name: Some(volume.name.clone()),
            source: place.map(|place| place.data.to_string_lossy().into_owned()),
            destination: Some(volume.target.clone()),
            driver: Some(crate::volumes::LOCAL.to_owned()),
            mode: Some(if volume.read_only { "ro" } else { "z" }.to_owned()),
            rw: Some(!volume.read_only),
            propagation: Some(String::new()),
        }
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
        .collect()
}

fn summary(
    record: &Record,
    ports: Vec<PortSummary>,
    networks: HashMap<String, EndpointSettings>,
) -> ContainerSummary {
    ContainerSummary {
        id: Some(record.id.clone()),
        names: Some(vec![format!("/{}", record.name)]),
        image: Some(record.image.reference.clone()),
        image_id: Some(record.image.id.clone()),
        command: Some(command_line(&record.argv)),
        created: Some(record.created.as_second()),
        ports: Some(ports),
        labels: Some(record.config.labels.clone().unwrap_or_default()),
        state: Some(match record.state.status {
            Status::Created => ContainerSummaryStateEnum::CREATED,
            Status::Running => ContainerSummaryStateEnum::RUNNING,
            Status::Paused => ContainerSummaryStateEnum::PAUSED,
            Status::Restarting => ContainerSummaryStateEnum::RESTARTING,
            Status::Removing => ContainerSummaryStateEnum::REMOVING,
            Status::Exited => ContainerSummaryStateEnum::EXITED,
            Status::Dead => ContainerSummaryStateEnum::DEAD,
        }),
        status: Some(status_text(record, Timestamp::now())),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: record.host.network_mode.clone(),
            ..ContainerSummaryHostConfig::default()
        }),
        network_settings: Some(ContainerSummaryNetworkSettings {
            networks: Some(networks),
        }),
        mounts: Some(mount_points(record, &[])),
        ..ContainerSummary::default()
    }
}

/// Program and arguments on one line; an argument with a space stands in quotes, as Docker's does.
fn command_line(argv: &[String]) -> String {
    let mut words = argv.iter();
    let mut line = words.next().cloned().unwrap_or_default();
    for word in words {
        match word.contains(' ') {
            true => line.push_str(&format!(" '{word}'")),
            false => line.push_str(&format!(" {word}")),
        }
    }
    line
}

/// Docker's sentence on the state, such as `Up 3 minutes`.
fn status_text(record: &Record, now: Timestamp) -> String {
    let state = &record.state;
    let since =
        |time: Option<Timestamp>| human_duration(now.duration_since(time.unwrap_or(now)).as_secs());
    match state.status {
        Status::Running => format!("Up {}{}", since(state.started), health_text(record)),
        Status::Paused => format!("Up {} (Paused)", since(state.started)),
        Status::Restarting => {
            format!(
                "Restarting ({}) {} ago",
                state.exit_code,
                since(state.finished)
            )
        }
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Created => "Created".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished)),
    }
}

/// Docker's rough durations.
fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

const FILTERS: [&str; 17] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "label!",
    "reference",
];

fn check_filters(filters: &Filters) -> Result<()> {
    filters::check(filters, &FILTERS)?;
    for code in filters.get("exited").into_iter().flatten() {
        if code.parse::<i64>().is_err() {
            return Err(EngineError::BadRequest(format!(
                "invalid filter 'exited=[{code}]'"
            )));
        }
    }
    for status in filters.get("status").into_iter().flatten() {
        let known = [
            "created",
            "running",
            "paused",
            "restarting",
            "removing",
            "exited",
            "dead",
        ];
        if !known.contains(&status.as_str()) {
            return Err(EngineError::BadRequest(format!(
                "invalid filter 'status={status}': invalid value for state ({status}): must be one of \
                 {}",
                known.join(", ")
            )));
        }
    }
    Ok(())
}

fn matches(record: &Record, filters: &Filters) -> bool {
    let labels = record.config.labels.clone().unwrap_or_default();
    filters.iter().all(|(key, wanted)| match key.as_str() {
        "id" => filters::finds(wanted, &[&record.id]),
        "name" => filters::finds(wanted, &[&record.name, &format!("/{}", record.name)]),
        "label" => wanted.iter().all(|text| label_matches(text, &labels)),
        "status" => wanted.iter().any(|text| record.state.status.name() == text),
        "exited" => {
            record.state.status == Status::Exited
                && wanted
                    .iter()
                    .any(|text| *text == record.state.exit_code.to_string())
        }
        "ancestor" => wanted.iter().any(|text| is_image(record, text)),
        "volume" => mount_points(record, &[]).iter().any(|mount| {
            wanted.iter().any(|text| {
                mount.destination.as_deref() == Some(text)
                    || mount.source.as_deref() == Some(text)
                    || mount.name.as_deref() == Some(text)
            })
        }),
        "health" => {
            let health = record.state.health.as_ref();
            let word = health.map_or("none", |health| health.status.name());
            wanted.iter().any(|text| text == word)
        }
        "expose" => {
            let exposed = record.config.exposed_ports.iter().flatten();
            exposed
                .chain(bound_ports(record))
                .any(|port| names_port(wanted, port))
        }
        "publish" => bound_ports(record).any(|port| names_port(wanted, port)),
        // `before`, `since` and `network` are applied by the caller; the others do not exclude anything.
        _ => true,
    })
}

/// Ports that are asked to be published, as `80/tcp`.
fn bound_ports(record: &Record) -> impl Iterator<Item = &String> {
    record
        .host
        .port_bindings
        .iter()
        .flat_map(|ports| ports.keys())
}

/// Whether one of `PORT`, `PORT/PROTOCOL`, `FIRST-LAST/PROTOCOL` names a port such as `80/tcp`.
fn names_port(wanted: &[String], port: &str) -> bool {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let Ok(number) = number.parse::<u16>() else {
        return false;
    };
    wanted.iter().any(|text| {
        let (range, of) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let within = match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&number),
            _ => false,
        };
        of == protocol && within
    })
}

fn is_image(record: &Record, text: &str) -> bool {
    let id = record
        .image
        .id
        .strip_prefix("sha256:")
        .unwrap_or(&record.image.id);
    let tagged = |name: &str| match name.rsplit('/').next() {
        Some(last) if last.contains(':') => name.to_owned(),
        _ => format!("{name}:latest"),
    };
    tagged(&record.image.reference) == tagged(text)
        || record.image.id == text
        || (ids::short(id).len() <= text.len() && id.starts_with(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_dockers() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn commands_and_ports_read_as_dockers() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(command_line(&words(&["sh", "-c", "a b"])), "sh -c 'a b'");
        let named = |text: &str, port: &str| names_port(&words(&[text]), port);
        assert!(named("80", "80/tcp") && named("70-90/tcp", "80/tcp"));
        assert!(!named("80/udp", "80/tcp") && !named("x", "80/tcp") && !named("81", "80/tcp"));
    }
}
