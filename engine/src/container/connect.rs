//! Networks that a container is put on and taken off, whether it runs or not.

use std::sync::Arc;

use super::{live_task, Container};
use crate::engine::Engine;
use crate::error::Result;
use crate::network::{self, Endpoint, Owner, Wanted};

impl Engine {
    /// Puts a container on a network; one that runs gets an interface more.
    pub(crate) async fn connect_network(
        &self,
        container: &Arc<Container>,
        wanted: Wanted,
    ) -> Result<()> {
        let _operation = container.operate().await;
        let mut added = None;
        if container.status().is_live() {
            added = Some(self.plug_in(container, &wanted).await?);
        }
        let written = self
            .update(container, |record| {
                record.networks.push(wanted);
                record.endpoints.extend(added.clone());
            })
            .await;
        if let (Err(_), Some(endpoint)) = (&written, &added) {
            self.networks.detach_one(container.id(), endpoint);
        }
        written
    }

    async fn plug_in(&self, container: &Container, wanted: &Wanted) -> Result<Endpoint> {
        let task = live_task(container)?;
        let record = container.record();
        let egress = network::egress_of(&record.host)?;
        let owner = Owner::of(&record, &egress);
        let others = &record.endpoints;
        let endpoint = self.networks.attach_more(owner, wanted, others)?;
        let interface = network::interface(&endpoint);
        if let Err(error) = task.attach_interface(endpoint.index(), &interface).await {
            self.networks.detach_one(container.id(), &endpoint);
            return Err(error);
        }
        Ok(endpoint)
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
            task.detach_interface(endpoint.index()).await?;
            self.networks.detach_one(container.id(), endpoint);
            for (end, gateway) in network::choose_routes(&mut others) {
                self.networks.put_end(container.id(), &end);
                let route = network::default_route(&end, gateway);
                if let Err(error) = task.extend_interface(&route).await {
                    let (id, error) = (container.id(), error.message());
                    tracing::warn!(id, error, "a container is left without a default route");
                }
            }
        }
        self.update(container, |record| {
            record
                .networks
                .retain(|wanted| wanted.network != network_id);
            record.endpoints.retain(|end| end.network_id != network_id);
            for end in &mut record.endpoints {
                if let Some(now) = others.iter().find(|other| other.id == end.id) {
                    (end.routed, end.routed_v6) = (now.routed, now.routed_v6);
                }
            }
        })
        .await
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
