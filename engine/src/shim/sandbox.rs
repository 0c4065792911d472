//! What only a VM has: the calls of the service `hull.sandbox.v1.Sandbox`.

use std::time::Duration;

use containerd_shim_protos::ttrpc::context;
use hull_protocol::agent::{EditFileRequest, OpenPort, OpenPortsRequest, ProcessInfo};
use hull_protocol::sandbox::{
    AttachInterfaceRequest, DetachInterfaceRequest, ProcessesRequest, VmRequest, VmResponse,
};
use hull_shim::network::Attachment;
use serde_json::json;

use super::{Task, CALL_LIMIT};
use crate::error::Result;

impl Task {
    /// All processes, as the guest knows them.
    pub(crate) async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let request = ProcessesRequest {
            container_id: self.id.clone(),
            ..ProcessesRequest::default()
        };
        let reply = self
            .sandbox
            .processes(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply
            .map(|reply| reply.processes)
            .map_err(self.failed("processes"))
    }

    /// The container's VM.
    pub(crate) async fn vm(&self) -> Result<VmResponse> {
        let reply = self
            .sandbox
            .vm(context::with_duration(CALL_LIMIT), &VmRequest::default())
            .await;
        reply.map_err(self.failed("vm"))
    }

    /// The ports that are open in the guest, once they are others than the known ones or after
    /// `wait`. `local`: ports of its loopback address that lead to a relay on the host.
    pub(crate) async fn open_ports(
        &self,
        known: Vec<OpenPort>,
        local: (Vec<u16>, String),
        wait: Duration,
    ) -> Result<Vec<OpenPort>> {
        let request = OpenPortsRequest {
            known,
            host_ports: local.0.into_iter().map(u32::from).collect(),
            relay: local.1,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            ..OpenPortsRequest::default()
        };
        let context = context::with_duration(wait + CALL_LIMIT);
        let reply = self.sandbox.open_ports(context, &request).await;
        reply
            .map(|reply| reply.ports)
            .map_err(self.failed("open_ports"))
    }

    /// Plugs an interface into the running VM.
    pub(crate) async fn attach_interface(
        &self,
        index: usize,
        interface: &Attachment,
    ) -> Result<()> {
        let request = AttachInterfaceRequest {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            interface: json!(interface).to_string(),
            ..AttachInterfaceRequest::default()
        };
        let reply = self
            .sandbox
            .attach_interface(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(drop).map_err(self.failed("attach_interface"))
    }

    /// Adds addresses and routes to an interface that is plugged in.
    pub(crate) async fn extend_interface(&self, interface: &Attachment) -> Result<()> {
        let request = AttachInterfaceRequest {
            interface: json!(interface).to_string(),
            there: true,
            ..AttachInterfaceRequest::default()
        };
        let reply = self
            .sandbox
            .attach_interface(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(drop).map_err(self.failed("attach_interface"))
    }

    /// Replaces lines of a file that the container was made with.
    pub(crate) async fn edit_file(
        &self,
        path: &str,
        remove: Vec<String>,
        add: Vec<String>,
    ) -> Result<()> {
        let request = EditFileRequest {
            container_id: self.id.clone(),
            path: path.to_owned(),
            remove,
            add,
            ..EditFileRequest::default()
        };
        let context = context::with_duration(CALL_LIMIT);
        let reply = self.sandbox.edit_file(context, &request).await;
        reply.map(drop).map_err(self.failed("edit_file"))
    }

    /// Pulls an interface out of the running VM.
    pub(crate) async fn detach_interface(&self, index: usize) -> Result<()> {
        let request = DetachInterfaceRequest {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            ..DetachInterfaceRequest::default()
        };
        let reply = self
            .sandbox
            .detach_interface(context::with_duration(CALL_LIMIT), &request)
            .await;
        reply.map(drop).map_err(self.failed("detach_interface"))
    }
}
