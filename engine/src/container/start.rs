//! Starting a container: bundle, shim, VM, init process. Each step is undone if a later one fails.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hull_shim::annotations::FILES_ONLY;
use hull_shim::spec::LAYER_OPTION;
use jiff::Timestamp;

use super::create::check_bind_sources;
use super::exit::DRAIN_LIMIT;
use super::join::Joined;
use super::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::health::{Check, Health};
use crate::lifecycle::{Event, Status};
use crate::logs::{self, LogOptions};
use crate::network::{self, Owner};
use crate::record::Record;
use crate::scratch;
use crate::shim::{self, RootfsMount, Task};
use crate::spec::{self, files};
use crate::streams::{CloseStdin, Fifos, Pumps};
use crate::volumes;

/// Largest file of the host that is passed on, in bytes.
const MAX_FILE_OF_HOST: u64 = 64 << 10;

impl Engine {
    /// Starts a container.
    pub(crate) async fn start_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
    ) -> Result<()> {
        let _operation = container.operate().await;
        self.check_not_stopping()?;
        match container.status() {
            Status::Running => {
                return Err(EngineError::NotModified(
                    "container already started".to_owned(),
                ));
            }
            Status::Paused => {
                return Err(EngineError::Conflict(
                    "cannot start a paused container, try unpause instead".to_owned(),
                ));
            }
            Status::Removing | Status::Dead => {
                return Err(EngineError::Conflict(
                    "container is marked for removal and cannot be started".to_owned(),
                ));
            }
            Status::Created | Status::Exited | Status::Restarting => {}
        }
        {
            let mut record = container.lock();
            record.state.restarts = 0;
            record.state.last_delay = None;
        }
        self.start_locked(container).await
    }

    /// As [`Engine::start_container`], with the operation lock held and the state checked.
    pub(super) async fn start_locked(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        container.lock().state.oom_killed = false;
        container
            .progress
            .send_modify(|progress| progress.starting = true);
        // Looked at again: who stops all from here on waits for this start.
        if let Err(error) = self.check_not_stopping() {
            container
                .progress
                .send_modify(|progress| progress.starting = false);
            return Err(error);
        }
        match self.boot(container).await {
            Ok((task, pid, pumps)) => {
                self.mark_running(container, &task, pid).await;
                self.publish_taken(container);
                self.publish(container, "start", []);
                self.follow_health(container, &task);
                self.follow_host_ports(container, &task);
                self.watch(container, task, pumps, DRAIN_LIMIT);
                Ok(())
            }
            // Its policy goes on to wait for that one.
            Err(error) if self.lacks_its_vm(container) => {
                container.log.end();
                container
                    .progress
                    .send_modify(|progress| progress.starting = false);
                Err(error)
            }
            Err(error) => {
                self.start_failed(container, &error).await;
                Err(error)
            }
        }
    }

    async fn mark_running(&self, container: &Arc<Container>, task: &Arc<Task>, pid: u32) {
        container.set_task(Some(Arc::clone(task)));
        *container.began() = Some(Instant::now());
        let written = self
            .update(container, |record| {
                Self::advance(record, Event::Started);
                record.shim = Some(task.address().to_owned());
                let state = &mut record.state;
                state.pid = pid;
                state.error.clear();
                state.exit_code = 0;
                state.stopped_by_user = false;
                state.restarting_by_user = false;
                state.started = Some(Timestamp::now());
                match Check::of(record) {
                    Some(_) => record
                        .state
                        .health
                        .get_or_insert_with(Health::starting)
                        .begin(),
                    None => record.state.health = None,
                }
            })
            .await;
        if let Err(error) = written {
            // It runs. The next write tells the store; until then a restart finds it by its shim.
            tracing::error!(id = container.id(), error = error.message(), "store");
        }
        container.progress.send_modify(|progress| {
            progress.live = true;
            progress.restarting = false;
            progress.starting = false;
        });
    }

    async fn start_failed(self: &Arc<Self>, container: &Arc<Container>, error: &EngineError) {
        let text = error.message();
        let code = match error {
            EngineError::Start(failure) => failure.exit_code(),
            _ => 128,
        };
        let written = self
            .update(container, |record| {
                Self::advance(record, Event::StartFailed);
                record.state.exit_code = code;
                record.state.error = text;
                record.state.restarting_by_user = false;
                record.state.finished = Some(Timestamp::now());
            })
            .await;
        if let Err(error) = written {
            tracing::error!(id = container.id(), error = error.message(), "store");
        }
        container.log.end();
        container.hub.close();
        container.progress.send_modify(|progress| {
            progress.restarting = false;
            progress.starting = false;
            progress.exit_code = code;
        });
        if container.lock().auto_remove() {
            self.remove_ended(container).await;
        }
    }

    /// All steps up to a running init process. On failure nothing is left.
    async fn boot(self: &Arc<Self>, container: &Arc<Container>) -> Result<(Arc<Task>, u32, Pumps)> {
        let bundle = self.paths.bundle(container.id());
        let booted = self.boot_in(container, &bundle).await;
        if booted.is_err() {
            self.clean_runtime(container.id()).await;
            self.release_volumes(container).await;
            self.networks.detach(container.id()).await;
        }
        booted
    }

    async fn boot_in(
        self: &Arc<Self>,
        container: &Arc<Container>,
        bundle: &Path,
    ) -> Result<(Arc<Task>, u32, Pumps)> {
        let joined = self.joined(&container.record())?;
        self.attach_networks(container).await?;
        self.hold_volumes(container).await?;
        let record = container.record();
        let alone = self.alone_at_empty_volumes(&record).await;
        self.write_bundle(&record, joined.as_ref(), bundle).await?;
        let scratch = self.writable_layer(&record).await?;
        let tty = record.tty();
        let fifos = Fifos::new(bundle, "", record.config.open_stdin.unwrap_or(false), !tty);
        let opened = fifos.create()?;
        let logs = logs::driver_of(record.host.log_config.as_ref()) != "none";
        if logs {
            let options = LogOptions::of(&record)?;
            options.check_host()?;
            container.log.begin(options)?;
        }
        let turn = match joined {
            // Its VM runs.
            Some(_) => None,
            None => self.boots.acquire().await.ok(),
        };
        let task = shim::launch(&self.shim, container.id(), bundle).await?;
        let task = Arc::new(task.joining(joined.is_some()));
        let rootfs = rootfs_mounts(&record, scratch);
        let started = async {
            task.create(bundle, &rootfs, tty, opened.fifos()).await?;
            drop((alone, turn));
            task.start("").await
        };
        let pid = match started.await {
            Ok(pid) => pid,
            Err(error) => {
                // The shim has the better knowledge of what it made.
                let _ = task.delete("").await;
                let _ = task.shutdown().await;
                return Err(error);
            }
        };
        let log = logs.then_some(&container.log);
        let close = close_stdin(&task, "");
        let pumps = container
            .span()
            .in_scope(|| opened.pump(&container.hub, log, close));
        Ok((task, pid, pumps))
    }

    /// The file of a container's writable layer, made if it is not there yet.
    async fn writable_layer(&self, record: &Record) -> Result<PathBuf> {
        let path = self.paths.scratch(&record.id);
        if !path.exists() {
            scratch::of_container(&self.paths.scratch_template(), &path, &record.host).await?;
        }
        Ok(path)
    }

    /// Boots a VM with the container's file systems, but without its network and its program. The
    /// operation lock is held.
    pub(crate) async fn boot_for_files(
        self: &Arc<Self>,
        container: &Arc<Container>,
    ) -> Result<Arc<Task>> {
        let bundle = self.paths.bundle(container.id());
        let booted = async {
            self.hold_volumes(container).await?;
            let mut record = container.record();
            record.endpoints.clear();
            let annotations = record.host.annotations.get_or_insert_default();
            annotations.insert(FILES_ONLY.to_owned(), "true".to_owned());
            // It needs nobody else's VM for that.
            record.host.network_mode = Some(network::NONE.to_owned());
            record.host.pid_mode = None;
            record.host.ipc_mode = None;
            self.write_bundle(&record, None, &bundle).await?;
            let scratch = self.writable_layer(&record).await?;
            let _turn = self.boots.acquire().await.ok();
            let task = Arc::new(shim::launch(&self.shim, container.id(), &bundle).await?);
            let nothing = Fifos {
                stdin: None,
                stdout: None,
                stderr: None,
            };
            let rootfs = rootfs_mounts(&record, scratch);
            match task.create(&bundle, &rootfs, false, &nothing).await {
                Ok(_) => Ok(task),
                Err(error) => {
                    let _ = task.shutdown().await;
                    Err(error)
                }
            }
        };
        let booted = booted.await;
        if booted.is_err() {
            self.clean_runtime(container.id()).await;
            self.release_volumes(container).await;
        }
        booted
    }

    /// Makes the container's ends on its networks, and takes its ports.
    async fn attach_networks(&self, container: &Container) -> Result<()> {
        let record = container.record();
        self.check_host_network(&record.host)?;
        let exposed = record.config.exposed_ports.as_deref();
        let ports = network::parse_bindings(&record.host, exposed)?;
        let egress = network::egress_of(&record.host)?;
        let owner = Owner::of(&record, &egress, &self.defaults);
        let endpoints = self
            .networks
            .attach(owner, &record.networks, &ports)
            .await?;
        let published = self.networks.published(container.id());
        self.update(container, |record| {
            record.endpoints = endpoints;
            record.published = published;
        })
        .await
    }

    async fn write_bundle(
        &self,
        record: &Record,
        joined: Option<&Joined>,
        bundle: &Path,
    ) -> Result<()> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source: std::io::Error| EngineError::io(what, path, source)
        };
        let _ = std::fs::remove_dir_all(bundle);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(bundle)
            .map_err(io("create the bundle", bundle))?;
        make_bind_sources(record)?;
        let places = self.volume_places(record);
        if let Some(gone) = record
            .volumes
            .iter()
            .find(|wanted| !places.iter().any(|there| there.name == wanted.name))
        {
            return Err(EngineError::NoSuchVolume(gone.name.clone()));
        }
        for wanted in &record.volumes {
            self.volumes.find(&wanted.name)?.check_bound()?;
        }
        // Names and name servers go with the network.
        let named = joined.map_or(record, |joined| &joined.record);
        let mut record = record.clone();
        if joined.is_some() {
            record.config.hostname = Some(spec::hostname(named).to_owned());
        }
        let host = spec::Host {
            joined: joined.map(|joined| spec::Joined {
                id: &joined.record.id,
            }),
            bundle,
            volumes: &places,
            defaults: &self.defaults,
            linked: &self.link_variables(&record),
            disks: &spec::host_disks(&record.host),
        };
        let spec = spec::build(&record, host)?;
        let of_host = self
            .defaults
            .resolving
            .over(&file_of_host("/etc/resolv.conf"));
        let hosts = match network::is_host_mode(&named.host) {
            true => file_of_host("/etc/hosts"),
            false => String::new(),
        };
        let contents = [
            ("config.json", spec.to_string()),
            (files::DOCKERENV.name, String::new()),
            (files::HOSTNAME.name, files::hostname_file(named)),
            (files::HOSTS.name, files::hosts_file(named, &hosts)),
            (
                files::RESOLV_CONF.name,
                files::resolv_conf_file(named, &of_host),
            ),
        ];
        for (name, content) in contents {
            let path = bundle.join(name);
            std::fs::write(&path, content).map_err(io("write", &path))?;
        }
        Ok(())
    }

    /// Where the volumes of a container are; those that are gone are left out. A plugin's is nowhere
    /// while the container does not hold it.
    pub(crate) fn volume_places(&self, record: &Record) -> Vec<spec::VolumePlace> {
        let places = record.volumes.iter().filter_map(|wanted| {
            let volume = self.volumes.find(&wanted.name).ok()?;
            let uses = record.volumes.iter().filter(|it| it.name == volume.name);
            let parts = uses.filter_map(|it| it.subpath.as_deref());
            if volume.is_local() {
                return Some(spec::VolumePlace {
                    data: self.volumes.data(&volume),
                    empty: self.volumes.is_empty(&volume),
                    empty_parts: self.volumes.empty_parts(&volume, parts),
                    tmpfs: volume.tmpfs(),
                    flags: volume.flags(),
                    disk: volume.is_disk(),
                    driver: volume.driver,
                    name: volume.name,
                });
            }
            let held = record.held.iter().find(|held| held.name == volume.name);
            let data = held.and_then(|held| held.mountpoint.clone());
            let data = data.unwrap_or_default();
            Some(spec::VolumePlace {
                empty: volumes::is_empty(&data),
                empty_parts: volumes::empty_parts(&data, parts),
                data,
                tmpfs: None,
                flags: Vec::new(),
                disk: false,
                driver: volume.driver,
                name: volume.name,
            })
        });
        places.collect()
    }

    /// Ends and removes whatever a container's shim left at run time.
    pub(crate) async fn clean_runtime(&self, id: &str) {
        let bundle = self.paths.bundle(id);
        if !bundle.exists() {
            return;
        }
        if let Err(error) = shim::delete(&self.shim, id, &bundle).await {
            tracing::debug!(id, error = error.message(), "cleaning up after the shim");
        }
        let _ = std::fs::remove_dir_all(&bundle);
    }
}

/// A small file of the host; empty if there is none, or if it is not small.
pub(super) fn file_of_host(path: &str) -> String {
    let small = std::fs::metadata(path).is_ok_and(|about| about.len() <= MAX_FILE_OF_HOST);
    let text = small.then(|| std::fs::read_to_string(path).ok());
    text.flatten().unwrap_or_default()
}

/// The image and the writable layer.
fn rootfs_mounts(record: &Record, scratch: PathBuf) -> [RootfsMount; 2] {
    let layers = record.image.layers.iter();
    let layers = layers.map(|path| format!("{LAYER_OPTION}{}", path.display()));
    [
        RootfsMount {
            kind: "erofs",
            source: record.image.rootfs.clone(),
            options: std::iter::once("ro".to_owned()).chain(layers).collect(),
        },
        RootfsMount {
            kind: "ext4",
            source: scratch,
            options: vec!["rw".to_owned()],
        },
    ]
}

/// Sends the end of input to a process.
pub(crate) fn close_stdin(task: &Arc<Task>, exec_id: &str) -> CloseStdin {
    let (task, exec_id) = (Arc::clone(task), exec_id.to_owned());
    Box::new(move || {
        Box::pin(async move {
            if let Err(error) = task.close_stdin(&exec_id).await {
                tracing::debug!(error = error.message(), "closing stdin");
            }
        })
    })
}

fn make_bind_sources(record: &Record) -> Result<()> {
    check_bind_sources(record)?;
    for bind in spec::binds_of(record)? {
        let path = Path::new(&bind.source);
        if !path.exists() {
            std::fs::create_dir_all(path)
                .map_err(|source| EngineError::io("create the bind source", path, source))?;
        }
    }
    Ok(())
}
