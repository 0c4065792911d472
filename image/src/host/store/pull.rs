//! From a reference at a registry to a complete image in the store.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::records::{NameRecord, Variant};
use super::types::{Image, ImageLayer};
use super::{seconds_since_epoch, Inner};
use crate::host::lock::{Locked, Mode};
use crate::host::manifest::{self, Document, Index, Manifest, MAX_DOCUMENT};
use crate::host::registry::{BlobSink, FetchError};
use crate::host::{ImageError, LayerPhase, Platform, Progress, ProgressEvent, Reference};
use crate::Digest;

/// Indexes that name indexes, at most this deep.
const MAX_INDEX_DEPTH: usize = 4;
const PROGRESS_STEP: u64 = 256 << 10;

/// The manifest that was chosen, and how it was reached.
struct Resolved {
    /// What the reference itself names.
    top: Digest,
    /// The index at the top, if there is one.
    index: Option<Digest>,
    digest: Digest,
    manifest: Manifest,
}

pub(super) async fn pull(
    store: &Inner,
    reference: &Reference,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<Image, ImageError> {
    let _lease = store.lease().await?;
    progress.event(ProgressEvent::PullingFrom {
        repository: reference.repository().to_owned(),
        tag: reference.identifier(),
    });
    let name = reference.familiar();
    let resolved = resolve(store, reference, platform).await?;
    let config_digest = resolved.manifest.config.digest("configuration", &name)?;
    let config = document_blob(
        store,
        reference,
        &config_digest,
        resolved.manifest.config.size,
    )
    .await?;
    let layer_count = resolved.manifest.layers.len();
    let (parsed, diff_ids) = manifest::parse_config(&config, layer_count, &config_digest, &name)?;
    let found = manifest::config_platform(&parsed);
    if platform.rank(&found).is_none() {
        return Err(ImageError::WrongPlatform {
            reference: name,
            found: found.to_string(),
            wanted: platform.to_string(),
        });
    }
    let mut layers = Vec::with_capacity(layer_count);
    for (descriptor, diff_id) in resolved.manifest.layers.iter().zip(diff_ids) {
        layers.push(ImageLayer {
            digest: descriptor.digest("layer", &name)?,
            size: descriptor.size,
            compression: manifest::layer_compression(&descriptor.media_type, &name)?,
            diff_id,
        });
    }
    fetch_layers(store, reference, &layers, progress).await?;
    progress.event(ProgressEvent::Digest(resolved.top));
    let variant = Variant {
        manifest: resolved.digest,
        index: resolved.index,
        layers,
    };
    let newer = record(store, reference, config_digest, variant, resolved.top).await?;
    progress.event(ProgressEvent::Complete { newer });
    store.image(&config_digest)
}

/// Follows indexes down to a manifest, keeping every document as a blob.
async fn resolve(
    store: &Inner,
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved, ImageError> {
    let name = reference.familiar();
    let mut identifier = reference.identifier();
    let (mut top, mut index) = (None, None);
    for _ in 0..MAX_INDEX_DEPTH {
        let fetched = store.client.manifest(reference, &identifier).await?;
        let digest = store.content.put(&fetched.content)?;
        let document = manifest::parse(
            &fetched.content,
            fetched.media_type.as_deref(),
            &digest,
            &name,
        )?;
        let top = *top.get_or_insert(digest);
        match document {
            Document::Manifest(manifest) => {
                return Ok(Resolved {
                    top,
                    index,
                    digest,
                    manifest,
                })
            }
            Document::Index(list) => {
                index.get_or_insert(digest);
                identifier = choose(&list, platform, &name)?.to_string();
            }
        }
    }
    Err(ImageError::BadDocument {
        what: "index",
        digest: identifier,
        reference: name,
        reason: format!("indexes are nested more than {MAX_INDEX_DEPTH} deep"),
    })
}

fn choose(index: &Index, platform: &Platform, name: &str) -> Result<Digest, ImageError> {
    manifest::choose(index, platform, name)?.digest("manifest", name)
}

/// A configuration: fetched like a layer, but small.
async fn document_blob(
    store: &Inner,
    reference: &Reference,
    digest: &Digest,
    size: u64,
) -> Result<Vec<u8>, ImageError> {
    if size > MAX_DOCUMENT {
        return Err(ImageError::BadDocument {
            what: "configuration",
            digest: digest.to_string(),
            reference: reference.familiar(),
            reason: format!("it has {size} bytes (the limit is {MAX_DOCUMENT})"),
        });
    }
    fetch_blob(store, reference, digest, size, &|_| {}).await?;
    store.content.read(digest, MAX_DOCUMENT)
}

async fn fetch_layers(
    store: &Inner,
    reference: &Reference,
    layers: &[ImageLayer],
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let tell =
        |digest: Digest, phase: LayerPhase| progress.event(ProgressEvent::Layer { digest, phase });
    for layer in layers {
        tell(layer.digest, LayerPhase::PullingFsLayer);
    }
    let parallel = store.client.config().parallel_layers.max(1);
    // Owned: a closure over references would keep the future from being `Send`.
    stream::iter(layers.to_vec())
        .map(|layer| async move {
            let there = fetch_blob(store, reference, &layer.digest, layer.size, &|phase| {
                tell(layer.digest, phase)
            })
            .await?;
            tell(
                layer.digest,
                if there {
                    LayerPhase::AlreadyExists
                } else {
                    LayerPhase::DownloadComplete
                },
            );
            Ok::<(), ImageError>(())
        })
        .buffer_unordered(parallel)
        .try_collect()
        .await
}

/// Brings one blob into the store; true if it was there before.
async fn fetch_blob(
    store: &Inner,
    reference: &Reference,
    digest: &Digest,
    size: u64,
    tell: &(dyn Fn(LayerPhase) + Sync),
) -> Result<bool, ImageError> {
    let content = &store.content;
    let is_there = || match content.size(digest) {
        Some(found) if found == size => Ok(true),
        // Somebody else cut it off: it is fetched again.
        Some(_) if !content.is_whole(digest)? => content.remove(digest).map(|()| false),
        // A descriptor that lies about the size of a blob that is here.
        Some(found) => Err(ImageError::BadDocument {
            what: "descriptor",
            digest: digest.to_string(),
            reference: reference.familiar(),
            reason: format!("it says {size} bytes for a blob of {found}"),
        }),
        None => Ok(false),
    };
    if is_there()? {
        return Ok(true);
    }
    let mut resumed = true;
    while resumed {
        let locked = Locked::open(&content.partial_path(digest), Mode::Exclusive, || {
            tell(LayerPhase::Waiting)
        })
        .await?;
        if is_there()? {
            // Another pull has just completed it; the lock made a new, empty file.
            super::content::remove_file(locked.path())?;
            return Ok(false);
        }
        let path = locked.path().to_owned();
        let mut partial = content.resume(locked, digest, size)?;
        resumed = partial.position() > 0;
        let mut sink = Reporting {
            inner: &mut partial,
            total: size,
            reported: 0,
            tell,
        };
        sink.report(true);
        match store.client.blob(reference, digest, size, &mut sink).await {
            Ok(()) => {}
            Err(FetchError::Registry(error)) => return Err(error.into()),
            Err(FetchError::Sink(source)) => return Err(ImageError::file("write", path)(source)),
        }
        tell(LayerPhase::VerifyingChecksum);
        match content.finish(partial, digest) {
            // What an earlier try left may have been wrong: once more, from nothing.
            Err(ImageError::DigestMismatch { .. }) if resumed => {}
            Err(ImageError::DigestMismatch { want, found, .. }) => {
                let what = format!(
                    "blob of {} from registry {}",
                    reference.familiar(),
                    reference.registry()
                );
                return Err(ImageError::DigestMismatch { what, want, found });
            }
            other => return other.map(|()| false),
        }
    }
    Ok(false)
}

struct Reporting<'a> {
    inner: &'a mut dyn BlobSink,
    total: u64,
    reported: u64,
    tell: &'a (dyn Fn(LayerPhase) + Sync),
}

impl Reporting<'_> {
    fn report(&mut self, now: bool) {
        let current = self.inner.position();
        if now || current == self.total || current >= self.reported.saturating_add(PROGRESS_STEP) {
            self.reported = current;
            (self.tell)(LayerPhase::Downloading {
                current,
                total: self.total,
            });
        }
    }
}

impl BlobSink for Reporting<'_> {
    fn position(&self) -> u64 {
        self.inner.position()
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.inner.write(data)?;
        self.report(false);
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.inner.restart()?;
        self.report(true);
        Ok(())
    }
}

/// Puts image and names into the table; true if the reference named something else before.
async fn record(
    store: &Inner,
    reference: &Reference,
    image: Digest,
    variant: Variant,
    top: Digest,
) -> Result<bool, ImageError> {
    let by_digest = reference.with_digest(top);
    let by_tag = reference
        .tag()
        .filter(|_| reference.digest().is_none())
        .map(|tag| reference.with_tag(tag))
        .transpose()?;
    store
        .records
        .change(move |table| {
            table.add(image, variant);
            let mut newer = false;
            for name in std::iter::once(by_digest).chain(by_tag) {
                let record = NameRecord {
                    image,
                    tagged: seconds_since_epoch(),
                };
                match table.names.get(&name) {
                    Some(old) if old.image == image => {}
                    _ => {
                        table.names.insert(name, record);
                        newer = true;
                    }
                }
            }
            Ok(newer)
        })
        .await
}
