//! A container's changes as an image.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use bollard_stubs::models::{ContainerConfig, EventMessageTypeEnum};
use hull_image::{Compression, Digest, Reference};
use hull_protocol::agent::files_job::Kind;
use hull_protocol::agent::FilesJob;
use serde_json::{json, Value};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::files::Output;
use crate::images::parse_reference;
use crate::lifecycle::Status;
use crate::record::Record;
use crate::spec;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// How names of layers on their way into the store begin, in the engine's root directory.
pub(crate) const HALF_MADE: &str = ".commit-";

/// What a client asks for.
#[derive(Debug, Default)]
pub(crate) struct CommitRequest {
    /// Empty: the image has no name.
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) author: String,
    pub(crate) comment: String,
    /// Lines of a Dockerfile.
    pub(crate) changes: Vec<String>,
    /// A container that runs stands still meanwhile.
    pub(crate) pause: bool,
    /// What the image's configuration says; what it leaves out is as the container's.
    pub(crate) config: ContainerConfig,
}

/// A layer on its way into the store; the file goes with the value.
struct Layer {
    file: tempfile::NamedTempFile,
    digest: Digest,
    length: u64,
}

impl Engine {
    /// Makes an image of a container. Returns its id.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: CommitRequest,
    ) -> Result<String> {
        let name = match request.repository.as_str() {
            "" => None,
            repository => {
                let tag = Some(request.tag.as_str()).filter(|tag| !tag.is_empty());
                let text = format!("{repository}:{}", tag.unwrap_or("latest"));
                Some(parse_reference(&text)?)
            }
        };
        let record = container.record();
        let config = wanted_config(&request, &record.config)?;
        let layer = self.layer_at_rest(container, request.pause).await?;
        let parent = self.images.find(&record.image.id).await?;
        let config_json = image_config(&parent.config_json, &config, &layer, &request, &record)?;
        let mut layers: Vec<Value> = parent.layers.iter().map(layer_descriptor).collect();
        layers.push(json!({
            "mediaType": LAYER_TYPE,
            "digest": layer.digest.to_string(),
            "size": layer.length,
        }));
        let id = Digest::of(&config_json);
        let archive = Archive {
            config: config_json,
            layers,
            name: name.as_ref().map(ToString::to_string),
        };
        let reader = archive.stream(layer)?;
        self.images
            .load(reader, None, &hull_image::NoProgress)
            .await?;
        let named = name.as_ref().map(Reference::familiar).unwrap_or_default();
        self.publish_commit(container, &id.to_string(), &named, request.comment);
        Ok(id.to_string())
    }

    fn publish_commit(&self, container: &Container, id: &str, name: &str, comment: String) {
        if !name.is_empty() {
            let attributes = [("name".to_owned(), name.to_owned())];
            self.events
                .publish(EventMessageTypeEnum::IMAGE, "tag", id, attributes.into());
        }
        let facts = [
            ("comment", comment),
            ("imageID", id.to_owned()),
            ("imageRef", name.to_owned()),
        ];
        self.publish(container, "commit", facts);
    }

    /// The layer of a container that is paused for it, if it has to be.
    async fn layer_at_rest(
        self: &Arc<Self>,
        container: &Arc<Container>,
        pause: bool,
    ) -> Result<Layer> {
        if !pause || container.status() != Status::Running {
            return self.layer_of(container).await;
        }
        self.pause_container(container).await?;
        let layer = self.layer_of(container).await;
        match self.unpause_container(container).await {
            // Somebody else has ended it, or its pause.
            Ok(()) | Err(EngineError::Conflict(_)) => layer,
            Err(error) => Err(error),
        }
    }

    async fn layer_of(self: &Arc<Self>, container: &Arc<Container>) -> Result<Layer> {
        let job = FilesJob {
            kind: Kind::LAYER.into(),
            path: "/".to_owned(),
            ..FilesJob::default()
        };
        let session = self.files(container).await?;
        let output = session.stream(job).await?;
        receive(output, self.paths.root()).await
    }
}

/// Puts a layer into a file, and digests it.
async fn receive(mut output: Output, directory: &Path) -> Result<Layer> {
    let io = |source| EngineError::io("write the layer below", directory, source);
    let file = tempfile::Builder::new()
        .prefix(HALF_MADE)
        .tempfile_in(directory)
        .map_err(io)?;
    let mut writer = tokio::fs::File::from_std(file.reopen().map_err(io)?);
    let mut hash = Sha256::new();
    let mut length = 0;
    while let Some(chunk) = output.recv().await {
        let chunk = chunk.map_err(|source| EngineError::io("read", "the layer", source))?;
        hash.update(&chunk);
        length += chunk.len() as u64;
        writer.write_all(&chunk).await.map_err(io)?;
    }
    writer.flush().await.map_err(io)?;
    Ok(Layer {
        file,
        digest: Digest::from_bytes(hash.finalize().into()),
        length,
    })
}

/// The configuration of the new image, of what is asked for and the container's.
fn wanted_config(request: &CommitRequest, own: &ContainerConfig) -> Result<ContainerConfig> {
    let mut config = match request.config == ContainerConfig::default() {
        true => own.clone(),
        false => request.config.clone(),
    };
    let changes = request.changes.iter().map(String::as_str);
    crate::dockerfile::apply(&mut config, changes).map_err(EngineError::BadRequest)?;
    Ok(spec::merge_image(config, own))
}

fn layer_descriptor(layer: &hull_image::ImageLayer) -> Value {
    let suffix = match layer.compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    json!({
        "mediaType": format!("{LAYER_TYPE}{suffix}"),
        "digest": layer.digest.to_string(),
        "size": layer.size,
    })
}

/// The configuration of the new image: the parent's, with one layer more.
fn image_config(
    parent: &[u8],
    config: &ContainerConfig,
    layer: &Layer,
    request: &CommitRequest,
    container: &Record,
) -> Result<Vec<u8>> {
    let coding = |what| move |source| EngineError::Json { what, source };
    let mut image: Value =
        serde_json::from_slice(parent).map_err(coding("decode the image's configuration"))?;
    let now = jiff::Timestamp::now().to_string();
    image["config"] = config_json(config)?;
    image["created"] = json!(now);
    image["author"] = json!(request.author);
    // The parent's are about another one.
    image["container"] = json!(container.id);
    if let Some(fields) = image.as_object_mut() {
        fields.remove("container_config");
    }
    push(
        &mut image["history"],
        json!({
            "created": now,
            "author": request.author,
            "comment": request.comment,
            // What ran, and not what the image is to run.
            "created_by": container.config.cmd.as_deref().unwrap_or_default().join(" "),
        }),
    );
    push(
        &mut image["rootfs"]["diff_ids"],
        json!(layer.digest.to_string()),
    );
    serde_json::to_vec(&image).map_err(coding("encode the image's configuration"))
}

/// The `config` object of an image's configuration.
pub(crate) fn config_json(config: &ContainerConfig) -> Result<Value> {
    let mut config = serde_json::to_value(config).map_err(|source| EngineError::Json {
        what: "encode a configuration",
        source,
    })?;
    if let Some(fields) = config.as_object_mut() {
        // What is of the container, not of the image.
        for field in [
            "Hostname",
            "Domainname",
            "Image",
            "AttachStdin",
            "AttachStdout",
        ] {
            fields.remove(field);
        }
        fields.retain(|_, value| !value.is_null());
        as_set(fields, "Volumes");
        as_set(fields, "ExposedPorts");
    }
    Ok(config)
}

/// Docker's sets are objects with empty values.
fn as_set(fields: &mut serde_json::Map<String, Value>, key: &str) {
    if let Some(Value::Array(items)) = fields.get(key) {
        let set = items.iter().filter_map(Value::as_str);
        let set = set.map(|item| (item.to_owned(), json!({}))).collect();
        fields.insert(key.to_owned(), Value::Object(set));
    }
}

fn push(list: &mut Value, value: Value) {
    match list {
        Value::Array(items) => items.push(value),
        other => *other = Value::Array(vec![value]),
    }
}

/// An OCI image layout (image specification, `image-layout.md`) with what the store lacks: the
/// documents, and the new layer.
struct Archive {
    config: Vec<u8>,
    layers: Vec<Value>,
    name: Option<String>,
}

impl Archive {
    /// The archive's bytes, made as they are read.
    fn stream(self, layer: Layer) -> Result<pipe::Receiver> {
        let io = |source| EngineError::io("open", "a pipe", source);
        let (reader, writer) = std::io::pipe().map_err(io)?;
        let receiver = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(io)?;
        // A thread: the store reads the archive at its own pace.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = self.write(&layer, writer) {
                tracing::debug!(%error, "the archive of a commit");
            }
        });
        Ok(receiver)
    }

    fn write(&self, layer: &Layer, out: impl std::io::Write) -> std::io::Result<()> {
        let descriptor = |kind: &str, content: &[u8]| {
            json!({
                "mediaType": kind,
                "digest": Digest::of(content).to_string(),
                "size": content.len(),
            })
        };
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &self.config),
            "layers": self.layers,
        }))?;
        let mut entry = descriptor(MANIFEST_TYPE, &manifest);
        if let Some(name) = &self.name {
            entry["annotations"] = json!({ "io.containerd.image.name": name });
        }
        let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;
        let mut tar = tar::Builder::new(out);
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let mut add = |name: &str, length: u64, content: &mut dyn std::io::Read| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(length);
            tar.append_data(&mut header, name, content)
        };
        let layout: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
        for (name, content) in [
            ("oci-layout".to_owned(), layout),
            ("index.json".to_owned(), &index),
            (blob(&Digest::of(&manifest)), &manifest),
            (blob(&Digest::of(&self.config)), &self.config),
        ] {
            add(&name, content.len() as u64, &mut &*content)?;
        }
        let mut file = layer.file.reopen()?;
        add(&blob(&layer.digest), layer.length, &mut file)?;
        tar.into_inner()?.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_leaves_out_is_as_the_containers() {
        let text = |text: &str| Some(vec![text.to_owned()]);
        let own = ContainerConfig {
            cmd: text("serve"),
            env: text("A=1"),
            working_dir: Some("/srv".into()),
            ..ContainerConfig::default()
        };
        let labels = [("a".to_owned(), "b".to_owned())].into();
        let request = CommitRequest {
            config: ContainerConfig {
                labels: Some(labels),
                attach_stdin: Some(false),
                ..ContainerConfig::default()
            },
            changes: vec!["ENV B=2".into()],
            ..CommitRequest::default()
        };
        let config = wanted_config(&request, &own).unwrap();
        assert_eq!(
            (config.cmd, config.working_dir),
            (own.cmd.clone(), own.working_dir.clone())
        );
        assert_eq!(config.env.map(|env| env.len()), Some(2));
        assert_eq!(config.labels.map(|labels| labels.len()), Some(1));
        // A new entry point has no command of the old one.
        let request = CommitRequest {
            changes: vec!["ENTRYPOINT [\"x\"]".into()],
            ..CommitRequest::default()
        };
        assert_eq!(wanted_config(&request, &own).unwrap().cmd, None);
    }

    #[test]
    fn the_new_image_has_one_layer_more() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"tar").unwrap();
        let layer = Layer {
            digest: Digest::of(b"tar"),
            length: 3,
            file,
        };
        let parent = br#"{"os":"linux","container":"c0","container_config":{"Cmd":["x"]},"rootfs":{"type":"layers","diff_ids":["sha256:a"]}}"#;
        let config = ContainerConfig {
            cmd: Some(vec!["x".into()]),
            volumes: Some(vec!["/v".into()]),
            hostname: Some("h".into()),
            ..ContainerConfig::default()
        };
        let mut container = crate::record::tests::record();
        container.config.cmd = Some(["sh", "-c", "true"].map(str::to_owned).to_vec());
        let request = CommitRequest {
            author: "me".into(),
            ..CommitRequest::default()
        };
        let json = image_config(parent, &config, &layer, &request, &container).unwrap();
        let image: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(image["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        assert_eq!(image["config"]["Volumes"], json!({"/v": {}}));
        assert_eq!(image["config"].get("Hostname"), None);
        assert_eq!(image["history"][0]["author"], "me");
        assert_eq!(image["history"][0]["created_by"], "sh -c true");
        assert_eq!(image["container"], json!(container.id));
        assert_eq!(image.get("container_config"), None);
        let archive = Archive {
            config: json,
            layers: Vec::new(),
            name: Some("docker.io/library/x:latest".into()),
        };
        let mut out = Vec::new();
        archive.write(&layer, &mut out).unwrap();
        let mut tar = tar::Archive::new(&out[..]);
        let names: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().into_owned())
            .collect();
        assert_eq!(names.len(), 5);
        assert!(names[4].ends_with(layer.digest.hex()));
    }
}
