//! Networks that a container is put on and taken off, whether it runs or not.

use std::net::IpAddr;
use std::sync::Arc;

use super::start::file_of_host;
use super::{live_task, Container};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::network::{self, Endpoint, Owner, Wanted};
use crate::resolving::Resolving;
use crate::shim::Task;
use crate::spec::files;

/// Says in the container's own file where it is on a network that has come or gone. It may have a file
/// of the user's there.
async fn edit_hosts(container: &Container, task: &Task, remove: Vec<String>, add: Vec<String>) {
    if let Err(error) = task.edit_file(files::HOSTS.target, remove, add).await {
        let (id, error) = (container.id(), error.message());
        tracing::debug!(id, error, "the names of a container are as before");
    }
}

/// Says in the container's own file whom it asks for names, now that its networks are these.
async fn edit_resolvers(
    container: &Container,
    task: &Task,
    ends: Vec<Endpoint>,
    resolving: &Resolving,
) {
    let before = container.record();
    let mut now = before.clone();
    now.endpoints = ends;
    let of_host = resolving.over(&file_of_host("/etc/resolv.conf"));
    let (remove, add) = files::resolver_changes(&before, &now, &of_host);
    if remove.is_empty() && add.is_empty() {
        return;
    }
    let edited = task.edit_file(files::RESOLV_CONF.target, remove, add).await;
    if let Err(error) = edited {
        let (id, error) = (container.id(), error.message());
        tracing::debug!(id, error, "the name servers of a container are as before");
    }
}

impl Engine {
    /// Puts a container on a network; one that runs gets an interface more.
    pub(crate) async fn connect_network(
        &self,
        container: &Arc<Container>,
        wanted: Wanted,
    ) -> Result<()> {
        let _operation = container.operate().await;
        let others = container.record().networks;
        let taken = others.iter().any(|it| it.network == wanted.network);
        // One that does not run takes what is said last.
        if taken && container.status().is_live() {
            let network = self.networks.find(&wanted.network)?;
            return Err(EngineError::Forbidden(format!(
                "endpoint with name {} already exists in network {}",
                container.name(),
                network.name
            )));
        }
        let others = others.iter().filter(|it| it.network != wanted.network);
        network::check_count(others.count() + 1)?;
        let mut ends = container.record().endpoints;
        let mut added = None;
        if container.status().is_live() {
            let endpoint = self.plug_in(container, &wanted, &mut ends).await?;
            ends.push(endpoint.clone());
            added = Some(endpoint);
        }
        let published = self.networks.published(container.id());
        let written = self
            .update(container, |record| {
                record.networks.retain(|it| it.network != wanted.network);
                record.networks.push(wanted);
                record.endpoints = ends;
                record.published = published;
                record.replugged = None;
            })
            .await;
        if let (Err(_), Some(endpoint)) = (&written, &added) {
            self.networks.detach_one(container.id(), endpoint);
            self.networks.give_up_ports(container.id()).await;
        }
        written
    }

    /// Plugs in an interface more; the default routes of the others may go to it.
    async fn plug_in(
        &self,
        container: &Arc<Container>,
        wanted: &Wanted,
        others: &mut [Endpoint],
    ) -> Result<Endpoint> {
        let task = live_task(container)?;
        let record = container.record();
        let egress = network::egress_of(&record.host)?;
        let owner = Owner::of(&record, &egress, &self.defaults);
        let ports = self.networks.take_ports(owner, wanted).await?;
        let endpoint = self.networks.attach_more(owner, wanted, others)?;
        let interface = network::interface(&endpoint);
        let plugged = async {
            self.note_replugged(container, Some(endpoint.index()))
                .await?;
            task.attach_interface(endpoint.index(), &interface).await
        };
        if let Err(error) = plugged.await {
            self.networks.detach_one(container.id(), &endpoint);
            self.route_again(container, &task).await;
            self.note_replugged(container, None).await?;
            return Err(error);
        }
        self.networks.publish(container.id(), ports);
        if let Err(error) = self.networks.move_ports(owner).await {
            self.pull_out(container, &task, endpoint.index()).await?;
            self.networks.detach_one(container.id(), &endpoint);
            self.route_again(container, &task).await;
            self.note_replugged(container, None).await?;
            return Err(error);
        }
        let lines = files::hosts_lines(&record, &endpoint);
        edit_hosts(container, &task, Vec::new(), lines).await;
        let ends = others.iter().chain([&endpoint]).cloned().collect();
        edit_resolvers(container, &task, ends, &self.defaults.resolving).await;
        Ok(endpoint)
    }

    /// Gives the container the default routes that it is known to have: who was to take them is gone.
    async fn route_again(&self, container: &Arc<Container>, task: &Task) {
        for end in container.record().endpoints {
            self.networks.put_end(container.id(), &end);
            let gateways: Vec<_> = end.gateways().filter(|at| end.has_route(*at)).collect();
            for gateway in gateways {
                self.route(container, task, &end, gateway).await;
            }
        }
    }

    async fn route(
        &self,
        container: &Arc<Container>,
        task: &Task,
        end: &Endpoint,
        gateway: IpAddr,
    ) {
        let route = network::default_route(end, gateway);
        if let Err(error) = task.extend_interface(&route).await {
            let (id, error) = (container.id(), error.message());
            tracing::warn!(id, error, "a container is left without a default route");
        }
    }

    async fn note_replugged(&self, container: &Arc<Container>, index: Option<usize>) -> Result<()> {
        self.update(container, |record| record.replugged = index)
            .await
    }

    /// Pulls out the interface that an engine was plugging in or pulling out when it was cut off: a
    /// network that it was connecting is as before, one that it was disconnecting as after.
    pub(super) async fn settle_interfaces(&self, container: &Arc<Container>, task: &Task) {
        let record = container.record();
        let Some(index) = record.replugged else {
            return;
        };
        let mut ends = record.endpoints.iter();
        let settled = match ends.find(|end| end.index() == index) {
            Some(end) => self.disconnect_network(container, &end.network_id).await,
            None => {
                let detached = task.detach_interface(index).await;
                self.route_again(container, task).await;
                detached
            }
        };
        let settled = match settled {
            Ok(()) => self.note_replugged(container, None).await,
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            let (id, error) = (container.id(), error.message());
            tracing::warn!(
                id,
                index,
                error,
                "an interface that was being changed is left"
            );
        }
    }

    /// Takes a container off a network; one that runs loses that interface.
    pub(crate) async fn disconnect_network(
        &self,
        container: &Arc<Container>,
        network_id: &str,
    ) -> Result<()> {
        let _operation = container.operate().await;
        let endpoints = container.record().endpoints;
        let gone = endpoints.iter().find(|end| end.network_id == network_id);
        let others = endpoints.iter().filter(|end| end.network_id != network_id);
        let mut others: Vec<Endpoint> = others.cloned().collect();
        if let (true, Some(endpoint)) = (container.status().is_live(), gone) {
            let task = live_task(container)?;
            self.pull_out(container, &task, endpoint.index()).await?;
            self.networks.detach_one(container.id(), endpoint);
            self.networks.give_up_ports(container.id()).await;
            self.move_ports(container).await;
            let lines = files::hosts_lines(&container.record(), endpoint);
            edit_hosts(container, &task, lines, Vec::new()).await;
            for (end, gateway) in network::choose_routes(&mut others) {
                self.networks.put_end(container.id(), &end);
                self.route(container, &task, &end, gateway).await;
            }
            edit_resolvers(container, &task, others.clone(), &self.defaults.resolving).await;
        }
        let published = self.networks.published(container.id());
        self.update(container, |record| {
            record.published = published;
            record
                .networks
                .retain(|wanted| wanted.network != network_id);
            record.endpoints.retain(|end| end.network_id != network_id);
            record.replugged = None;
            for end in &mut record.endpoints {
                if let Some(now) = others.iter().find(|other| other.id == end.id) {
                    (end.routed, end.routed_v6) = (now.routed, now.routed_v6);
                }
            }
        })
        .await
    }

    /// Publishes the ports of a container that left a network where the others say.
    async fn move_ports(&self, container: &Arc<Container>) {
        let record = container.record();
        let moved = match network::egress_of(&record.host) {
            Ok(egress) => {
                let owner = Owner::of(&record, &egress, &self.defaults);
                self.networks.move_ports(owner).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = moved {
            let (id, error) = (container.id(), error.message());
            tracing::warn!(id, error, "published ports stay where they were");
        }
    }

    async fn pull_out(&self, container: &Arc<Container>, task: &Task, index: usize) -> Result<()> {
        let cut_off = container.record().replugged.is_some();
        self.note_replugged(container, Some(index)).await?;
        match task.detach_interface(index).await {
            // The engine before may have come this far.
            Err(error) if cut_off => {
                tracing::debug!(error = error.message(), "pulling an interface out again");
                Ok(())
            }
            Err(error) => {
                self.note_replugged(container, None).await?;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Lets others find a running container by its new name.
    pub(super) async fn rename_on_networks(&self, container: &Container, old: &str, new: &str) {
        let renamed = |name: &mut String| {
            if name == old {
                new.clone_into(name);
            }
        };
        self.networks.rename(container.id(), renamed);
        let written = self.update(container, |record| {
            let names = record.endpoints.iter_mut().flat_map(|end| &mut end.names);
            names.for_each(renamed);
        });
        if let Err(error) = written.await {
            tracing::warn!(id = container.id(), error = error.message(), "store");
        }
    }
}
