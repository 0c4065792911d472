//! What each record of a log says of its container, and the tag that a log server knows it by.

use std::collections::{BTreeMap, HashMap};

use regex::Regex;

use super::options::bad;
use crate::error::Result;
use crate::record::Record;

/// Options that name facts.
pub(super) const OPTIONS: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];
/// The tag of a container whose options name none.
pub(super) const DEFAULT_TAG: &str = "{{.ID}}";

/// Which labels and variables are told, and the template of the tag.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    labels: Vec<String>,
    labels_like: Option<Regex>,
    env: Vec<String>,
    env_like: Option<Regex>,
    tag: Option<String>,
}

impl Facts {
    /// What the options say.
    pub(super) fn parse(options: &HashMap<String, String>) -> Result<Self> {
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
        let facts = Self {
            labels: list("labels"),
            labels_like: pattern("labels-regex")?,
            env: list("env"),
            env_like: pattern("env-regex")?,
            tag: options.get("tag").filter(|text| !text.is_empty()).cloned(),
        };
        if let Some(tag) = &facts.tag {
            fill(tag, &|_| Some(String::new()))?;
        }
        Ok(facts)
    }

    /// Labels and variables of a container.
    pub(super) fn attributes(&self, record: &Record) -> BTreeMap<String, String> {
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
        all
    }

    /// The same, and the tag where the options name one.
    pub(super) fn attributes_and_tag(&self, record: &Record) -> Result<BTreeMap<String, String>> {
        let mut all = self.attributes(record);
        if self.tag.is_some() {
            all.insert("tag".to_owned(), self.tag(record)?);
        }
        Ok(all)
    }

    /// The tag of a container.
    pub(super) fn tag(&self, record: &Record) -> Result<String> {
        let template = self.tag.as_deref().unwrap_or(DEFAULT_TAG);
        fill(template, &|name| self.of_container(record, name))
    }

    /// What a template may name.
    fn of_container(&self, record: &Record, name: &str) -> Option<String> {
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
            "Command" => record.argv.join(" "),
            // In the form that Go gives a map.
            "ExtraAttributes nil" => {
                let all = self.attributes(record);
                let pairs: Vec<_> = all.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                format!("map[{}]", pairs.join(" "))
            }
            _ => return None,
        })
    }
}

/// Fills in a template of text and `{{.Name}}`.
fn fill(template: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let wrong = || {
        bad(format!(
            "invalid tag {template:?}: a template may name {{{{.ID}}}}, .FullID, .Name, .ImageID, \
             .ImageFullID, .ImageName, .Command, .DaemonName and .ExtraAttributes nil"
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

const KNOWN: [&str; 9] = [
    "ID",
    "FullID",
    "Name",
    "ImageID",
    "ImageFullID",
    "ImageName",
    "DaemonName",
    "Command",
    "ExtraAttributes nil",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_the_container() {
        let value = |name: &str| Some(name.to_lowercase());
        assert_eq!(
            fill("a/{{.Name}}-{{ .ID }}!", &value).unwrap(),
            "a/name-id!"
        );
        assert_eq!(fill("plain", &value).unwrap(), "plain");
    }

    #[test]
    fn a_tag_tells_what_the_options_pick() {
        let mut record = crate::record::tests::record();
        record.config.labels = Some([("com.x".to_owned(), "1".to_owned())].into());
        record.config.env = Some(vec!["A=b".to_owned(), "SECRET=s".to_owned()]);
        let options = [
            (
                "tag",
                "{{.ImageName}}|{{.ExtraAttributes nil}}|{{.Command}}",
            ),
            ("labels", "com.x,com.y"),
            ("env-regex", "^A"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let facts = Facts::parse(&options.into()).unwrap();
        let (image, argv) = (&record.image.reference, record.argv.join(" "));
        assert_eq!(
            facts.tag(&record).unwrap(),
            format!("{image}|map[A:b com.x:1]|{argv}")
        );
        let plain = Facts::default().tag(&record).unwrap();
        assert_eq!(plain, record.id[..12]);
    }
}
