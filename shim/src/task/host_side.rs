//! What a process of a container has on the host: its streams and, where somebody needs a PID, its
//! holder.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_shim_protos::ttrpc;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::container::Container;
use super::errors;
use super::process::{Process, StdioPaths, KILLED_STATUS};
use super::service::Service;
use crate::handover::{self, Handover};
use crate::holder::{Holder, HolderConfig, Network, Request};
use crate::hooks::Subject;
use crate::spec::{Bundle, RootfsSource};
use crate::stdio::Endpoints;

/// Where the holders of a container's processes are.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) network: Network,
    pub(super) root: Option<PathBuf>,
}

impl Place {
    /// What a configuration says.
    pub(super) fn of(bundle: &Bundle) -> Self {
        Self {
            network: network_of(&bundle.spec),
            root: match &bundle.rootfs {
                RootfsSource::Directory(directory) if directory.is_dir() => Some(directory.clone()),
                _ => None,
            },
        }
    }
}

fn network_of(spec: &Spec) -> Network {
    let namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces());
    let network = namespaces
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    match network.map(|namespace| namespace.path()) {
        None => Network::Inherit,
        Some(None) => Network::New,
        Some(Some(path)) => Network::Join(path.clone()),
    }
}

/// What hooks are told of a container.
pub(super) fn subject(id: &str, bundle: &Bundle) -> Subject {
    Subject {
        oci_version: bundle.spec.version().clone(),
        id: id.to_owned(),
        bundle: bundle.directory.clone(),
        annotations: bundle.spec.annotations().clone().unwrap_or_default(),
        hooks: bundle.spec.hooks().clone().unwrap_or_default(),
    }
}

/// One process's.
#[derive(Default)]
pub(super) struct HostSide {
    pub(super) endpoints: Endpoints,
    pub(super) holder: Option<Holder>,
    terminal: Option<OwnedFd>,
}

impl HostSide {
    /// Opens the streams; a client that hands its own over gets a holder, as does one whose
    /// `hooks` need a PID.
    pub(super) async fn open(
        stdio: &StdioPaths,
        place: &Place,
        hooks: bool,
    ) -> ttrpc::Result<Self> {
        let failed = |error: &dyn std::error::Error| errors::failed(error);
        let handover = take(stdio).await?;
        let mut side = Self::default();
        if hooks || handover.is_some() {
            let terminal = handover.as_ref().map(Handover::terminal).transpose();
            side.terminal = terminal.map_err(|error| failed(&error))?.flatten();
            let of_holder = side.terminal.as_ref().map(OwnedFd::try_clone).transpose();
            let config = HolderConfig {
                network: place.network.clone(),
                root: place.root.clone(),
                terminal: of_holder.map_err(|error| failed(&error))?,
                orphan: handover.as_ref().is_some_and(|handover| handover.orphan),
            };
            let holder = Holder::start(config).await;
            side.holder = Some(holder.map_err(|error| failed(&error))?);
        }
        side.endpoints = match handover {
            Some(handover) => handover.into_endpoints().map_err(|error| failed(&error))?,
            None => Endpoints::open(&stdio.stdin, &stdio.stdout, &stdio.stderr)
                .map_err(|error| failed(&error))?,
        };
        Ok(side)
    }

    /// Takes the streams out.
    pub(super) fn take_endpoints(&mut self) -> Endpoints {
        std::mem::take(&mut self.endpoints)
    }

    /// PID of the holder, if there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.holder.as_ref().map(Holder::pid)
    }

    /// Ties the holder to the process: what comes to one goes to the other.
    pub(super) fn follow(
        self,
        service: &Service,
        container: &Arc<Container>,
        process: &Arc<Process>,
    ) {
        let Some(holder) = self.holder else { return };
        let size = self
            .terminal
            .and_then(|terminal| rustix::termios::tcgetwinsize(terminal).ok())
            .filter(|size| 0 < size.ws_col && 0 < size.ws_row);
        let first = size.map(|size| Request::Resize {
            width: size.ws_col.into(),
            height: size.ws_row.into(),
        });
        let (service, container) = (service.clone(), Arc::clone(container));
        let process = Arc::clone(process);
        tokio::spawn(async move {
            if let Some(first) = first {
                obey(&service, &container, &process, first).await;
            }
            let exit = loop {
                let request = tokio::select! {
                    exit = process.wait() => break exit,
                    request = holder.next() => request,
                };
                let Some(request) = request else {
                    tracing::info!(
                        container = container.id,
                        exec = process.exec_id,
                        "killed on the host"
                    );
                    let kill = service.deliver(&container, &process, libc::SIGKILL as u32, false);
                    if kill.await.is_err() && process.exec_id.is_empty() {
                        container.sandbox.vm().kill();
                    }
                    break process.wait().await;
                };
                obey(&service, &container, &process, request).await;
            };
            let status = exit.map_or(KILLED_STATUS, |exit| exit.status);
            holder.end(status).await;
        });
    }
}

async fn obey(
    service: &Service,
    container: &Arc<Container>,
    process: &Arc<Process>,
    request: Request,
) {
    let done = match request {
        Request::Resize { width, height } => {
            service.resize(container, process, width, height).await
        }
        Request::Signal(signal) => service.deliver(container, process, signal, false).await,
    };
    if let Err(error) = done {
        tracing::debug!(container = container.id, %error, "a request of the holder");
    }
}

async fn take(stdio: &StdioPaths) -> ttrpc::Result<Option<Handover>> {
    let fields = [&stdio.stdin, &stdio.stdout, &stdio.stderr];
    let Some(path) = fields.iter().find_map(|field| handover::socket_of(field)) else {
        return Ok(None);
    };
    let taken = tokio::task::spawn_blocking(move || take_from(&path)).await;
    match taken {
        Ok(taken) => taken.map(Some),
        Err(error) => Err(errors::failed(&error)),
    }
}

fn take_from(path: &Path) -> ttrpc::Result<Handover> {
    Handover::take(path).map_err(|error| {
        errors::invalid(format!("failed to take the streams at {path:?}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_what_the_configuration_says() {
        let network = |namespaces: serde_json::Value| {
            let spec =
                serde_json::json!({"ociVersion": "1.0.2", "linux": {"namespaces": namespaces}});
            network_of(&serde_json::from_value(spec).unwrap())
        };
        assert_eq!(network(serde_json::json!([])), Network::Inherit);
        assert_eq!(
            network(serde_json::json!([{"type": "pid"}, {"type": "network"}])),
            Network::New
        );
        assert_eq!(
            network(serde_json::json!([{"type": "network", "path": "/run/netns/x"}])),
            Network::Join("/run/netns/x".into())
        );
    }
}
