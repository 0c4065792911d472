//! Images of the store as an archive: an OCI layout that has docker's `manifest.json` too, as
//! dockerd writes it since version 25.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde_json::{json, Value};

use super::Inner;
use crate::host::manifest::{MAX_DOCUMENT, OCI_MANIFEST};
use crate::host::{ImageError, Reference};
use crate::Digest;

/// An image, and the names under which it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its id.
    pub image: Digest,
    /// May be empty.
    pub names: Vec<Reference>,
    /// When it was made, in seconds since the epoch.
    pub made: u64,
}

/// Reads every blob of the images: an archive that is under way can tell of nothing any more.
pub(super) fn verify(store: &Inner, images: &[Saved]) -> Result<(), ImageError> {
    let mut blobs = BTreeSet::new();
    for saved in images {
        let image = store.image(&saved.image)?;
        blobs.extend(image.layers.iter().map(|layer| layer.digest));
        blobs.insert(image.manifest);
    }
    blobs
        .iter()
        .try_for_each(|digest| store.content.verify(digest))
}

/// Writes the archive. It blocks for as long as `out` does.
pub(super) fn save(store: &Inner, images: &[Saved], out: impl Write) -> Result<(), ImageError> {
    let failed = |source| ImageError::WriteArchive { source };
    let mut archive = Archive {
        tar: tar::Builder::new(out),
        blobs: BTreeSet::new(),
    };
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    archive.document("oci-layout", &layout).map_err(failed)?;
    let (mut docker, mut entries) = (Vec::new(), Vec::new());
    for saved in images {
        let image = store.image(&saved.image)?;
        let manifest = store.content.read(&image.manifest, MAX_DOCUMENT)?;
        let layers = image.layers.iter().map(|layer| layer.digest);
        for digest in layers.chain([image.id]) {
            archive.blob(store, &digest, saved.made)?;
        }
        archive.blob(store, &image.manifest, 0)?;
        let layers: Vec<String> = image.layers.iter().map(|l| blob_name(&l.digest)).collect();
        let names: Vec<String> = saved.names.iter().map(Reference::familiar).collect();
        docker.push(json!({
            "Config": blob_name(&image.id),
            // As docker: without a name, null.
            "RepoTags": (!names.is_empty()).then_some(names),
            "Layers": layers,
        }));
        entries.extend(index_entries(&image.manifest, &manifest, &saved.names));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": crate::host::manifest::OCI_INDEX,
        "manifests": entries,
    });
    archive
        .document("manifest.json", &json!(docker))
        .map_err(failed)?;
    archive.document("index.json", &index).map_err(failed)?;
    let mut out = archive.tar.into_inner().map_err(failed)?;
    out.flush().map_err(failed)
}

/// One for each name.
fn index_entries(digest: &Digest, manifest: &[u8], names: &[Reference]) -> Vec<Value> {
    let document: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let entry = json!({
        "mediaType": document["mediaType"].as_str().unwrap_or(OCI_MANIFEST),
        "digest": digest.to_string(),
        "size": manifest.len(),
    });
    if names.is_empty() {
        return vec![entry];
    }
    names
        .iter()
        .map(|name| {
            let mut entry = entry.clone();
            entry["annotations"] = json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": name.tag().unwrap_or("latest"),
            });
            entry
        })
        .collect()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
    /// Those that are in it.
    blobs: BTreeSet<Digest>,
}

impl<W: Write> Archive<W> {
    fn add(&mut self, name: &str, made: u64, length: u64, content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(length);
        header.set_mtime(made);
        self.tar.append_data(&mut header, name, content)
    }

    fn document(&mut self, name: &str, document: &Value) -> io::Result<()> {
        let text = document.to_string();
        self.add(name, 0, text.len() as u64, text.as_bytes())
    }

    fn blob(&mut self, store: &Inner, digest: &Digest, made: u64) -> Result<(), ImageError> {
        if !self.blobs.insert(*digest) {
            return Ok(());
        }
        let path = store.content.blob_path(digest);
        let added = std::fs::File::open(&path).and_then(|file| {
            let length = file.metadata()?.len();
            self.add(&blob_name(digest), made, length, file)
        });
        added.map_err(|source| ImageError::WriteArchive { source })
    }
}
