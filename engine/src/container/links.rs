//! Links on the default network: names and variables that a container has for others.

use std::sync::Arc;

use bollard_stubs::models::ContainerConfig;

use super::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::network::{self, Link};
use crate::record::Record;

/// Variables of the other container that are no business of this one.
const NOT_PASSED_ON: [&str; 2] = ["HOME", "PATH"];

/// A container's port as its image or user names it, such as `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Port<'a> {
    /// `tcp` before `udp`, each by number.
    protocol: &'a str,
    number: u16,
}

/// The links of a container. On networks of the user they are names alone.
fn links_of(record: &Record) -> &[Link] {
    let mode = record.host.network_mode.as_deref().unwrap_or_default();
    match record.networks.first() {
        Some(wanted) if network::is_default_mode(mode) => &wanted.links,
        _ => &[],
    }
}

/// The variables that tell of one link, as docker has named them since before there were networks.
fn variables(link: &Link, of: &str, address: &str, other: &ContainerConfig) -> Vec<String> {
    let prefix = link.alias.to_ascii_uppercase().replace('-', "_");
    let mut ports: Vec<Port<'_>> = other
        .exposed_ports
        .iter()
        .flatten()
        .filter_map(|key| {
            let (number, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
            let number = number.parse().ok()?;
            Some(Port { protocol, number })
        })
        .collect();
    ports.sort_unstable();
    let mut all = Vec::new();
    let url = |port: &Port<'_>| format!("{}://{address}:{}", port.protocol, port.number);
    all.extend(
        ports
            .first()
            .map(|port| format!("{prefix}_PORT={}", url(port))),
    );
    for port in &ports {
        let Port { protocol, number } = port;
        let upper = protocol.to_ascii_uppercase();
        let name = format!("{prefix}_PORT_{number}_{upper}");
        all.extend([
            format!("{name}={}", url(port)),
            format!("{name}_ADDR={address}"),
            format!("{name}_PORT={number}"),
            format!("{name}_PROTO={protocol}"),
        ]);
    }
    all.push(format!("{prefix}_NAME=/{of}/{}", link.alias));
    for variable in other.env.iter().flatten() {
        let Some((name, value)) = variable.split_once('=') else {
            continue;
        };
        if !NOT_PASSED_ON.contains(&name) {
            all.push(format!("{prefix}_ENV_{name}={value}"));
        }
    }
    all
}

impl Engine {
    /// The names that links give: the other's id, and `/CONTAINER/ALIAS`.
    pub(super) fn link_names(&self, containers: &[Arc<Container>]) -> Vec<(String, String)> {
        let named = containers.iter().flat_map(|container| {
            let record = container.lock();
            let name = |link: &Link| {
                let name = format!("/{}/{}", record.name, link.alias);
                (link.target.clone(), name)
            };
            links_of(&record).iter().map(name).collect::<Vec<_>>()
        });
        let found = named.filter_map(|(target, name)| {
            let other = self.container(&target).ok()?;
            Some((other.id().to_owned(), name))
        });
        found.collect()
    }

    /// A container's links as docker shows them, `/OTHER:/CONTAINER/ALIAS`, if it has any.
    pub(super) fn shown_links(&self, record: &Record) -> Option<Vec<String>> {
        let links = links_of(record);
        let shown = links.iter().map(|link| {
            let other = self.container(&link.target);
            let other = other.map_or_else(|_| link.target.clone(), |other| other.name());
            format!("/{other}:/{}/{}", record.name, link.alias)
        });
        (!links.is_empty()).then(|| shown.collect())
    }

    /// The variables that a container has by its links, to those of the others that run.
    pub(crate) fn link_variables(&self, record: &Record) -> Vec<String> {
        let of = |link: &Link| -> Option<Vec<String>> {
            let other = self.container(&link.target).ok()?.record();
            let end = other.endpoints.first()?;
            let address = end.addresses().next()?.to_string();
            let live = other.state.status.is_live();
            live.then(|| variables(link, &record.name, &address, &other.config))
        };
        let all = links_of(record).iter().filter_map(of);
        all.flatten().collect()
    }

    /// Takes a link away: `name` is `CONTAINER/ALIAS`.
    pub(crate) async fn remove_link(&self, name: &str) -> Result<()> {
        let missing = || EngineError::NoSuchContainer(name.to_owned());
        let (of, alias) = name.trim_matches('/').split_once('/').ok_or_else(missing)?;
        let container = self.container(of).map_err(|_| missing())?;
        let _operation = container.operate().await;
        if !links_of(&container.record())
            .iter()
            .any(|link| link.alias == alias)
        {
            return Err(missing());
        }
        self.forget_link(&container, alias).await
    }

    async fn forget_link(&self, container: &Container, alias: &str) -> Result<()> {
        let other = |link: &Link| link.alias != alias;
        self.update(container, |record| {
            if let Some(wanted) = record.networks.first_mut() {
                wanted.links.retain(other);
            }
            for end in &mut record.endpoints {
                end.links.retain(other);
            }
            let ours = |text: &String| text.parse::<Link>().is_ok_and(|link| other(&link));
            record
                .host
                .links
                .iter_mut()
                .for_each(|links| links.retain(ours));
        })
        .await?;
        self.networks
            .change_ends(container.id(), |end| end.links.retain(other));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_tells_of_ports_and_variables() {
        let other = ContainerConfig {
            exposed_ports: Some(vec!["81/udp".into(), "80/tcp".into()]),
            env: Some(vec!["A=b=c".into(), "PATH=/bin".into(), "UNSET".into()]),
            ..ContainerConfig::default()
        };
        let link: Link = "other:my-db".parse().unwrap();
        let all = variables(&link, "web", "172.17.0.2", &other);
        assert_eq!(all[0], "MY_DB_PORT=tcp://172.17.0.2:80");
        for one in [
            "MY_DB_PORT_80_TCP=tcp://172.17.0.2:80",
            "MY_DB_PORT_81_UDP_ADDR=172.17.0.2",
            "MY_DB_PORT_81_UDP_PORT=81",
            "MY_DB_PORT_80_TCP_PROTO=tcp",
            "MY_DB_NAME=/web/my-db",
            "MY_DB_ENV_A=b=c",
        ] {
            assert!(all.iter().any(|text| text == one), "{one}");
        }
        assert_eq!(all.len(), 1 + 2 * 4 + 2);
    }
}
