//! Challenges (`WWW-Authenticate`), and whose credentials answer them.

use std::collections::BTreeMap;

use super::{Credentials, RegistryConfig};
use crate::credentials::DockerConfig;

/// What a registry asks for with a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// Parses one `WWW-Authenticate` value (RFC 9110, 11.6.1): `Scheme key="value",...`.
pub(super) fn parse_challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    Some(Challenge::Bearer {
        realm: parameters.remove("realm")?,
        service: parameters.remove("service"),
        scope: parameters.remove("scope"),
    })
}

fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.insert(key.trim().to_ascii_lowercase(), value);
        rest = tail.trim_start_matches([',', ' ', '\t']);
    }
    found
}

/// Up to the closing quote, with backslashes resolved; and what follows.
fn quoted_string(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// The credentials for `registry`, from the configuration, docker's file or a credential helper.
pub(super) async fn credentials(config: &RegistryConfig, registry: &str) -> Option<Credentials> {
    if let Some(own) = config.credentials.get(registry) {
        return Some(own.clone());
    }
    let path = config.docker_config.as_ref()?;
    // Much is to be had without: a helper that is gone must not keep that from anybody.
    let found = match DockerConfig::read(path) {
        Ok(docker) => docker.credentials(registry).await,
        Err(error) => Err(error),
    };
    found.unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(registry, %error, cause, "credentials are not to be had: going on without");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_credentials_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let config = RegistryConfig {
            docker_config: Some(path.clone()),
            ..RegistryConfig::default()
        };
        for text in [
            r#"{"credsStore":"hull-has-none"}"#,
            "{",
            r#"{"auths":{"r":{"auth":"%"}}}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(credentials(&config, "r").await, None, "{text}");
        }
    }

    #[test]
    fn challenges_are_parsed_with_commas_and_quotes_inside() {
        let header =
            r#"Bearer realm="https://a/token",service="s, \"x\"",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse_challenge(header),
            Some(Challenge::Bearer {
                realm: "https://a/token".into(),
                service: Some("s, \"x\"".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
        assert_eq!(parse_challenge("basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse_challenge("Digest realm=\"x\""), None);
        assert_eq!(parse_challenge("Bearer service=x"), None);
    }
}
