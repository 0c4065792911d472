//! Further containers of a VM that runs.

use std::sync::Arc;

use containerd_shim_protos::api;
use containerd_shim_protos::ttrpc;
use hull_network::foreign::Namespace;
use hull_vm_config::JailConfig;

use super::container::{memory_of, Booted, Container, Extras};
use super::errors;
use super::host_side::HostSide;
use super::process::StdioPaths;
use super::service::Service;
use crate::holder::Network;
use crate::host_sockets;
use crate::lower::{lower_member, oom_score, HostFacts, Pod, TaskOptions};
use crate::network::Attachments;
use crate::pod::Role;
use crate::report::chain;
use crate::sandbox::Sandbox;
use crate::shared_network;
use crate::spec::Bundle;

impl Service {
    /// Refuses a container that has nothing to do with those of the VM: its id was that of the
    /// VM's first.
    pub(super) fn may_join(&self, bundle: &Bundle, first: &Container) -> ttrpc::Result<()> {
        match joins(bundle, first) {
            true => Ok(()),
            false => Err(errors::precondition(format!(
                "the VM of an earlier container {:?} still runs, as others share its network: \
                 remove them first, or take another id",
                self.shim.sandbox_id
            ))),
        }
    }

    /// Lets others find the VM that has a network namespace.
    pub(super) fn announce(&self, sandbox: &Sandbox, namespace: &Namespace) {
        let shim = &self.shim;
        let announced =
            shared_network::announce(sandbox.dir(), &shim.namespace, &shim.sandbox_id, namespace);
        if let Err(error) = announced {
            tracing::warn!(%error, "no other container will be able to share its network");
        }
    }

    /// Makes a further container's first process in the VM of a pod.
    pub(super) async fn join(
        &self,
        request: &api::CreateTaskRequest,
        bundle: &Bundle,
        stdio: StdioPaths,
        side: &mut HostSide,
        first: &Container,
    ) -> ttrpc::Result<Booted> {
        let sandbox = Arc::clone(&first.sandbox);
        let mut extras = Extras::new(&sandbox, bundle.block_devices());
        let options = TaskOptions {
            sandbox_id: self.shim.sandbox_id.clone(),
            container_id: request.id.clone(),
            terminal: request.terminal,
            jail: JailConfig { uid: 0, gid: 0 },
            host: HostFacts::read(),
            network: Attachments::default(),
            pod: Some(Pod {
                members: self.shim.running_members(),
                turn: sandbox.next_turn(),
            }),
            slots: extras.slots.clone(),
        };
        let member =
            lower_member(bundle, &options).map_err(|error| errors::invalid(chain(&error)))?;
        let sockets = host_sockets::open(&member.sockets);
        let sockets = sockets.map_err(|error| errors::failed(&error))?;
        for share in member.shares {
            extras.share(share).await?;
        }
        for disk in &member.disks {
            extras.plug(disk).await?;
        }
        let groups = member.create.additional_groups.clone();
        let init = self.create_in(&sandbox, member.create, stdio, side).await?;
        extras.serve(sockets);
        sandbox.join_oom_score(&request.id, oom_score(bundle));
        Ok(Booted {
            groups,
            memory: memory_of(bundle),
            extras,
            sandbox,
            init,
            network: None,
        })
    }
}

/// Whether a container is to be made in the VM that another one has already.
fn joins(bundle: &Bundle, first: &Container) -> bool {
    match Role::of(bundle.spec.annotations().as_ref()) {
        Role::Member(_) => true,
        Role::Sandbox => false,
        Role::None => match Network::of(&bundle.spec) {
            Network::Join(path) => first.sandbox.is_in(&path),
            Network::Inherit | Network::New => false,
        },
    }
}
