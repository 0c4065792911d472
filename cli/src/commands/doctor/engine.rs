//! The engine, as it answers: its versions, its state directory, its registries.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::transport::Transport;

/// How long an engine or a registry may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The registry of names without one, and who serves it.
const HUB: [&str; 2] = ["docker.io", "registry-1.docker.io"];

/// What a running engine tells of itself.
pub(super) struct Known {
    version: Value,
    info: Value,
}

impl Known {
    /// Its state directory.
    pub(super) fn root(&self) -> Option<PathBuf> {
        self.info["DockerRootDir"].as_str().map(PathBuf::from)
    }
}

/// Whether it answers, and what. This machine's own is not started for that.
pub(super) async fn look(endpoint: &Endpoint) -> (Result<String, String>, Option<Known>) {
    let transport = match Transport::new(endpoint) {
        Ok(transport) => transport,
        Err(error) => return (Err(error.to_string()), None),
    };
    let name = transport.name();
    if let Err(error) = within(transport.open()).await {
        return (absent(endpoint, &name, &error), None);
    }
    match tokio::time::timeout(LIMIT, ask(endpoint)).await {
        Ok(Ok(known)) => (Ok(format!("answers on {name}")), Some(known)),
        Ok(Err(why)) => (Err(format!("{name}: {why}")), None),
        Err(_) => {
            let why = "takes connections, but does not answer: see its log, or start it again";
            (Err(format!("{name} {why}")), None)
        }
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(LIMIT, work).await.map_err(late)?
}

async fn ask(endpoint: &Endpoint) -> Result<Known, String> {
    let text = |error: crate::error::CliError| error.to_string();
    let client = Client::connect(endpoint).await.map_err(text)?;
    Ok(Known {
        version: client.get_json("/version").await.map_err(text)?,
        info: client.get_json("/info").await.map_err(text)?,
    })
}

fn absent(endpoint: &Endpoint, name: &str, error: &io::Error) -> Result<String, String> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Err(format!(
            "{name} may not be used by this user: run as root, or as a member of the group hull"
        )),
        _ if *endpoint == Endpoint::Own => Ok("does not run; it is started when needed".to_owned()),
        _ => Err(format!("{name} does not answer: {error}")),
    }
}

/// Whether client and engine are of one version.
pub(super) fn versions(known: Option<&Known>) -> Result<String, String> {
    let own = env!("CARGO_PKG_VERSION");
    let Some(known) = known else {
        return Ok(format!("hull {own}"));
    };
    let text = |key: &str| known.version[key].as_str().unwrap_or_default();
    let (engine, api) = (text("Version"), text("ApiVersion"));
    if known.version["Platform"]["Name"] != "Hull" {
        return Ok(format!(
            "hull {own}, with an engine of another kind ({engine}, API {api})"
        ));
    }
    match engine == own {
        true => Ok(format!("hull and hulld {own}, API {api}")),
        false => Err(format!(
            "hull {own}, but hulld {engine}: start hulld again after an upgrade (systemctl restart \
             hull; containers go on)"
        )),
    }
}

/// Which registries can be reached from here. One that can't be is no fault of this machine.
pub(super) async fn registries(known: Option<&Known>) -> String {
    let asked = names(known).into_iter().map(|name| async move {
        let place = address(&name);
        match within(TcpStream::connect((place.0.as_str(), place.1))).await {
            Ok(_) => format!("{name} is reached"),
            Err(error) => format!("{name} is not reached ({error})"),
        }
    });
    futures_util::future::join_all(asked).await.join(", ")
}

/// Docker Hub, and those that the engine is configured for.
fn names(known: Option<&Known>) -> BTreeSet<String> {
    let registries = known.map(|known| &known.info["RegistryConfig"]["IndexConfigs"]);
    let configured = registries.and_then(Value::as_object).into_iter().flatten();
    let mut names: BTreeSet<String> = configured.map(|(name, _)| name.clone()).collect();
    names.insert(HUB[0].to_owned());
    names
}

fn address(registry: &str) -> (String, u16) {
    let registry = if registry == HUB[0] { HUB[1] } else { registry };
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            (host.to_owned(), port.parse().unwrap_or(443))
        }
        _ => (registry.to_owned(), 443),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known(version: &str, platform: &str) -> Known {
        Known {
            version: json!({ "Version": version, "ApiVersion": "1.51",
                "Platform": { "Name": platform } }),
            info: json!({ "DockerRootDir": "/srv/hull",
                "RegistryConfig": { "IndexConfigs": { "reg:5000": {} } } }),
        }
    }

    #[test]
    fn an_engine_that_was_not_started_again_is_told() {
        let own = env!("CARGO_PKG_VERSION");
        assert!(versions(Some(&known(own, "Hull"))).is_ok());
        let text = versions(Some(&known("0.0.1", "Hull"))).unwrap_err();
        assert!(text.contains("0.0.1") && text.contains("restart"), "{text}");
        assert!(versions(Some(&known("28.5.2", "Docker"))).is_ok() && versions(None).is_ok());
        assert_eq!(known(own, "Hull").root(), Some(PathBuf::from("/srv/hull")));
    }

    #[test]
    fn registries_are_the_engines_and_docker_hub() {
        let named: Vec<_> = names(Some(&known("1", "Hull"))).into_iter().collect();
        assert_eq!(named, ["docker.io", "reg:5000"]);
        assert_eq!(address("reg:5000"), ("reg".to_owned(), 5000));
        assert_eq!(address("[::1]:5000"), ("::1".to_owned(), 5000));
        assert_eq!(address("reg"), ("reg".to_owned(), 443));
    }
}
