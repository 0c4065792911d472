//! Image layers to file system images, inside a one-off VM without network.
//!
//! The host never looks into a layer: the blobs go in as one read-only block device, one after
//! another, with the indexes of layers that are unpacked already; the content and the index of each
//! new layer and the image's metadata come out on another.

mod files;
mod job;
mod lower;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_protocol::agent::{Empty, UnpackRequest};
use hull_vm_config::{DeviceConfig, VmConfig, MAX_VCPUS, MIN_MEMORY_BYTES, VM_CONFIG_VERSION};
use tokio::time::Instant;

use crate::agent::{Agent, AgentError, CALL_LIMIT};
use crate::assets::Assets;
use crate::lower::{boot_config, resource, HostFacts, Resource};
use crate::runtime_dir::RuntimeDir;
use crate::sandbox::{Boot, Home, Sandbox, SandboxError};
use crate::vmm::UidLease;
use files::{check_layers, finish_outputs, inputs, outputs, prepare_outputs, Input};
use lower::{done_of, fd_name, input_device, output_device, request, vcpus, INPUT_FD, OUTPUT_FD};

pub use job::{Compression, Done, Job, Known, Layer, Lengths, Limits, Progress};

/// Images are whole blocks of this size, in bytes.
const BLOCK_BYTES: u64 = 4096;
/// Guest memory unless the job says otherwise, in bytes.
const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;
/// How often progress is asked for.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// A guest that reads nothing more for so long has hung.
const STALL_LIMIT: Duration = Duration::from_secs(600);
/// How long the guest has to power off; its work is synced already.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

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

/// Name of the sandbox of an unpacker with this PID.
pub fn sandbox_id(pid: u32) -> String {
    format!("unpack-{pid}")
}

async fn boot(
    job: &Job,
    inputs: &[Input],
    devices: DeviceConfig,
    assets: &Assets,
    exec_root: &Path,
) -> Result<Sandbox, SandboxError> {
    let uid = UidLease::take(exec_root)?;
    let dir = RuntimeDir::create(exec_root, &sandbox_id(std::process::id()))?;
    let host = HostFacts::read();
    let host_cpus = u8::try_from(host.cpus).unwrap_or(MAX_VCPUS).max(1);
    let most = (host.memory_bytes / 2).max(MIN_MEMORY_BYTES);
    let memory = job.memory_bytes.unwrap_or(DEFAULT_MEMORY_BYTES).min(most);
    let read = inputs.iter().enumerate();
    let read = read.map(|(index, input)| resource(&fd_name(INPUT_FD, index), &input.path, false));
    let written = outputs(job).into_iter().enumerate();
    let written = written.map(|(index, path)| resource(&fd_name(OUTPUT_FD, index), path, true));
    let resources: Vec<Resource> = read.chain(written).collect();
    // A stranger's layers are read in it: the less of the host's kernel it reaches, the better.
    let devices = DeviceConfig {
        without_io_uring: true,
        ..devices
    };
    let config = VmConfig {
        version: VM_CONFIG_VERSION,
        sandbox_id: "unpack".into(),
        vcpus: vcpus(job).clamp(1, host_cpus),
        memory_bytes: memory.max(MIN_MEMORY_BYTES) / BLOCK_BYTES * BLOCK_BYTES,
        boot: boot_config(),
        devices,
        jail: uid.jail(),
    };
    let boot = Boot {
        assets,
        initramfs: &assets.unpack_initramfs,
        config,
        resources: &resources,
        console: None,
        shares: &[],
        id_maps: None,
        device_nodes: false,
        taps: Vec::new(),
        vhost_net: false,
        namespace: None,
        network: Default::default(),
        sandbox: Default::default(),
        home: Home::Own(Default::default()),
        oom_score: None,
    };
    Sandbox::boot(boot, dir, uid).await
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
