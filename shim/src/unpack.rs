//! Image layers to one file system image, inside a one-off VM without network.
//!
//! The host never looks into a layer: the blobs go in as one read-only block device, one after
//! another, and the image comes out on another.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_protocol::agent::{self, Empty, LayerBlob, UnpackLimits, UnpackRequest};
use hull_vm_config::{
    BlockConfig, DeviceConfig, Extent, VmConfig, MAX_VCPUS, MIN_MEMORY_BYTES, VM_CONFIG_VERSION,
};
use protobuf::{EnumOrUnknown, MessageField};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::agent::{Agent, AgentError, CALL_LIMIT};
use crate::assets::Assets;
use crate::lower::{boot_config, resource, single_file, HostFacts, Resource};
use crate::runtime_dir::RuntimeDir;
use crate::sandbox::{Boot, Sandbox, SandboxError};
use crate::vmm::UidLease;

/// Name of the output's descriptor.
const OUTPUT_FD: &str = "output";
/// Images are whole blocks of this size, in bytes.
const BLOCK_BYTES: u64 = 4096;
/// Guest memory unless the job says otherwise, in bytes.
const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;
/// vCPUs unless the job says otherwise.
const DEFAULT_VCPUS: u8 = 2;
/// Most layers of an image.
const MAX_LAYERS: usize = 500;
/// How often progress is asked for.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// A guest that reads nothing more for so long has hung.
const STALL_LIMIT: Duration = Duration::from_secs(600);
/// How long the guest has to power off; its work is synced already.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Layers to turn into one EROFS image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// File that takes the image; made if it is missing.
    pub output: PathBuf,
    /// Most bytes of the image.
    pub output_capacity: u64,
    /// Guest memory, in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// vCPUs of the guest.
    #[serde(default)]
    pub vcpus: Option<u8>,
    /// What the layers may hold at most.
    #[serde(default)]
    pub limits: Limits,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The blob.
    pub path: PathBuf,
    /// Its length, in bytes.
    pub length: u64,
    /// Its compression.
    pub compression: Compression,
    /// `sha256:...` of the tar inside; verified.
    pub diff_id: String,
    /// `sha256:...` of the blob, for messages.
    pub digest: String,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// What the layers may hold at most; 0: the agent's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Entries of all layers together.
    pub files: u64,
    /// Bytes of all uncompressed layers together.
    pub bytes: u64,
    /// Bytes of a path.
    pub path_length: u32,
    /// Components of a path.
    pub path_depth: u32,
}

/// How far a job is: one line of hull-unpack's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Index of the layer that is read.
    pub layer: u32,
    /// Bytes of its blob read so far.
    pub bytes_read: u64,
    /// Length of its blob.
    pub bytes_total: u64,
}

/// What came out: the last line of hull-unpack's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Length of the image, in bytes: a positive multiple of 4096. The output file is cut to it.
    pub image_length: u64,
    /// Inodes in it.
    pub files: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The job can't be done as it stands.
    #[error("bad unpack job: {reason}")]
    BadJob {
        /// What is wrong.
        reason: String,
    },
    /// A file can't be used.
    #[error("failed to {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VM can't be started.
    #[error("failed to start the VM that unpacks layers")]
    Sandbox {
        /// Why.
        source: SandboxError,
    },
    /// The guest refused the layers, or failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The guest reads nothing more.
    #[error("unpacking layer {layer} made no progress for {limit:?}")]
    Stalled {
        /// Index of the layer.
        layer: u32,
        /// For how long.
        limit: Duration,
    },
    /// The guest's answer can't be true.
    #[error("the guest reports an image of {length} bytes on a device of {capacity}")]
    BadLength {
        /// As reported.
        length: u64,
        /// Of the device.
        capacity: u64,
    },
}

/// Runs a job. Dropping the future kills the VM; the output is then worthless.
pub async fn unpack(
    job: &Job,
    assets: &Assets,
    exec_root: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Done, UnpackError> {
    check_layers(job)?;
    let capacity = prepare_output(job)?;
    let sandbox = boot(job, assets, exec_root, capacity)
        .await
        .map_err(|source| UnpackError::Sandbox { source })?;
    let result = run(sandbox.agent(), request(job), &mut progress).await;
    // Whatever came: nothing writes to the output after this.
    sandbox.shut_down(SHUTDOWN_LIMIT).await;
    let done = result?;
    if done.image_length == 0
        || !done.image_length.is_multiple_of(BLOCK_BYTES)
        || capacity < done.image_length
    {
        return Err(UnpackError::BadLength {
            length: done.image_length,
            capacity,
        });
    }
    truncate(&job.output, done.image_length)?;
    Ok(done)
}

fn bad(reason: String) -> UnpackError {
    UnpackError::BadJob { reason }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> UnpackError + 'a {
    move |source| UnpackError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn check_layers(job: &Job) -> Result<(), UnpackError> {
    if job.layers.is_empty() || MAX_LAYERS < job.layers.len() {
        let count = job.layers.len();
        return Err(bad(format!("{count} layers; want 1 to {MAX_LAYERS}")));
    }
    for layer in &job.layers {
        let metadata = std::fs::metadata(&layer.path).map_err(failed("read", &layer.path))?;
        if metadata.len() != layer.length || layer.length == 0 {
            return Err(bad(format!(
                "layer {} has {} bytes in {:?}, the job says {}",
                layer.digest,
                metadata.len(),
                layer.path,
                layer.length
            )));
        }
    }
    Ok(())
}

/// Makes the output a sparse file as long as the device; returns that length.
fn prepare_output(job: &Job) -> Result<u64, UnpackError> {
    let capacity = job.output_capacity.checked_next_multiple_of(BLOCK_BYTES);
    let capacity = capacity.filter(|capacity| 0 < *capacity && *capacity <= i64::MAX as u64);
    let capacity = capacity.ok_or_else(|| {
        let asked = job.output_capacity;
        bad(format!("output_capacity is {asked} bytes"))
    })?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&job.output)
        .map_err(failed("open", &job.output))?;
    file.set_len(capacity)
        .map_err(failed("set the length of", &job.output))?;
    Ok(capacity)
}

fn truncate(path: &Path, length: u64) -> Result<(), UnpackError> {
    let file = OpenOptions::new().write(true).open(path);
    let cut = |file: File| {
        file.set_len(length)?;
        file.sync_all()
    };
    file.and_then(cut).map_err(failed("cut to length", path))
}

async fn boot(
    job: &Job,
    assets: &Assets,
    exec_root: &Path,
    capacity: u64,
) -> Result<Sandbox, SandboxError> {
    let uid = UidLease::take(exec_root)?;
    let dir = RuntimeDir::create(exec_root, &format!("unpack-{}", std::process::id()))?;
    let host = HostFacts::read();
    let host_cpus = u8::try_from(host.cpus).unwrap_or(MAX_VCPUS).max(1);
    let most = (host.memory_bytes / 2).max(MIN_MEMORY_BYTES);
    let memory = job.memory_bytes.unwrap_or(DEFAULT_MEMORY_BYTES).min(most);
    let mut resources = input_resources(job);
    resources.push(resource(OUTPUT_FD, &job.output, true));
    let config = VmConfig {
        version: VM_CONFIG_VERSION,
        sandbox_id: "unpack".into(),
        vcpus: job.vcpus.unwrap_or(DEFAULT_VCPUS).clamp(1, host_cpus),
        memory_bytes: memory.max(MIN_MEMORY_BYTES) / BLOCK_BYTES * BLOCK_BYTES,
        boot: boot_config(),
        devices: DeviceConfig {
            image: Some(input_device(job)),
            scratch: Some(single_file(OUTPUT_FD, capacity, &job.output, false)?),
            ..Default::default()
        },
        jail: uid.jail(),
    };
    let boot = Boot {
        assets,
        config,
        resources: &resources,
        console: None,
        shares: &[],
        id_maps: None,
        taps: Vec::new(),
        foreign: None,
        network: Default::default(),
        sandbox: Default::default(),
        host_share: Some(Default::default()),
    };
    Sandbox::boot(boot, dir, uid).await
}

fn layer_fd(index: usize) -> String {
    format!("layer-{index}")
}

fn input_resources(job: &Job) -> Vec<Resource> {
    let layers = job.layers.iter().enumerate();
    layers
        .map(|(index, layer)| resource(&layer_fd(index), &layer.path, false))
        .collect()
}

/// All blobs one after another, each filled up to a whole sector.
fn input_device(job: &Job) -> BlockConfig {
    let layers = job.layers.iter().enumerate();
    let extents = layers.map(|(index, layer)| Extent {
        fd: layer_fd(index).into(),
        offset: 0,
        length: sectors(layer.length),
    });
    BlockConfig {
        extents: extents.collect(),
        read_only: true,
        serial: "layers".into(),
    }
}

fn sectors(length: u64) -> u64 {
    length.next_multiple_of(512)
}

fn request(job: &Job) -> UnpackRequest {
    let mut offset = 0;
    let blobs = job.layers.iter().map(|layer| {
        let blob = LayerBlob {
            offset,
            length: layer.length,
            compression: EnumOrUnknown::new(match layer.compression {
                Compression::None => agent::Compression::NONE,
                Compression::Gzip => agent::Compression::GZIP,
                Compression::Zstd => agent::Compression::ZSTD,
            }),
            diff_id: layer.diff_id.clone(),
            digest: layer.digest.clone(),
            ..Default::default()
        };
        offset += sectors(layer.length);
        blob
    });
    UnpackRequest {
        layers: blobs.collect(),
        limits: MessageField::some(UnpackLimits {
            files: job.limits.files,
            bytes: job.limits.bytes,
            path_length: job.limits.path_length,
            path_depth: job.limits.path_depth,
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn run(
    agent: &Agent,
    request: UnpackRequest,
    progress: &mut impl FnMut(Progress),
) -> Result<Done, UnpackError> {
    let unpacking = agent.call_unlimited("Unpack", |client, context| async move {
        client.unpack(context, &request).await
    });
    tokio::pin!(unpacking);
    let mut last = Progress {
        layer: 0,
        bytes_read: 0,
        bytes_total: 0,
    };
    let mut changed = Instant::now();
    loop {
        tokio::select! {
            done = &mut unpacking => {
                let done = done?;
                return Ok(Done { image_length: done.image_length, files: done.files });
            }
            () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
        }
        let asked = agent.call("UnpackProgress", CALL_LIMIT, |client, context| async move {
            client.unpack_progress(context, &Empty::default()).await
        });
        let now = tokio::select! {
            done = &mut unpacking => {
                let done = done?;
                return Ok(Done { image_length: done.image_length, files: done.files });
            }
            now = asked => now?,
        };
        let now = Progress {
            layer: now.layer,
            bytes_read: now.bytes_read,
            bytes_total: now.bytes_total,
        };
        if now != last {
            last = now;
            changed = Instant::now();
            progress(now);
        } else if STALL_LIMIT < changed.elapsed() {
            return Err(UnpackError::Stalled {
                layer: now.layer,
                limit: STALL_LIMIT,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(directory: &Path) -> Job {
        let layer = |name: &str, length: u64| {
            let path = directory.join(name);
            File::create(&path).unwrap().set_len(length).unwrap();
            Layer {
                path,
                length,
                compression: Compression::Gzip,
                diff_id: "sha256:d".into(),
                digest: format!("sha256:{name}"),
            }
        };
        Job {
            layers: vec![layer("a", 1000), layer("b", 512), layer("c", 1)],
            output: directory.join("out"),
            output_capacity: 5000,
            memory_bytes: None,
            vcpus: None,
            limits: Limits::default(),
        }
    }

    #[test]
    fn offsets_in_the_request_are_where_the_device_shows_the_blobs() {
        let directory = tempfile::tempdir().unwrap();
        let job = job(directory.path());
        let lengths: Vec<_> = input_device(&job)
            .extents
            .iter()
            .map(|extent| extent.length)
            .collect();
        assert_eq!(lengths, [1024, 512, 512]);
        let request = request(&job);
        let offsets: Vec<_> = request.layers.iter().map(|blob| blob.offset).collect();
        assert_eq!(offsets, [0, 1024, 1536]);
        assert_eq!(request.layers[2].length, 1);
    }

    #[test]
    fn the_output_becomes_a_sparse_file_of_whole_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let job = job(directory.path());
        assert_eq!(prepare_output(&job).unwrap(), 8192);
        assert_eq!(std::fs::metadata(&job.output).unwrap().len(), 8192);
        truncate(&job.output, 4096).unwrap();
        assert_eq!(std::fs::metadata(&job.output).unwrap().len(), 4096);
    }

    #[test]
    fn a_truncated_blob_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut job = job(directory.path());
        job.layers[1].length = 513;
        let error = check_layers(&job).unwrap_err().to_string();
        assert!(error.contains("sha256:b"), "{error}");
        job.layers.clear();
        assert!(check_layers(&job).is_err());
    }

    #[test]
    fn a_job_is_plain_json() {
        let job: Job = serde_json::from_str(
            r#"{"layers":[{"path":"/b","length":3,"compression":"zstd","diff_id":"sha256:x",
                "digest":"sha256:y"}],"output":"/o","output_capacity":1048576,
                "limits":{"files":10}}"#,
        )
        .unwrap();
        assert_eq!(job.layers[0].compression, Compression::Zstd);
        assert_eq!(job.limits.files, 10);
    }
}
