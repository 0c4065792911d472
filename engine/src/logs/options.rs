//! Docker's options of the log drivers: how large a log grows, and what each record says of its
//! container.

use std::collections::{BTreeMap, HashMap};

use bollard_stubs::models::HostConfig;
use regex::Regex;

use super::rotation::{bytes, Rotation};
use crate::error::{EngineError, Result};
use crate::record::Record;

/// Options of every driver, which change nothing here: records are written at once, and nobody
/// waits for a disk but the writer of the output.
const OF_ALL: [&str; 2] = ["mode", "max-buffer-size"];
/// What the driver `local` does unless told otherwise.
const LOCAL: Rotation = Rotation {
    max_bytes: Some(20 << 20),
    files: 5,
    compress: true,
};

/// Which facts of its container each record carries; `logs --details` shows them.
#[derive(Debug, Clone, Default)]
struct Facts {
    labels: Vec<String>,
    labels_like: Option<Regex>,
    env: Vec<String>,
    env_like: Option<Regex>,
    tag: Option<String>,
}

/// How a container's log is written.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Its files.
    pub rotation: Rotation,
    /// In each record.
    pub attributes: BTreeMap<String, String>,
}

impl LogOptions {
    /// What a container's configuration says.
    pub(crate) fn of(record: &Record) -> Result<Self> {
        let (rotation, facts) = parse(&record.host)?;
        Ok(Self {
            rotation,
            attributes: facts.of(record)?,
        })
    }

    /// Whether the options are such.
    pub(crate) fn check(host: &HostConfig) -> Result<()> {
        let (_, facts) = parse(host)?;
        facts.tag.map_or(Ok(()), |tag| {
            tag_of(&tag, &|_| Some(String::new())).map(drop)
        })
    }
}

fn bad(text: String) -> EngineError {
    EngineError::BadRequest(text)
}

fn parse(host: &HostConfig) -> Result<(Rotation, Facts)> {
    let config = host.log_config.as_ref();
    let driver = config
        .and_then(|config| config.typ.as_deref())
        .unwrap_or_default();
    let options = config
        .and_then(|config| config.config.clone())
        .unwrap_or_default();
    match driver {
        "none" => Ok((Rotation::default(), Facts::default())),
        "local" => Ok((rotation(LOCAL, &options, driver, &[])?, Facts::default())),
        _ => {
            let names = ["labels", "labels-regex", "env", "env-regex", "tag"];
            let rotation = rotation(Rotation::default(), &options, "json-file", &names)?;
            Ok((rotation, facts(&options)?))
        }
    }
}

fn rotation(
    mut rotation: Rotation,
    options: &HashMap<String, String>,
    driver: &str,
    further: &[&str],
) -> Result<Rotation> {
    for (key, value) in options {
        let wrong = || bad(format!("invalid value for {key}: {value:?}"));
        match key.as_str() {
            // Docker's -1: it grows for ever.
            "max-size" if value == "-1" => rotation.max_bytes = None,
            "max-size" => rotation.max_bytes = Some(bytes(value).ok_or_else(wrong)?),
            "max-file" => {
                rotation.files = value.parse().map_err(|_| wrong())?;
                if rotation.files == 0 {
                    return Err(bad("max-file cannot be less than 1".to_owned()));
                }
            }
            "compress" => rotation.compress = flag(value).ok_or_else(wrong)?,
            "mode" if !["blocking", "non-blocking"].contains(&value.as_str()) => {
                return Err(bad(format!("logger: unknown mode: {value}")))
            }
            other if OF_ALL.contains(&other) || further.contains(&other) => {}
            other => {
                return Err(bad(format!(
                    "unknown log opt '{other}' for {driver} log driver"
                )))
            }
        }
    }
    let useless = rotation.files < 2 || rotation.max_bytes.is_none();
    if options.get("compress").and_then(|value| flag(value)) == Some(true) && useless {
        return Err(bad(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
                .to_owned(),
        ));
    }
    rotation.compress &= !useless;
    Ok(rotation)
}

/// Go's booleans.
fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn facts(options: &HashMap<String, String>) -> Result<Facts> {
    let list = |key: &str| {
        let text = options.get(key).map(String::as_str).unwrap_or_default();
        let words = text.split(',').filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let pattern = |key: &str| match options.get(key).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => Regex::new(text)
            .map(Some)
            .map_err(|_| bad(format!("error parsing regexp of {key}: {text:?}"))),
    };
    Ok(Facts {
        labels: list("labels"),
        labels_like: pattern("labels-regex")?,
        env: list("env"),
        env_like: pattern("env-regex")?,
        tag: options.get("tag").filter(|text| !text.is_empty()).cloned(),
    })
}

impl Facts {
    fn of(&self, record: &Record) -> Result<BTreeMap<String, String>> {
        let wanted = |names: &[String], like: &Option<Regex>, key: &str| {
            names.iter().any(|name| name == key)
                || like.as_ref().is_some_and(|like| like.is_match(key))
        };
        let mut all = BTreeMap::new();
        let labels = record.config.labels.iter().flatten();
        for (key, value) in labels {
            if wanted(&self.labels, &self.labels_like, key) {
                all.insert(key.clone(), value.clone());
            }
        }
        let env = record.config.env.iter().flatten();
        for (key, value) in env.filter_map(|variable| variable.split_once('=')) {
            if wanted(&self.env, &self.env_like, key) {
                all.insert(key.to_owned(), value.to_owned());
            }
        }
        if let Some(tag) = &self.tag {
            all.insert(
                "tag".to_owned(),
                tag_of(tag, &|name| of_container(record, name))?,
            );
        }
        Ok(all)
    }
}

/// What a tag's template may name.
fn of_container(record: &Record, name: &str) -> Option<String> {
    let short = |id: &str| {
        let id = id.strip_prefix("sha256:").unwrap_or(id);
        id.get(..12).unwrap_or(id).to_owned()
    };
    Some(match name {
        "ID" => short(&record.id),
        "FullID" => record.id.clone(),
        "Name" => record.name.clone(),
        "ImageID" => short(&record.image.id),
        "ImageFullID" => record.image.id.clone(),
        "ImageName" => record.image.reference.clone(),
        "DaemonName" => "hull".to_owned(),
        _ => return None,
    })
}

/// Fills in a template of text and `{{.Name}}`.
fn tag_of(template: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let wrong = || {
        bad(format!(
            "invalid tag {template:?}: a template may name {{{{.ID}}}}, .FullID, .Name, .ImageID, \
             .ImageFullID, .ImageName and .DaemonName"
        ))
    };
    let mut out = String::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        let (field, after) = after.split_once("}}").ok_or_else(wrong)?;
        let name = field.trim().strip_prefix('.').ok_or_else(wrong)?;
        if !KNOWN.contains(&name) {
            return Err(wrong());
        }
        out.push_str(text);
        out.push_str(&value(name).ok_or_else(wrong)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

const KNOWN: [&str; 7] = [
    "ID",
    "FullID",
    "Name",
    "ImageID",
    "ImageFullID",
    "ImageName",
    "DaemonName",
];

#[cfg(test)]
mod tests {
    use bollard_stubs::models::HostConfigLogConfig;

    use super::*;

    fn host(driver: &str, options: &[(&str, &str)]) -> HostConfig {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        HostConfig {
            log_config: Some(HostConfigLogConfig {
                typ: Some(driver.to_owned()),
                config: Some(options.collect()),
            }),
            ..HostConfig::default()
        }
    }

    #[test]
    fn dockers_options_are_read() {
        let options = [("max-size", "10m"), ("max-file", "3"), ("compress", "true")];
        let (rotation, _) = parse(&host("json-file", &options)).unwrap();
        assert_eq!(
            rotation,
            Rotation {
                max_bytes: Some(10 << 20),
                files: 3,
                compress: true
            }
        );
        assert_eq!(parse(&host("local", &[])).unwrap().0, LOCAL);
        assert!(LogOptions::check(&host("local", &[("tag", "x")])).is_err());
        for bad in [
            ("max-size", "x"),
            ("max-size", "0"),
            ("max-file", "0"),
            ("max-file", "-1"),
            ("compress", "true"),
            ("compress", "maybe"),
            ("mode", "odd"),
            ("labels-regex", "("),
            ("tag", "{{.Moon}}"),
            ("tag", "{{.ID"),
            ("colour", "red"),
        ] {
            assert!(
                LogOptions::check(&host("json-file", &[bad])).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_tag_names_the_container() {
        let value = |name: &str| Some(name.to_lowercase());
        assert_eq!(
            tag_of("a/{{.Name}}-{{ .ID }}!", &value).unwrap(),
            "a/name-id!"
        );
        assert_eq!(tag_of("plain", &value).unwrap(), "plain");
    }
}
