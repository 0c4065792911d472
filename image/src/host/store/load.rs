//! `docker save` and OCI layout archives into the store.
//!
//! Which files of the archive are images, and whether they are whole.

use std::io;
use std::sync::mpsc;

use serde::Deserialize;
use tokio::io::AsyncRead;

use super::archive::{feed, not_an_image, Archive, Channel, QUEUE};
use super::records::{NameRecord, Variant};
use super::types::{ImageLayer, LoadedImage};
use super::{seconds_since_epoch, Inner};
use crate::host::manifest::{self, Document, Index, Manifest, OciDescriptor};
use crate::host::{transfer, ImageError, LayerPhase, Platform, Progress, ProgressEvent, Reference};
use crate::{Compression, Digest};

pub(super) async fn load(
    store: &Inner,
    archive: impl AsyncRead + Send + Unpin,
    platform: Option<&Platform>,
    progress: &dyn Progress,
) -> Result<Vec<LoadedImage>, ImageError> {
    let _lease = store.lease().await?;
    let (sender, receiver) = mpsc::sync_channel(QUEUE);
    let content = store.content.clone();
    let parser = transfer(move || Archive::read(&content, Channel::new(receiver))).await;
    let fed = feed(archive, sender).await;
    let archive = parser.await.map_err(|error| ImageError::ReadArchive {
        source: io::Error::other(error),
    })?;
    // Reading failed first, if it did: the parser only saw the end.
    fed.map_err(|source| ImageError::ReadArchive { source })?;
    let archive = archive?;
    let found = images(store, &archive, platform)?;
    let mut loaded = Vec::new();
    for image in found {
        for layer in &image.variant.layers {
            progress.event(ProgressEvent::Layer {
                digest: layer.digest,
                phase: LayerPhase::DownloadComplete,
            });
        }
        record(store, &image).await?;
        let names = image.names.iter().map(Reference::familiar).collect();
        loaded.push(LoadedImage {
            image: store.image(&image.config)?,
            names,
        });
    }
    Ok(loaded)
}

/// The images of an archive that are for a platform; where none is named, for this machine's, or else
/// whatever there is: to be looked at and passed on.
fn images(
    store: &Inner,
    archive: &Archive,
    platform: Option<&Platform>,
) -> Result<Vec<Found>, ImageError> {
    let own = Platform::default();
    let of = |wanted: Wanted<'_>| match archive.files.get("manifest.json") {
        Some(_) => docker_images(store, archive, wanted),
        None => layout_images(store, archive, wanted),
    };
    match of(Wanted(Some(platform.unwrap_or(&own)))) {
        Err(error @ (ImageError::WrongPlatform { .. } | ImageError::NoMatchingPlatform { .. }))
            if platform.is_none() =>
        {
            of(Wanted(None)).map_err(|_| error)
        }
        found => found,
    }
}

/// A platform that an image has to be for; `None`: any.
#[derive(Clone, Copy)]
struct Wanted<'a>(Option<&'a Platform>);

impl Wanted<'_> {
    /// How well a platform fits; `None`: it does not.
    fn rank(self, found: &Platform) -> Option<u32> {
        self.0.map_or(Some(0), |wanted| wanted.rank(found))
    }

    /// For messages.
    fn name(self) -> String {
        self.0.map_or_else(|| "any".to_owned(), ToString::to_string)
    }

    /// The entry of an index that is meant.
    fn choose<'a>(
        self,
        archive: &Archive,
        list: &'a Index,
        name: &str,
    ) -> Result<&'a OciDescriptor, ImageError> {
        if let Some(platform) = self.0 {
            return manifest::choose(list, platform, name);
        }
        // Not all that an index names is in an archive, and what vouches for an image is none.
        let is_there = |entry: &&OciDescriptor| {
            let digest = entry.digest("manifest", name);
            digest.is_ok_and(|digest| archive.find(&blob_name(&digest)).is_some())
        };
        let mut entries = list.images();
        entries
            .find(is_there)
            .ok_or_else(|| ImageError::NoMatchingPlatform {
                reference: name.to_owned(),
                wanted: self.name(),
                offered: "nothing".to_owned(),
            })
    }
}

/// An image of the archive, all of whose blobs are in the store.
struct Found {
    config: Digest,
    variant: Variant,
    names: Vec<Reference>,
}

/// One element of `manifest.json` (`docker save`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn docker_images(
    store: &Inner,
    archive: &Archive,
    wanted: Wanted<'_>,
) -> Result<Vec<Found>, ImageError> {
    let text = archive.document(&store.content, "manifest.json")?;
    let images: Vec<DockerImage> = serde_json::from_slice(&text)
        .map_err(|error| not_an_image(format!("manifest.json: {error}")))?;
    if images.is_empty() {
        return Err(not_an_image("manifest.json names no image".into()));
    }
    fitting(
        images
            .iter()
            .map(|image| docker_image(store, archive, wanted, image)),
    )
}

/// Of the images of an archive, those that are wanted: others, of other platforms, and what is no
/// image are passed over, unless there is nothing else.
fn fitting(
    found: impl Iterator<Item = Result<Found, ImageError>>,
) -> Result<Vec<Found>, ImageError> {
    let (mut images, mut passed_over) = (Vec::new(), None);
    for image in found {
        match image {
            Ok(image) => images.push(image),
            Err(error) if is_for_others(&error) => {
                passed_over.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match passed_over {
        Some(error) if images.is_empty() => Err(error),
        _ => Ok(images),
    }
}

fn is_for_others(error: &ImageError) -> bool {
    match error {
        ImageError::WrongPlatform { .. } | ImageError::NoMatchingPlatform { .. } => true,
        ImageError::UnsupportedMediaType { hint, .. } => *hint == manifest::ARTIFACT,
        _ => false,
    }
}

fn docker_image(
    store: &Inner,
    archive: &Archive,
    wanted: Wanted<'_>,
    image: &DockerImage,
) -> Result<Found, ImageError> {
    let name = image
        .repo_tags
        .iter()
        .flatten()
        .next()
        .unwrap_or(&image.config);
    let content = archive.document(&store.content, &image.config)?;
    let config = Digest::of(&content);
    let paths = image.layers.as_deref().unwrap_or_default();
    let (_, diff_ids) = parse_config(&content, wanted, paths.len(), &config, name)?;
    let mut layers = Vec::new();
    for (path, diff_id) in paths.iter().zip(diff_ids) {
        let blob = archive
            .find(path)
            .ok_or_else(|| not_an_image(format!("layer {path} of {name} is missing")))?;
        layers.push(ImageLayer {
            digest: blob.digest,
            size: blob.size,
            compression: blob.compression,
            diff_id,
        });
    }
    check_plain_layers(&layers)?;
    let blobs: Vec<_> = layers
        .iter()
        .map(|layer| (layer.digest, layer.size, layer.compression))
        .collect();
    let manifest = Manifest::new((config, content.len() as u64), &blobs)
        .to_bytes()
        .map_err(|error| not_an_image(error.to_string()))?;
    let manifest = store.content.put(&manifest)?;
    let names = image
        .repo_tags
        .iter()
        .flatten()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()?;
    Ok(Found {
        config,
        variant: Variant {
            manifest,
            index: None,
            layers,
        },
        names,
    })
}

/// The digest of an uncompressed layer is its diff ID: known already, so compared already.
fn check_plain_layers(layers: &[ImageLayer]) -> Result<(), ImageError> {
    for layer in layers
        .iter()
        .filter(|layer| layer.compression == Compression::None)
    {
        let want = Digest::from_bytes(*layer.diff_id.as_bytes());
        if layer.digest != want {
            return Err(ImageError::DigestMismatch {
                what: "layer".into(),
                want,
                found: layer.digest,
            });
        }
    }
    Ok(())
}

fn parse_config(
    content: &[u8],
    wanted: Wanted<'_>,
    layers: usize,
    digest: &Digest,
    name: &str,
) -> Result<(oci_spec::image::ImageConfiguration, Vec<crate::DiffId>), ImageError> {
    let (config, diff_ids) = manifest::parse_config(content, layers, digest, name)?;
    let found = manifest::config_platform(&config);
    if wanted.rank(&found).is_none() {
        let (found, wanted) = (found.to_string(), wanted.name());
        return Err(ImageError::WrongPlatform {
            reference: name.to_owned(),
            found,
            wanted,
        });
    }
    Ok((config, diff_ids))
}

/// `index.json` of an OCI image layout.
fn layout_images(
    store: &Inner,
    archive: &Archive,
    wanted: Wanted<'_>,
) -> Result<Vec<Found>, ImageError> {
    if archive.find("index.json").is_none() {
        return Err(not_an_image(
            "it has neither manifest.json (docker save) nor index.json (OCI layout)".into(),
        ));
    }
    let text = archive.document(&store.content, "index.json")?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| not_an_image(format!("index.json: {error}")))?;
    let mut entries: Vec<_> = index.images().collect();
    // The last of one name has it: what fits best.
    entries.sort_by_key(|entry| match entry.platform() {
        None => Some(0),
        Some(found) => wanted.rank(&found),
    });
    let images = fitting(
        entries
            .into_iter()
            .map(|entry| layout_image(store, archive, wanted, entry)),
    )?;
    if images.is_empty() {
        return Err(not_an_image("index.json names no image".into()));
    }
    Ok(images)
}

fn layout_image(
    store: &Inner,
    archive: &Archive,
    wanted: Wanted<'_>,
    entry: &OciDescriptor,
) -> Result<Found, ImageError> {
    let names = layout_name(entry).into_iter().collect();
    let name = entry.digest.clone();
    // What is for others need not be in the archive.
    if let Some(found) = entry
        .platform()
        .filter(|found| wanted.rank(found).is_none())
    {
        return Err(ImageError::NoMatchingPlatform {
            reference: name,
            wanted: wanted.name(),
            offered: found.to_string(),
        });
    }
    let mut digest = entry.digest("manifest", &name)?;
    let missing = archive.find(&blob_name(&digest)).is_none();
    if wanted.0.is_none() && missing {
        return Err(ImageError::NoMatchingPlatform {
            reference: name,
            wanted: wanted.name(),
            offered: "nothing".to_owned(),
        });
    }
    let (mut media_type, mut index) = (entry.media_type.clone(), None);
    for _ in 0..4 {
        let content = archive.document(&store.content, &blob_name(&digest))?;
        match manifest::parse(&content, Some(&media_type), &digest, &name)? {
            Document::Index(list) => {
                index.get_or_insert(digest);
                let chosen = wanted.choose(archive, &list, &name)?;
                digest = chosen.digest("manifest", &name)?;
                media_type.clone_from(&chosen.media_type);
            }
            Document::Manifest(manifest) => {
                let (config, layers) = layout_manifest(store, archive, wanted, &manifest, &name)?;
                return Ok(Found {
                    config,
                    variant: Variant {
                        manifest: digest,
                        index,
                        layers,
                    },
                    names,
                });
            }
        }
    }
    Err(not_an_image("indexes are nested too deep".into()))
}

fn layout_manifest(
    store: &Inner,
    archive: &Archive,
    wanted: Wanted<'_>,
    manifest: &Manifest,
    name: &str,
) -> Result<(Digest, Vec<ImageLayer>), ImageError> {
    let config = manifest.config.digest("configuration", name)?;
    let content = archive.document(&store.content, &blob_name(&config))?;
    let (_, diff_ids) = parse_config(&content, wanted, manifest.layers.len(), &config, name)?;
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let compression = manifest::layer_compression(&descriptor.media_type, name)?;
        let digest = descriptor.digest("layer", name)?;
        let size = archive
            .find(&blob_name(&digest))
            .map(|blob| blob.size)
            .or_else(|| store.content.size(&digest))
            .ok_or_else(|| not_an_image(format!("layer {digest} is missing")))?;
        layers.push(ImageLayer {
            digest,
            size,
            compression,
            diff_id,
        });
    }
    Ok((config, layers))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The name that containerd or podman put on an entry. A bare tag names no repository.
fn layout_name(entry: &OciDescriptor) -> Option<Reference> {
    let full = entry.annotation("io.containerd.image.name");
    let reference = full.or_else(|| {
        entry
            .annotation("org.opencontainers.image.ref.name")
            .filter(|name| name.contains([':', '/']))
    });
    reference?.parse().ok()
}

async fn record(store: &Inner, found: &Found) -> Result<(), ImageError> {
    store
        .records
        .change(|table| {
            table.add(found.config, found.variant.clone());
            for name in &found.names {
                let record = NameRecord {
                    image: found.config,
                    tagged: seconds_since_epoch(),
                };
                table.names.insert(name.clone(), record);
            }
            Ok(())
        })
        .await
}
