//! What the store hands out and takes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::host::{manifest, Platform};
use crate::{Compression, DiffId, Digest};

/// One layer of an image, lowest first in [`Image::layers`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// How the blob is compressed, by its media type.
    pub compression: Compression,
    /// SHA-256 of the uncompressed tar; from the image configuration, verified when unpacked.
    pub diff_id: DiffId,
}

/// An image of the store, complete with all its blobs.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the image configuration: docker's image ID.
    pub id: Digest,
    /// Names with tags, in docker's short form (`busybox:latest`), sorted.
    pub repo_tags: Vec<String>,
    /// Names with manifest digests (`busybox@sha256:...`), sorted.
    pub repo_digests: Vec<String>,
    /// The parsed configuration.
    pub config: ImageConfiguration,
    /// The configuration as stored, byte for byte.
    pub config_json: Vec<u8>,
    /// Digest of the manifest that was chosen for the platform.
    pub manifest: Digest,
    /// Layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Sum of the layers' compressed sizes, in bytes.
    pub size: u64,
    /// Length of the unpacked EROFS file in bytes, if there is one.
    pub unpacked_size: Option<u64>,
    /// Bytes that each layer takes: unpacked, or as it came if it is not yet.
    pub layer_sizes: Vec<u64>,
    /// When a name was last put on it, in seconds since the epoch.
    pub last_tagged: u64,
}

impl Image {
    /// What its programs are made for.
    pub fn platform(&self) -> Platform {
        manifest::config_platform(&self.config)
    }
}

/// One image that [`super::Store::load`] took from an archive.
#[derive(Debug, Clone)]
pub struct LoadedImage {
    /// The image.
    pub image: Image,
    /// The names that the archive gave it, in docker's short form; may be empty.
    pub names: Vec<String>,
}

/// How [`super::Store::remove`] goes about.
#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    /// Remove an image by ID even if several names are on it, or stopped containers use it.
    pub force: bool,
    /// Image ID to the ID of a container that uses it; the store does not know containers.
    pub in_use: BTreeMap<Digest, String>,
}

/// What a removal did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken off an image.
    Untagged(String),
    /// An image's record and what only it used were deleted.
    Deleted(Digest),
}

/// What [`super::Store::prune`] did.
#[derive(Debug, Clone, Default)]
pub struct PruneReport {
    /// Names and images that are gone.
    pub removed: Vec<Removed>,
    /// Bytes of blobs and unpacked images freed.
    pub reclaimed: u64,
}

/// What a crash had left behind and [`super::Store::open`] collected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Temporary files removed.
    pub temporary: usize,
    /// Blobs and unpacked images removed that no image uses.
    pub unreferenced: usize,
}

/// One layer as an unpacker reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackLayer {
    /// The blob on this host.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
    /// Its compression.
    pub compression: Compression,
    /// What it must unpack to.
    pub diff_id: DiffId,
    /// Its digest, for messages.
    pub digest: Digest,
    /// The file that takes its content; as `output` of the job.
    pub data: PathBuf,
    /// The file that takes its index; as `output` of the job.
    pub index: PathBuf,
}

/// A layer that is unpacked already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLayer {
    /// What it was unpacked to.
    pub diff_id: DiffId,
    /// Digest of its blob, for messages.
    pub digest: Digest,
    /// Its index on this host.
    pub index: PathBuf,
    /// Length of its content in bytes.
    pub data_length: u64,
}

/// Layers to be unpacked, and merged with others into one EROFS image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackJob {
    /// Layers that are not unpacked yet, each once.
    pub layers: Vec<UnpackLayer>,
    /// Those of the image that are, each once.
    pub known: Vec<KnownLayer>,
    /// The image's layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// The file for the image's metadata: it exists, is empty of data (sparse) and `output_size`
    /// bytes long.
    pub output: PathBuf,
    /// Length of each output in bytes: an upper limit.
    pub output_size: u64,
    /// Directories, files and other entries that all layers together may hold.
    pub max_files: u64,
    /// Bytes that the layers may be long, uncompressed, all together.
    pub max_bytes: u64,
    /// Bytes that may be written, all together.
    pub max_stored: u64,
    /// Image ID, for messages.
    pub image: Digest,
}

/// What an unpacker made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackOutcome {
    /// Length of the image's metadata in bytes, a positive multiple of 4096; the rest of the file
    /// is cut off.
    pub image_length: u64,
    /// Inodes in it.
    pub files: u64,
    /// What each layer of the job came to.
    pub layers: Vec<LayerLengths>,
}

/// What a layer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerLengths {
    /// Length of its content in bytes, a multiple of 4096.
    pub data: u64,
    /// Length of its index in bytes, a positive multiple of 4096.
    pub index: u64,
}

/// The files that an image's block device shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rootfs {
    /// Its first block is the device's first, the rest of it the device's end.
    pub metadata: PathBuf,
    /// What lies between, in order; no file is empty.
    pub layers: Vec<PathBuf>,
}

/// Receives an unpacker's progress: the layer's index and compressed bytes read of it.
pub trait UnpackProgress: Send + Sync {
    /// Takes one step's news.
    fn layer(&self, index: usize, bytes_read: u64);
}

/// Runs [`UnpackJob`]s, one microVM each.
#[async_trait]
pub trait Unpacker: Send + Sync {
    /// Writes the image of `job.layers` into `job.output`.
    ///
    /// Dropping the future must end the work: nothing may write to `job.output` afterwards.
    ///
    /// # Errors
    /// Any; it becomes the source of [`crate::ImageError::Unpack`], and the output is deleted.
    async fn unpack(
        &self,
        job: UnpackJob,
        progress: Arc<dyn UnpackProgress>,
    ) -> Result<UnpackOutcome, Box<dyn std::error::Error + Send + Sync>>;
}
