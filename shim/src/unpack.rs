//! Image layers to file system images, inside a one-off VM without network.
//!
//! The host never looks into a layer: the blobs go in as one read-only block device, one after
//! another, with the indexes of layers that are unpacked already; the content and the index of each
//! new layer and the image's metadata come out on another.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_protocol::agent::{
    self, Empty, KnownLayer, LayerBlob, UnpackLimits, UnpackRequest, UnpackResponse,
};
use hull_vm_config::{
    BlockConfig, DeviceConfig, Extent, VmConfig, MAX_VCPUS, MIN_MEMORY_BYTES, VM_CONFIG_VERSION,
};
use protobuf::{EnumOrUnknown, MessageField};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::agent::{Agent, AgentError, CALL_LIMIT};
use crate::assets::Assets;
use crate::lower::{boot_config, resource, HostFacts, Resource};
use crate::runtime_dir::RuntimeDir;
use crate::sandbox::{Boot, Sandbox, SandboxError};
use crate::vmm::UidLease;

/// Begin of the names of the descriptors that the guest reads.
const INPUT_FD: &str = "input";
/// Begin of the names of those that it writes.
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

/// Layers to unpack, and the image to make of them and of layers that are unpacked already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Layers that are not unpacked yet, each once.
    pub layers: Vec<Layer>,
    /// Layers that are, each once.
    #[serde(default)]
    pub known: Vec<Known>,
    /// `sha256:...` of each of the image's layers, lowest first.
    pub diff_ids: Vec<String>,
    /// File that takes the image's metadata; made if it is missing.
    pub output: PathBuf,
    /// Most bytes of each output.
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

/// A layer to unpack.
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
    /// File that takes its content; made if it is missing.
    pub data: PathBuf,
    /// File that takes its index; made if it is missing.
    pub index: PathBuf,
}

/// A layer that is unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// `sha256:...` of its tar.
    pub diff_id: String,
    /// `sha256:...` of its blob, for messages.
    pub digest: String,
    /// Its index.
    pub index: PathBuf,
    /// Length of its content, in bytes.
    pub data_length: u64,
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

/// What came out: the last line of hull-unpack's output. The output files are cut to the lengths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Length of the image's metadata, in bytes: a positive multiple of 4096.
    pub image_length: u64,
    /// Inodes in it.
    pub files: u64,
    /// What each of the job's layers came to.
    #[serde(default)]
    pub layers: Vec<Lengths>,
}

/// What a layer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Length of its content, in bytes: a multiple of 4096.
    pub data: u64,
    /// Length of its index, in bytes: a positive multiple of 4096.
    pub index: u64,
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
    #[error("the guest reports an output of {length} bytes in a place of {capacity}")]
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
    let inputs = inputs(job)?;
    let capacity = prepare_outputs(job)?;
    let devices = DeviceConfig {
        image: Some(input_device(&inputs)),
        scratch: Some(output_device(job, capacity)),
        ..Default::default()
    };
    let sandbox = boot(job, &inputs, devices, assets, exec_root)
        .await
        .map_err(|source| UnpackError::Sandbox { source })?;
    let result = run(
        sandbox.agent(),
        request(job, &inputs, capacity),
        &mut progress,
    )
    .await;
    // Whatever came: nothing writes to the outputs after this.
    sandbox.shut_down(SHUTDOWN_LIMIT).await;
    let done = result?;
    finish_outputs(job, &done, capacity)?;
    Ok(done)
}

/// Cuts each output to what the guest says of it, if that can be true.
fn finish_outputs(job: &Job, done: &Done, capacity: u64) -> Result<(), UnpackError> {
    let possible = |length: u64, least: u64| {
        let fits = least <= length && length <= capacity && length.is_multiple_of(BLOCK_BYTES);
        fits.then_some(length)
            .ok_or(UnpackError::BadLength { length, capacity })
    };
    if done.layers.len() != job.layers.len() {
        return Err(bad(format!(
            "{} layers were asked for, the guest unpacked {}",
            job.layers.len(),
            done.layers.len()
        )));
    }
    for (layer, lengths) in job.layers.iter().zip(&done.layers) {
        truncate(&layer.data, possible(lengths.data, 0)?)?;
        truncate(&layer.index, possible(lengths.index, BLOCK_BYTES)?)?;
    }
    truncate(&job.output, possible(done.image_length, BLOCK_BYTES)?)
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
    if job.diff_ids.is_empty() || MAX_LAYERS < job.diff_ids.len() {
        let count = job.diff_ids.len();
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

/// The files that are written, in the order in which the output device shows them: content and
/// index of each layer, and the image's metadata.
fn outputs(job: &Job) -> Vec<&Path> {
    let layers = job.layers.iter();
    let layers = layers.flat_map(|layer| [layer.data.as_path(), layer.index.as_path()]);
    layers.chain([job.output.as_path()]).collect()
}

/// Makes each output a sparse file as long as its place on the device; returns that length.
fn prepare_outputs(job: &Job) -> Result<u64, UnpackError> {
    let paths = outputs(job);
    let capacity = job.output_capacity.checked_next_multiple_of(BLOCK_BYTES);
    let fits = |capacity: &u64| {
        let all = capacity.checked_mul(paths.len() as u64);
        0 < *capacity && all.is_some_and(|all| all <= i64::MAX as u64)
    };
    let capacity = capacity.filter(fits).ok_or_else(|| {
        let asked = job.output_capacity;
        bad(format!("output_capacity is {asked} bytes"))
    })?;
    for path in paths {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open", path))?;
        file.set_len(capacity)
            .map_err(failed("set the length of", path))?;
    }
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
    inputs: &[Input],
    devices: DeviceConfig,
    assets: &Assets,
    exec_root: &Path,
) -> Result<Sandbox, SandboxError> {
    let uid = UidLease::take(exec_root)?;
    let dir = RuntimeDir::create(exec_root, &format!("unpack-{}", std::process::id()))?;
    let host = HostFacts::read();
    let host_cpus = u8::try_from(host.cpus).unwrap_or(MAX_VCPUS).max(1);
    let most = (host.memory_bytes / 2).max(MIN_MEMORY_BYTES);
    let memory = job.memory_bytes.unwrap_or(DEFAULT_MEMORY_BYTES).min(most);
    let read = inputs.iter().enumerate();
    let read = read.map(|(index, input)| resource(&fd_name(INPUT_FD, index), &input.path, false));
    let written = outputs(job).into_iter().enumerate();
    let written = written.map(|(index, path)| resource(&fd_name(OUTPUT_FD, index), path, true));
    let resources: Vec<Resource> = read.chain(written).collect();
    let config = VmConfig {
        version: VM_CONFIG_VERSION,
        sandbox_id: "unpack".into(),
        vcpus: job.vcpus.unwrap_or(DEFAULT_VCPUS).clamp(1, host_cpus),
        memory_bytes: memory.max(MIN_MEMORY_BYTES) / BLOCK_BYTES * BLOCK_BYTES,
        boot: boot_config(),
        devices,
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

/// A file that the guest reads, and its length in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Input {
    path: PathBuf,
    length: u64,
}

/// The files that the guest reads, in the order in which the input device shows them: blobs, then
/// indexes.
fn inputs(job: &Job) -> Result<Vec<Input>, UnpackError> {
    let mut inputs = Vec::new();
    for layer in &job.layers {
        inputs.push(Input {
            path: layer.path.clone(),
            length: layer.length,
        });
    }
    for layer in &job.known {
        let metadata = std::fs::metadata(&layer.index).map_err(failed("read", &layer.index))?;
        if metadata.len() == 0 {
            return Err(bad(format!("{:?} is empty", layer.index)));
        }
        inputs.push(Input {
            path: layer.index.clone(),
            length: metadata.len(),
        });
    }
    Ok(inputs)
}

fn fd_name(kind: &str, index: usize) -> String {
    format!("{kind}-{index}")
}

/// All inputs one after another, each filled up to a whole sector.
fn input_device(inputs: &[Input]) -> BlockConfig {
    let extents = inputs.iter().enumerate().map(|(index, input)| Extent {
        fd: fd_name(INPUT_FD, index).into(),
        offset: 0,
        length: sectors(input.length),
    });
    BlockConfig {
        extents: extents.collect(),
        read_only: true,
        serial: "layers".into(),
    }
}

/// All outputs one after another, each of `capacity` bytes.
fn output_device(job: &Job, capacity: u64) -> BlockConfig {
    let extents = (0..outputs(job).len()).map(|index| Extent {
        fd: fd_name(OUTPUT_FD, index).into(),
        offset: 0,
        length: capacity,
    });
    BlockConfig {
        extents: extents.collect(),
        read_only: false,
        serial: "output".into(),
    }
}

fn sectors(length: u64) -> u64 {
    length.next_multiple_of(512)
}

fn request(job: &Job, inputs: &[Input], capacity: u64) -> UnpackRequest {
    let mut end = 0;
    let mut offsets = inputs.iter().map(|input| {
        let offset = end;
        end += sectors(input.length);
        (offset, input.length)
    });
    let mut places = (0..).map(|place| place * capacity);
    let mut place = || places.next().unwrap_or_default();
    let blobs = job.layers.iter().zip(&mut offsets);
    let blobs = blobs.map(|(layer, (offset, length))| LayerBlob {
        offset,
        length,
        compression: EnumOrUnknown::new(match layer.compression {
            Compression::None => agent::Compression::NONE,
            Compression::Gzip => agent::Compression::GZIP,
            Compression::Zstd => agent::Compression::ZSTD,
        }),
        diff_id: layer.diff_id.clone(),
        digest: layer.digest.clone(),
        data_offset: place(),
        index_offset: place(),
        ..Default::default()
    });
    let blobs = blobs.collect();
    let known = job.known.iter().zip(&mut offsets);
    let known = known.map(|(layer, (index_offset, index_length))| KnownLayer {
        diff_id: layer.diff_id.clone(),
        digest: layer.digest.clone(),
        index_offset,
        index_length,
        data_length: layer.data_length,
        ..Default::default()
    });
    UnpackRequest {
        layers: blobs,
        known: known.collect(),
        diff_ids: job.diff_ids.clone(),
        image_offset: place(),
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

fn done_of(done: &UnpackResponse) -> Done {
    let layers = done.layers.iter().map(|layer| Lengths {
        data: layer.data_length,
        index: layer.index_length,
    });
    Done {
        image_length: done.image_length,
        files: done.files,
        layers: layers.collect(),
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
                return Ok(done_of(&done));
            }
            () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
        }
        let asked = agent.call("UnpackProgress", CALL_LIMIT, |client, context| async move {
            client.unpack_progress(context, &Empty::default()).await
        });
        let now = tokio::select! {
            done = &mut unpacking => {
                let done = done?;
                return Ok(done_of(&done));
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
                diff_id: format!("sha256:{name}"),
                digest: format!("sha256:{name}"),
                data: directory.join(format!("{name}.data")),
                index: directory.join(format!("{name}.index")),
            }
        };
        Job {
            layers: vec![layer("a", 1000), layer("b", 512), layer("c", 1)],
            known: Vec::new(),
            diff_ids: vec!["sha256:a".into()],
            output: directory.join("out"),
            output_capacity: 5000,
            memory_bytes: None,
            vcpus: None,
            limits: Limits::default(),
        }
    }

    #[test]
    fn places_in_the_request_are_where_the_devices_show_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut job = job(directory.path());
        let index = directory.path().join("d.index");
        std::fs::write(&index, [0; 4096]).unwrap();
        job.known.push(Known {
            diff_id: "sha256:d".into(),
            digest: "sha256:d".into(),
            index,
            data_length: 8192,
        });
        let inputs = inputs(&job).unwrap();
        let lengths: Vec<_> = input_device(&inputs)
            .extents
            .iter()
            .map(|extent| extent.length)
            .collect();
        assert_eq!(lengths, [1024, 512, 512, 4096]);
        let request = request(&job, &inputs, 8192);
        let offsets: Vec<_> = request.layers.iter().map(|blob| blob.offset).collect();
        assert_eq!(offsets, [0, 1024, 1536]);
        assert_eq!(request.layers[2].length, 1);
        assert_eq!(
            (request.known[0].index_offset, request.known[0].index_length),
            (2048, 4096)
        );
        let last = &request.layers[2];
        assert_eq!((last.data_offset, last.index_offset), (4 * 8192, 5 * 8192));
        assert_eq!(request.image_offset, 6 * 8192);
        assert_eq!(output_device(&job, 8192).extents.len(), 7);
    }

    #[test]
    fn outputs_become_sparse_files_and_are_cut_to_what_can_be_true() {
        let directory = tempfile::tempdir().unwrap();
        let job = job(directory.path());
        let length = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert_eq!(prepare_outputs(&job).unwrap(), 8192);
        assert_eq!(length(&job.output), 8192);
        let lengths = Lengths {
            data: 0,
            index: 4096,
        };
        let done = Done {
            image_length: 4096,
            files: 1,
            layers: vec![lengths; 3],
        };
        finish_outputs(&job, &done, 8192).unwrap();
        assert_eq!(length(&job.output), 4096);
        assert_eq!(length(&job.layers[0].data), 0);
        for wrong in [
            Done {
                image_length: 0,
                ..done.clone()
            },
            Done {
                image_length: 12288,
                ..done.clone()
            },
            Done {
                layers: vec![lengths; 2],
                ..done.clone()
            },
            Done {
                layers: vec![
                    Lengths {
                        data: 100,
                        index: 4096
                    };
                    3
                ],
                ..done
            },
        ] {
            assert!(finish_outputs(&job, &wrong, 8192).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_truncated_blob_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut job = job(directory.path());
        job.layers[1].length = 513;
        let error = check_layers(&job).unwrap_err().to_string();
        assert!(error.contains("sha256:b"), "{error}");
        job.layers.clear();
        job.diff_ids.clear();
        assert!(check_layers(&job).is_err());
    }

    #[test]
    fn a_job_is_plain_json() {
        let job: Job = serde_json::from_str(
            r#"{"layers":[{"path":"/b","length":3,"compression":"zstd","diff_id":"sha256:x",
                "digest":"sha256:y","data":"/d","index":"/i"}],"diff_ids":["sha256:x"],
                "output":"/o","output_capacity":1048576,"limits":{"files":10}}"#,
        )
        .unwrap();
        assert_eq!(job.layers[0].compression, Compression::Zstd);
        assert_eq!(job.limits.files, 10);
    }
}
