//! Images, through `hull-image`; layers are unpacked by `hull-unpack`, a program that boots a
//! one-off microVM.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use bollard_stubs::models::ContainerConfig;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _};
use hull_image::{
    Credentials, Digest, Distribution, ErrorKind, Found, Image, ImageError, Import, LayerLengths,
    LoadedImage, NoProgress, Platform, Progress, PruneReport, Pushed, Reference, RegistryConfig,
    RemoveOptions, Removed, Rootfs, Saved, UnpackJob, UnpackOutcome, UnpackProgress, Unpacker,
};
use hull_shim::runtime_dir::EXEC_ROOT_ENV;
use hull_shim::unpack::{Compression, Job, Known, Layer, Limits};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio_util::io::ReaderStream;

use crate::error::{chain, EngineError, ImageFailure, Kind, Result};
use crate::paths::Paths;

/// Longest line of the unpacker that is read, in bytes.
const MAX_LINE: u64 = 64 << 10;

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
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>> {
        let loaded = self
            .store
            .load(archive, progress)
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
            let discarded = self.store.discard(&damage).await;
            discarded.map_err(|error| failure(&error))?;
            for (image, names) in &damage.images {
                repairs.push(Repair {
                    digest: damage.digest,
                    problem: if damage.missing { "missing" } else { "damaged" },
                    image: names
                        .first()
                        .map_or_else(|| image.to_string(), Reference::familiar),
                    outcome: self.pull_again(names).await,
                });
            }
        }
        Ok(repairs)
    }

    async fn pull_again(&self, names: &[Reference]) -> std::result::Result<(), String> {
        let mut last = "no registry is known to have it: load or build the image again".to_owned();
        for name in names {
            let platform = Platform::default();
            match self.store.pull(name, &platform, &NoProgress).await {
                Ok(_) => return Ok(()),
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

struct ProcessUnpacker {
    program: PathBuf,
    exec_root: PathBuf,
}

/// What `hull-unpack` prints, one object a line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum UnpackLine {
    Progress(hull_shim::unpack::Progress),
    Done(hull_shim::unpack::Done),
    Error { error: String },
}

#[derive(Debug, thiserror::Error)]
enum UnpackerError {
    #[error("failed to run {program:?}")]
    Run {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Reported(String),
    #[error("the unpacker printed something else than it should")]
    Garbled { source: serde_json::Error },
    #[error("the unpacker ended without a result: {0}")]
    Ended(String),
}

fn job_of(job: &UnpackJob) -> Job {
    let layers = job.layers.iter().map(|layer| Layer {
        path: layer.path.clone(),
        length: layer.length,
        compression: match layer.compression {
            hull_image::Compression::None => Compression::None,
            hull_image::Compression::Gzip => Compression::Gzip,
            hull_image::Compression::Zstd => Compression::Zstd,
        },
        diff_id: layer.diff_id.to_string(),
        digest: layer.digest.to_string(),
        data: layer.data.clone(),
        index: layer.index.clone(),
    });
    let known = job.known.iter().map(|layer| Known {
        diff_id: layer.diff_id.to_string(),
        digest: layer.digest.to_string(),
        index: layer.index.clone(),
        data_length: layer.data_length,
    });
    Job {
        layers: layers.collect(),
        known: known.collect(),
        diff_ids: job.diff_ids.iter().map(ToString::to_string).collect(),
        output: job.output.clone(),
        output_capacity: job.output_size,
        memory_bytes: None,
        vcpus: None,
        limits: Limits {
            files: job.max_files,
            ..Limits::default()
        },
    }
}

#[async_trait]
impl Unpacker for ProcessUnpacker {
    async fn unpack(
        &self,
        job: UnpackJob,
        progress: Arc<dyn UnpackProgress>,
    ) -> std::result::Result<UnpackOutcome, Box<dyn std::error::Error + Send + Sync>> {
        let run = |source| UnpackerError::Run {
            program: self.program.clone(),
            source,
        };
        let text = serde_json::to_string(&job_of(&job))?;
        let mut child = tokio::process::Command::new(&self.program)
            .env(EXEC_ROOT_ENV, &self.exec_root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(run)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let running = RunningUnpacker {
            child: Some(child),
            exec_root: self.exec_root.clone(),
        };
        if let Some(mut stdin) = stdin {
            stdin.write_all(text.as_bytes()).await.map_err(run)?;
        }
        let errors = tokio::spawn(async move { last_words(stderr).await });
        let mut outcome = None;
        if let Some(stdout) = stdout {
            outcome = read_lines(stdout, progress.as_ref()).await?;
        }
        let status = running.end().await.map_err(run)?;
        let text = errors.await.unwrap_or_default();
        match outcome.filter(|_| status.success()) {
            Some(outcome) => Ok(outcome),
            None if text.is_empty() => Err(UnpackerError::Ended(status.to_string()).into()),
            None => Err(UnpackerError::Ended(text).into()),
        }
    }
}

/// A `hull-unpack`. One that nobody waits for any more is killed, and one that was killed leaves
/// nothing of its VM.
struct RunningUnpacker {
    /// `None` when it has ended.
    child: Option<Child>,
    exec_root: PathBuf,
}

impl RunningUnpacker {
    async fn end(mut self) -> std::io::Result<ExitStatus> {
        let Some(child) = &mut self.child else {
            return Ok(ExitStatus::default());
        };
        let pid = child.id();
        let status = child.wait().await?;
        self.child = None;
        if status.code().is_none() {
            remove_unpack_sandbox(&self.exec_root, pid).await;
        }
        Ok(status)
    }
}

impl Drop for RunningUnpacker {
    fn drop(&mut self) {
        // Without a runtime it is killed all the same, as it is dropped.
        let (Some(mut child), Ok(runtime)) =
            (self.child.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (pid, exec_root) = (child.id(), self.exec_root.clone());
        runtime.spawn(async move {
            let _ = child.kill().await;
            remove_unpack_sandbox(&exec_root, pid).await;
        });
    }
}

async fn remove_unpack_sandbox(exec_root: &Path, pid: Option<u32>) {
    let Some(pid) = pid else { return };
    let (root, id) = (exec_root.to_owned(), hull_shim::unpack::sandbox_id(pid));
    let remove = move || hull_shim::runtime_dir::remove_sandbox(&root, &id);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(remove).await {
        tracing::warn!(
            pid,
            error = chain(&error),
            "what a killed unpacker had is left"
        );
    }
}

async fn read_lines(
    stdout: impl tokio::io::AsyncRead + Unpin,
    progress: &dyn UnpackProgress,
) -> std::result::Result<Option<UnpackOutcome>, UnpackerError> {
    let garbled = |source| UnpackerError::Garbled { source };
    let mut outcome = None;
    let mut lines = BufReader::new(stdout);
    let mut line = String::new();
    loop {
        line.clear();
        let read = (&mut lines).take(MAX_LINE).read_line(&mut line).await;
        if !matches!(read, Ok(1..)) {
            return Ok(outcome);
        }
        match serde_json::from_str(line.trim()).map_err(garbled)? {
            UnpackLine::Progress(now) => {
                progress.layer(
                    usize::try_from(now.layer).unwrap_or(usize::MAX),
                    now.bytes_read,
                );
            }
            UnpackLine::Done(done) => {
                let layers = done.layers.iter().map(|layer| LayerLengths {
                    data: layer.data,
                    index: layer.index,
                });
                outcome = Some(UnpackOutcome {
                    image_length: done.image_length,
                    files: done.files,
                    layers: layers.collect(),
                });
            }
            UnpackLine::Error { error } => return Err(UnpackerError::Reported(error)),
        }
    }
}

async fn last_words(stderr: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = stderr {
        // Cut off, not waited for: a child that writes more gets an error.
        let _ = stderr.take(MAX_LINE).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).trim().replace('\n', "; ")
}
