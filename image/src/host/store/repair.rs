//! Blobs that were changed, cut off or deleted behind the store's back.

use std::collections::BTreeMap;

use super::Inner;
use crate::host::{ImageError, Reference};
use crate::Digest;

/// A blob that is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The blob.
    pub digest: Digest,
    /// It is not there; otherwise its content is another one.
    pub missing: bool,
    /// Images that need it, each with the names by which a registry has exactly it.
    pub images: BTreeMap<Digest, Vec<Reference>>,
}

/// Reads every blob that an image needs. It blocks for as long as that takes.
pub(super) fn check(store: &Inner) -> Result<Vec<Damage>, ImageError> {
    let table = store.records.read()?;
    let mut found = Vec::new();
    for digest in table.blobs() {
        let missing = store.content.size(&digest).is_none();
        if !missing && store.content.is_whole(&digest)? {
            continue;
        }
        let needs = |image: &&Digest| {
            let variants = table.images.get(*image).map(|record| &record.variants);
            **image == digest
                || variants.into_iter().flatten().any(|variant| {
                    variant.manifest == digest
                        || variant.index == Some(digest)
                        || variant.layers.iter().any(|layer| layer.digest == digest)
                })
        };
        let images = table.images.keys().filter(needs).map(|image| {
            let names = table.names_of(image).filter(|name| name.digest().is_some());
            (*image, names.cloned().collect())
        });
        found.push(Damage {
            digest,
            missing,
            images: images.collect(),
        });
    }
    Ok(found)
}
