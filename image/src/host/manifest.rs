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
/// What configurations were called before that was settled, in Docker's manifests; dockerd takes them.
const OLD_CONFIGS: [&str; 3] = ["application/octet-stream", "application/json", "text/html"];

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

impl Index {
    /// Its entries without those that vouch for others.
    pub(super) fn images(&self) -> impl Iterator<Item = &OciDescriptor> {
        let entries = self.manifests.iter();
        entries.filter(|entry| entry.annotation("vnd.docker.reference.type").is_none())
    }
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
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

/// Whether a media type is of an index; `None`: it does not say.
fn is_index(media_type: &str) -> Option<bool> {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Some(true),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(false),
        _ => None,
    }
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
    // What can be read in two ways is another image to somebody else, under the same digest.
    if head.manifests.is_some() && (head.layers.is_some() || head.config.is_some()) {
        return Err(bad("it is both an index and a manifest".to_owned()));
    }
    let own = head.media_type.as_deref().and_then(is_index);
    if let (Some(own), Some(other)) = (own, declared.and_then(is_index)) {
        if own != other {
            return Err(bad(format!(
                "it is called {} and says that it is {media_type}",
                declared.unwrap_or_default()
            )));
        }
    }
    let is_index = match is_index(media_type) {
        Some(is_index) => is_index,
        // Some tools leave it out, or serve it as plain JSON.
        None if head.manifests.is_some() != head.layers.is_some() => head.manifests.is_some(),
        None => return Err(unsupported(media_type, "")),
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
    let old = manifest.media_type == DOCKER_MANIFEST && OLD_CONFIGS.contains(&config);
    if !matches!(config, OCI_CONFIG | DOCKER_CONFIG | "") && !old {
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
    if let Some(config @ Value::Object(_)) = document.get("config") {
        let fields = DockerFields::deserialize(config).map(drop);
        fields.map_err(|error| bad(format!("config: {error}")))?;
    }
    if let Some(whole) = document.as_object_mut() {
        fill_platform(whole);
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

/// What Docker has in an image's `config` beside what OCI has: it must be of the right types, as others
/// read it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(dead_code, reason = "only the types count")]
struct DockerFields {
    hostname: Option<String>,
    domainname: Option<String>,
    image: Option<String>,
    mac_address: Option<String>,
    attach_stdin: Option<bool>,
    attach_stdout: Option<bool>,
    attach_stderr: Option<bool>,
    tty: Option<bool>,
    open_stdin: Option<bool>,
    stdin_once: Option<bool>,
    network_disabled: Option<bool>,
    args_escaped: Option<bool>,
    on_build: Option<Vec<String>>,
    shell: Option<Vec<String>>,
    stop_timeout: Option<i64>,
    healthcheck: Option<HealthFields>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(dead_code, reason = "only the types count")]
struct HealthFields {
    test: Option<Vec<String>>,
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    start_interval: Option<i64>,
    retries: Option<i64>,
}

/// Who says nothing of a platform means this machine's, as dockerd takes it.
fn fill_platform(config: &mut serde_json::Map<String, Value>) {
    let own = Platform::default();
    for (key, own) in [
        ("os", own.os.as_str()),
        ("architecture", own.architecture.as_str()),
    ] {
        let value = config.entry(key).or_insert(Value::Null);
        if value.is_null() || value.as_str() == Some("") {
            *value = own.into();
        }
    }
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
    for entry in index.images() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(document: &Value, declared: Option<&str>) -> Result<Document, ImageError> {
        let content = serde_json::to_vec(document).unwrap();
        parse(&content, declared, &Digest::of(&content), "app")
    }

    fn manifest(media_type: &str, config: &str) -> Value {
        let digest = Digest::of(b"x").to_string();
        serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": [],
            "config": { "mediaType": config, "digest": digest, "size": 1 },
        })
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for kind in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST] {
            let mut both = manifest(kind, OCI_CONFIG);
            both["manifests"] = serde_json::json!([]);
            for without in ["", "layers", "config"] {
                let mut both = both.clone();
                both.as_object_mut().unwrap().remove(without);
                let error = parsed(&both, Some(kind)).unwrap_err();
                let ImageError::BadDocument { reason, .. } = error else {
                    panic!("{error}");
                };
                assert!(reason.contains("both an index"), "{reason}");
            }
        }
        let one = manifest(OCI_MANIFEST, OCI_CONFIG);
        assert!(parsed(&one, Some(OCI_INDEX)).is_err());
        for declared in [None, Some(DOCKER_MANIFEST), Some("application/json")] {
            assert!(parsed(&one, declared).is_ok(), "{declared:?}");
        }
    }

    #[test]
    fn configurations_of_old_are_taken_from_docker() {
        for old in OLD_CONFIGS {
            assert!(
                parsed(&manifest(DOCKER_MANIFEST, old), None).is_ok(),
                "{old}"
            );
            let error = parsed(&manifest(OCI_MANIFEST, old), None).unwrap_err();
            assert!(error.to_string().contains("artifact"), "{error}");
        }
        assert!(parsed(&manifest(DOCKER_MANIFEST, "application/x-wasm"), None).is_err());
    }

    fn configuration(change: impl FnOnce(&mut Value)) -> Result<Platform, ImageError> {
        let mut config = serde_json::json!({
            "os": "linux", "architecture": "arm64", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        change(&mut config);
        let content = serde_json::to_vec(&config).unwrap();
        let (config, _) = parse_config(&content, 0, &Digest::of(&content), "app")?;
        Ok(config_platform(&config))
    }

    #[test]
    fn who_names_no_platform_means_this_one() {
        let own = Platform::default();
        let without = |config: &mut Value| {
            let config = config.as_object_mut().unwrap();
            config.remove("os");
            config.remove("architecture");
        };
        assert_eq!(configuration(without).unwrap(), own);
        let empty = |config: &mut Value| {
            config["os"] = "".into();
            config["architecture"] = Value::Null;
        };
        assert_eq!(configuration(empty).unwrap(), own);
        let said = configuration(|_| {}).unwrap();
        assert_eq!(said.architecture, "arm64");
    }

    #[test]
    fn what_docker_adds_must_be_of_its_types() {
        let health = serde_json::json!({ "Test": ["CMD", "x"], "Interval": 1, "Retries": null });
        let good = configuration(|config| {
            config["config"] = serde_json::json!({ "Healthcheck": health, "Shell": null });
        });
        assert!(good.is_ok());
        for (key, value) in [
            ("Healthcheck", serde_json::json!({ "Interval": "30s" })),
            ("StopTimeout", "10".into()),
            ("Shell", "sh".into()),
            ("OnBuild", 1.into()),
            ("Tty", "yes".into()),
        ] {
            let error = configuration(|config| config["config"][key] = value).unwrap_err();
            assert!(
                matches!(error, ImageError::BadDocument { .. }),
                "{key}: {error}"
            );
        }
        assert!(configuration(|config| config["config"] = Value::Null).is_ok());
    }
}
