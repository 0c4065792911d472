//! The shim's own calls, beside containerd's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::ttrpc;
use hull_protocol::agent::{
    ContainerRef, EditFileRequest, Empty, ListProcessesResponse, OpenPortsRequest,
    OpenPortsResponse,
};
use hull_protocol::sandbox::{
    AttachInterfaceRequest, DetachInterfaceRequest, Disk, Fact, Interface, InterfaceResponse, Mark,
    ProcessesRequest, VmRequest, VmResponse,
};
use hull_protocol::sandbox_ttrpc::Sandbox;
use hull_vm_config::Slot;
use protobuf::MessageField;
use ttrpc::r#async::TtrpcContext;

use super::errors;
use super::state::Shim;
use crate::agent::{CALL_LIMIT, MAX_PROCESSES};
use crate::network::{Attachment, Attachments};

/// Longest wait for a change of the open ports.
const OPEN_PORTS_WAIT: Duration = Duration::from_secs(60);

/// Open ports that are told of: hulld publishes fewer.
const MAX_OPEN_PORTS: usize = 1024;

/// Serves `hull.sandbox.v1.Sandbox`.
#[derive(Debug)]
pub(super) struct SandboxService {
    shim: Arc<Shim>,
}

impl SandboxService {
    pub(super) fn new(shim: Arc<Shim>) -> Self {
        Self { shim }
    }
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn processes(
        &self,
        _: &TtrpcContext,
        request: ProcessesRequest,
    ) -> ttrpc::Result<ListProcessesResponse> {
        let container = self.shim.container(&request.container_id)?;
        let reference = ContainerRef {
            container_id: request.container_id,
            ..ContainerRef::default()
        };
        let mut list = container
            .sandbox
            .agent()
            .call("ListProcesses", CALL_LIMIT, |client, context| async move {
                client.list_processes(context, &reference).await
            })
            .await
            .map_err(|error| errors::of_agent(&error))?;
        list.processes.truncate(MAX_PROCESSES);
        Ok(list)
    }

    async fn attach_interface(
        &self,
        _: &TtrpcContext,
        request: AttachInterfaceRequest,
    ) -> ttrpc::Result<InterfaceResponse> {
        let interface: Attachment = serde_json::from_str(&request.interface)
            .map_err(|error| errors::invalid(format!("the interface: {error}")))?;
        let sandbox = self.shim.sandbox()?;
        let tap = interface.tap.clone();
        let attachments = Attachments {
            interfaces: vec![interface],
            resolvers: Vec::new(),
        };
        if request.there {
            let extended = sandbox.extend_network(&attachments).await;
            extended.map_err(|error| errors::failed(&error))?;
            return Ok(InterfaceResponse::default());
        }
        let pairs = crate::network::queue_pairs(sandbox.size().vcpus);
        let tap = hull_network::tap::open(&tap, pairs).map_err(|e| errors::failed(&e))?;
        let first = request.index as usize;
        let attached = sandbox.attach_network(first, &attachments, vec![tap]);
        attached.await.map_err(|error| errors::failed(&error))?;
        Ok(InterfaceResponse::default())
    }

    async fn detach_interface(
        &self,
        _: &TtrpcContext,
        request: DetachInterfaceRequest,
    ) -> ttrpc::Result<InterfaceResponse> {
        let sandbox = self.shim.sandbox()?;
        let detached = sandbox.detach_network(request.index as usize).await;
        detached.map_err(|error| errors::failed(&error))?;
        Ok(InterfaceResponse::default())
    }

    async fn edit_file(&self, _: &TtrpcContext, request: EditFileRequest) -> ttrpc::Result<Empty> {
        let container = self.shim.container(&request.container_id)?;
        let agent = container.sandbox.agent();
        let edited = agent.call("EditFile", CALL_LIMIT, |client, context| async move {
            client.edit_file(context, &request).await
        });
        edited.await.map_err(|error| errors::of_agent(&error))
    }

    async fn open_ports(
        &self,
        _: &TtrpcContext,
        request: OpenPortsRequest,
    ) -> ttrpc::Result<OpenPortsResponse> {
        let sandbox = self.shim.sandbox()?;
        // Who asks may go away, but what is asked of the agent goes on until it answers.
        let wait = Duration::from_millis(request.wait_ms.into()).min(OPEN_PORTS_WAIT);
        let limit = wait + CALL_LIMIT;
        let asked = sandbox
            .agent()
            .call("OpenPorts", limit, |client, context| async move {
                client.open_ports(context, &request).await
            });
        let mut open = asked.await.map_err(|error| errors::of_agent(&error))?;
        open.ports.truncate(MAX_OPEN_PORTS);
        Ok(open)
    }

    async fn vm(&self, _: &TtrpcContext, _: VmRequest) -> ttrpc::Result<VmResponse> {
        let sandbox = self.shim.sandbox()?;
        let guest = sandbox
            .agent()
            .call("Diagnose", CALL_LIMIT, |client, context| async move {
                client.diagnose(context, &Empty::default()).await
            })
            .await
            .map_err(|error| errors::of_agent(&error))?;
        let vm = sandbox.vm();
        let failed = |error: crate::vmm::VmmError| errors::failed(&error);
        let (trace, jail, nets, disks) = (
            vm.trace().await.map_err(failed)?,
            vm.jail().await.map_err(failed)?,
            vm.nets().await.map_err(failed)?,
            vm.disks().await.map_err(failed)?,
        );
        let size = sandbox.size();
        let share = vm.memory_share(size.memory_bytes).map_err(failed)?;
        Ok(VmResponse {
            vmm_pid: vm.pid(),
            vcpus: size.vcpus.into(),
            memory_bytes: size.memory_bytes,
            vmm_overhead_bytes: share.overhead_bytes,
            memory_resident_bytes: share.guest_bytes,
            guest: MessageField::some(guest),
            trace: trace.into_iter().map(mark).collect(),
            jail: jail.into_iter().map(fact).collect(),
            interfaces: nets.iter().filter_map(interface).collect(),
            disks: disks.into_iter().filter_map(disk).collect(),
            ..Default::default()
        })
    }
}

fn mark(mark: hull_vm_config::control::Mark) -> Mark {
    Mark {
        name: mark.name,
        at_ns: mark.at_ns,
        ..Mark::default()
    }
}

fn interface(net: &hull_vm_config::control::NetState) -> Option<Interface> {
    let index = Slot::NETS.iter().position(|slot| *slot == net.slot)?;
    Some(Interface {
        index: u32::try_from(index).ok()?,
        path: net.path.to_string(),
        queue_pairs: net.pairs.into(),
        ..Interface::default()
    })
}

fn disk(disk: hull_vm_config::control::DiskState) -> Option<Disk> {
    Some(Disk {
        slot: u32::try_from(disk.slot.index()).ok()?,
        engine: disk.engine.to_string(),
        reason: disk.reason.unwrap_or_default(),
        ..Disk::default()
    })
}

fn fact((name, value): (String, String)) -> Fact {
    Fact {
        name,
        value,
        ..Fact::default()
    }
}
