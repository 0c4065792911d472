//! Ports of a container on the network `host`: they follow what it opens and closes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::HostConfig;
use hull_network::ports::Protocol;
use hull_protocol::agent::OpenPort;

use super::Container;
use crate::engine::Engine;
use crate::network::{self, HostPort, Refusal};
use crate::shim::Task;

/// Longest wait for a change: then it is looked what the host has opened, and a port that it had
/// taken is asked for again.
const WAIT: Duration = Duration::from_secs(2);
/// Between two changes. A guest may say what it likes as often as it likes.
const PAUSE: Duration = Duration::from_millis(100);
/// After ports were told of that can't be had.
const TOLD_PAUSE: Duration = Duration::from_secs(1);
/// Most ports that are listened to when a guest tells of them.
const MOST_TOLD: usize = 1024;
/// After a call that failed.
const RETRY: Duration = Duration::from_secs(5);
/// An event of a container.
const ACTION: &str = "host-port-refused";
/// The capability to listen below port 1024.
const LOW_PORTS: [&str; 2] = ["NET_BIND_SERVICE", "ALL"];

impl Engine {
    /// Publishes what a container of the network `host` opens, until it ends.
    pub(super) fn follow_host_ports(
        self: &Arc<Self>,
        container: &Arc<Container>,
        task: &Arc<Task>,
    ) {
        let record = container.record();
        if !network::is_host_mode(&record.host) {
            return;
        }
        let low = may_take_low_ports(&record.host);
        let (engine, task) = (Arc::clone(self), Arc::clone(task));
        let followed = Arc::clone(container);
        container.while_live(async move {
            engine.publish_open_ports(&followed, &task, low).await;
        });
    }

    async fn publish_open_ports(&self, container: &Container, task: &Task, low: bool) {
        let mut known = Vec::new();
        let mut told = BTreeSet::new();
        loop {
            let local = self.networks.local_ports(container.id());
            let mut open = match task.open_ports(known.clone(), local, WAIT).await {
                Ok(open) => open,
                Err(error) => {
                    let (id, error) = (container.id(), error.message());
                    tracing::warn!(id, error, "its open ports are not known");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            open.truncate(MOST_TOLD);
            let (allowed, refused) = network::sort_open(open.iter().filter_map(port_of), low);
            let id = container.id();
            let refused = self.networks.open_on_host(id, &allowed, refused).await;
            let any_new = self.tell_refused(container, &mut told, refused);
            known = open;
            tokio::time::sleep(if any_new { TOLD_PAUSE } else { PAUSE }).await;
        }
    }

    /// Tells of ports that the host could not give, of each once for as long as it is so. `true` if
    /// there were such.
    fn tell_refused(
        &self,
        container: &Container,
        told: &mut BTreeSet<HostPort>,
        refused: Vec<Refusal>,
    ) -> bool {
        let new: Vec<&Refusal> = refused
            .iter()
            .filter(|refusal| !told.contains(&refusal.port))
            .collect();
        if let Some(first) = new.first() {
            let ports: Vec<String> = new.iter().map(|refusal| refusal.port.to_string()).collect();
            let (id, ports) = (container.id(), ports.join(","));
            tracing::warn!(id, ports, why = first.why, "not published on the host");
            self.publish(
                container,
                ACTION,
                [("ports", ports), ("reason", first.why.clone())],
            );
        }
        let any_new = !new.is_empty();
        *told = refused.into_iter().map(|refusal| refusal.port).collect();
        any_new
    }
}

/// `None`: the guest says what is no port.
fn port_of(open: &OpenPort) -> Option<HostPort> {
    let number = u16::try_from(open.port).ok().filter(|port| *port != 0)?;
    let protocol = match open.udp {
        true => Protocol::Udp,
        false => Protocol::Tcp,
    };
    Some(HostPort { number, protocol })
}

/// Whether the container's processes could ever listen on such a port, were they the host's.
fn may_take_low_ports(host: &HostConfig) -> bool {
    let named = |list: &Option<Vec<String>>, names: &[&str]| {
        list.iter().flatten().any(|name| {
            let name = name.to_ascii_uppercase();
            names.contains(&name.strip_prefix("CAP_").unwrap_or(&name))
        })
    };
    if host.privileged.unwrap_or(false) || named(&host.cap_add, &LOW_PORTS[..1]) {
        return true;
    }
    let [own, all] = LOW_PORTS;
    !named(&host.cap_drop, &[own])
        && (named(&host.cap_add, &[all]) || !named(&host.cap_drop, &[all]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_a_port_or_nothing() {
        let open = |port| OpenPort {
            port,
            ..OpenPort::default()
        };
        assert_eq!(port_of(&open(80)).unwrap().to_string(), "80/tcp");
        assert_eq!(port_of(&open(0)), None);
        assert_eq!(port_of(&open(65_536)), None);
    }

    #[test]
    fn low_ports_need_the_capability() {
        let may = |add: &[&str], drop: &[&str]| {
            let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
            may_take_low_ports(&HostConfig {
                cap_add: list(add),
                cap_drop: list(drop),
                ..HostConfig::default()
            })
        };
        assert!(may(&[], &[]));
        assert!(!may(&[], &["ALL"]));
        assert!(!may(&[], &["CAP_NET_BIND_SERVICE"]));
        assert!(may(&["net_bind_service"], &["all"]));
        assert!(may(&["ALL"], &["ALL"]));
    }
}
