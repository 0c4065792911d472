//! One EROFS file per distinct stack of layers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::content::{entries, remove_file, sync_folder};
use super::types::{Image, ImageLayer, UnpackJob, UnpackLayer, UnpackProgress, Unpacker};
use super::Inner;
use crate::host::lock::{Locked, Mode};
use crate::host::{ImageError, LayerPhase, Progress, ProgressEvent};
use crate::{chain_id, DiffId, Digest};

/// Part of the folder's name: files that another version of the writer made are never mixed in.
const FORMAT: &str = "1";
/// Sparse length of an output before it is written: no image may be larger.
const OUTPUT_SIZE: u64 = 1 << 40;
const MAX_FILES: u64 = 10_000_000;
const BLOCK: u64 = 4096;

/// `ROOT/erofs/1`.
#[derive(Debug, Clone)]
pub(super) struct UnpackedFiles {
    folder: PathBuf,
}

impl UnpackedFiles {
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        let folder = root.join(FORMAT);
        std::fs::create_dir_all(&folder).map_err(ImageError::file("create", &folder))?;
        Ok(Self { folder })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the image of these layers lies, or will lie.
    pub(super) fn path(&self, layers: &[ImageLayer]) -> PathBuf {
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        let chain = chain_id(&diff_ids).unwrap_or_else(|| Digest::of(b""));
        self.folder.join(format!("{}.erofs", chain.hex()))
    }

    /// Length of the finished file. Only finished files have the name.
    pub(super) fn size(&self, layers: &[ImageLayer]) -> Option<u64> {
        std::fs::metadata(self.path(layers))
            .ok()
            .map(|metadata| metadata.len())
    }

    /// Finished files.
    pub(super) fn list(&self) -> Result<Vec<PathBuf>, ImageError> {
        let mut found = entries(&self.folder)?;
        found.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "erofs")
        });
        Ok(found)
    }
}

/// Half-made output: removed when dropped, unless it got its final name.
struct HalfMade {
    locked: Locked,
    keep: bool,
}

impl Drop for HalfMade {
    fn drop(&mut self) {
        if !self.keep {
            // The next start collects what can't be removed now.
            let _ = remove_file(self.locked.path());
        }
    }
}

pub(super) async fn ensure(
    store: &Inner,
    image: &Image,
    unpacker: &dyn Unpacker,
    progress: &dyn Progress,
) -> Result<PathBuf, ImageError> {
    let path = store.unpacked.path(&image.layers);
    if path.exists() {
        return Ok(path);
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
    let temporary = path.with_extension("tmp");
    let mut output = HalfMade {
        locked: Locked::open(&temporary, Mode::Exclusive, waiting).await?,
        keep: false,
    };
    if path.exists() {
        return Ok(path);
    }
    prepare(&output.locked)?;
    let job = job(store, image, &temporary)?;
    let news = Arc::new(News::default());
    let outcome = {
        let run = unpacker.unpack(job, news.clone());
        forward(run, &news, image, progress).await
    };
    let outcome = outcome.map_err(|source| ImageError::Unpack {
        image: describe(image),
        source,
    })?;
    finish(&output.locked, outcome.image_length, &path, image)?;
    output.keep = true;
    for layer in &image.layers {
        progress.event(ProgressEvent::Layer {
            digest: layer.digest,
            phase: LayerPhase::PullComplete,
        });
    }
    Ok(path)
}

/// Empties what an earlier run left and makes the file sparse.
fn prepare(output: &Locked) -> Result<(), ImageError> {
    let resize = |length| {
        output
            .file
            .set_len(length)
            .map_err(ImageError::file("resize", output.path()))
    };
    resize(0)?;
    resize(OUTPUT_SIZE)
}

fn job(store: &Inner, image: &Image, output: &Path) -> Result<UnpackJob, ImageError> {
    let layers = image
        .layers
        .iter()
        .map(|layer| {
            let path = store.content.blob_path(&layer.digest);
            let metadata = std::fs::metadata(&path).map_err(ImageError::file("find", &path))?;
            Ok(UnpackLayer {
                path,
                length: metadata.len(),
                compression: layer.compression,
                diff_id: layer.diff_id,
                digest: layer.digest,
            })
        })
        .collect::<Result<_, ImageError>>()?;
    Ok(UnpackJob {
        layers,
        output: output.to_owned(),
        output_size: OUTPUT_SIZE,
        max_files: MAX_FILES,
        image: image.id,
    })
}

/// Cuts the file to the image, makes it durable, and gives it its name.
fn finish(output: &Locked, length: u64, path: &Path, image: &Image) -> Result<(), ImageError> {
    if length == 0 || !length.is_multiple_of(BLOCK) || length > OUTPUT_SIZE {
        let source = format!("the unpacker reports an image of {length} bytes").into();
        return Err(ImageError::Unpack {
            image: describe(image),
            source,
        });
    }
    let temporary = output.path();
    output
        .file
        .set_len(length)
        .map_err(ImageError::file("resize", temporary))?;
    output
        .file
        .sync_all()
        .map_err(ImageError::file("sync", temporary))?;
    std::fs::rename(temporary, path).map_err(ImageError::file("rename to", path))?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
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
    image: &Image,
    progress: &dyn Progress,
) -> T {
    let mut run = std::pin::pin!(run);
    loop {
        tokio::select! {
            outcome = &mut run => return outcome,
            () = news.changed.notified() => {
                let latest = news.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some((index, read)) = latest else { continue };
                if let Some(layer) = image.layers.get(index) {
                    let phase = LayerPhase::Extracting { current: read.min(layer.size), total: layer.size };
                    progress.event(ProgressEvent::Layer { digest: layer.digest, phase });
                }
            }
        }
    }
}
