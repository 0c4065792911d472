//! Making a container.

use std::path::Path;
use std::sync::Arc;

use bollard_stubs::models::HostConfig;
use jiff::Timestamp;

use super::request::{clean_path, has_hostname, has_text, CreateRequest};
use super::{defaults, join, trust, Container, Progress};
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::images::ImageInfo;
use crate::lifecycle::Event;
use crate::network;
use crate::record::{ImageMount, ImageUse, Record, State};
use crate::volumes::VolumeUse;
use crate::{ids, logs, names, spec, volumes};

/// Attempts at a free random name.
const NAME_ATTEMPTS: usize = 20;

impl Engine {
    /// Makes a container. Returns it and warnings for the user.
    pub(crate) async fn create_container(
        &self,
        name: Option<&str>,
        mut request: CreateRequest,
    ) -> Result<(Arc<Container>, Vec<String>)> {
        let name = name.map(|name| name.strip_prefix('/').unwrap_or(name));
        if let Some(name) = name {
            if !names::is_valid(name) {
                return Err(EngineError::InvalidName(name.to_owned()));
            }
        }
        // Before the check: it looks at the options as they are together.
        let log = request.host.log_config.get_or_insert_default();
        logs::merge_defaults(log, &self.defaults.log);
        trust::fill(&mut request.host, &self.defaults)?;
        let warnings = request.check()?;
        defaults::fill(
            &mut request.host,
            &self.defaults,
            spec::MASKED_PATHS,
            spec::READONLY_PATHS,
        );
        if request.config.network_disabled.unwrap_or(false) {
            request.host.network_mode = Some(network::NONE.to_owned());
        }
        self.check_host_network(&request.host)?;
        let mac = request.mac_address.is_some()
            || request
                .networks
                .values()
                .any(|one| has_text(&one.mac_address));
        join::check(&request.host, &request.config, mac)?;
        self.resolve_joined(&mut request.host)
            .map_err(not_of_the_image)?;
        if network::is_host_mode(&request.host) && !has_hostname(&request.config) {
            request.config.hostname = Some(host_name());
        }
        let reference = request.config.image.clone().unwrap_or_default();
        if reference.is_empty() {
            return Err(EngineError::BadRequest("no image specified".to_owned()));
        }
        let image = self.images.get(&reference).await?;
        let rootfs = self.images.rootfs(&image).await?;
        // Not found means to clients that the image is not there, and they pull it.
        let wanted = self.wanted_networks(&request).map_err(not_of_the_image)?;
        let mut record = new_record(request, &image, rootfs, reference)?;
        record.networks = wanted;
        record.image_mounts = self.mounted_images(&record.host).await?;
        // Everything that the specification can refuse is refused now.
        spec::build(
            &record,
            spec::Host {
                bundle: &self.paths.bundle(&record.id),
                volumes: &[],
                defaults: &self.defaults,
                linked: &[],
                joined: None,
                disks: &spec::host_disks(&record.host),
            },
        )?;
        check_bind_sources(&record)?;
        let container = self.take_images(name, record).await?;
        // Others see it already, and may want to start or remove it.
        let _operation = container.operate().await;
        let made = match self.take_volumes(&container).await {
            Ok(()) => self.make_files(&container).await,
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            self.unmake(&container).await;
            return Err(error);
        }
        self.publish(&container, "create", []);
        Ok((container, warnings))
    }

    /// Takes back a container that could not be made. Who has found it meanwhile finds it removed.
    async fn unmake(&self, container: &Container) {
        self.containers_mut().remove(container.id());
        Self::advance(&mut container.lock(), Event::RemoveBegun);
        self.drop_own_volumes(container).await;
        let _ = std::fs::remove_dir_all(self.paths.container(container.id()));
        let removed = |progress: &mut Progress| progress.removed = true;
        container.progress.send_modify(removed);
    }

    /// The images that are to be mounted, as they are now.
    async fn mounted_images(&self, host: &HostConfig) -> Result<Vec<ImageMount>> {
        let mut all = Vec::new();
        for wanted in spec::image_mounts(host)? {
            let image = self.images.get(&wanted.reference).await;
            let image = image.map_err(not_of_the_image)?;
            let rootfs = self.images.rootfs(&image).await?;
            all.push(ImageMount {
                image: ImageUse {
                    reference: wanted.reference,
                    id: image.id.to_string(),
                    rootfs: rootfs.metadata,
                    layers: rootfs.layers,
                },
                target: wanted.target,
                subpath: wanted.subpath,
            });
        }
        Ok(all)
    }

    /// Finds or makes the container's volumes.
    async fn take_volumes(&self, container: &Container) -> Result<()> {
        let record = container.record();
        let find = |name: &str| self.container(name).map(|other| other.record());
        let wanted = volumes::wanted(&record.config, &record.host, find);
        let wanted = wanted.map_err(not_of_the_image)?;
        {
            let mut record = container.lock();
            record.volumes = wanted.volumes;
            record.inherited_binds = wanted.inherited;
            record.inherited_tmpfs = wanted.tmpfs;
            record.image_mounts.extend(wanted.images);
        }
        for asked in wanted.asked {
            let made = self.create_volume(asked.create).await;
            let (volume, new) = made.map_err(not_of_the_image)?;
            container.lock().volumes.push(VolumeUse {
                own: new && volume.is_anonymous(),
                name: volume.name,
                ..asked.place
            });
        }
        Ok(())
    }

    /// Removes the volumes that were made for a container, unless another has them too.
    pub(super) async fn drop_own_volumes(&self, container: &Container) {
        let record = container.record();
        for volume in record.volumes.iter().filter(|volume| volume.own) {
            if let Err(error) = self.remove_volume(&volume.name, false).await {
                tracing::debug!(volume = volume.name, error = error.message(), "stays");
            }
        }
    }

    /// As [`Engine::reserve`], if the images are still there: unpacking takes its time, and until the container
    /// is seen nobody knows that it needs them.
    async fn take_images(&self, name: Option<&str>, record: Record) -> Result<Arc<Container>> {
        let _uses = self.image_uses.read().await;
        for (index, image) in record.images().enumerate() {
            let missing = self.images.resolve(&image.id).await.is_err() || !image.rootfs.exists();
            if missing {
                let error = EngineError::NoSuchImage(image.reference.clone());
                return Err(match index {
                    0 => error,
                    // A mounted one.
                    _ => not_of_the_image(error),
                });
            }
        }
        self.reserve(name, record)
    }

    /// Takes the name (a random one if there is none) and shows the container to lookups.
    fn reserve(&self, name: Option<&str>, mut record: Record) -> Result<Arc<Container>> {
        let mut containers = self.containers_mut();
        let holder = |name: &str| {
            containers
                .values()
                .find(|other| other.lock().name == name)
                .map(|c| c.id().to_owned())
        };
        record.name = match name {
            Some(name) => match holder(name) {
                Some(holder) => {
                    return Err(EngineError::NameInUse {
                        name: name.to_owned(),
                        holder,
                    })
                }
                None => name.to_owned(),
            },
            None => (0..NAME_ATTEMPTS)
                .map(names::random)
                .find(|name| holder(name).is_none())
                .unwrap_or_else(|| ids::short(&record.id).to_owned()),
        };
        let container = Container::new(record, &self.paths);
        containers.insert(container.id().to_owned(), Arc::clone(&container));
        Ok(container)
    }

    /// Its writable layer comes with its first start: many are made that never are.
    async fn make_files(&self, container: &Container) -> Result<()> {
        let dir = self.paths.container(container.id());
        std::fs::create_dir_all(&dir).map_err(|source| EngineError::io("create", &dir, source))?;
        self.store.put(container.latest()).await
    }

    /// Gives a container another name.
    pub(crate) async fn rename_container(&self, container: &Container, name: &str) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(name);
        if !names::is_valid(name) {
            return Err(EngineError::BadRequest(format!(
                "Error when allocating new name: {}",
                EngineError::InvalidName(format!("/{name}"))
            )));
        }
        let old = {
            // The write lock keeps two renames from taking one name.
            let containers = self.containers_mut();
            if let Some(holder) = containers.values().find(|other| other.lock().name == name) {
                if holder.id() == container.id() {
                    return Err(EngineError::BadRequest(
                        "Renaming a container with the same name as its current name".to_owned(),
                    ));
                }
                return Err(EngineError::NameInUse {
                    name: name.to_owned(),
                    holder: holder.id().to_owned(),
                });
            }
            std::mem::replace(&mut container.lock().name, name.to_owned())
        };
        if let Err(error) = self.update(container, |_| {}).await {
            container.lock().name = old;
            return Err(error);
        }
        self.rename_on_networks(container, &old, name).await;
        self.publish(container, "rename", [("oldName", format!("/{old}"))]);
        Ok(())
    }
}

/// What has to be there already, and is not.
pub(super) fn check_bind_sources(record: &Record) -> Result<()> {
    let mut binds = spec::binds_of(record)?.into_iter();
    match binds.find(|bind| !bind.create && !Path::new(&bind.source).exists()) {
        None => Ok(()),
        Some(missing) => Err(EngineError::BadRequest(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            missing.source
        ))),
    }
}

/// The host's own name.
fn host_name() -> String {
    let about = rustix::system::uname();
    about.nodename().to_string_lossy().into_owned()
}

/// What else is missing is a fault of the request.
fn not_of_the_image(error: EngineError) -> EngineError {
    match error.kind() {
        Kind::NotFound => EngineError::BadRequest(error.message()),
        _ => error,
    }
}

fn new_record(
    request: CreateRequest,
    image: &ImageInfo,
    rootfs: hull_image::Rootfs,
    reference: String,
) -> Result<Record> {
    let mut config = spec::merge_image(request.config, &image.config);
    config.working_dir = config.working_dir.map(|path| clean_path(&path));
    Ok(Record {
        id: ids::new_id(),
        name: String::new(),
        created: Timestamp::now(),
        image: ImageUse {
            reference,
            id: image.id.to_string(),
            rootfs: rootfs.metadata,
            layers: rootfs.layers,
        },
        image_mounts: Vec::new(),
        argv: spec::argv_of(&config)?,
        config,
        host: request.host,
        state: State::created(),
        shim: None,
        volumes: Vec::new(),
        held: Vec::new(),
        inherited_binds: Vec::new(),
        inherited_tmpfs: Vec::new(),
        networks: Vec::new(),
        endpoints: Vec::new(),
        published: Vec::new(),
        replugged: None,
    })
}
