//! `login` and `logout`, and the credentials of pulls and pushes: docker's `config.json`.

use std::io::{BufRead as _, Write};
use std::process::ExitCode;

use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use base64::Engine as _;
use hull_image::credentials::{
    self, Credentials, DockerConfig, DOCKER_HUB_KEY, REGISTRY_TOKEN_USER, TOKEN_USER,
};
use hyper::Method;
use serde_json::{json, Value};

use super::line;
use crate::client::{json_body, Client};
use crate::docker_config;
use crate::error::{CliError, Result};

/// `login`
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// User name
    #[arg(short, long)]
    username: Option<String>,
    /// Password; others see it in the list of processes
    #[arg(short, long)]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Registry
    #[arg(default_value = DOCKER_HUB_KEY)]
    server: String,
}

/// `logout`
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {
    /// Registry
    #[arg(default_value = DOCKER_HUB_KEY)]
    server: String,
}

/// Names of Docker Hub.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The key that a registry's credentials are kept by, however it is spelt: its host.
fn key_of(server: &str) -> Result<&str> {
    let host = ["https://", "http://"]
        .into_iter()
        .find_map(|scheme| server.strip_prefix(scheme))
        .unwrap_or(server);
    match host.split('/').next().unwrap_or_default() {
        "" if server.is_empty() => Ok(DOCKER_HUB_KEY),
        "" => Err(CliError::usage(format!(
            "{server:?} names no registry's host"
        ))),
        host if DOCKER_HUB.contains(&host) => Ok(DOCKER_HUB_KEY),
        host => Ok(host),
    }
}

pub(crate) async fn login(
    args: LoginArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let server = key_of(&args.server)?;
    let username = args
        .username
        .ok_or_else(|| CliError::usage("name the user with --username"))?;
    let password = match (args.password, args.password_stdin) {
        (Some(_), true) => {
            return Err(CliError::usage(
                "--password and --password-stdin are mutually exclusive",
            ))
        }
        (Some(password), false) => password,
        (None, true) => {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut text)
                .map_err(CliError::io("cannot read the password"))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, false) => {
            return Err(CliError::usage(
                "the password comes by --password-stdin (or --password)",
            ))
        }
    };
    let auth = json!({
        "username": username,
        "password": password,
        "serveraddress": server,
    });
    client.send(Method::POST, "/auth", json_body(&auth)).await?;
    keep(server, Credentials { username, password }).await?;
    line(out, "Login Succeeded")?;
    Ok(ExitCode::SUCCESS)
}

/// In the helper that docker's configuration names for the server, or in the configuration.
async fn keep(server: &str, credentials: Credentials) -> Result<()> {
    let mut config = docker_config::read()?;
    let entry = match DockerConfig::read(&docker_config::path()?)?.helper(server) {
        Some(helper) => {
            credentials::keep(helper, server, &credentials).await?;
            json!({})
        }
        None => {
            let pair = format!("{}:{}", credentials.username, credentials.password);
            json!({ "auth": STANDARD.encode(pair) })
        }
    };
    config["auths"][server] = entry;
    docker_config::write(&config)
}

pub(crate) async fn logout(args: LogoutArgs, out: &mut dyn Write) -> Result<ExitCode> {
    let server = key_of(&args.server)?;
    let mut config = docker_config::read()?;
    let removed = remove(&mut config, server);
    if removed.is_empty() {
        line(out, format!("Not logged in to {server}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let helpers = DockerConfig::read(&docker_config::path()?)?;
    for key in &removed {
        if let Some(helper) = helpers.helper(key) {
            credentials::forget(helper, key).await?;
        }
    }
    docker_config::write(&config)?;
    line(out, format!("Removing login credentials for {server}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes every spelling of a registry. The result are those that were there.
fn remove(config: &mut Value, server: &str) -> Vec<String> {
    let Some(auths) = config["auths"].as_object_mut() else {
        return Vec::new();
    };
    let is_it = |key: &&String| key_of(key).is_ok_and(|of| of == server);
    let keys: Vec<String> = auths.keys().filter(is_it).cloned().collect();
    keys.iter().for_each(|key| drop(auths.remove(key)));
    keys
}

/// The header for a pull or push of an image; `None`: hulld's own credentials count.
pub(super) async fn registry_auth(image: &str) -> Result<Option<String>> {
    let first = image.split('/').next().unwrap_or_default();
    let is_host = image.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let registry = if is_host { first } else { "docker.io" };
    // A user without a home, such as a service, has none.
    let Ok(path) = docker_config::path() else {
        return Ok(None);
    };
    let found = match DockerConfig::read(&path) {
        Ok(config) => config.credentials(registry).await,
        Err(error) => Err(error),
    };
    // Much is to be had without: a helper that is gone must not keep that from anybody.
    let found = found.unwrap_or_else(|error| {
        let error = CliError::from(error);
        eprintln!("WARNING: going on without credentials for {registry}: {error}");
        None
    });
    let Some(found) = found else {
        return Ok(None);
    };
    let value = match found.username.as_str() {
        REGISTRY_TOKEN_USER => {
            json!({ "registrytoken": found.password, "serveraddress": registry })
        }
        TOKEN_USER => json!({ "identitytoken": found.password, "serveraddress": registry }),
        username => {
            json!({ "username": username, "password": found.password, "serveraddress": registry })
        }
    };
    Ok(Some(URL_SAFE.encode(value.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_one_key_however_it_is_spelt() {
        for text in [
            "r.example",
            "https://r.example/",
            "http://r.example/v2/",
            "r.example/x",
        ] {
            assert_eq!(key_of(text).unwrap(), "r.example", "{text}");
        }
        assert_eq!(
            key_of("https://r.example:5000/v2").unwrap(),
            "r.example:5000"
        );
        for text in [
            "",
            "docker.io",
            "https://index.docker.io/v1/",
            "registry-1.docker.io",
        ] {
            assert_eq!(key_of(text).unwrap(), DOCKER_HUB_KEY, "{text}");
        }
        for text in ["https:///repository/docker/", "http://", "https://", "/x"] {
            assert!(key_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_logout_forgets_every_spelling() {
        let mut config = json!({ "auths": {
            "r.example": {}, "https://r.example/": {}, "https://r.example/v2/": {},
            "other.example": {}, "/odd": {},
        } });
        assert_eq!(remove(&mut config, "r.example").len(), 3);
        assert_eq!(
            config,
            json!({ "auths": { "other.example": {}, "/odd": {} } })
        );
        assert!(remove(&mut config, "r.example").is_empty());
        assert!(remove(&mut json!({}), "r.example").is_empty());
    }
}
