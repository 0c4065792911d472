//! `--security-opt`: what of it the client answers for, as docker's does.

use crate::error::{CliError, Result};

/// The option that shows and lets change all of /proc and /sys that a container has.
const ALL_PATHS: &str = "systempaths=unconfined";
/// The option that needs no value.
const NO_NEW_PRIVILEGES: &str = "no-new-privileges";
/// Profiles that the engine has.
const PROFILES: [&str; 2] = ["builtin", "unconfined"];

/// The options, as the request has them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Security {
    pub(super) options: Vec<String>,
    /// No path of the system is masked or read-only.
    pub(super) all_paths: bool,
}

impl Security {
    /// Reads the profiles that are files.
    pub(super) fn of(words: &[String]) -> Result<Self> {
        let mut all = Self::default();
        for word in words {
            match word.as_str() {
                ALL_PATHS => all.all_paths = true,
                _ => all.options.push(option(word)?),
            }
        }
        Ok(all)
    }

    /// Masked, and read-only, paths: none, or what the engine masks.
    pub(super) fn paths(&self) -> Option<Vec<String>> {
        self.all_paths.then(Vec::new)
    }
}

fn option(word: &str) -> Result<String> {
    let (key, value) = match word.split_once('=').or_else(|| word.split_once(':')) {
        Some((key, value)) => (key, value),
        None => (word, ""),
    };
    if value.is_empty() && key != NO_NEW_PRIVILEGES {
        return Err(CliError::usage(format!("invalid --security-opt: {word:?}")));
    }
    match key {
        "seccomp" if !PROFILES.contains(&value) => Ok(format!("seccomp={}", profile(value)?)),
        _ => Ok(word.to_owned()),
    }
}

/// The profile in a file, as JSON without blanks.
fn profile(path: &str) -> Result<String> {
    let text = std::fs::read(path).map_err(CliError::io(format!(
        "opening seccomp profile ({path}) failed"
    )))?;
    let profile: Result<serde_json::Value, _> = serde_json::from_slice(&text);
    let profile = profile.map_err(|error| {
        CliError::usage(format!("seccomp profile ({path}) is not JSON: {error}"))
    })?;
    Ok(profile.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Security> {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        Security::of(&words)
    }

    #[test]
    fn a_profile_is_sent_and_not_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "{\n  \"defaultAction\" : \"SCMP_ACT_ALLOW\"\n}\n",
        )
        .unwrap();
        for sign in ["=", ":"] {
            let word = format!("seccomp{sign}{}", file.path().display());
            let sent = of(&[&word]).unwrap().options;
            assert_eq!(sent, ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]);
        }
        std::fs::write(file.path(), "{").unwrap();
        let word = format!("seccomp={}", file.path().display());
        let error = of(&[&word]).unwrap_err().to_string();
        assert!(error.contains("is not JSON"), "{error}");
        let error = of(&["seccomp=/no/such"]).unwrap_err().to_string();
        assert!(
            error.starts_with("opening seccomp profile (/no/such) failed"),
            "{error}"
        );
    }

    #[test]
    fn paths_of_the_system_are_the_clients_to_open() {
        let all = of(&[ALL_PATHS, NO_NEW_PRIVILEGES]).unwrap();
        assert_eq!(all.paths(), Some(Vec::new()));
        assert_eq!(all.options, [NO_NEW_PRIVILEGES]);
        let usual = of(&["seccomp=unconfined", "label:disable"]).unwrap();
        assert_eq!(usual.paths(), None);
        assert_eq!(usual.options, ["seccomp=unconfined", "label:disable"]);
    }

    #[test]
    fn an_option_without_its_value_is_refused() {
        for word in ["seccomp", "seccomp=", "apparmor", "systempaths"] {
            let error = of(&[word]).unwrap_err().to_string();
            assert_eq!(error, format!("invalid --security-opt: {word:?}"));
        }
    }
}
