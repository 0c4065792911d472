//! Containers that are made in another one's VM: those whose network is `container:OTHER`, and which
//! may see its processes and share its memory too. OTHER may itself be in another one's VM.

use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::{ContainerConfig, HostConfig};

use super::{Container, WaitCondition};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::lifecycle::Status;
use crate::record::Record;

/// Before the other container's name or id in a mode.
pub(crate) const PREFIX: &str = "container:";
/// How long a container that starts with the daemon waits for the one that it joins.
const DAEMON_START_LIMIT: Duration = Duration::from_secs(120);
/// How long after each other the stops of several containers come, which a client sends at once.
const STOPS_COME_TOGETHER: Duration = Duration::from_millis(100);
/// Between two looks at that.
const DAEMON_START_POLL: Duration = Duration::from_millis(200);

/// A container whose VM another one is made in.
pub(super) struct Joined {
    /// Its record.
    pub(super) record: Record,
}

/// The name or id behind [`PREFIX`].
pub(crate) fn other_of(mode: &Option<String>) -> Option<&str> {
    mode.as_deref()?.strip_prefix(PREFIX)
}

/// Whether a container is made in another one's VM.
pub(crate) fn joins(host: &HostConfig) -> bool {
    other_of(&host.network_mode).is_some()
}

/// Checks what goes with another container's network, and what with its processes, in Docker's words.
pub(super) fn check(host: &HostConfig, config: &ContainerConfig, mac: bool) -> Result<()> {
    let bad = |text: &str| Err(EngineError::BadRequest(text.to_owned()));
    let Some(other) = other_of(&host.network_mode) else {
        let modes = [("PidMode", &host.pid_mode), ("IpcMode", &host.ipc_mode)];
        let mut modes = modes.into_iter();
        return match modes.find(|(_, mode)| other_of(mode).is_some()) {
            Some((field, _)) => bad(&format!(
                "{field} container: needs the same NetworkMode (--network container:OTHER), since \
                 containers that see each other's processes or memory are in one VM, and it has \
                 one network",
            )),
            None => Ok(()),
        };
    };
    if other.is_empty() {
        return bad("invalid network mode: invalid container format container:<name|id>");
    }
    let any = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if super::request::has_hostname(config) {
        return bad("conflicting options: hostname and the network mode");
    }
    if any(&host.links) {
        return bad(
            "conflicting options: container type network can't be used with links. This would \
             result in undefined behavior",
        );
    }
    if any(&host.dns) {
        return bad("conflicting options: dns and the network mode");
    }
    if any(&host.extra_hosts) {
        return bad("conflicting options: custom host-to-IP mapping and the network mode");
    }
    if mac {
        return bad("conflicting options: mac-address and the network mode");
    }
    let published = host
        .port_bindings
        .as_ref()
        .is_some_and(|all| !all.is_empty());
    if published || host.publish_all_ports.unwrap_or(false) {
        return bad("conflicting options: port publishing and the container type network mode");
    }
    if any(&config.exposed_ports) {
        return bad("conflicting options: port exposing and the container type network mode");
    }
    Ok(())
}

/// The namespaces of another container that one asks for, and whose.
fn others(host: &HostConfig) -> impl Iterator<Item = (&'static str, &str)> {
    let modes = [
        ("network", &host.network_mode),
        ("PID", &host.pid_mode),
        ("IPC", &host.ipc_mode),
    ];
    modes
        .into_iter()
        .filter_map(|(namespace, mode)| Some((namespace, other_of(mode)?)))
}

impl Engine {
    /// Puts the other containers' ids into the modes that name them.
    pub(super) fn resolve_joined(&self, host: &mut HostConfig) -> Result<()> {
        let Some(other) = other_of(&host.network_mode) else {
            return Ok(());
        };
        let first = self.container(other)?;
        let vm = self.vm_of(&first)?.id().to_owned();
        host.network_mode = Some(format!("{PREFIX}{}", first.id()));
        for (field, mode) in [
            ("PidMode", &mut host.pid_mode),
            ("IpcMode", &mut host.ipc_mode),
        ] {
            let Some(other) = other_of(mode) else {
                continue;
            };
            let other = self.container(other)?;
            if self.vm_of(&other)?.id() != vm {
                return Err(EngineError::BadRequest(format!(
                    "NetworkMode and {field} name containers of two VMs ({} and {}): a container \
                     is in one",
                    first.name(),
                    other.name()
                )));
            }
            *mode = Some(format!("{PREFIX}{}", other.id()));
        }
        Ok(())
    }

    /// The container whose VM this one is in: itself, or the one that it and those between them join.
    fn vm_of(&self, container: &Arc<Container>) -> Result<Arc<Container>> {
        let mut owner = Arc::clone(container);
        // A container joins one that was there before it: there is no circle.
        for _ in 0..self.containers().len() {
            let host = owner.record().host;
            match other_of(&host.network_mode) {
                Some(other) => owner = self.container(other)?,
                None => break,
            }
        }
        Ok(owner)
    }

    /// The container whose VM another one is to be made in; it must run, and so must those whose
    /// namespaces are joined. `None`: it has a VM of its own.
    pub(super) fn joined(&self, record: &Record) -> Result<Option<Joined>> {
        let Some(first) = other_of(&record.host.network_mode) else {
            return Ok(None);
        };
        let first = self.container(first)?;
        if first.id() == record.id {
            return Err(EngineError::Conflict(
                "cannot join own network namespace".to_owned(),
            ));
        }
        for (namespace, other) in others(&record.host) {
            let container = self.container(other)?;
            running(&container, namespace)?;
            if namespace == "IPC" {
                shareable(&container)?;
            }
        }
        let owner = self.vm_of(&first)?;
        running(&owner, "network")?;
        Ok(Some(Joined {
            record: owner.record(),
        }))
    }

    /// Before the end of a container with others in its VM: waits for those that are asked to end too, as by a
    /// client that stops several at once, since they would end with the VM.
    pub(super) async fn await_stops_within(&self, container: &Container) {
        let all: Vec<_> = self.containers().values().cloned().collect();
        let is_within = |other: &Arc<Container>| {
            joins(&other.lock().host)
                && self
                    .vm_of(other)
                    .is_ok_and(|owner| owner.id() == container.id())
        };
        let within: Vec<_> = all.into_iter().filter(is_within).collect();
        if !within.iter().any(|other| other.status().is_live()) {
            return;
        }
        tokio::time::sleep(STOPS_COME_TOGETHER).await;
        let ends = within.iter().map(|other| async move {
            let (asked, limit) = {
                let record = other.lock();
                (record.state.stopped_by_user, record.stop_timeout())
            };
            if !(asked && other.status().is_live()) {
                return;
            }
            let ended = other.wait(WaitCondition::NotRunning);
            match limit {
                Some(limit) => drop(tokio::time::timeout(limit, ended).await),
                None => drop(ended.await),
            }
        });
        futures_util::future::join_all(ends).await;
    }

    /// Waits, when the daemon begins, for the container that this one joins.
    pub(super) async fn await_joined_for_a_while(&self, container: &Container) {
        let waited = self.await_joined(container);
        // What is wrong is told by the start that follows.
        let _ = tokio::time::timeout(DAEMON_START_LIMIT, waited).await;
    }

    /// Waits until the container that this one joins runs, or is gone.
    pub(super) async fn await_joined(&self, container: &Container) {
        let Some(other) = self.joined_by(container) else {
            return;
        };
        let running = async {
            while !other.status().is_live() {
                tokio::time::sleep(DAEMON_START_POLL).await;
            }
        };
        let gone = other.wait(WaitCondition::Removed);
        tokio::select! {
            () = running => {}
            _ = gone => {}
        }
    }

    /// The container whose network this one has.
    fn joined_by(&self, container: &Container) -> Option<Arc<Container>> {
        let mode = container.lock().host.network_mode.clone();
        self.container(other_of(&mode)?).ok()
    }

    /// Whether a container waits for its next start, and the one that it joins does not run: it has ended
    /// with that one's VM, and comes back after it.
    pub(super) fn lacks_its_vm(&self, container: &Container) -> bool {
        container.status() == Status::Restarting
            && self
                .joined_by(container)
                .is_some_and(|other| !other.status().is_live())
    }
}

/// A container with a namespace that another one joins.
fn running(container: &Container, namespace: &str) -> Result<()> {
    let id = container.id();
    match container.status() {
        Status::Restarting => Err(EngineError::Conflict(format!(
            "Container {id} is restarting, wait until the container is running"
        ))),
        status if status.is_live() => Ok(()),
        _ => Err(EngineError::Conflict(format!(
            "cannot join {namespace} namespace of a non running container: {id}"
        ))),
    }
}

/// Only what is to be shared has an IPC namespace for others.
fn shareable(container: &Container) -> Result<()> {
    let mode = container.record().host.ipc_mode.unwrap_or_default();
    match ["shareable", "host"].contains(&mode.as_str()) || mode.starts_with(PREFIX) {
        true => Ok(()),
        false => Err(EngineError::Conflict(format!(
            "container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
            container.name()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(text: &str) -> HostConfig {
        HostConfig {
            network_mode: Some(text.to_owned()),
            ..HostConfig::default()
        }
    }

    #[test]
    fn what_goes_against_anothers_network_is_told_in_dockers_words() {
        let plain = ContainerConfig::default();
        let refused = |host: &HostConfig, config: &ContainerConfig, mac| {
            check(host, config, mac).unwrap_err().message()
        };
        check(&mode("container:a"), &plain, false).unwrap();
        check(&mode("bridge"), &plain, true).unwrap();
        let named = ContainerConfig {
            hostname: Some("h".to_owned()),
            ..ContainerConfig::default()
        };
        let joining = mode("container:a");
        assert!(refused(&joining, &named, false).contains("hostname and the network mode"));
        assert!(refused(&joining, &plain, true).contains("mac-address"));
        assert!(refused(&mode("container:"), &plain, false).contains("container:<name|id>"));
        let published = HostConfig {
            publish_all_ports: Some(true),
            ..joining.clone()
        };
        assert!(refused(&published, &plain, false).contains("port publishing"));
        let links = HostConfig {
            links: Some(vec!["a:b".to_owned()]),
            ..joining
        };
        assert!(refused(&links, &plain, false).contains("can't be used with links"));
        let processes = HostConfig {
            pid_mode: Some("container:a".to_owned()),
            ..mode("bridge")
        };
        assert!(refused(&processes, &plain, false).contains("--network container:OTHER"));
        let memory = HostConfig {
            ipc_mode: Some("container:a".to_owned()),
            ..mode("bridge")
        };
        assert!(refused(&memory, &plain, false).starts_with("IpcMode container: needs"));
    }
}
