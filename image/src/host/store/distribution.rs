//! What a registry has under a name, without its layers.

use super::super::manifest::{self, Document, OciPlatform, MAX_DOCUMENT};
use super::super::registry::{BlobSink, FetchError};
use super::super::{ImageError, Platform, Reference};
use super::Inner;
use crate::Digest;

/// A name's document at its registry, and the platforms that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Media type of the index or manifest.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Of an index each one's; of a manifest the configuration's.
    pub platforms: Vec<Platform>,
}

pub(super) async fn look(store: &Inner, reference: &Reference) -> Result<Distribution, ImageError> {
    let name = reference.familiar();
    let identifier = reference.identifier();
    let fetched = store.client.manifest(reference, &identifier).await?;
    let digest = Digest::of(&fetched.content);
    let declared = fetched.media_type.as_deref();
    let document = manifest::parse(&fetched.content, declared, &digest, &name)?;
    let platforms = match &document {
        Document::Index(index) => {
            let platforms = index
                .manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref());
            platforms.map(platform_of).collect()
        }
        Document::Manifest(manifest) => {
            let config = &manifest.config;
            let digest = config.digest("configuration", &name)?;
            let content = configuration(store, reference, &digest, config.size).await?;
            let (config, _) =
                manifest::parse_config(&content, manifest.layers.len(), &digest, &name)?;
            vec![manifest::config_platform(&config)]
        }
    };
    Ok(Distribution {
        media_type: document.media_type(declared).to_owned(),
        digest,
        size: fetched.content.len() as u64,
        platforms,
    })
}

fn platform_of(platform: &OciPlatform) -> Platform {
    let OciPlatform {
        os,
        architecture,
        variant,
    } = platform;
    Platform::new(os, architecture, variant.as_deref())
}

/// A small blob, verified, that is not kept.
async fn configuration(
    store: &Inner,
    reference: &Reference,
    digest: &Digest,
    size: u64,
) -> Result<Vec<u8>, ImageError> {
    let wrong = |reason: String| ImageError::BadDocument {
        what: "configuration",
        digest: digest.to_string(),
        reference: reference.familiar(),
        reason,
    };
    if size > MAX_DOCUMENT {
        return Err(wrong(format!(
            "it has {size} bytes (the limit is {MAX_DOCUMENT})"
        )));
    }
    let mut content = Memory(Vec::new());
    match store
        .client
        .blob(reference, digest, size, &mut content)
        .await
    {
        Ok(()) => {}
        Err(FetchError::Registry(error)) => return Err(error.into()),
        Err(FetchError::Sink(error)) => return Err(wrong(error.to_string())),
    }
    match Digest::of(&content.0) == *digest {
        true => Ok(content.0),
        false => Err(wrong("its bytes have another digest".to_owned())),
    }
}

/// Bounded by the size that the client is given.
struct Memory(Vec<u8>);

impl BlobSink for Memory {
    fn position(&self) -> u64 {
        self.0.len() as u64
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.0.clear();
        Ok(())
    }
}
