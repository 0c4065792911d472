//! Values of flags that are more than a word.

use std::collections::HashMap;

use bollard::models::{ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum};

use crate::error::{CliError, Result};
use crate::units::parse_bytes;

/// As the API has it: an empty list is none.
pub(super) fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

pub(super) fn split(text: &str, at: char) -> (String, String) {
    let (key, value) = text.split_once(at).unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

pub(super) fn pairs(words: &[String]) -> HashMap<String, String> {
    words.iter().map(|word| split(word, '=')).collect()
}

/// `--expose PORT[-PORT][/PROTOCOL]`.
pub(super) fn exposed(text: &str) -> Result<Vec<String>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first..=last)
            .map(|port| format!("{port}/{protocol}"))
            .collect()),
        _ => Err(CliError::usage(format!(
            "invalid --expose {text:?}: want PORT[-PORT][/PROTOCOL]"
        ))),
    }
}

/// `--sysctl NAME=VALUE`.
pub(super) fn sysctls(words: &[String]) -> Result<HashMap<String, String>> {
    match words.iter().find(|word| !word.contains('=')) {
        Some(word) => Err(CliError::usage(format!(
            "invalid --sysctl {word:?}: want NAME=VALUE"
        ))),
        None => Ok(pairs(words)),
    }
}

/// A relative source is relative to here.
pub(super) fn absolute_bind(text: &str) -> String {
    let (source, rest) = text.split_once(':').unwrap_or((text, ""));
    match absolute(source) {
        Some(path) => format!("{path}:{rest}"),
        None => text.to_owned(),
    }
}

/// The whole path of one that begins with a dot; a volume's name never does.
pub(super) fn absolute(source: &str) -> Option<String> {
    let whole = std::path::absolute(source.starts_with('.').then_some(source)?).ok()?;
    let mut clean = std::path::PathBuf::new();
    for part in whole.components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    Some(clean.display().to_string())
}

pub(super) fn swap(text: &str) -> Result<i64> {
    match text {
        "-1" => Ok(-1),
        text => parse_bytes(text).map_err(CliError::usage),
    }
}

pub(super) fn ulimit(text: &str) -> Result<ResourcesUlimits> {
    let bad = || CliError::usage(format!("invalid ulimit {text:?}: want NAME=SOFT[:HARD]"));
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.parse::<i64>().map_err(|_| bad());
    Ok(ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(number(soft)?),
        hard: Some(number(hard)?),
    })
}

pub(super) fn restart_policy(text: &str) -> Result<RestartPolicy> {
    let bad = || CliError::usage(format!("invalid restart policy {text:?}"));
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count.parse().map_err(|_| bad())?)),
        None => (text, None),
    };
    let name = match name {
        "no" | "" => RestartPolicyNameEnum::NO,
        "always" => RestartPolicyNameEnum::ALWAYS,
        "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
        "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
        _ => return Err(bad()),
    };
    if count.is_some() && name != RestartPolicyNameEnum::ON_FAILURE {
        return Err(bad());
    }
    Ok(RestartPolicy {
        name: Some(name),
        maximum_retry_count: count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_a_dot_is_a_path_of_here() {
        let here = std::env::current_dir().unwrap();
        let there = here.parent().unwrap().display().to_string();
        let here = here.display().to_string();
        for (text, want) in [
            (".:/c", format!("{here}:/c")),
            ("..:/c:ro", format!("{there}:/c:ro")),
            ("../x:/c", format!("{there}/x:/c")),
            (".cache:/c", format!("{here}/.cache:/c")),
            ("name:/c", "name:/c".to_owned()),
            ("/a:/c", "/a:/c".to_owned()),
        ] {
            assert_eq!(absolute_bind(text), want);
        }
    }

    #[test]
    fn a_wrong_policy_is_refused() {
        for bad in ["sometimes", "always:3", "on-failure:x"] {
            assert!(restart_policy(bad).is_err(), "{bad}");
        }
    }
}
