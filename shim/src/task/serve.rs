//! The serving process of a sandbox.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use containerd_shim_protos::shim_async::create_task;
use containerd_shim_protos::ttrpc::asynchronous::transport::Listener;
use containerd_shim_protos::ttrpc::asynchronous::Server;
use hull_protocol::sandbox_ttrpc::create_sandbox;
use rustix::process::Resource;
use tokio::signal::unix::{signal, SignalKind};

use super::address;
use super::events::{Publisher, TTRPC_ADDRESS_ENV};
use super::sandbox_service::SandboxService;
use super::service::Service;
use super::state::Shim;
use crate::cgroup::shim::ShimCgroup;

/// The names under which clients know the Task API: containerd 1.x and 2.x.
const TASK_SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];
/// After the answer to `Shutdown`, so that it gets out.
const GOODBYE: Duration = Duration::from_millis(50);

/// What a serving process was started for.
#[derive(Debug)]
pub(super) struct Sandboxed {
    pub(super) namespace: String,
    pub(super) sandbox_id: String,
    pub(super) exec_root: PathBuf,
    /// Its starter gives it no cgroup.
    pub(super) sealed: bool,
}

/// Serves until `Shutdown` or a signal. Sandbox, runtime directory and socket are gone after.
pub(super) fn serve(what: &Sandboxed, listener: UnixListener) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the event loop")?;
    let cgroup = own_cgroup(what)?;
    let served = runtime.block_on(serve_until_told(what, listener, cgroup.as_ref()));
    // Reads that can't be interrupted don't hold the process.
    runtime.shutdown_background();
    let socket = address::socket_path(&what.exec_root, &what.namespace, &what.sandbox_id);
    address::remove(&socket);
    if let Some((cgroup, entered)) = cgroup {
        // A thread that panicked has entered nothing that is worth a word.
        let _ = entered.join();
        cgroup.leave();
    }
    served
}

/// The cgroup that this process is about to enter.
fn own_cgroup(what: &Sandboxed) -> anyhow::Result<Option<(ShimCgroup, JoinHandle<()>)>> {
    let name = format!("{}-{}", what.namespace, what.sandbox_id);
    let Some(cgroup) = ShimCgroup::of(&name).filter(|_| what.sealed) else {
        return Ok(None);
    };
    let entered = cgroup.enter_soon().context("failed to start a thread")?;
    Ok(Some((cgroup, entered)))
}

/// Each process of a container takes up to seven descriptors here, and what starts a shim often
/// leaves it the traditional 1,024 in all.
fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Raising it up to the hard limit is always allowed; with the old one most works too.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

async fn serve_until_told(
    what: &Sandboxed,
    listener: UnixListener,
    cgroup: Option<&(ShimCgroup, JoinHandle<()>)>,
) -> anyhow::Result<()> {
    let publisher = Publisher::new(&what.namespace, std::env::var(TTRPC_ADDRESS_ENV).ok());
    let shim = Arc::new(Shim::new(
        &what.namespace,
        &what.sandbox_id,
        what.exec_root.clone(),
        publisher,
        cgroup.map(|(cgroup, _)| cgroup.clone()),
    ));
    let listener = Listener::try_from(listener).context("failed to serve the Task API")?;
    let mut server = Server::new().add_listener(listener);
    for name in TASK_SERVICES {
        let service = create_task(Arc::new(Service::new(Arc::clone(&shim))));
        let renamed = service
            .into_values()
            .map(|service| (name.to_owned(), service));
        server = server.register_service(renamed.collect());
    }
    server = server.register_service(create_sandbox(Arc::new(SandboxService::new(Arc::clone(
        &shim,
    )))));
    server
        .start()
        .await
        .context("failed to serve the Task API")?;

    let mut ending = shim.ending.subscribe();
    let mut terminate = signal(SignalKind::terminate()).context("failed to catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to catch SIGINT")?;
    tokio::select! {
        _ = ending.wait_for(|ending| *ending) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shim.ending.send_replace(true);
    tokio::time::sleep(GOODBYE).await;
    shim.end_all().await;
    Ok(())
}
