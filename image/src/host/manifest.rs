//! Indexes, manifests and configurations, OCI and docker schema 2.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ImageError, Platform};
use crate::{Compression, DiffId, Digest};

/// Largest index, manifest or configuration, in bytes (containerd's limit too).
pub(super) const MAX_DOCUMENT: u64 = 8 << 20;
/// Most layers an image may have: as many as one microVM unpacks.
const MAX_LAYERS: usize = 500;
/// What is said of a manifest whose configuration is of no image.
pub(super) const ARTIFACT: &str = " (this is an artifact, not a container image)";

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a registry is told that it may answer.
pub(super) const ACCEPT: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

/// An OCI descriptor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OciDescriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<OciPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OciPlatform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
}

impl OciDescriptor {
    pub(super) fn digest(&self, what: &'static str, reference: &str) -> Result<Digest, ImageError> {
        self.digest.parse().map_err(|source| ImageError::BadDigest {
            what,
            reference: reference.to_owned(),
            source,
        })
    }

    /// What the entry says that it is for.
    pub(super) fn platform(&self) -> Option<Platform> {
        let found = self.platform.as_ref()?;
        let variant = found.variant.as_deref();
        Some(Platform::new(&found.os, &found.architecture, variant))
    }

    /// How well it fits, see [`Platform::rank`]; what says nothing fits least.
    pub(super) fn rank(&self, platform: &Platform) -> Option<u32> {
        match self.platform() {
            None => Some(0),
            Some(found) => platform.rank(&found),
        }
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    #[serde(default)]
    media_type: Option<String>,
    pub(super) manifests: Vec<OciDescriptor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    media_type: String,
    pub(super) config: OciDescriptor,
    pub(super) layers: Vec<OciDescriptor>,
}

/// A document by what it is.
#[derive(Debug)]
pub(super) enum Document {
    Index(Index),
    Manifest(Manifest),
}

impl Document {
    /// Its media type; `declared` is the one it came with, if any.
    pub(super) fn media_type<'a>(&'a self, declared: Option<&'a str>) -> &'a str {
        match self {
            Self::Manifest(manifest) => &manifest.media_type,
            Self::Index(index) => {
                let own = index.media_type.as_deref();
                let known = declared.filter(|kind| [OCI_INDEX, DOCKER_LIST].contains(kind));
                own.or(known).unwrap_or(OCI_INDEX)
            }
        }
    }
}

/// What a document says about its own kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
}

/// Parses an index or a manifest. `declared` is the media type it came with, if any; the
/// document's own rules.
pub(super) fn parse(
    content: &[u8],
    declared: Option<&str>,
    digest: &Digest,
    reference: &str,
) -> Result<Document, ImageError> {
    let bad = |reason: String| ImageError::BadDocument {
        what: "manifest",
        digest: digest.to_string(),
        reference: reference.to_owned(),
        reason,
    };
    let head: Head = serde_json::from_slice(content).map_err(|error| bad(error.to_string()))?;
    let unsupported = |media_type: &str, hint| ImageError::UnsupportedMediaType {
        reference: reference.to_owned(),
        media_type: media_type.to_owned(),
        hint,
    };
    let media_type = head.media_type.as_deref().or(declared).unwrap_or_default();
    if head.schema_version == 1 || media_type.contains("distribution.manifest.v1+") {
        let hint = " (manifest schema 1 is obsolete: push the image again with a current tool)";
        return Err(unsupported(media_type, hint));
    }
    let is_index = match media_type {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        // Some tools leave it out, or serve it as plain JSON.
        _ if head.manifests.is_some() != head.layers.is_some() => head.manifests.is_some(),
        other => return Err(unsupported(other, "")),
    };
    if is_index {
        return serde_json::from_slice(content)
            .map(Document::Index)
            .map_err(|error| bad(error.to_string()));
    }
    let mut value: serde_json::Value =
        serde_json::from_slice(content).map_err(|error| bad(error.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object
            .entry("mediaType")
            .or_insert_with(|| media_type.into());
    }
    let manifest: Manifest =
        serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(bad(format!(
            "{} layers (the limit is {MAX_LAYERS})",
            manifest.layers.len()
        )));
    }
    let config = manifest.config.media_type.as_str();
    if !matches!(config, OCI_CONFIG | DOCKER_CONFIG | "") {
        return Err(unsupported(config, ARTIFACT));
    }
    Ok(Document::Manifest(manifest))
}

impl Manifest {
    /// An OCI manifest over blobs of the store.
    pub(super) fn new(config: (Digest, u64), layers: &[(Digest, u64, Compression)]) -> Self {
        let descriptor = |media_type: String, digest: Digest, size: u64| OciDescriptor {
            media_type,
            digest: digest.to_string(),
            size,
            platform: None,
            annotations: None,
        };
        let layers = layers
            .iter()
            .map(|(digest, size, compression)| {
                let suffix = match compression {
                    Compression::None => "",
                    Compression::Gzip => "+gzip",
                    Compression::Zstd => "+zstd",
                };
                descriptor(format!("{OCI_LAYER}{suffix}"), *digest, *size)
            })
            .collect();
        Self {
            schema_version: 2,
            media_type: OCI_MANIFEST.into(),
            config: descriptor(OCI_CONFIG.into(), config.0, config.1),
            layers,
        }
    }

    /// The document's bytes; the same manifest always gives the same.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// Compression by media type. Foreign (not distributable) and encrypted layers are refused.
pub(super) fn layer_compression(
    media_type: &str,
    reference: &str,
) -> Result<Compression, ImageError> {
    let refuse = |hint| ImageError::UnsupportedMediaType {
        reference: reference.to_owned(),
        media_type: media_type.to_owned(),
        hint,
    };
    if media_type.contains("foreign") || media_type.contains("nondistributable") {
        return Err(refuse(" (a foreign layer is not kept by the registry)"));
    }
    if media_type.ends_with("+encrypted") {
        return Err(refuse(" (the layer is encrypted)"));
    }
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar+gzip" => Ok(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.docker.image.rootfs.diff.tar+zstd" => Ok(Compression::Zstd),
        _ => Err(refuse("")),
    }
}

/// Parses a configuration; gives its diff IDs, which must be as many as the manifest has layers.
pub(super) fn parse_config(
    content: &[u8],
    layers: usize,
    digest: &Digest,
    reference: &str,
) -> Result<(ImageConfiguration, Vec<DiffId>), ImageError> {
    let bad = |reason: String| ImageError::BadDocument {
        what: "configuration",
        digest: digest.to_string(),
        reference: reference.to_owned(),
        reason,
    };
    let mut document: Value =
        serde_json::from_slice(content).map_err(|error| bad(error.to_string()))?;
    // Go writes an image without layers so.
    if let Some(ids @ Value::Null) = document.pointer_mut("/rootfs/diff_ids") {
        *ids = Value::Array(Vec::new());
    }
    let config: ImageConfiguration =
        serde_json::from_value(document).map_err(|error| bad(error.to_string()))?;
    let diff_ids: Vec<DiffId> = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|error| bad(format!("diff ID: {error}")))
        })
        .collect::<Result<_, _>>()?;
    if diff_ids.len() != layers {
        return Err(bad(format!(
            "it has {} diff IDs for {layers} layers",
            diff_ids.len()
        )));
    }
    Ok((config, diff_ids))
}

/// The platform a configuration is for.
pub(super) fn config_platform(config: &ImageConfiguration) -> Platform {
    Platform::new(
        &config.os().to_string(),
        &config.architecture().to_string(),
        config.variant().as_deref(),
    )
}

/// The entry of an index that fits `platform` best; the first of equals.
///
/// Attestations (`unknown/unknown`) never fit. Entries without a platform are taken where nothing
/// else fits: their configuration will tell.
pub(super) fn choose<'a>(
    index: &'a Index,
    platform: &Platform,
    reference: &str,
) -> Result<&'a OciDescriptor, ImageError> {
    let mut best: Option<(u32, &OciDescriptor)> = None;
    let mut offered = Vec::new();
    for entry in &index.manifests {
        if entry.annotation("vnd.docker.reference.type").is_some() {
            continue;
        }
        offered.extend(entry.platform().map(|found| found.to_string()));
        let rank = entry.rank(platform);
        if let Some(rank) = rank.filter(|rank| best.is_none_or(|(best, _)| best < *rank)) {
            best = Some((rank, entry));
        }
    }
    offered.retain(|name| name != "unknown/unknown");
    offered.truncate(20);
    best.map(|(_, entry)| entry)
        .ok_or_else(|| ImageError::NoMatchingPlatform {
            reference: reference.to_owned(),
            wanted: platform.to_string(),
            offered: if offered.is_empty() {
                "nothing".into()
            } else {
                offered.join(", ")
            },
        })
}
