//! Docker's options of the log drivers: how large a log grows, what is said of its container, and
//! which server gets it.

use std::collections::{BTreeMap, HashMap};

use bollard_stubs::models::HostConfigLogConfig;

use super::facts::{self, Facts};
use super::remote::{fluentd, gelf, journald, syslog, Kind, Target, DEFAULT_BUFFER_BYTES};
use super::rotation::{bytes, human_bytes, Rotation};
use crate::error::{EngineError, Result};
use crate::record::Record;

/// The driver of who names none.
pub(crate) const DEFAULT_DRIVER: &str = "json-file";
/// The drivers, by name.
pub(crate) const DRIVERS: [&str; 7] = [
    "fluentd",
    "gelf",
    "journald",
    "json-file",
    "local",
    "none",
    "syslog",
];
/// Drivers of dockerd that Hull does not have.
const OTHERS: [&str; 4] = ["awslogs", "etwlogs", "gcplogs", "splunk"];
/// What the driver `local` does unless told otherwise.
const LOCAL: Rotation = Rotation {
    max_bytes: Some(20 << 20),
    files: 5,
    compress: true,
};
/// How the options begin of what is kept here of a log that a server gets.
const CACHE: &str = "cache-";
const CACHE_DISABLED: &str = "cache-disabled";
const NON_BLOCKING: &str = "non-blocking";

/// How a container's log is written.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Its files.
    pub rotation: Rotation,
    /// In each record.
    pub attributes: BTreeMap<String, String>,
    /// Nothing is kept that could be read.
    pub unreadable: bool,
    /// Who gets it, too.
    pub(super) remote: Option<Target>,
}

/// What the options say, of whichever container.
#[derive(Debug, Default)]
struct Plan {
    rotation: Rotation,
    facts: Facts,
    unreadable: bool,
    server: Option<Server>,
    buffer_bytes: usize,
}

#[derive(Debug)]
enum Server {
    Syslog(syslog::Options),
    Journald,
    Gelf(gelf::Options),
    Fluentd(fluentd::Options),
}

impl LogOptions {
    /// What a container's configuration says.
    pub(crate) fn of(record: &Record) -> Result<Self> {
        let plan = Plan::parse(record.host.log_config.as_ref())?;
        let remote = match plan.server {
            None => None,
            Some(server) => {
                let tag = plan.facts.tag(record)?;
                let extra = plan.facts.attributes(record);
                let kind = match server {
                    Server::Syslog(options) => Kind::Syslog(options, tag),
                    Server::Journald => Kind::Journald(journald::Fields::of(record, &tag, &extra)),
                    Server::Gelf(options) => {
                        Kind::Gelf(options, gelf::Fields::of(record, &tag, &extra))
                    }
                    Server::Fluentd(options) => {
                        Kind::Fluentd(options, fluentd::Fields::of(record, &tag, &extra))
                    }
                };
                Some(Target {
                    container: record.id.clone(),
                    buffer_bytes: plan.buffer_bytes,
                    kind,
                })
            }
        };
        // A server's records tell the facts in its own way.
        let attributes = match remote {
            Some(_) => BTreeMap::new(),
            None => plan.facts.attributes_and_tag(record)?,
        };
        Ok(Self {
            rotation: plan.rotation,
            attributes,
            unreadable: plan.unreadable,
            remote,
        })
    }

    /// Whether the host has what the driver needs.
    pub(crate) fn check_host(&self) -> Result<()> {
        match self.remote.as_ref().map(|target| &target.kind) {
            Some(Kind::Journald(_)) => journald::check_host(),
            _ => Ok(()),
        }
    }
}

/// Whether a driver and its options are such. Sockets and certificates that they name have to be
/// there.
pub(crate) fn check(config: Option<&HostConfigLogConfig>) -> Result<()> {
    match Plan::parse(config)?.server {
        Some(Server::Syslog(options)) => options.check_files().map_err(bad),
        _ => Ok(()),
    }
}

/// The same for what the daemon is told of containers that do not say. Files may come later.
pub(crate) fn check_defaults(config: &HostConfigLogConfig) -> Result<()> {
    Plan::parse(Some(config)).map(drop)
}

/// Whether something is kept that can be read.
pub(crate) fn is_readable(config: Option<&HostConfigLogConfig>) -> bool {
    // What the options of an earlier version wrote is there still.
    Plan::parse(config).map_or(true, |plan| !plan.unreadable)
}

/// Fills in what a container leaves open: the daemon's driver, the options of that driver, and
/// those of what is kept.
pub(crate) fn merge_defaults(config: &mut HostConfigLogConfig, defaults: &HostConfigLogConfig) {
    let default_driver = defaults.typ.as_deref().unwrap_or(DEFAULT_DRIVER);
    let driver = config.typ.get_or_insert_default();
    if driver.is_empty() {
        default_driver.clone_into(driver);
    }
    let same = driver == default_driver;
    let options = config.config.get_or_insert_default();
    for (key, value) in defaults.config.iter().flatten() {
        if same || key.starts_with(CACHE) {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

pub(super) fn bad(text: String) -> EngineError {
    EngineError::BadRequest(text)
}

/// The driver of a configuration.
pub(crate) fn driver_of(config: Option<&HostConfigLogConfig>) -> &str {
    match config.and_then(|config| config.typ.as_deref()) {
        None | Some("") => DEFAULT_DRIVER,
        Some(driver) => driver,
    }
}

impl Plan {
    fn parse(config: Option<&HostConfigLogConfig>) -> Result<Self> {
        let driver = driver_of(config);
        check_driver(driver)?;
        let none = HashMap::new();
        let options = config.and_then(|config| config.config.as_ref());
        let options = options.unwrap_or(&none);
        if driver == "none" {
            return Ok(Self {
                unreadable: true,
                ..Self::default()
            });
        }
        let buffer_bytes = buffer_bytes(options)?;
        let kept = Kept::parse(options)?;
        let mut plan = Self {
            buffer_bytes,
            ..Self::default()
        };
        match driver {
            "local" => {
                known(options, driver, &[&ROTATION])?;
                plan.rotation = rotation(LOCAL, options, "")?;
            }
            "syslog" => {
                known(options, driver, &[&facts::OPTIONS, &syslog::OPTIONS])?;
                plan.server = Some(Server::Syslog(
                    syslog::Options::parse(options).map_err(bad)?,
                ));
            }
            "gelf" => {
                known(options, driver, &[&facts::OPTIONS, &gelf::OPTIONS])?;
                plan.server = Some(Server::Gelf(gelf::Options::parse(options).map_err(bad)?));
            }
            "fluentd" => {
                known(options, driver, &[&facts::OPTIONS, &fluentd::OPTIONS])?;
                let parsed = fluentd::Options::parse(options).map_err(bad)?;
                plan.buffer_bytes = parsed.buffer_bytes.unwrap_or(buffer_bytes);
                plan.server = Some(Server::Fluentd(parsed));
            }
            "journald" => {
                known(options, driver, &[&facts::OPTIONS])?;
                plan.server = Some(Server::Journald);
            }
            _ => {
                known(options, driver, &[&facts::OPTIONS, &ROTATION])?;
                plan.rotation = rotation(Rotation::default(), options, "")?;
            }
        }
        plan.facts = Facts::parse(options)?;
        if plan.server.is_some() {
            plan.rotation = kept.rotation;
            plan.unreadable = kept.disabled;
        }
        Ok(plan)
    }
}

fn check_driver(driver: &str) -> Result<()> {
    if OTHERS.contains(&driver) {
        return Err(EngineError::NotSupported(format!(
            "log driver {driver}: Hull has {}",
            DRIVERS.join(", ")
        )));
    }
    match DRIVERS.contains(&driver) {
        true => Ok(()),
        false => Err(bad(format!(
            "error looking up logging plugin {driver}: plugin \"{driver}\" not found"
        ))),
    }
}

/// What is kept here of a log that a server gets.
struct Kept {
    rotation: Rotation,
    disabled: bool,
}

impl Kept {
    fn parse(options: &HashMap<String, String>) -> Result<Self> {
        let disabled = match options.get(CACHE_DISABLED).map(String::as_str) {
            None | Some("") => false,
            Some(text) => flag(text)
                .ok_or_else(|| bad(format!("invalid value for option {CACHE_DISABLED}: {text}")))?,
        };
        Ok(Self {
            rotation: rotation(LOCAL, options, CACHE)?,
            disabled,
        })
    }
}

/// Refuses what neither every driver knows nor this one.
fn known(options: &HashMap<String, String>, driver: &str, names: &[&[&str]]) -> Result<()> {
    let of_all = |key: &str| {
        let cache = key.strip_prefix(CACHE);
        ["mode", "max-buffer-size", CACHE_DISABLED].contains(&key)
            || cache.is_some_and(|key| ROTATION.contains(&key))
    };
    let fits =
        |key: &&String| of_all(key) || names.iter().any(|names| names.contains(&key.as_str()));
    match options.keys().find(|key| !fits(key)) {
        None => Ok(()),
        Some(key) => Err(bad(format!(
            "unknown log opt '{key}' for {driver} log driver"
        ))),
    }
}

/// How much may wait for a server. The mode changes nothing else: a file is written at once, and a
/// server never stops a container.
fn buffer_bytes(options: &HashMap<String, String>) -> Result<usize> {
    let mode = options.get("mode").map(String::as_str).unwrap_or_default();
    if !["", "blocking", NON_BLOCKING].contains(&mode) {
        return Err(bad(format!("logger: logging mode not supported: {mode}")));
    }
    let Some(text) = options.get("max-buffer-size") else {
        return Ok(DEFAULT_BUFFER_BYTES);
    };
    if mode != NON_BLOCKING {
        return Err(bad(format!(
            "logger: max-buffer-size option is only supported with 'mode={NON_BLOCKING}'"
        )));
    }
    let size = bytes(text).and_then(|bytes| usize::try_from(bytes).ok());
    size.ok_or_else(|| {
        bad(format!(
            "error parsing option max-buffer-size: invalid size: '{text}'"
        ))
    })
}

const ROTATION: [&str; 3] = ["max-size", "max-file", "compress"];

/// Reads the options of files, whose names begin with `prefix`.
fn rotation(
    mut rotation: Rotation,
    options: &HashMap<String, String>,
    prefix: &str,
) -> Result<Rotation> {
    let of = |name: &str| {
        let found = options.get_key_value(&format!("{prefix}{name}"));
        found.map(|(key, value)| {
            let wrong = bad(format!("invalid value for {key}: {value:?}"));
            (value.as_str(), wrong)
        })
    };
    if let Some((value, wrong)) = of("max-size") {
        rotation.max_bytes = Some(human_bytes(value).ok_or(wrong)?);
    }
    if let Some((value, wrong)) = of("max-file") {
        rotation.files = value.parse().map_err(|_| wrong)?;
        if rotation.files == 0 {
            return Err(bad(format!("{prefix}max-file cannot be less than 1")));
        }
    }
    let useless = rotation.files < 2 || rotation.max_bytes.is_none();
    if let Some((value, wrong)) = of("compress") {
        rotation.compress = flag(value).ok_or(wrong)?;
        if rotation.compress && useless {
            return Err(bad(format!(
                "{prefix}compress cannot be true when {prefix}max-file is less than 2 or \
                 {prefix}max-size is not set"
            )));
        }
    }
    rotation.compress &= !useless;
    Ok(rotation)
}

/// Go's booleans.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(driver: &str, options: &[(&str, &str)]) -> HostConfigLogConfig {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        HostConfigLogConfig {
            typ: Some(driver.to_owned()),
            config: Some(options.collect()),
        }
    }

    fn plan(driver: &str, options: &[(&str, &str)]) -> Result<Plan> {
        Plan::parse(Some(&config(driver, options)))
    }

    #[test]
    fn dockers_options_are_read() {
        let options = [("max-size", "10m"), ("max-file", "3"), ("compress", "true")];
        assert_eq!(
            plan("json-file", &options).unwrap().rotation,
            Rotation {
                max_bytes: Some(10_000_000),
                files: 3,
                compress: true
            }
        );
        assert_eq!(plan("local", &[]).unwrap().rotation, LOCAL);
        for bad in [
            ("max-size", "x"),
            ("max-size", "0"),
            ("max-size", "-1"),
            ("max-file", "0"),
            ("max-file", "-1"),
            ("compress", "true"),
            ("compress", "maybe"),
            ("mode", "odd"),
            ("max-buffer-size", "1m"),
            ("cache-disabled", "perhaps"),
            ("cache-max-size", "x"),
            ("labels-regex", "("),
            ("tag", "{{.Moon}}"),
            ("tag", "{{.ID"),
            ("colour", "red"),
        ] {
            assert!(plan("json-file", &[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_option_is_refused_by_the_driver_that_does_not_know_it() {
        for (driver, option) in [
            ("local", "tag"),
            ("syslog", "max-size"),
            ("journald", "syslog-address"),
        ] {
            let text = plan(driver, &[(option, "1m")]).unwrap_err().to_string();
            assert_eq!(
                text,
                format!("unknown log opt '{option}' for {driver} log driver")
            );
        }
        assert!(plan("none", &[("anything", "x")]).is_ok());
        assert!(plan("splunk", &[])
            .unwrap_err()
            .to_string()
            .contains("splunk"));
        assert!(plan("bogus", &[]).is_err());
    }

    #[test]
    fn what_a_server_gets_is_kept_unless_told_otherwise() {
        let kept = plan(
            "syslog",
            &[("cache-max-size", "1m"), ("cache-max-file", "2")],
        )
        .unwrap();
        assert!(!kept.unreadable);
        assert_eq!(
            (kept.rotation.max_bytes, kept.rotation.files),
            (Some(1_000_000), 2)
        );
        assert!(
            plan("journald", &[("cache-disabled", "true")])
                .unwrap()
                .unreadable
        );
        assert!(
            !plan("json-file", &[("cache-disabled", "true")])
                .unwrap()
                .unreadable
        );
    }

    #[test]
    fn the_size_of_the_buffer_is_of_the_mode_that_does_not_block() {
        let small = [("mode", "non-blocking"), ("max-buffer-size", "4k")];
        assert_eq!(plan("syslog", &small).unwrap().buffer_bytes, 4096);
        assert_eq!(
            plan("syslog", &[]).unwrap().buffer_bytes,
            DEFAULT_BUFFER_BYTES
        );
        assert!(plan("syslog", &[("mode", "blocking"), ("max-buffer-size", "4k")]).is_err());
    }

    #[test]
    fn the_daemons_options_are_of_its_driver() {
        let defaults = config("syslog", &[("tag", "x"), ("cache-max-file", "3")]);
        let merged = |driver: &str, options: &[(&str, &str)]| {
            let mut config = config(driver, options);
            merge_defaults(&mut config, &defaults);
            let mut options: Vec<_> = config.config.unwrap().into_iter().collect();
            options.sort();
            let options: Vec<_> = options.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("{} {}", config.typ.unwrap(), options.join(" "))
        };
        assert_eq!(merged("", &[]), "syslog cache-max-file=3 tag=x");
        assert_eq!(
            merged("syslog", &[("tag", "y")]),
            "syslog cache-max-file=3 tag=y"
        );
        assert_eq!(merged("local", &[]), "local cache-max-file=3");
    }
}
