//! Challenges (`WWW-Authenticate`) and docker's credential files.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Stdio;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::{Credentials, RegistryConfig, RegistryError};

/// Docker's key for Docker Hub in `auths`.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const MAX_CONFIG: u64 = 4 << 20;

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

/// Docker's `config.json`, the parts that hold credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// The credentials for `registry`, from the configuration, docker's file or a credential helper.
pub(super) async fn credentials(
    config: &RegistryConfig,
    registry: &str,
) -> Result<Option<Credentials>, RegistryError> {
    if let Some(own) = config.credentials.get(registry) {
        return Ok(Some(own.clone()));
    }
    let Some(path) = &config.docker_config else {
        return Ok(None);
    };
    let failure = |source| RegistryError::Credentials {
        registry: registry.to_owned(),
        from: path.display().to_string(),
        source,
    };
    let Some(docker) = read_docker_config(path).map_err(failure)? else {
        return Ok(None);
    };
    let keys = auth_keys(registry);
    for key in &keys {
        let helper = docker.cred_helpers.get(key).or(docker.creds_store.as_ref());
        if let Some(helper) = helper {
            let found =
                ask_helper(helper, key)
                    .await
                    .map_err(|source| RegistryError::Credentials {
                        registry: registry.to_owned(),
                        from: format!("docker-credential-{helper}"),
                        source,
                    })?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    for key in &keys {
        if let Some(auth) = docker.auths.get(key) {
            return decode_auth(auth).map_err(failure);
        }
    }
    Ok(None)
}

fn auth_keys(registry: &str) -> Vec<String> {
    if registry == "docker.io" {
        return vec![
            DOCKER_HUB_KEY.into(),
            "docker.io".into(),
            "index.docker.io".into(),
        ];
    }
    let forms = ["", "https://", "http://"]
        .into_iter()
        .map(|scheme| format!("{scheme}{registry}"));
    forms
        .flat_map(|base| {
            [
                base.clone(),
                format!("{base}/"),
                format!("{base}/v1/"),
                format!("{base}/v2/"),
            ]
        })
        .collect()
}

fn read_docker_config(path: &Path) -> io::Result<Option<DockerConfig>> {
    use std::io::Read as _;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

fn decode_auth(auth: &DockerAuth) -> io::Result<Option<Credentials>> {
    if let Some(token) = auth
        .identitytoken
        .as_ref()
        .filter(|token| !token.is_empty())
    {
        return Ok(Some(Credentials {
            username: "<token>".into(),
            password: token.clone(),
        }));
    }
    if let (Some(username), Some(password)) = (&auth.username, &auth.password) {
        return Ok(Some(Credentials {
            username: username.clone(),
            password: password.clone(),
        }));
    }
    let Some(encoded) = auth.auth.as_ref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let plain = STANDARD
        .decode(encoded)
        .map_err(|_| invalid("auth is not base64"))?;
    let plain = String::from_utf8(plain).map_err(|_| invalid("auth is not text"))?;
    let (username, password) = plain
        .split_once(':')
        .ok_or_else(|| invalid("auth is not user:password"))?;
    let password = password.trim_end_matches('\0').to_owned();
    Ok(Some(Credentials {
        username: username.to_owned(),
        password,
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Runs `docker-credential-HELPER get` (docker's credential helper protocol).
async fn ask_helper(helper: &str, server: &str) -> io::Result<Option<Credentials>> {
    if !helper
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the helper's name is not valid",
        ));
    }
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(server.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        // By the protocol, "credentials not found" is a failure on standard output.
        return Ok(None);
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout)?;
    Ok(Some(Credentials {
        username: answer.username,
        password: answer.secret,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test]
    async fn docker_config_gives_credentials_by_registry() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("config.json");
        let auth = STANDARD.encode("user:pass:word");
        std::fs::write(&path, format!(r#"{{"auths":{{"reg.io:5000":{{"auth":"{auth}"}},"{DOCKER_HUB_KEY}":{{"identitytoken":"t"}}}}}}"#))
            .expect("write");
        let config = RegistryConfig {
            docker_config: Some(path),
            ..RegistryConfig::default()
        };
        let found =
            |credentials: Option<Credentials>| credentials.map(|c| (c.username, c.password));
        assert_eq!(
            found(credentials(&config, "reg.io:5000").await.expect("read")),
            Some(("user".into(), "pass:word".into()))
        );
        assert_eq!(
            found(credentials(&config, "docker.io").await.expect("read")),
            Some(("<token>".into(), "t".into()))
        );
        assert_eq!(
            found(credentials(&config, "other.io").await.expect("read")),
            None
        );
    }

    #[tokio::test]
    async fn broken_docker_config_is_named() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("config.json");
        std::fs::write(&path, "{").expect("write");
        let config = RegistryConfig {
            docker_config: Some(path),
            ..RegistryConfig::default()
        };
        let error = credentials(&config, "a.io").await.expect_err("broken");
        assert!(error.to_string().contains("config.json"));
    }
}
