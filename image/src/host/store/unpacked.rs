//! Unpacked images: the content of each layer once, and a file of metadata per stack of layers.
//!
//! An image's block device is the first block of its metadata, the content of its layers in order,
//! each once, and the rest of the metadata (see `unpack::merge`, which the guest does).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::content::{entries, remove_file, sync_folder};
use super::types::{
    Image, ImageLayer, KnownLayer, LayerLengths, Rootfs, UnpackJob, UnpackLayer, UnpackProgress,
    Unpacker,
};
use super::Inner;
use crate::host::lock::{Locked, Mode};
use crate::host::{ImageError, LayerPhase, Progress, ProgressEvent};
use crate::{chain_id, DiffId, Digest};

/// A file system with fewer free bytes is full.
const FULL_BYTES: u64 = 1 << 20;
/// Part of the folder's name: files that another version of the writer made are never mixed in.
const FORMAT: &str = "2";
/// What the version before made: one file per stack of layers.
const OLD_FORMAT: &str = "1";
/// Sparse length of an output before it is written: none may be larger.
const OUTPUT_SIZE: u64 = 1 << 40;
const MAX_FILES: u64 = 10_000_000;
/// Layers may be as many times as long as their blobs, and [`ALWAYS_BYTES`] in any case.
const LIKELY_COMPRESSION: u64 = 32;
const ALWAYS_BYTES: u64 = 32 << 30;
/// Most that is left free on a file system.
const MOST_KEPT_BYTES: u64 = 1 << 30;
const BLOCK: u64 = 4096;

/// `ROOT/erofs`.
#[derive(Debug, Clone)]
pub(super) struct UnpackedFiles {
    root: PathBuf,
}

impl UnpackedFiles {
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        let files = Self {
            root: root.to_owned(),
        };
        for folder in files.folders() {
            std::fs::create_dir_all(&folder).map_err(ImageError::file("create", &folder))?;
        }
        Ok(files)
    }

    fn images(&self) -> PathBuf {
        self.root.join(FORMAT)
    }

    fn layers(&self) -> PathBuf {
        self.images().join("layers")
    }

    /// Where files of this version lie.
    pub(super) fn folders(&self) -> [PathBuf; 2] {
        [self.images(), self.layers()]
    }

    /// Where the metadata of these layers' image lies, or will lie.
    fn path(&self, layers: &[ImageLayer]) -> PathBuf {
        self.images().join(image_name(layers))
    }

    fn data(&self, layer: &DiffId) -> PathBuf {
        self.layers().join(format!("{}.data", hex(layer)))
    }

    /// It gets its name last: with it, a layer is complete.
    fn index(&self, layer: &DiffId) -> PathBuf {
        self.layers().join(format!("{}.index", hex(layer)))
    }

    /// A layer that is unpacked: the length of its content.
    fn known(&self, layer: &DiffId) -> Option<u64> {
        let length = std::fs::metadata(self.data(layer)).ok()?.len();
        self.index(layer).exists().then_some(length)
    }

    /// The image of these layers, if it is complete.
    fn rootfs(&self, layers: &[ImageLayer]) -> Option<Rootfs> {
        let metadata = self.path(layers);
        if !metadata.exists() {
            return None;
        }
        let mut content = Vec::new();
        let mut length = std::fs::metadata(&metadata).ok()?.len();
        for layer in distinct(layers).keys_in_order {
            let known = self.known(&layer)?;
            length += known;
            // A device has no empty part.
            if known > 0 {
                content.push(self.data(&layer));
            }
        }
        if claimed_length(&metadata).is_some_and(|claimed| claimed != length) {
            tracing::warn!(
                ?metadata,
                length,
                "a file of an unpacked image was cut or grew"
            );
            return None;
        }
        Some(Rootfs {
            metadata,
            layers: content,
        })
    }

    /// Forgets the layers of an image whose files are all there but are no image together: one of them
    /// was changed behind the store's back, and nothing tells which. VMs that have them open keep them.
    fn forget_if_changed(&self, layers: &[ImageLayer]) -> Result<(), ImageError> {
        let metadata = self.path(layers);
        let all_there = layers
            .iter()
            .all(|layer| self.known(&layer.diff_id).is_some());
        if !all_there || !metadata.exists() || self.rootfs(layers).is_some() {
            return Ok(());
        }
        for layer in layers {
            let index = self.index(&layer.diff_id);
            match std::fs::remove_file(&index) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ImageError::file("remove", &index)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes of the image of these layers, those included that it shares with others.
    pub(super) fn size(&self, layers: &[ImageLayer]) -> Option<u64> {
        let rootfs = self.rootfs(layers)?;
        let files = rootfs.layers.iter().chain([&rootfs.metadata]);
        files
            .map(|path| std::fs::metadata(path).ok().map(|found| found.len()))
            .sum()
    }

    /// Bytes of each of these layers: unpacked, or as it came if it is not yet.
    pub(super) fn layer_sizes(&self, layers: &[ImageLayer]) -> Vec<u64> {
        let size = |layer: &ImageLayer| self.known(&layer.diff_id).unwrap_or(layer.size);
        layers.iter().map(size).collect()
    }

    /// Files that the image of these layers needs.
    pub(super) fn needed(&self, layers: &[ImageLayer]) -> Vec<PathBuf> {
        let own = layers
            .iter()
            .flat_map(|layer| [self.data(&layer.diff_id), self.index(&layer.diff_id)]);
        let old = self.root.join(OLD_FORMAT).join(image_name(layers));
        own.chain([self.path(layers), old]).collect()
    }

    /// Finished files.
    pub(super) fn list(&self) -> Result<Vec<PathBuf>, ImageError> {
        let mut found = entries(&self.images())?;
        found.extend(entries(&self.layers())?);
        let old = self.root.join(OLD_FORMAT);
        if old.exists() {
            found.extend(entries(&old)?);
        }
        let finished = ["erofs", "data", "index"];
        found.retain(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| finished.contains(&extension))
        });
        Ok(found)
    }
}

fn image_name(layers: &[ImageLayer]) -> String {
    let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
    let chain = chain_id(&diff_ids).unwrap_or_else(|| Digest::of(b""));
    format!("{}.erofs", chain.hex())
}

fn hex(layer: &DiffId) -> String {
    Digest::from_bytes(*layer.as_bytes()).hex()
}

/// Layers without repetition.
struct Distinct<'a> {
    keys_in_order: Vec<DiffId>,
    /// In the order in which locks are taken, so that nobody waits in a circle.
    by_id: BTreeMap<DiffId, &'a ImageLayer>,
}

fn distinct(layers: &[ImageLayer]) -> Distinct<'_> {
    let mut found = Distinct {
        keys_in_order: Vec::new(),
        by_id: BTreeMap::new(),
    };
    for layer in layers {
        if found.by_id.insert(layer.diff_id, layer).is_none() {
            found.keys_in_order.push(layer.diff_id);
        }
    }
    found
}

/// Half-made output: removed when dropped, unless it got its final name.
struct HalfMade {
    locked: Locked,
    target: PathBuf,
    keep: bool,
}

impl HalfMade {
    async fn open(target: PathBuf, waiting: impl FnMut()) -> Result<Self, ImageError> {
        let mut temporary = target.clone().into_os_string();
        temporary.push(".tmp");
        Ok(Self {
            locked: Locked::open(Path::new(&temporary), Mode::Exclusive, waiting).await?,
            target,
            keep: false,
        })
    }

    fn path(&self) -> PathBuf {
        self.locked.path().to_owned()
    }

    fn resize(&self, length: u64) -> Result<(), ImageError> {
        let failed = ImageError::file("resize", self.locked.path());
        self.locked.file.set_len(length).map_err(failed)
    }

    /// Empties what an earlier run left and makes the file sparse.
    fn prepare(&self) -> Result<(), ImageError> {
        self.resize(0)?;
        self.resize(OUTPUT_SIZE)
    }

    /// Cuts the file to its length, makes it durable, and gives it its name.
    fn finish(&mut self, length: u64) -> Result<(), ImageError> {
        self.resize(length)?;
        let temporary = self.locked.path();
        self.locked
            .file
            .sync_all()
            .map_err(ImageError::file("sync", temporary))?;
        std::fs::rename(temporary, &self.target)
            .map_err(ImageError::file("rename to", &self.target))?;
        self.keep = true;
        sync_folder(self.target.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for HalfMade {
    fn drop(&mut self) {
        if !self.keep {
            // The next start collects what can't be removed now.
            let _ = remove_file(self.locked.path());
        }
    }
}

/// A layer that is being unpacked.
struct HalfLayer<'a> {
    layer: &'a ImageLayer,
    data: HalfMade,
    index: HalfMade,
}

pub(super) async fn ensure(
    store: &Inner,
    image: &Image,
    unpacker: &dyn Unpacker,
    progress: &dyn Progress,
) -> Result<Rootfs, ImageError> {
    let files = &store.unpacked;
    if let Some(rootfs) = files.rootfs(&image.layers) {
        return Ok(rootfs);
    }
    let _lease = store.lease().await?;
    let waiting = || {
        for layer in &image.layers {
            progress.event(ProgressEvent::Layer {
                digest: layer.digest,
                phase: LayerPhase::Waiting,
            });
        }
    };
    let mut metadata = HalfMade::open(files.path(&image.layers), waiting).await?;
    if let Some(rootfs) = files.rootfs(&image.layers) {
        return Ok(rootfs);
    }
    files.forget_if_changed(&image.layers)?;
    let mut layers = missing_layers(files, &image.layers, waiting).await?;
    metadata.prepare()?;
    let job = job(store, image, &layers, &metadata)?;
    let news = Arc::new(News::default());
    let outcome = {
        let read: Vec<&ImageLayer> = layers.iter().map(|half| half.layer).collect();
        let run = unpacker.unpack(job, news.clone());
        forward(run, &news, &read, progress).await
    };
    let failed = |source| ImageError::Unpack {
        image: describe(image),
        source,
    };
    let outcome = outcome.map_err(|source| failed(with_full_disk(&files.root, source)))?;
    check(&outcome.layers, outcome.image_length, layers.len()).map_err(failed)?;
    for (half, lengths) in layers.iter_mut().zip(&outcome.layers) {
        half.data.finish(lengths.data)?;
        half.index.finish(lengths.index)?;
    }
    metadata.finish(outcome.image_length)?;
    for layer in &image.layers {
        progress.event(ProgressEvent::Layer {
            digest: layer.digest,
            phase: LayerPhase::PullComplete,
        });
    }
    files.rootfs(&image.layers).ok_or_else(|| {
        let gone = "a layer was removed while the image was made: try again";
        failed(gone.into())
    })
}

/// No room for what is unpacked.
#[derive(Debug, thiserror::Error)]
#[error("No space left on device: the file system of {path:?} is full; free some of it, for example by `hull image prune`")]
struct DiskFull {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The guest that writes knows a full disk of the host only as an I/O error.
fn with_full_disk(
    root: &Path,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> Box<dyn std::error::Error + Send + Sync> {
    let is_full = source.to_string().contains("No space left on device")
        || rustix::fs::statvfs(root)
            .is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) < FULL_BYTES);
    if !is_full {
        return source;
    }
    Box::new(DiskFull {
        path: root.to_owned(),
        source,
    })
}

/// Locks the layers that are not unpacked yet, and makes room for them.
async fn missing_layers<'a>(
    files: &UnpackedFiles,
    layers: &'a [ImageLayer],
    mut waiting: impl FnMut(),
) -> Result<Vec<HalfLayer<'a>>, ImageError> {
    let mut missing = Vec::new();
    for (id, layer) in distinct(layers).by_id {
        if files.known(&id).is_some() {
            continue;
        }
        let index = HalfMade::open(files.index(&id), &mut waiting).await?;
        // Whoever had the lock may have made it.
        if files.known(&id).is_some() {
            continue;
        }
        let data = HalfMade::open(files.data(&id), &mut waiting).await?;
        data.prepare()?;
        index.prepare()?;
        missing.push(HalfLayer { layer, data, index });
    }
    Ok(missing)
}

fn job(
    store: &Inner,
    image: &Image,
    missing: &[HalfLayer<'_>],
    metadata: &HalfMade,
) -> Result<UnpackJob, ImageError> {
    let layers = missing.iter().map(|half| {
        let layer = half.layer;
        let path = store.content.blob_path(&layer.digest);
        let blob = std::fs::metadata(&path).map_err(ImageError::file("find", &path))?;
        Ok(UnpackLayer {
            path,
            length: blob.len(),
            compression: layer.compression,
            diff_id: layer.diff_id,
            digest: layer.digest,
            data: half.data.path(),
            index: half.index.path(),
        })
    });
    let is_missing = |id: &DiffId| missing.iter().any(|half| half.layer.diff_id == *id);
    let known = distinct(&image.layers).by_id.into_iter();
    let known = known.filter(|(id, _)| !is_missing(id)).map(|(id, layer)| {
        let index = store.unpacked.index(&id);
        let data_length = store
            .unpacked
            .known(&id)
            .ok_or(std::io::ErrorKind::NotFound);
        Ok(KnownLayer {
            diff_id: id,
            digest: layer.digest,
            data_length: data_length
                .map_err(|kind| ImageError::file("find", &index)(kind.into()))?,
            index,
        })
    });
    Ok(UnpackJob {
        layers: layers.collect::<Result<_, ImageError>>()?,
        known: known.collect::<Result<_, ImageError>>()?,
        diff_ids: image.layers.iter().map(|layer| layer.diff_id).collect(),
        output: metadata.path(),
        output_size: OUTPUT_SIZE,
        max_files: MAX_FILES,
        max_bytes: longest(missing.iter().map(|half| half.layer.size).sum()),
        max_stored: room(&store.unpacked.root),
        image: image.id,
    })
}

/// How long an image says that it is, its layers' content included, in bytes (EROFS on-disk format,
/// super block: magic, blocks).
fn claimed_length(metadata: &Path) -> Option<u64> {
    use std::os::unix::fs::FileExt as _;
    let mut block = [0; 40];
    let file = std::fs::File::open(metadata).ok()?;
    file.read_exact_at(&mut block, 1024).ok()?;
    let field = |at: usize| {
        block
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_le_bytes)
    };
    (field(0)? == 0xe0f5_e1e2).then_some(u64::from(field(36)?) * BLOCK)
}

/// How long layers may be whose blobs have so many bytes. Real ones are three times as long; what is
/// hundreds of times as long was made to keep its reader busy.
fn longest(blobs: u64) -> u64 {
    blobs
        .saturating_mul(LIKELY_COMPRESSION)
        .clamp(ALWAYS_BYTES, OUTPUT_SIZE)
}

/// What may be written to a file system: it is not filled to its end, where others would fail with us.
/// At least 1, since 0 stands for no limit.
fn room(folder: &Path) -> u64 {
    let Ok(found) = rustix::fs::statvfs(folder) else {
        return OUTPUT_SIZE;
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    (free - (free / 8).min(MOST_KEPT_BYTES)).max(1)
}

/// Whether an unpacker's answer can be true.
fn check(
    layers: &[LayerLengths],
    image_length: u64,
    wanted: usize,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let possible = |length: u64| length.is_multiple_of(BLOCK) && length <= OUTPUT_SIZE;
    let layers_are = layers
        .iter()
        .all(|layer| possible(layer.data) && possible(layer.index) && layer.index > 0);
    if image_length == 0 || !possible(image_length) || !layers_are || layers.len() != wanted {
        return Err(format!(
            "the unpacker reports {} of {wanted} layers and an image of {image_length} bytes",
            layers.len()
        )
        .into());
    }
    Ok(())
}

fn describe(image: &Image) -> String {
    image
        .repo_tags
        .first()
        .cloned()
        .unwrap_or_else(|| image.id.to_string())
}

/// The unpacker's progress, from whatever thread, kept until it is forwarded.
#[derive(Default)]
struct News {
    latest: Mutex<Option<(usize, u64)>>,
    changed: tokio::sync::Notify,
}

impl UnpackProgress for News {
    fn layer(&self, index: usize, bytes_read: u64) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, bytes_read));
        self.changed.notify_one();
    }
}

/// Runs to the end, and tells layer progress meanwhile.
async fn forward<T>(
    run: impl std::future::Future<Output = T>,
    news: &News,
    layers: &[&ImageLayer],
    progress: &dyn Progress,
) -> T {
    let mut run = std::pin::pin!(run);
    loop {
        tokio::select! {
            outcome = &mut run => return outcome,
            () = news.changed.notified() => {
                let latest = news.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some((index, read)) = latest else { continue };
                if let Some(layer) = layers.get(index) {
                    let phase = LayerPhase::Extracting { current: read.min(layer.size), total: layer.size };
                    progress.event(ProgressEvent::Layer { digest: layer.digest, phase });
                }
            }
        }
    }
}
