//! The image store: blobs, image records and unpacked images below one directory.

mod types;

use std::path::{Path, PathBuf};

use tokio::io::AsyncRead;

pub use types::{
    Image, ImageLayer, Leftovers, LoadedImage, PruneReport, RemoveOptions, Removed, UnpackJob,
    UnpackLayer, UnpackOutcome, UnpackProgress, Unpacker,
};

use super::{ImageError, Platform, Progress, Reference, RegistryConfig};
use crate::Digest;

/// Images below `ROOT/content`, `ROOT/images` and `ROOT/erofs`. Cheap to clone; every method may be
/// called from any number of tasks and processes at once.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store below `root`, making what is missing.
    ///
    /// # Errors
    /// [`ImageError::File`], [`ImageError::RecordVersion`] or [`ImageError::DamagedRecord`].
    pub fn open(root: &Path, _config: RegistryConfig) -> Result<Self, ImageError> {
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Removes what a crash left behind: temporary files, blobs and unpacked images of no image.
    /// Partial downloads stay, to be resumed.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub async fn collect_leftovers(&self) -> Result<Leftovers, ImageError> {
        Err(self.not_yet())
    }

    /// Fetches what is missing of `reference` for `platform` and puts the name on it. Blobs that
    /// another pull is fetching are waited for. Not unpacked yet: see [`Store::ensure_unpacked`].
    ///
    /// # Errors
    /// Registry, platform and content errors; names and blobs stay as they were.
    pub async fn pull(
        &self,
        _: &Reference,
        _: &Platform,
        _: &dyn Progress,
    ) -> Result<Image, ImageError> {
        Err(self.not_yet())
    }

    /// Takes every image of a `docker save` or OCI layout archive, plain or gzip, read to its end.
    ///
    /// # Errors
    /// [`ImageError::NotAnImage`] names what is wrong with the archive.
    pub async fn load(
        &self,
        _archive: impl AsyncRead + Send + Unpin,
        _progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>, ImageError> {
        Err(self.not_yet())
    }

    /// All images, newest name first.
    ///
    /// # Errors
    /// [`ImageError::DamagedRecord`], [`ImageError::File`].
    pub async fn list(&self) -> Result<Vec<Image>, ImageError> {
        Err(self.not_yet())
    }

    /// The image that `name` means: a reference, an image ID (with or without `sha256:`) or an
    /// unambiguous prefix of one.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::AmbiguousId`].
    pub async fn get(&self, name: &str) -> Result<Image, ImageError> {
        Err(ImageError::NoSuchImage {
            name: name.to_owned(),
        })
    }

    /// Puts `reference` (which must have a tag) on an image, taking it off any other.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`].
    pub async fn tag(&self, _image: &Digest, _reference: &Reference) -> Result<(), ImageError> {
        Err(self.not_yet())
    }

    /// docker's `rmi`: takes `name` off its image, and deletes the image with its last name.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::UsedByContainer`],
    /// [`ImageError::ManyReferences`].
    pub async fn remove(
        &self,
        _name: &str,
        _options: &RemoveOptions,
    ) -> Result<Vec<Removed>, ImageError> {
        Err(self.not_yet())
    }

    /// Deletes images without a tag (with `all`: without a container) that are not in `in_use`, and
    /// every partial download.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub async fn prune(
        &self,
        _all: bool,
        _in_use: &std::collections::BTreeSet<Digest>,
    ) -> Result<PruneReport, ImageError> {
        Err(self.not_yet())
    }

    /// Path of the image's EROFS file, made by `unpacker` if it does not exist. Callers at the same
    /// time share one run. A run that was cut off is started again from nothing.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::Unpack`].
    pub async fn ensure_unpacked(
        &self,
        _image: &Digest,
        _unpacker: &dyn Unpacker,
        _progress: &dyn Progress,
    ) -> Result<PathBuf, ImageError> {
        Err(self.not_yet())
    }

    fn not_yet(&self) -> ImageError {
        let source = std::io::Error::from(std::io::ErrorKind::Unsupported);
        ImageError::File {
            action: "use image store (not there yet)",
            path: self.root.clone(),
            source,
        }
    }
}
