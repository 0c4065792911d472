//! What a process of a container has on the host: its streams and, where somebody needs a PID, its
//! holder.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_shim_protos::ttrpc;

use super::container::Container;
use super::errors;
use super::process::{Process, StdioPaths, KILLED_STATUS};
use super::service::Service;
use crate::handover::{self, Handover};
use crate::holder::{Holder, HolderConfig, Network, Request};
use crate::hooks::Subject;
use crate::spec::{Bundle, RootfsSource};
use crate::stdio::{Endpoints, Owner};

/// Where the holders of a container's processes are.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// What the first one executes.
    pub(super) arguments: Vec<String>,
    pub(super) network: Network,
    pub(super) root: Option<PathBuf>,
}

impl Place {
    /// What a configuration says.
    pub(super) fn of(bundle: &Bundle) -> Self {
        let process = bundle.spec.process().as_ref();
        Self {
            arguments: process.and_then(|it| it.args().clone()).unwrap_or_default(),
            network: Network::of(&bundle.spec),
            root: match &bundle.rootfs {
                RootfsSource::Directory(directory) if directory.is_dir() => Some(directory.clone()),
                _ => None,
            },
        }
    }

    fn config(&self) -> HolderConfig {
        HolderConfig {
            arguments: self.arguments.clone(),
            network: self.network.clone(),
            root: self.root.clone(),
            terminal: None,
        }
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
    /// Of the cgroup that a new VM is to be in, if the client has made one.
    pub(super) cgroup: Option<OwnedFd>,
    /// Of an exec, below the container's own group.
    pub(super) sub_cgroup: String,
    /// First size of the terminal.
    terminal: Option<Request>,
}

impl HostSide {
    /// Opens the streams; a client that hands its own over has a holder too, and one is started
    /// where `hooks` need a PID.
    pub(super) async fn open(
        stdio: &StdioPaths,
        place: &Place,
        hooks: bool,
        owner: Owner<'_>,
    ) -> ttrpc::Result<Self> {
        let failed = |error: &dyn std::error::Error| errors::failed(error);
        let mut handover = take(stdio).await?;
        let holder = match handover.as_mut().and_then(Handover::take_holder) {
            Some(link) => Some(Holder::adopt(link).await),
            None if hooks => Some(Holder::start(place.config()).await),
            None => None,
        };
        let holder = holder.transpose().map_err(|error| failed(&error))?;
        let terminal = handover.as_ref().and_then(Handover::terminal_size);
        let cgroup = handover.as_mut().and_then(Handover::take_cgroup);
        let sub_cgroup = handover
            .as_mut()
            .map(|it| std::mem::take(&mut it.sub_cgroup));
        let endpoints = match handover {
            Some(handover) => handover.into_endpoints().map_err(|error| failed(&error))?,
            None => Endpoints::open(stdio.named(), owner)
                .await
                .map_err(|error| failed(&error))?,
        };
        Ok(Self {
            endpoints,
            holder,
            cgroup,
            sub_cgroup: sub_cgroup.unwrap_or_default(),
            terminal,
        })
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
        let first = self.terminal;
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
                    tokio::select! {
                        killed = kill => if killed.is_err() && process.exec_id.is_empty() {
                            container.sandbox.vm().kill();
                        },
                        _ = process.wait() => {}
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
