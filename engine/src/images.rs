//! Images, through `hull-image`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use bollard_stubs::models::ContainerConfig;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _};
use hull_image::{
    Credentials, Digest, Distribution, ErrorKind, Found, Image, ImageError, Import, LoadedImage,
    NoProgress, Platform, Progress, PruneReport, Pushed, Reference, RegistryConfig, RemoveOptions,
    Removed, Rootfs, Saved,
};
use serde_json::Value;
use tokio::net::unix::pipe;
use tokio_util::io::ReaderStream;

use crate::error::{chain, EngineError, ImageFailure, Kind, Result};
use crate::paths::Paths;
use crate::unpacker::ProcessUnpacker;

/// The images of a state directory.
pub(crate) struct Images {
    /// How registries are talked to.
    pub(crate) registries: RegistryConfig,
    store: hull_image::Store,
    unpacker: ProcessUnpacker,
}

/// A damaged blob of an image, and whether it could be had again.
#[derive(Debug)]
pub(crate) struct Repair {
    pub(crate) digest: Digest,
    pub(crate) problem: &'static str,
    pub(crate) image: String,
    pub(crate) outcome: std::result::Result<(), String>,
}

/// An image as containers need it.
#[derive(Debug, Clone)]
pub(crate) struct ImageInfo {
    pub(crate) id: Digest,
    pub(crate) config: ContainerConfig,
}

impl Images {
    pub(crate) fn open(paths: &Paths, unpack: PathBuf, config: RegistryConfig) -> Result<Self> {
        Ok(Self {
            registries: config.clone(),
            store: hull_image::Store::open(paths.root(), config).map_err(|e| failure(&e))?,
            unpacker: ProcessUnpacker {
                program: unpack,
                exec_root: paths.exec_root().to_owned(),
            },
        })
    }

    /// Removes what an earlier hulld left unfinished.
    pub(crate) async fn collect_leftovers(&self) -> Result<()> {
        let found = self
            .store
            .collect_leftovers()
            .await
            .map_err(|error| failure(&error))?;
        tracing::debug!(?found, "left-overs of images");
        Ok(())
    }

    /// The image that a name means.
    pub(crate) async fn find(&self, name: &str) -> Result<Image> {
        let found = self.store.get(name).await;
        found.map_err(|error| failure_of(name, &error))
    }

    /// The id of the image that a name means, and how many tags it has, also if it is damaged.
    pub(crate) async fn resolve(&self, name: &str) -> Result<(Digest, usize)> {
        let found = self.store.resolve(name).await;
        found.map_err(|error| failure_of(name, &error))
    }

    /// As [`Images::find`], reduced to what a container needs.
    pub(crate) async fn get(&self, name: &str) -> Result<ImageInfo> {
        let image = self.find(name).await?;
        Ok(ImageInfo {
            id: image.id,
            config: container_config(&image)?,
        })
    }

    /// Refuses an image that is for another platform than the one asked for, or this host's.
    pub(crate) async fn check_platform(&self, name: &str, wanted: Option<&Platform>) -> Result<()> {
        let found = self.find(name).await?.platform();
        match wanted {
            // As docker: an image that is not there, so that clients pull it.
            Some(wanted) if !wanted.takes(&found) => Err(EngineError::OtherPlatform {
                name: with_tag(name),
                found: found.to_string(),
                wanted: wanted.to_string(),
            }),
            _ if Platform::default().takes(&found) => Ok(()),
            _ => Err(EngineError::BadRequest(format!(
                "image {} is for {found}, not for {}",
                with_tag(name),
                Platform::default()
            ))),
        }
    }

    /// The files with the image's root file system.
    pub(crate) async fn rootfs(&self, image: &ImageInfo) -> Result<Rootfs> {
        let made = self
            .store
            .ensure_unpacked(&image.id, &self.unpacker, &NoProgress)
            .await;
        made.map_err(|error| failure(&error))
    }

    /// Pulls and unpacks an image.
    pub(crate) fn pull<'a>(
        &'a self,
        reference: &'a Reference,
        platform: &'a Platform,
        credentials: Option<Credentials>,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Result<Image>> {
        Box::pin(async move {
            let store = self.store_of(reference.registry(), credentials);
            let pulled = store.pull(reference, platform, progress).await;
            let image = pulled.map_err(|error| failure(&error))?;
            if image.layers.is_empty() {
                return Ok(image);
            }
            let unpacked = self
                .store
                .ensure_unpacked(&image.id, &self.unpacker, progress)
                .await;
            unpacked.map_err(|error| failure(&error))?;
            Ok(image)
        })
    }

    /// Takes the images of an archive, and unpacks them.
    pub(crate) async fn load(
        &self,
        archive: impl tokio::io::AsyncRead + Send + Unpin,
        platform: Option<&Platform>,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>> {
        let loaded = self
            .store
            .load(archive, platform, progress)
            .await
            .map_err(|error| failure(&error))?;
        // One without layers is there to be looked at; who runs it brings its program along.
        let with_layers = loaded.iter().filter(|it| !it.image.layers.is_empty());
        for image in with_layers {
            let unpacked = self
                .store
                .ensure_unpacked(&image.image.id, &self.unpacker, progress)
                .await;
            unpacked.map_err(|error| failure(&error))?;
        }
        Ok(loaded)
    }

    /// Makes an image of a tar of files, and unpacks it. One that can't be unpacked is not kept.
    pub(crate) async fn import(
        &self,
        archive: impl tokio::io::AsyncRead + Send + Unpin,
        import: Import,
    ) -> Result<Image> {
        // Nothing that cannot run here is unpacked here.
        let runs = import.platform == Platform::default();
        let imported = self.store.import(archive, import).await;
        let image = imported.map_err(|error| failure(&error))?;
        if runs {
            let made = self
                .store
                .ensure_unpacked(&image.id, &self.unpacker, &NoProgress)
                .await;
            if let Err(error) = made {
                let options = RemoveOptions {
                    force: true,
                    ..RemoveOptions::default()
                };
                if let Err(error) = self.store.remove(&image.id.to_string(), &options).await {
                    tracing::warn!(error = chain(&error), "an import that failed stays");
                }
                return Err(failure(&error));
            }
        }
        Ok(image)
    }

    /// As [`Images::import`], of what a web server has.
    pub(crate) async fn import_from(&self, url: &str, import: Import) -> Result<Image> {
        let archive = self.store.download(url).await;
        let archive = archive.map_err(|error| failure(&error))?;
        self.import(archive, import).await
    }

    /// Reads every blob; what is damaged is removed, and pulled again by its digest.
    pub(crate) async fn repair(&self) -> Result<Vec<Repair>> {
        let found = self.store.check().await.map_err(|error| failure(&error))?;
        let mut repairs = Vec::new();
        for damage in found {
            let mut platforms = HashMap::new();
            for image in damage.images.keys() {
                let there = self.store.get(&image.to_string()).await;
                platforms.insert(
                    *image,
                    there.map_or_else(|_| Platform::default(), |it| it.platform()),
                );
            }
            let discarded = self.store.discard(&damage).await;
            discarded.map_err(|error| failure(&error))?;
            for (image, names) in &damage.images {
                let platform = platforms.get(image).cloned().unwrap_or_default();
                repairs.push(Repair {
                    digest: damage.digest,
                    problem: if damage.missing { "missing" } else { "damaged" },
                    image: names
                        .first()
                        .map_or_else(|| image.to_string(), Reference::familiar),
                    outcome: self.pull_again(&damage.digest, names, &platform).await,
                });
            }
        }
        Ok(repairs)
    }

    /// The registry may have another variant of the image under that name by now, without the blob.
    async fn pull_again(
        &self,
        blob: &Digest,
        names: &[Reference],
        platform: &Platform,
    ) -> std::result::Result<(), String> {
        let mut last = "no registry is known to have it: load or build the image again".to_owned();
        for name in names {
            match self.store.pull(name, platform, &NoProgress).await {
                Ok(_) if self.store.has(blob) => return Ok(()),
                Ok(_) => last = format!("{name} has it no more: load or build the image again"),
                Err(error) => last = chain(&error),
            }
        }
        Err(last)
    }

    /// The store as a client is at a registry; without credentials of its own, as hulld is.
    fn store_of(&self, registry: &str, credentials: Option<Credentials>) -> hull_image::Store {
        match credentials {
            None => self.store.clone(),
            Some(credentials) => self.store.acting_as(registry, credentials),
        }
    }

    /// What the registry has under a name.
    pub(crate) async fn look(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Distribution> {
        let store = self.store_of(reference.registry(), credentials);
        let found = store.look(reference).await;
        found.map_err(|error| failure(&error))
    }

    /// Repositories of a registry.
    pub(crate) async fn search(
        &self,
        registry: &str,
        term: &str,
        limit: u32,
        credentials: Option<Credentials>,
    ) -> Result<Vec<Found>> {
        let store = self.store_of(registry, credentials);
        let found = store.search(registry, term, limit).await;
        found.map_err(|error| failure(&error))
    }

    /// All that a registry has of a repository, by its tags.
    pub(crate) async fn tags(
        &self,
        repository: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Vec<Reference>> {
        let store = self.store_of(repository.registry(), credentials);
        let tags = store
            .tags(repository)
            .await
            .map_err(|error| failure(&error))?;
        let with_tag = |tag: &String| repository.with_tag(tag).ok();
        Ok(tags.iter().filter_map(with_tag).collect())
    }

    /// Whether a registry takes credentials.
    pub(crate) async fn log_in(&self, registry: &str, credentials: Credentials) -> Result<()> {
        let store = self.store.acting_as(registry, credentials);
        let tried = store.log_in(registry).await;
        tried.map_err(|error| failure(&error))
    }

    /// Sends an image to its registry.
    pub(crate) async fn push(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        let store = self.store_of(reference.registry(), credentials);
        let pushed = store.push(reference, progress).await;
        pushed.map_err(|error| failure(&error))
    }

    /// Images as an archive, which is made as it is read. Damaged ones are refused before.
    pub(crate) async fn save(
        &self,
        images: Vec<Saved>,
    ) -> Result<impl Stream<Item = std::io::Result<Bytes>> + use<>> {
        let store = self.store.clone();
        let verified = tokio::task::spawn_blocking(move || (store.verify(&images), images, store));
        let (verified, images, store) = verified
            .await
            .map_err(|error| EngineError::io("verify", "images", std::io::Error::other(error)))?;
        verified.map_err(|error| failure(&error))?;
        let pipe = |error| EngineError::io("open", "a pipe", error);
        let (reader, writer) = std::io::pipe().map_err(pipe)?;
        let receiver = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(pipe)?;
        let saving = hull_image::transfer(move || store.save(&images, writer)).await;
        // An archive that breaks off is not to look like a whole one.
        let end = futures_util::stream::once(async move {
            match saving.await {
                Ok(Ok(())) => Ok(Bytes::new()),
                Ok(Err(error)) => Err(std::io::Error::other(error)),
                Err(error) => Err(std::io::Error::other(error)),
            }
        });
        Ok(ReaderStream::new(receiver).chain(end))
    }

    pub(crate) async fn list(&self) -> Result<Vec<Image>> {
        self.store.list().await.map_err(|error| failure(&error))
    }

    pub(crate) async fn tag(&self, name: &str, reference: &str) -> Result<()> {
        let image = self.find(name).await?;
        let reference = parse_reference(reference)?;
        check_new_name(&reference)?;
        self.store
            .tag(&image.id, &reference)
            .await
            .map_err(|error| failure(&error))
    }

    pub(crate) async fn remove(
        &self,
        name: &str,
        force: bool,
        in_use: BTreeMap<Digest, String>,
    ) -> Result<Vec<Removed>> {
        let options = RemoveOptions { force, in_use };
        let removed = self.store.remove(name, &options).await;
        removed.map_err(|error| failure_of(name, &error))
    }

    pub(crate) async fn prune(&self, all: bool, in_use: &BTreeSet<Digest>) -> Result<PruneReport> {
        self.store
            .prune(all, in_use)
            .await
            .map_err(|error| failure(&error))
    }
}

/// A reference as a user writes it.
pub(crate) fn parse_reference(text: &str) -> Result<Reference> {
    text.parse::<Reference>()
        .map_err(|error| EngineError::BadRequest(chain(&error)))
}

/// Refuses names that would be taken for an image's digest.
fn check_new_name(reference: &Reference) -> Result<()> {
    let bad = |text: &str| Err(EngineError::BadRequest(text.to_owned()));
    if reference.digest().is_some() {
        return bad("refusing to create a tag with a digest reference");
    }
    if reference.familiar_name() == "sha256" {
        return bad("refusing to create an ambiguous tag using digest algorithm as name");
    }
    Ok(())
}

/// The name with the tag that it means, for messages.
pub(crate) fn with_tag(name: &str) -> String {
    name.parse::<Reference>()
        .map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// Of an operation on the image that `name` means.
fn failure_of(name: &str, error: &ImageError) -> EngineError {
    match error {
        ImageError::NoSuchImage { .. } => EngineError::NoSuchImage(with_tag(name)),
        other => failure(other),
    }
}

fn failure(error: &ImageError) -> EngineError {
    let kind = match error.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::InvalidInput => Kind::BadRequest,
        ErrorKind::Conflict => Kind::Conflict,
        // As dockerd: the registry's refusal is not the client's fault towards the engine.
        ErrorKind::Unauthorized | ErrorKind::RateLimited | ErrorKind::Unavailable => Kind::Internal,
        ErrorKind::BadImage | ErrorKind::Host => Kind::Internal,
    };
    EngineError::Image(ImageFailure {
        kind,
        text: chain(error),
    })
}

/// The labels of an image. One that another version took in and that can't be read now keeps no list from
/// being shown.
pub(crate) fn labels(image: &Image) -> HashMap<String, String> {
    let config = container_config(image).unwrap_or_else(|error| {
        tracing::warn!(image = %image.id, error = error.message(), "its labels are not read");
        ContainerConfig::default()
    });
    config.labels.unwrap_or_default()
}

/// The `config` object of the image's configuration, in Docker's type.
pub(crate) fn container_config(image: &Image) -> Result<ContainerConfig> {
    let decode = |source| EngineError::Json {
        what: "decode the image's configuration",
        source,
    };
    let whole: Value = serde_json::from_slice(&image.config_json).map_err(decode)?;
    match whole.get("config") {
        None | Some(Value::Null) => Ok(ContainerConfig::default()),
        Some(config) => serde_json::from_value(config.clone()).map_err(decode),
    }
}
