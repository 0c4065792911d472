//! A tar of a root file system as an image of one layer.

use std::io::{self, Read, Write as _};
use std::sync::mpsc;

use serde_json::{json, Value};
use tokio::io::AsyncRead;

use super::archive::{feed, not_an_image, Channel};
use super::content::ContentStore;
use super::records::{NameRecord, Variant};
use super::types::{Image, ImageLayer};
use super::{seconds_since_epoch, Inner};
use crate::host::manifest::Manifest;
use crate::host::{transfer, ImageError, Platform, Reference};
use crate::{decompress, Compression, DiffId, Digest};

const BUFFER: usize = 256 << 10;

/// What an imported image is besides its files.
#[derive(Debug, Clone)]
pub struct Import {
    /// Its name; with a tag.
    pub name: Option<Reference>,
    /// What its programs are made for.
    pub platform: Platform,
    /// The `config` object of its configuration.
    pub config: Value,
    /// What its history says of it.
    pub comment: String,
    /// When it is made, as RFC 3339 says.
    pub created: String,
}

pub(super) async fn import(
    store: &Inner,
    archive: impl AsyncRead + Send + Unpin,
    import: Import,
) -> Result<Image, ImageError> {
    let _lease = store.lease().await?;
    let (sender, receiver) = mpsc::sync_channel(super::archive::QUEUE);
    let content = store.content.clone();
    let reader = transfer(move || ingest(&content, Channel::new(receiver))).await;
    let fed = feed(archive, sender).await;
    let layer = reader.await.map_err(|error| ImageError::ReadArchive {
        source: io::Error::other(error),
    })?;
    fed.map_err(|source| ImageError::ReadArchive { source })?;
    let (digest, size) = layer?;
    let encode = |error: serde_json::Error| not_an_image(error.to_string());
    let config = serde_json::to_vec(&configuration(&import, &digest)).map_err(encode)?;
    let config = (store.content.put(&config)?, config.len() as u64);
    let manifest = Manifest::new(config, &[(digest, size, Compression::None)]);
    let manifest = store.content.put(&manifest.to_bytes().map_err(encode)?)?;
    let variant = Variant {
        manifest,
        index: None,
        layers: vec![ImageLayer {
            digest,
            size,
            compression: Compression::None,
            diff_id: DiffId::from_bytes(*digest.as_bytes()),
        }],
    };
    let image = config.0;
    store
        .records
        .change(move |table| {
            table.add(image, variant);
            if let Some(name) = import.name {
                let tagged = seconds_since_epoch();
                table.names.insert(name, NameRecord { image, tagged });
            }
            Ok(())
        })
        .await?;
    store.image(&image)
}

/// Stores the archive uncompressed, as its diff ID has to be known.
fn ingest(content: &ContentStore, source: Channel) -> Result<(Digest, u64), ImageError> {
    let failed = |source: io::Error| match decompress::is_damage(&source) {
        true => not_an_image("its compression is damaged".into()),
        false => ImageError::ReadArchive { source },
    };
    let (mut reader, _) = decompress::open(Box::new(source)).map_err(failed)?;
    let mut ingest = content.ingest()?;
    let mut buffer = vec![0; BUFFER];
    let mut first = true;
    loop {
        let count = reader.read(&mut buffer).map_err(failed)?;
        if count == 0 && first {
            return Err(not_an_image("it is empty".into()));
        }
        if count == 0 {
            return ingest.commit();
        }
        first = false;
        ingest
            .write_all(&buffer[..count])
            .map_err(ImageError::file(
                "write a blob in",
                content.temporary_folder(),
            ))?;
    }
}

fn configuration(import: &Import, layer: &Digest) -> Value {
    let mut configuration = json!({
        "created": import.created,
        "os": import.platform.os,
        "architecture": import.platform.architecture,
        "config": import.config,
        "rootfs": { "type": "layers", "diff_ids": [layer.to_string()] },
        "history": [{ "created": import.created, "comment": import.comment }],
    });
    if let Some(variant) = &import.platform.variant {
        configuration["variant"] = json!(variant);
    }
    configuration
}
