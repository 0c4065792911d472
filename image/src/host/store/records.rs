//! The table of images and names: one JSON file, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::content::sync_folder;
use super::types::ImageLayer;
use crate::host::lock::{Locked, Mode};
use crate::host::{ImageError, Reference};
use crate::Digest;

/// Format of the file. A reader refuses others.
const VERSION: u64 = 1;

/// One manifest of an image, with what it needs. An image (a configuration) may have several:
/// the same layers compressed in other ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Variant {
    pub(super) manifest: Digest,
    /// The index that it was chosen from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<Digest>,
    /// Lowest first.
    pub(super) layers: Vec<ImageLayer>,
}

/// What is known of one image; its key is the configuration's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    /// At least one; the last is the one in use.
    pub(super) variants: Vec<Variant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NameRecord {
    pub(super) image: Digest,
    /// When the name was put on the image, in seconds since the epoch.
    pub(super) tagged: u64,
}

/// The whole table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) images: BTreeMap<Digest, ImageRecord>,
    /// With a tag or with a digest, never both.
    pub(super) names: BTreeMap<Reference, NameRecord>,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u64,
    images: BTreeMap<Digest, ImageRecord>,
    names: BTreeMap<String, NameRecord>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u64,
}

impl Table {
    /// Blobs that images need.
    pub(super) fn blobs(&self) -> BTreeSet<Digest> {
        let mut blobs: BTreeSet<Digest> = self.images.keys().copied().collect();
        for variant in self.images.values().flat_map(|image| &image.variants) {
            blobs.insert(variant.manifest);
            blobs.extend(variant.index);
            blobs.extend(variant.layers.iter().map(|layer| layer.digest));
        }
        blobs
    }

    /// Names of an image.
    pub(super) fn names_of<'a>(&'a self, image: &'a Digest) -> impl Iterator<Item = &'a Reference> {
        self.names
            .iter()
            .filter(move |(_, name)| name.image == *image)
            .map(|(reference, _)| reference)
    }

    /// Adds a variant and makes it the one in use.
    pub(super) fn add(&mut self, image: Digest, variant: Variant) {
        let record = self.images.entry(image).or_insert_with(|| ImageRecord {
            variants: Vec::new(),
        });
        record
            .variants
            .retain(|known| known.manifest != variant.manifest);
        record.variants.push(variant);
    }
}

/// Where the table lies.
#[derive(Debug, Clone)]
pub(super) struct Records {
    folder: PathBuf,
}

impl Records {
    pub(super) fn open(folder: PathBuf) -> Result<Self, ImageError> {
        fs::create_dir_all(&folder).map_err(ImageError::file("create", &folder))?;
        let records = Self { folder };
        records.read()?;
        Ok(records)
    }

    pub(super) fn read(&self) -> Result<Table, ImageError> {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Table::default()),
            Err(error) => return Err(ImageError::file("read", path)(error)),
        };
        parse(&path, &text)
    }

    /// Changes the table under its lock; on an error nothing is changed.
    pub(super) async fn change<T>(
        &self,
        change: impl FnOnce(&mut Table) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let _lock = Locked::open(&self.folder.join("lock"), Mode::Exclusive, || {}).await?;
        let before = self.read()?;
        let mut table = before.clone();
        let result = change(&mut table)?;
        if table != before {
            self.write(&table)?;
        }
        Ok(result)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("images.json")
    }

    fn write(&self, table: &Table) -> Result<(), ImageError> {
        let (path, temporary) = (self.path(), self.folder.join("images.json.new"));
        let on_disk = OnDisk {
            version: VERSION,
            images: table.images.clone(),
            names: table
                .names
                .iter()
                .map(|(name, record)| (name.to_string(), record.clone()))
                .collect(),
        };
        let text = serde_json::to_vec_pretty(&on_disk)
            .map_err(|error| ImageError::file("write", &temporary)(error.into()))?;
        let mut file = File::create(&temporary).map_err(ImageError::file("create", &temporary))?;
        file.write_all(&text)
            .map_err(ImageError::file("write", &temporary))?;
        file.sync_all()
            .map_err(ImageError::file("sync", &temporary))?;
        fs::rename(&temporary, &path).map_err(ImageError::file("rename to", &path))?;
        sync_folder(&self.folder)
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Table, ImageError> {
    let damaged = |reason: String| ImageError::DamagedRecord {
        path: path.to_owned(),
        reason,
    };
    let VersionOnly { version } =
        serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
    if version != VERSION {
        return Err(ImageError::RecordVersion {
            path: path.to_owned(),
            found: version,
            supported: VERSION,
        });
    }
    let on_disk: OnDisk =
        serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
    let names = on_disk
        .names
        .into_iter()
        .map(|(name, record)| Ok((name.parse()?, record)))
        .collect::<Result<_, crate::host::ReferenceError>>()
        .map_err(|error| damaged(error.to_string()))?;
    if on_disk
        .images
        .values()
        .any(|image| image.variants.is_empty())
    {
        return Err(damaged("an image has no manifest".into()));
    }
    Ok(Table {
        images: on_disk.images,
        names,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn table_survives_being_written_and_read() {
        let folder = tempfile::tempdir().expect("tempdir");
        let records = Records::open(folder.path().join("images")).expect("open");
        let image = Digest::of(b"config");
        let variant = Variant {
            manifest: Digest::of(b"manifest"),
            index: None,
            layers: Vec::new(),
        };
        records
            .change(|table| {
                table.add(image, variant.clone());
                table
                    .names
                    .insert("busybox".parse()?, NameRecord { image, tagged: 7 });
                Ok(())
            })
            .await
            .expect("change");
        let table = records.read().expect("read");
        assert_eq!(table.images[&image].variants, [variant]);
        assert_eq!(
            table
                .names_of(&image)
                .map(Reference::familiar)
                .collect::<Vec<_>>(),
            ["busybox:latest"]
        );
    }

    #[test]
    fn other_versions_and_damage_are_refused_by_name() {
        let path = Path::new("/x/images.json");
        let version = parse(path, br#"{"version":2,"pictures":{}}"#).expect_err("version");
        assert!(version.to_string().contains("format 2"), "{version}");
        let damaged = parse(path, b"{").expect_err("damage");
        assert!(damaged.to_string().contains("images.json"), "{damaged}");
    }
}
