//! Docker's list of containers: filters, and a line for each.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use bollard_stubs::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings,
    ContainerSummaryStateEnum, EndpointSettings, PortSummary,
};
use jiff::Timestamp;

use super::view::{health_text, mount_points};
use super::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::label_matches;
use crate::filters::{self, Patterns};
use crate::json::Filters;
use crate::lifecycle::Status;
use crate::record::Record;

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

impl Engine {
    /// The list of containers, newest first.
    pub(crate) async fn list_containers(
        &self,
        options: &ListOptions,
    ) -> Result<Vec<ContainerSummary>> {
        let ancestors = self.ancestors(&options.filters).await;
        let containers: Vec<_> = self.containers().values().cloned().collect();
        let mut records = self.select(&containers, options, ancestors.as_ref())?;
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        records.truncate(options.limit.unwrap_or(usize::MAX));
        let links = self.link_names(&containers);
        let summaries = records.iter().map(|record| {
            let mut summary = summary(
                record,
                self.port_summaries(record),
                self.endpoint_settings(record, None),
            );
            let by_links = links.iter().filter(|(id, _)| *id == record.id);
            let names = summary.names.get_or_insert_default();
            names.extend(by_links.map(|(_, name)| name.clone()));
            for mount in summary.mounts.iter_mut().flatten() {
                let volume = mount.name.as_deref();
                let volume = volume.and_then(|name| self.volumes.find(name).ok());
                mount.driver = volume.map(|volume| volume.driver);
            }
            if options.sizes {
                let (writable, whole) = self.disk_sizes(record);
                (summary.size_rw, summary.size_root_fs) = (Some(writable), Some(whole));
            }
            summary
        });
        Ok(summaries.collect())
    }

    /// Copies of the records that pass. Where most do not, most are not copied.
    fn select(
        &self,
        containers: &[Arc<Container>],
        options: &ListOptions,
        ancestors: Option<&HashSet<String>>,
    ) -> Result<Vec<Record>> {
        let filters = &options.filters;
        check_filters(filters)?;
        let [before, since] = ["before", "since"].map(|key| self.bound(filters, key));
        let (before, since) = (before?, since?);
        let [ids, names] = ["id", "name"].map(|key| Patterns::of(filters, key));
        // `status` and a limit mean all states.
        let all = options.all || options.limit.is_some() || filters.contains_key("status");
        let passes = |record: &Record| {
            (all || record.state.status.is_up())
                && before.is_none_or(|time| record.created < time)
                && since.is_none_or(|time| time < record.created)
                && ids.pass(&[&record.id])
                && names.pass(&[&record.name, &format!("/{}", record.name)])
                && ancestors.is_none_or(|images| images.contains(&record.image.id))
                && matches(record, filters)
                && self.network_passes(record, filters)
        };
        let copies = containers.iter().filter_map(|container| {
            let record = container.lock();
            passes(&record).then(|| record.clone())
        });
        Ok(copies.collect())
    }

    /// The ids of the images that the filter `ancestor` names, whatever it calls them by, and of those that
    /// are made from them; names of none are no error.
    async fn ancestors(&self, filters: &Filters) -> Option<HashSet<String>> {
        let mut ids = HashSet::new();
        for name in filters.get("ancestor")? {
            let found = self.images.resolve(name).await;
            ids.extend(found.map(|(id, _)| id.to_string()));
        }
        let all = self.images.list().await.unwrap_or_default();
        let (named, others): (Vec<_>, Vec<_>) = all
            .iter()
            .partition(|image| ids.contains(&image.id.to_string()));
        let bases: Vec<_> = named
            .iter()
            .map(|image| image.config.rootfs().diff_ids())
            .collect();
        let made = others.iter().filter(|image| {
            let layers = image.config.rootfs().diff_ids();
            bases.iter().any(|base| is_made_from(layers, base))
        });
        let made: Vec<_> = made.map(|image| image.id.to_string()).collect();
        ids.extend(made);
        Some(ids)
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
            let none = wanted.iter().any(|text| text == crate::network::NONE);
            return none && !super::joins(&record.host);
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
            annotations: record.host.annotations.clone(),
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

/// Each is looked at, here or by the caller of [`matches`].
const FILTERS: [&str; 15] = [
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
    check_words(filters, "status", "state", &STATES)?;
    check_words(filters, "health", "health", &HEALTH)?;
    filters::booleans(filters, "is-task")?;
    for key in ["publish", "expose"] {
        for text in filters.get(key).into_iter().flatten() {
            if port_range(text).is_none() {
                return Err(EngineError::BadRequest(format!(
                    "invalid filter '{key}={text}': want PORT[-PORT][/PROTOCOL]"
                )));
            }
        }
    }
    Ok(())
}

const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];
const HEALTH: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

fn check_words(filters: &Filters, key: &str, what: &str, known: &[&str]) -> Result<()> {
    let mut words = filters.get(key).into_iter().flatten();
    match words.find(|word| !known.contains(&word.as_str())) {
        None => Ok(()),
        Some(word) => Err(EngineError::BadRequest(format!(
            "invalid filter '{key}={word}': invalid value for {what} ({word}): must be one of {}",
            known.join(", ")
        ))),
    }
}

fn matches(record: &Record, filters: &Filters) -> bool {
    let none = HashMap::new();
    let labels = record.config.labels.as_ref().unwrap_or(&none);
    filters.iter().all(|(key, wanted)| match key.as_str() {
        "label" => wanted.iter().all(|text| label_matches(text, labels)),
        "status" => wanted.iter().any(|text| record.state.status.name() == text),
        "exited" => {
            record.state.status == Status::Exited
                && wanted
                    .iter()
                    .any(|text| *text == record.state.exit_code.to_string())
        }
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
        // Tasks are a swarm's.
        "is-task" => wanted
            .iter()
            .any(|flag| matches!(flag.as_str(), "0" | "false")),
        // The caller applies `ancestor`, `id`, `name`, `before`, `since` and `network`; `isolation`
        // does not exclude anything.
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
        port_range(text).is_some_and(|(range, of)| of == protocol && range.contains(&number))
    })
}

fn port_range(text: &str) -> Option<(RangeInclusive<u16>, &str)> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    Some((first.parse().ok()?..=last.parse().ok()?, protocol))
}

/// Whether an image of these layers is made from one of those, by more on top of them.
fn is_made_from(layers: &[String], base: &[String]) -> bool {
    !base.is_empty() && base.len() < layers.len() && layers.starts_with(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_made_from_one_whose_layers_it_begins_with() {
        let list = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let is = |layers, base| is_made_from(&list(layers), &list(base));
        assert!(is("ab", "a") && is("abc", "ab"));
        assert!(!is("a", "a") && !is("a", "ab") && !is("ba", "a") && !is("a", ""));
    }

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
