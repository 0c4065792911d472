//! The engine: all containers, execs and images of one state directory.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use bollard_stubs::models::{EventMessageTypeEnum, HostConfigLogConfig, ResourcesUlimits};
use tokio::sync::{RwLock as AsyncRwLock, Semaphore};

use hull_network::egress::Egress;
use hull_network::pool::AddressPool;

use crate::container::Container;
use crate::default_bridge::DefaultBridge;
use crate::error::{EngineError, Result};
use crate::events::EventBus;
use crate::exec::Execs;
use crate::images::Images;
use crate::lifecycle::{self, Event};
use crate::logs;
use crate::network::{self, Networks};
use crate::paths::Paths;
use crate::plugins::Plugins;
use crate::record::Record;
use crate::resolving::Resolving;
use crate::scratch;
use crate::shim::{self, ShimConfig, ShimEvent};
use crate::spec;
use crate::store::Store;
use crate::volumes::Volumes;

/// Where the engine's helpers are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `containerd-shim-hull-v2`.
    pub shim: PathBuf,
    /// `hull-unpack`.
    pub unpack: PathBuf,
}

/// What containers are like whose creator leaves it open.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// An init process runs the program.
    pub init: bool,
    /// The host's kernel may serve network interfaces (vhost-net), unless the container says no.
    pub vhost_net: bool,
    /// The host's kernel may serve disks (io_uring), unless the container says no.
    pub io_uring: bool,
    /// They can't have the network `host`, whatever they say.
    pub no_host_network: bool,
    /// They are untrusted.
    pub untrusted: bool,
    /// Where they may begin conversations to.
    pub egress: Egress,
    /// How their logs are written.
    pub log: HostConfigLogConfig,
    /// Whom they ask for names.
    pub resolving: Resolving,
    /// Their limits, in addition to what they say.
    pub ulimits: Vec<ResourcesUlimits>,
    /// Bytes of their `/dev/shm`.
    pub shm_bytes: Option<i64>,
    /// What their networks' addresses are chosen from; without any, Docker's.
    pub address_pools: Vec<AddressPool>,
    /// Size of packets of the default network, in bytes; `None`: as the host's way out has it.
    pub mtu: Option<u16>,
    /// What else is said of the default network.
    pub bridge: DefaultBridge,
    /// What the operator says of this engine, as `KEY=VALUE`.
    pub labels: Vec<String>,
}

impl Defaults {
    /// Whether they are such that a container can be like that.
    pub fn check(&self) -> Result<()> {
        let log = logs::check_defaults(&self.log);
        log.map_err(|error| EngineError::BadRequest(format!("failed to set log opts: {error}")))?;
        spec::check_ulimits(&self.ulimits)?;
        self.resolving.check()?;
        self.mtu.map_or(Ok(()), network::check_mtu)?;
        self.bridge.check()?;
        let mut labels = self.labels.iter();
        let wrong =
            labels.find(|label| label.split_once('=').is_none_or(|(key, _)| key.is_empty()));
        wrong.map_or(Ok(()), |label| {
            Err(EngineError::BadRequest(format!(
                "bad attribute format: {label:?} (labels): want KEY=VALUE"
            )))
        })
    }
}

/// All that a hulld serves.
pub struct Engine {
    pub(crate) paths: Paths,
    pub(crate) store: Store,
    pub(crate) events: EventBus,
    pub(crate) images: Images,
    pub(crate) networks: Networks,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) plugins: Plugins,
    pub(crate) shim: ShimConfig,
    pub(crate) id: String,
    pub(crate) defaults: Defaults,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    /// Read while a container takes its images into use, written while some are removed that none uses.
    pub(crate) image_uses: AsyncRwLock<()>,
    /// All are being stopped, since the host goes down.
    pub(crate) stopping: AtomicUsize,
    execs: Mutex<Execs>,
    /// Turns of VMs that boot.
    pub(crate) boots: Semaphore,
}

/// VMs that boot at once, for each of the host's processors. Each gets a share of these: of more at once
/// none would be there within the time that a boot may take.
const BOOTS_PER_PROCESSOR: usize = 2;
/// Also on the smallest host.
const LEAST_BOOTS: usize = 4;

fn boots_at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    LEAST_BOOTS.max(processors * BOOTS_PER_PROCESSOR)
}

/// What is being written down of containers, by their ids.
type Noting = HashMap<String, tokio::task::JoinHandle<()>>;

impl Engine {
    /// Opens the state directory. The caller holds its lock.
    pub async fn open(
        paths: Paths,
        programs: Programs,
        registries: hull_image::RegistryConfig,
        defaults: Defaults,
    ) -> Result<Arc<Self>> {
        defaults.check()?;
        let io = |what, path: &std::path::Path| {
            let path = path.to_owned();
            move |source: std::io::Error| EngineError::io(what, path, source)
        };
        for dir in [paths.containers(), paths.exec_root().join("bundles")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(io("create", &dir))?;
        }
        scratch::ensure_template(&paths.scratch_template()).await?;
        let id = engine_id(&paths)?;
        let engine = Arc::new(Self {
            networks: Networks::open(paths.networks(), &id, &defaults)?,
            volumes: Arc::new(Volumes::open(paths.volumes())?),
            plugins: Plugins::default(),
            store: Store::open(&paths.store(), &paths.containers())?,
            events: EventBus::default(),
            images: Images::open(&paths, programs.unpack, registries)?,
            shim: ShimConfig {
                program: programs.shim,
                events_socket: paths.events_socket(),
                exec_root: paths.exec_root().to_owned(),
            },
            id,
            defaults,
            containers: RwLock::default(),
            image_uses: AsyncRwLock::default(),
            stopping: AtomicUsize::new(0),
            execs: Mutex::default(),
            boots: Semaphore::new(boots_at_once()),
            paths,
        });
        engine.serve_shim_events().await?;
        engine.restore().await?;
        Ok(engine)
    }

    /// Gives the servers of logs a moment to take what is on its way to them.
    pub(crate) async fn deliver_logs(&self, limit: Duration) {
        let containers: Vec<_> = self.containers().values().cloned().collect();
        let all = containers.iter().map(|container| container.log.delivered());
        let _ = tokio::time::timeout(limit, futures_util::future::join_all(all)).await;
    }

    async fn serve_shim_events(self: &Arc<Self>) -> Result<()> {
        let (server, mut events) = shim::serve_events(&self.shim.events_socket).await?;
        let engine = Arc::downgrade(self);
        tokio::spawn(async move {
            let _server = server;
            let mut noting = Noting::default();
            while let Some(event) = events.recv().await {
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                engine.take_shim_event(event, &mut noting);
            }
        });
        Ok(())
    }

    /// Waits for nothing: one container's disk must not hold up what happens to the others.
    fn take_shim_event(self: &Arc<Self>, event: ShimEvent, noting: &mut Noting) {
        let by_id = |id: &str| self.containers().get(id).cloned();
        noting.retain(|_, task| !task.is_finished());
        match event {
            ShimEvent::Oom(id) => {
                let Some(container) = by_id(&id) else { return };
                let told = std::mem::replace(&mut container.lock().state.oom_killed, true);
                if told {
                    self.publish(&container, "oom", []);
                } else {
                    noting.insert(id, tokio::spawn(Arc::clone(self).note_oom(container)));
                }
            }
            ShimEvent::Exit { id, exec_id } if exec_id.is_empty() => {
                let Some(container) = by_id(&id) else { return };
                match noting.remove(&id) {
                    // What was before the end is told before it.
                    Some(task) => drop(tokio::spawn(async move {
                        let _ = task.await;
                        container.note_exit_event();
                    })),
                    None => container.note_exit_event(),
                }
            }
            ShimEvent::Exit { .. } => {}
        }
    }

    /// It is in the record before anybody hears of it, and whatever becomes of the container or of this
    /// daemon.
    async fn note_oom(self: Arc<Self>, container: Arc<Container>) {
        if let Err(error) = self.update(&container, |_| ()).await {
            tracing::error!(id = container.id(), error = error.message(), "store");
        }
        self.publish(&container, "oom", []);
    }

    /// All containers.
    pub(crate) fn containers(
        &self,
    ) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers
            .read()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    pub(crate) fn containers_mut(
        &self,
    ) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    pub(crate) fn execs(&self) -> MutexGuard<'_, Execs> {
        self.execs
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// The container with this id, name (with or without slash) or unambiguous id prefix.
    pub fn container(&self, reference: &str) -> Result<Arc<Container>> {
        let missing = || EngineError::NoSuchContainer(reference.to_owned());
        if reference.is_empty() {
            let text = "invalid container name or ID: value is empty";
            return Err(EngineError::BadRequest(text.to_owned()));
        }
        let containers = self.containers();
        if let Some(container) = containers.get(reference) {
            return Ok(Arc::clone(container));
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(container) = containers.values().find(|c| c.lock().name == name) {
            return Ok(Arc::clone(container));
        }
        let mut with_prefix = containers
            .values()
            .filter(|c| c.id().starts_with(reference));
        match (with_prefix.next(), with_prefix.next()) {
            (Some(container), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(EngineError::AmbiguousPrefix(reference.to_owned())),
            (None, _) => Err(missing()),
        }
    }

    /// Publishes an event of a container.
    pub(crate) fn publish<const N: usize>(
        &self,
        container: &Container,
        action: &str,
        more: [(&str, String); N],
    ) {
        let mut attributes = container.event_attributes();
        attributes.extend(more.map(|(key, value)| (key.to_owned(), value)));
        self.events.publish(
            EventMessageTypeEnum::CONTAINER,
            action,
            container.id(),
            attributes,
        );
    }

    /// Tells that things of a kind were pruned, and how many bytes that gave back.
    pub(crate) fn publish_prune(&self, kind: EventMessageTypeEnum, bytes: impl std::fmt::Display) {
        let attributes = [("reclaimed".to_owned(), bytes.to_string())];
        self.events.publish(kind, "prune", "", attributes.into());
    }

    /// Changes a record, and writes it.
    pub(crate) async fn update(
        &self,
        container: &Container,
        change: impl FnOnce(&mut Record),
    ) -> Result<()> {
        change(&mut container.lock());
        self.store.replace(container.id(), container.latest()).await
    }

    /// Moves a container to the next state. An impossible move is a bug, reported and not made.
    pub(crate) fn advance(record: &mut Record, event: Event) {
        match lifecycle::next(record.state.status, event) {
            Ok(status) => record.state.status = status,
            Err(refused) => tracing::error!(id = record.id, %refused, "life cycle"),
        }
    }
}

/// The identity of this engine, made once.
fn engine_id(paths: &Paths) -> Result<String> {
    let path = paths.root().join("engine-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        _ => {
            let id = crate::ids::new_id();
            std::fs::write(&path, &id).map_err(|source| EngineError::io("write", &path, source))?;
            Ok(id)
        }
    }
}
