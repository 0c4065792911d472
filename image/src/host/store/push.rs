//! An image of the store to a registry.

use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use super::records::NameRecord;
use super::{seconds_since_epoch, Inner};
use crate::host::manifest::{MAX_DOCUMENT, OCI_MANIFEST};
use crate::host::registry::{Blob, Uploaded};
use crate::host::{ImageError, LayerPhase, Progress, ProgressEvent, Reference};
use crate::Digest;

/// What was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest, in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MediaType {
    #[serde(default)]
    media_type: String,
}

pub(super) async fn push(
    store: &Inner,
    reference: &Reference,
    progress: &dyn Progress,
) -> Result<Pushed, ImageError> {
    let reference = &reference.with_tag(reference.tag().unwrap_or("latest"))?;
    let table = store.records.read()?;
    let named = table.names.get(reference);
    let id = named
        .map(|record| record.image)
        .ok_or_else(|| ImageError::NoSuchImage {
            name: reference.familiar(),
        })?;
    let image = store.image_of(&table, &id)?;
    // Other names of the image at the same registry: their repositories have its layers.
    let others = table.names_of(&id).filter(|other| {
        other.registry() == reference.registry() && other.repository() != reference.repository()
    });
    let from = others.map(Reference::repository).next();
    let mut blobs: Vec<Digest> = image.layers.iter().map(|layer| layer.digest).collect();
    let mut seen = std::collections::BTreeSet::new();
    blobs.retain(|digest| seen.insert(*digest));
    let pushes = blobs
        .into_iter()
        .map(|digest| push_blob(store, reference, digest, from, Some(progress)));
    futures_util::stream::iter(pushes)
        .buffer_unordered(store.client.config().parallel_layers.max(1))
        .try_collect::<()>()
        .await?;
    push_blob(store, reference, id, from, None).await?;
    let content = store.content.read(&image.manifest, MAX_DOCUMENT)?;
    let media_type = serde_json::from_slice::<MediaType>(&content)
        .map(|manifest| manifest.media_type)
        .unwrap_or_default();
    let media_type = match media_type.as_str() {
        "" => OCI_MANIFEST,
        media_type => media_type,
    };
    store
        .client
        .put_manifest(reference, &content, media_type)
        .await?;
    record(store, reference, id, image.manifest).await?;
    Ok(Pushed {
        digest: image.manifest,
        size: content.len() as u64,
    })
}

/// The image is known by its digest in that repository from now on, as if it had been pulled. A name
/// that was taken away meanwhile brings none.
async fn record(
    store: &Inner,
    reference: &Reference,
    image: Digest,
    manifest: Digest,
) -> Result<(), ImageError> {
    let (tag, by_digest) = (reference.clone(), reference.with_digest(manifest));
    let record = NameRecord {
        image,
        tagged: seconds_since_epoch(),
    };
    store
        .records
        .change(move |table| {
            let named = table.names.get(&tag);
            if named.is_some_and(|named| named.image == image) {
                table.names.entry(by_digest).or_insert(record);
            }
            Ok(())
        })
        .await
}

async fn push_blob(
    store: &Inner,
    reference: &Reference,
    digest: Digest,
    from: Option<&str>,
    progress: Option<&dyn Progress>,
) -> Result<(), ImageError> {
    let path = store.content.blob_path(&digest);
    let length = store
        .content
        .size(&digest)
        .ok_or_else(|| ImageError::NoSuchImage {
            name: format!("blob {digest}"),
        })?;
    let tell = |phase| {
        if let Some(progress) = progress {
            progress.event(ProgressEvent::Layer { digest, phase });
        }
    };
    tell(LayerPhase::Preparing);
    let (sender, mut receiver) = tokio::sync::watch::channel(0);
    let blob = Blob {
        digest,
        path: &path,
        length,
        from,
    };
    let sender = std::sync::Arc::new(sender);
    let upload = store.client.upload(reference, blob, move |sent| {
        sender.send_replace(sent);
    });
    let mut upload = std::pin::pin!(upload);
    let uploaded = loop {
        tokio::select! {
            uploaded = &mut upload => break uploaded?,
            Ok(()) = receiver.changed() => {
                let current = *receiver.borrow_and_update();
                tell(LayerPhase::Pushing { current, total: length });
            }
        }
    };
    tell(match uploaded {
        Uploaded::There => LayerPhase::LayerExists,
        Uploaded::Mounted => LayerPhase::Mounted,
        Uploaded::Sent => LayerPhase::Pushed,
    });
    Ok(())
}
