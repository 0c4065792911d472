//! The image store: blobs, image records and unpacked images below one directory.
//!
//! ```text
//! ROOT/content/blobs/sha256/xx/HEX   blobs, complete and verified
//! ROOT/content/partial/HEX           downloads under way or cut off; locked while written
//! ROOT/content/tmp/                  blobs of unknown digest; locked while written
//! ROOT/content/lease                 locked (shared) by whatever adds content
//! ROOT/images/images.json            the table of images and names
//! ROOT/erofs/2/CHAIN.erofs           metadata of unpacked images, by chain ID
//! ROOT/erofs/2/layers/HEX.data       content of unpacked layers, by diff ID
//! ROOT/erofs/2/layers/HEX.index      their entries; both NAME.tmp while being made
//! ```
//!
//! A name of the final form is only ever given to a complete, synced file. All locks are advisory
//! file locks, which end with their holder, so a crash leaves nothing locked.

mod archive;
#[cfg(feature = "fuzz")]
pub(super) use archive::fuzz as fuzz_archive;
mod content;
mod distribution;
mod import;
mod load;
mod pull;
mod push;
mod records;
mod remove;
mod repair;
mod save;
mod types;
mod unpacked;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::AsyncRead;

pub use distribution::Distribution;
pub use import::Import;
pub use push::Pushed;
pub use repair::Damage;
pub use save::Saved;
pub use types::{
    Image, ImageLayer, KnownLayer, LayerLengths, Leftovers, LoadedImage, PruneReport,
    RemoveOptions, Removed, Rootfs, UnpackJob, UnpackLayer, UnpackOutcome, UnpackProgress,
    Unpacker,
};

use super::lock::{Locked, Mode};
use super::manifest::{self, MAX_DOCUMENT};
use super::registry::RegistryClient;
use super::{Found, ImageError, Platform, Progress, Reference, RegistryConfig};
use crate::credentials::Credentials;
use crate::Digest;
use content::ContentStore;
use records::{NameRecord, Records, Table};
use unpacked::UnpackedFiles;

/// Images below one directory. Cheap to clone; every method may be called from any number of tasks
/// and processes at once.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    content: ContentStore,
    records: Records,
    unpacked: UnpackedFiles,
    client: RegistryClient,
}

impl Store {
    /// Opens the store below `root`, making what is missing.
    ///
    /// # Errors
    /// [`ImageError::File`], [`ImageError::RecordVersion`] or [`ImageError::DamagedRecord`].
    pub fn open(root: &Path, config: RegistryConfig) -> Result<Self, ImageError> {
        let inner = Inner {
            root: root.to_owned(),
            content: ContentStore::open(root.join("content"))?,
            records: Records::open(root.join("images"))?,
            unpacked: UnpackedFiles::open(&root.join("erofs"))?,
            client: RegistryClient::new(config)?,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Removes what a crash left behind: temporary files, blobs and unpacked images of no image.
    /// Partial downloads stay, to be resumed. Call it once at start.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub async fn collect_leftovers(&self) -> Result<Leftovers, ImageError> {
        remove::collect_leftovers(&self.inner)
    }

    /// Fetches what is missing of `reference` for `platform` and puts the name on it. Blobs that
    /// another pull is fetching are waited for. Not unpacked yet: see [`Store::ensure_unpacked`].
    /// A pull that is dropped is resumed by the next.
    ///
    /// # Errors
    /// Registry, platform and content errors; names and blobs stay as they were.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        pull::pull(&self.inner, reference, platform, progress).await
    }

    /// Takes every image of a `docker save` or OCI layout archive, plain or gzip, read to its end, that is
    /// for `platform`; without one, for this machine's, or else whatever there is.
    ///
    /// # Errors
    /// [`ImageError::NotAnImage`] names what is wrong with the archive.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin,
        platform: Option<&Platform>,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>, ImageError> {
        let result = load::load(&self.inner, archive, platform, progress).await;
        // Files of the archive that no image needs.
        remove::collect_unreferenced(&self.inner)?;
        result
    }

    /// Makes an image of a tar of a root file system, plain or compressed by gzip or zstd.
    ///
    /// # Errors
    /// [`ImageError::NotAnImage`] names what is wrong with the archive.
    pub async fn import(
        &self,
        archive: impl AsyncRead + Send + Unpin,
        import: Import,
    ) -> Result<Image, ImageError> {
        import::import(&self.inner, archive, import).await
    }

    /// What a web server has at `url`, to be imported.
    ///
    /// # Errors
    /// Registry errors.
    pub async fn download(
        &self,
        url: &str,
    ) -> Result<impl AsyncRead + Send + Unpin + use<>, ImageError> {
        Ok(self.inner.client.download(url).await?)
    }

    /// Blobs that are not what they should be. All are read.
    ///
    /// # Errors
    /// [`ImageError::File`], [`ImageError::DamagedRecord`].
    pub async fn check(&self) -> Result<Vec<Damage>, ImageError> {
        let inner = Arc::clone(&self.inner);
        let checked = tokio::task::spawn_blocking(move || repair::check(&inner)).await;
        checked.map_err(|error| {
            ImageError::file("check", self.inner.root.join("content"))(std::io::Error::other(error))
        })?
    }

    /// Removes a blob that [`Store::check`] found, so that a pull fetches it again.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub async fn discard(&self, damage: &Damage) -> Result<(), ImageError> {
        self.inner.content.remove(&damage.digest)
    }

    /// The same store, with other credentials for one registry.
    pub fn acting_as(&self, registry: &str, credentials: Credentials) -> Self {
        let inner = &self.inner;
        Self {
            inner: Arc::new(Inner {
                root: inner.root.clone(),
                content: inner.content.clone(),
                records: inner.records.clone(),
                unpacked: inner.unpacked.clone(),
                client: inner.client.acting_as(registry, credentials),
            }),
        }
    }

    /// What the registry has under a name, without its layers.
    ///
    /// # Errors
    /// Registry and content errors.
    pub async fn look(&self, reference: &Reference) -> Result<Distribution, ImageError> {
        distribution::look(&self.inner, reference).await
    }

    /// Repositories of a registry that a term finds, at most `limit`.
    ///
    /// # Errors
    /// Registry errors; [`RegistryError::NoSearch`] if it offers none.
    pub async fn search(
        &self,
        registry: &str,
        term: &str,
        limit: u32,
    ) -> Result<Vec<Found>, ImageError> {
        Ok(self.inner.client.search(registry, term, limit).await?)
    }

    /// All tags of a reference's repository that its registry has.
    ///
    /// # Errors
    /// Registry errors.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, ImageError> {
        Ok(self.inner.client.tags(reference).await?)
    }

    /// Whether a blob is there, of its length.
    pub fn has(&self, digest: &Digest) -> bool {
        self.inner.content.size(digest).is_some()
    }

    /// Whether a registry takes the credentials that this store has for it.
    ///
    /// # Errors
    /// Registry errors.
    pub async fn log_in(&self, registry: &str) -> Result<(), ImageError> {
        Ok(self.inner.client.log_in(registry).await?)
    }

    /// Sends what a registry lacks of the image that `reference` names, and puts the name there.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], registry errors.
    pub async fn push(
        &self,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Pushed, ImageError> {
        push::push(&self.inner, reference, progress).await
    }

    /// Whether all blobs of the images are what they should be. It blocks for as long as reading
    /// them takes.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::DamagedBlob`].
    pub fn verify(&self, images: &[Saved]) -> Result<(), ImageError> {
        save::verify(&self.inner, images)
    }

    /// Writes images as an archive that docker, podman and this store load. It blocks for as long
    /// as `out` does.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::WriteArchive`].
    pub fn save(&self, images: &[Saved], out: impl std::io::Write) -> Result<(), ImageError> {
        save::save(&self.inner, images, out)
    }

    /// All images, the one named last first, but for those whose configuration is damaged.
    ///
    /// # Errors
    /// [`ImageError::DamagedRecord`], [`ImageError::File`].
    pub async fn list(&self) -> Result<Vec<Image>, ImageError> {
        let table = self.inner.records.read()?;
        let mut images: Vec<Image> = table
            .images
            .keys()
            .map(|id| self.inner.image_of(&table, id))
            .filter(|found| match found {
                Err(error @ ImageError::DamagedBlob { .. }) => {
                    tracing::warn!(%error, "an image is not listed");
                    false
                }
                _ => true,
            })
            .collect::<Result<_, _>>()?;
        images.sort_by(|a, b| b.last_tagged.cmp(&a.last_tagged).then(a.id.cmp(&b.id)));
        Ok(images)
    }

    /// The image that `name` means: a reference, an image ID (with or without `sha256:`) or an
    /// unambiguous prefix of one.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::AmbiguousId`].
    pub async fn get(&self, name: &str) -> Result<Image, ImageError> {
        let table = self.inner.records.read()?;
        let (id, _) = find(&table, name)?;
        self.inner.image_of(&table, &id)
    }

    /// The id of the image that `name` means, and how many tags it has: none of its blobs is read.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::AmbiguousId`].
    pub async fn resolve(&self, name: &str) -> Result<(Digest, usize), ImageError> {
        let table = self.inner.records.read()?;
        let (id, _) = find(&table, name)?;
        let tags = table.names_of(&id).filter(|name| name.tag().is_some());
        Ok((id, tags.count()))
    }

    /// Puts `reference` (with its tag; a digest is ignored) on an image, taking it off any other.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`].
    pub async fn tag(&self, image: &Digest, reference: &Reference) -> Result<(), ImageError> {
        let name = reference.with_tag(reference.tag().unwrap_or("latest"))?;
        let record = NameRecord {
            image: *image,
            tagged: seconds_since_epoch(),
        };
        self.inner
            .records
            .change(|table| {
                if !table.images.contains_key(image) {
                    return Err(ImageError::NoSuchImage {
                        name: image.to_string(),
                    });
                }
                table.names.insert(name, record);
                Ok(())
            })
            .await
    }

    /// docker's `rmi`: takes `name` off its image, and deletes the image with its last name.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::UsedByContainer`],
    /// [`ImageError::ManyReferences`].
    pub async fn remove(
        &self,
        name: &str,
        options: &RemoveOptions,
    ) -> Result<Vec<Removed>, ImageError> {
        remove::remove(&self.inner, name, options).await
    }

    /// Deletes images without a tag (with `all`: without a container) that are not in `in_use`, and
    /// every partial download.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub async fn prune(
        &self,
        all: bool,
        in_use: &BTreeSet<Digest>,
    ) -> Result<PruneReport, ImageError> {
        remove::prune(&self.inner, all, in_use).await
    }

    /// The files of the image's root file system, made by `unpacker` where they do not exist: a layer
    /// that another image has too is not unpacked again. Callers at the same time share one run. A run that was cut off is started again from nothing.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::Unpack`].
    pub async fn ensure_unpacked(
        &self,
        image: &Digest,
        unpacker: &dyn Unpacker,
        progress: &dyn Progress,
    ) -> Result<Rootfs, ImageError> {
        let image = self.inner.image(image)?;
        unpacked::ensure(&self.inner, &image, unpacker, progress).await
    }
}

impl Inner {
    fn lease_path(&self) -> PathBuf {
        self.root.join("content/lease")
    }

    /// Held while content is added that no record names yet.
    async fn lease(&self) -> Result<Locked, ImageError> {
        Locked::open(&self.lease_path(), Mode::Shared, || {}).await
    }

    fn image(&self, id: &Digest) -> Result<Image, ImageError> {
        self.image_of(&self.records.read()?, id)
    }

    fn image_of(&self, table: &Table, id: &Digest) -> Result<Image, ImageError> {
        let no_such_image = || ImageError::NoSuchImage {
            name: id.to_string(),
        };
        let variant = table
            .images
            .get(id)
            .and_then(|image| image.variants.last())
            .ok_or_else(no_such_image)?;
        let config_json = self.content.read(id, MAX_DOCUMENT)?;
        let (config, _) =
            manifest::parse_config(&config_json, variant.layers.len(), id, &id.to_string())?;
        let names = || table.names_of(id);
        let with_tag = names().filter(|name| name.tag().is_some());
        let with_digest = names().filter(|name| name.digest().is_some());
        let tagged = table
            .names
            .values()
            .filter(|name| name.image == *id)
            .map(|name| name.tagged);
        Ok(Image {
            id: *id,
            repo_tags: with_tag.map(Reference::familiar).collect(),
            repo_digests: with_digest.map(Reference::familiar).collect(),
            config,
            config_json,
            manifest: variant.manifest,
            size: variant.layers.iter().map(|layer| layer.size).sum(),
            unpacked_size: self.unpacked.size(&variant.layers),
            layer_sizes: self.unpacked.layer_sizes(&variant.layers),
            layers: variant.layers.clone(),
            last_tagged: tagged.max().unwrap_or(0),
        })
    }
}

/// The image that `name` means, and the name itself if it is one of the table's.
fn find(table: &Table, name: &str) -> Result<(Digest, Option<Reference>), ImageError> {
    let parsed = name.parse::<Reference>();
    if let Ok(reference) = &parsed {
        // With a tag and a digest, the digest rules.
        let key = reference.digest().map_or_else(
            || reference.clone(),
            |digest| reference.with_digest(*digest),
        );
        if let Some(record) = table.names.get(&key) {
            return Ok((record.image, Some(key)));
        }
    }
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = hex
        .bytes()
        .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if !hex.is_empty() && hex.len() <= 64 && is_hex {
        let mut matching = table.images.keys().filter(|id| id.hex().starts_with(hex));
        if let Some(id) = matching.next() {
            return match matching.count() {
                0 => Ok((*id, None)),
                more => Err(ImageError::AmbiguousId {
                    prefix: name.to_owned(),
                    count: more + 1,
                }),
            };
        }
    }
    let looks_like_id = is_hex && hex.len() == 64;
    let name = match parsed {
        Ok(reference) => reference.familiar(),
        Err(_) if looks_like_id => name.to_owned(),
        Err(error) => return Err(error.into()),
    };
    Err(ImageError::NoSuchImage { name })
}

fn seconds_since_epoch() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
