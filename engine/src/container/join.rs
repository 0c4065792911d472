//! Containers that are made in another one's VM: those whose network is `container:OTHER`, and which
//! may see its processes too.

use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::{ContainerConfig, HostConfig};

use super::{Container, WaitCondition};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::lifecycle::Status;
use crate::record::Record;
use crate::shim::Task;

/// Before the other container's name or id in a mode.
pub(crate) const PREFIX: &str = "container:";
/// How long a container that starts with the daemon waits for the one that it joins.
const DAEMON_START_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at that.
const DAEMON_START_POLL: Duration = Duration::from_millis(200);

/// A container whose VM another one is made in.
pub(super) struct Joined {
    /// Its record.
    pub(super) record: Record,
    /// Its shim.
    pub(super) task: Arc<Task>,
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
        return match other_of(&host.pid_mode) {
            Some(_) => bad(
                "PidMode container: needs the same NetworkMode (--network container:OTHER), since \
                 containers that see each other's processes are in one VM, and it has one network",
            ),
            None => Ok(()),
        };
    };
    if other.is_empty() {
        return bad("invalid network mode: invalid container format container:<name|id>");
    }
    let any = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if super::create::has_hostname(config) {
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

impl Engine {
    /// Puts the other container's id into the modes that name it.
    pub(super) fn resolve_joined(&self, host: &mut HostConfig) -> Result<()> {
        let Some(other) = other_of(&host.network_mode) else {
            return Ok(());
        };
        let id = self.container(other)?.id().to_owned();
        if let Some(other) = other_of(&host.pid_mode) {
            if self.container(other)?.id() != id {
                return Err(EngineError::BadRequest(
                    "NetworkMode and PidMode name two containers: one can be in one VM".to_owned(),
                ));
            }
            host.pid_mode = Some(format!("{PREFIX}{id}"));
        }
        host.network_mode = Some(format!("{PREFIX}{id}"));
        Ok(())
    }

    /// The container that another one is to join, which must run. `None`: it has a VM of its own.
    pub(super) fn joined(&self, record: &Record) -> Result<Option<Joined>> {
        let Some(other) = other_of(&record.host.network_mode) else {
            return Ok(None);
        };
        let container = self.container(other)?;
        if container.id() == record.id {
            return Err(EngineError::Conflict(
                "cannot join own network namespace".to_owned(),
            ));
        }
        let joined = container.record();
        match (container.status(), container.task()) {
            (Status::Restarting, _) => Err(EngineError::Conflict(format!(
                "Container {other} is restarting, wait until the container is running"
            ))),
            (status, Some(_)) if status.is_live() && joins(&joined.host) => {
                Err(EngineError::Conflict(format!(
                    "container {other} is itself in the VM of {}: join that one",
                    other_of(&joined.host.network_mode).unwrap_or_default()
                )))
            }
            (status, Some(task)) if status.is_live() => Ok(Some(Joined {
                record: joined,
                task,
            })),
            _ => Err(EngineError::Conflict(format!(
                "cannot join network namespace of a non running container: {other}"
            ))),
        }
    }

    /// Waits, when the daemon begins, for the container that this one joins.
    pub(super) async fn await_joined(&self, container: &Container) {
        let host = container.record().host;
        let other = other_of(&host.network_mode).and_then(|other| self.container(other).ok());
        let Some(other) = other else { return };
        let running = async {
            while !other.status().is_live() {
                tokio::time::sleep(DAEMON_START_POLL).await;
            }
        };
        let gone = other.wait(WaitCondition::Removed);
        let waited = async {
            tokio::select! {
                () = running => {}
                _ = gone => {}
            }
        };
        // What is wrong is told by the start that follows.
        let _ = tokio::time::timeout(DAEMON_START_LIMIT, waited).await;
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
    }
}
