//! `Unpack`: layers on the image slot's block device to their content and an EROFS image's metadata
//! on the scratch slot's.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hull_image::unpack::{
    read_layer, Budget, FileOutput, LayerIndex, LayerSource, Limits, Progress, UnpackError,
};
use hull_image::{DiffId, Digest};
use hull_protocol::agent::{
    Compression, LayerBlob, UnpackProgressResponse, UnpackRequest, UnpackResponse, UnpackedLayer,
};

use crate::device;
use crate::error::{AgentError, Context, Kind, Result};

/// Slots of an unpack sandbox, as the protocol says: input and output.
const INPUT_SLOT: u32 = 0;
const OUTPUT_SLOT: u32 = 1;

static RUNNING: AtomicBool = AtomicBool::new(false);
static LAYER: AtomicU32 = AtomicU32::new(0);
static BYTES_READ: AtomicU64 = AtomicU64::new(0);
static BYTES_TOTAL: AtomicU64 = AtomicU64::new(0);

/// Unpacks; one at a time.
pub(crate) async fn run(request: UnpackRequest) -> Result<UnpackResponse> {
    if RUNNING.swap(true, Ordering::SeqCst) {
        return Err(AgentError::new(
            Kind::FailedPrecondition,
            "layers are being unpacked already",
        ));
    }
    let done = tokio::task::spawn_blocking(move || unpack(&request)).await;
    RUNNING.store(false, Ordering::SeqCst);
    match done {
        Ok(result) => result,
        Err(error) => Err(AgentError::new(
            Kind::Internal,
            format!("unpacking failed: {error}"),
        )),
    }
}

/// How far it is.
pub(crate) fn progress() -> UnpackProgressResponse {
    UnpackProgressResponse {
        layer: LAYER.load(Ordering::Relaxed),
        bytes_read: BYTES_READ.load(Ordering::Relaxed),
        bytes_total: BYTES_TOTAL.load(Ordering::Relaxed),
        ..Default::default()
    }
}

struct Shown;

impl Progress for Shown {
    fn layer(&self, index: usize, read: u64, total: u64) {
        LAYER.store(u32::try_from(index).unwrap_or(u32::MAX), Ordering::Relaxed);
        BYTES_READ.store(read, Ordering::Relaxed);
        BYTES_TOTAL.store(total, Ordering::Relaxed);
    }
}

fn unpack(request: &UnpackRequest) -> Result<UnpackResponse> {
    let input = device::block(INPUT_SLOT)?;
    let input = File::open(&input).context(|| format!("failed to open {}", input.display()))?;
    let output = device::block(OUTPUT_SLOT)?;
    // Read too: the indexes that were just written are merged.
    let output = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&output)
        .context(|| format!("failed to open {}", output.display()))?;
    let unpacked = unpack_files(request, &input, &output)?;
    output.sync_all().context(write_failed)?;
    Ok(unpacked)
}

fn write_failed() -> String {
    "failed to write the image to its device".to_string()
}

/// Half of this VM's memory, in bytes: the rest is for what is read and written.
fn memory_for_files() -> u64 {
    let found = rustix::system::sysinfo();
    (found.totalram as u64).saturating_mul(found.mem_unit.into()) / 2
}

fn unpack_files(request: &UnpackRequest, input: &File, output: &File) -> Result<UnpackResponse> {
    let limits = &request.limits;
    let limits = Limits {
        files: limits.files,
        bytes: limits.bytes,
        path_length: limits.path_length,
        path_depth: limits.path_depth,
        stored: limits.stored,
        memory: memory_for_files(),
    }
    .or_defaults();
    let mut known = known_layers(request, input)?;
    let mut made = Vec::new();
    let read = read_layers(&request.layers, input, output, &limits)?;
    for (blob, layer) in request.layers.iter().zip(read) {
        made.push(UnpackedLayer {
            data_length: layer.lengths.data_length,
            index_length: layer.lengths.index_length,
            ..Default::default()
        });
        let new = Known {
            digest: layer.digest,
            lengths: layer.lengths,
            device: output,
            offset: blob.index_offset,
        };
        known.insert(layer.diff_id, new);
    }
    let indexes = indexes(request, &known)?;
    let mut image = region(output, request.image_offset)?;
    let unpacked =
        hull_image::unpack::merge(indexes, &limits, &mut image).map_err(|error| explain(&error))?;
    Ok(UnpackResponse {
        image_length: unpacked.image_length,
        files: unpacked.files,
        layers: made,
        ..Default::default()
    })
}

fn region(output: &File, offset: u64) -> Result<FileOutput> {
    let output = output.try_clone().context(write_failed)?;
    Ok(FileOutput::at(output, offset))
}

/// A layer that was read now.
struct Read {
    diff_id: DiffId,
    digest: Digest,
    lengths: hull_image::unpack::UnpackedLayer,
}

/// Reads layers side by side, by a thread for each CPU; the longest are begun first. The error is
/// that of the lowest layer that has one.
fn read_layers(
    blobs: &[LayerBlob],
    input: &File,
    output: &File,
    limits: &Limits,
) -> Result<Vec<Read>> {
    let budget = Budget::new(limits);
    let mut order: Vec<usize> = (0..blobs.len()).collect();
    order.sort_by_key(|number| std::cmp::Reverse(blobs[*number].length));
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some(number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let read = read_one(*number, &blobs[*number], input, output, &budget);
            if read.is_err() {
                // Nobody begins another.
                next.store(order.len(), Ordering::Relaxed);
            }
            done.push((*number, read));
        }
        done
    };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let ends = std::thread::scope(|scope| {
        let threads = (0..cpus.min(blobs.len())).map(|_| scope.spawn(worker));
        let threads: Vec<_> = threads.collect();
        let ends = threads.into_iter().map(|thread| thread.join());
        ends.collect::<std::thread::Result<Vec<_>>>()
    });
    let ends = ends.map_err(|_| {
        let text = "a thread that reads layers failed";
        AgentError::new(Kind::Internal, text)
    })?;
    let mut read: Vec<(usize, Result<Read>)> = ends.into_iter().flatten().collect();
    read.sort_by_key(|(number, _)| *number);
    read.into_iter().map(|(_, read)| read).collect()
}

fn read_one(
    number: usize,
    blob: &LayerBlob,
    input: &File,
    output: &File,
    budget: &Budget,
) -> Result<Read> {
    let source = source(blob, input)?;
    let (diff_id, digest) = (source.diff_id, source.digest);
    let mut data = region(output, blob.data_offset)?;
    let mut index = region(output, blob.index_offset)?;
    let read = read_layer(number, source, budget, &mut data, &mut index, &Shown);
    Ok(Read {
        diff_id,
        digest,
        lengths: read.map_err(|error| explain(&error))?,
    })
}

fn source<'a>(blob: &LayerBlob, input: &'a File) -> Result<LayerSource<'a>> {
    let invalid = |error| AgentError::invalid(format!("layer {}: {error}", blob.digest));
    let digest: Digest = blob.digest.parse().map_err(invalid)?;
    let diff_id: DiffId = blob.diff_id.parse().map_err(invalid)?;
    let compression = match blob.compression.enum_value_or_default() {
        Compression::NONE => hull_image::Compression::None,
        Compression::GZIP => hull_image::Compression::Gzip,
        Compression::ZSTD => hull_image::Compression::Zstd,
    };
    Ok(LayerSource::from_file_range(
        input,
        blob.offset,
        blob.length,
        compression,
        diff_id,
        digest,
    ))
}

/// A layer whose content is unpacked, and where its index lies.
struct Known<'a> {
    digest: Digest,
    lengths: hull_image::unpack::UnpackedLayer,
    device: &'a File,
    offset: u64,
}

fn known_layers<'a>(
    request: &UnpackRequest,
    input: &'a File,
) -> Result<BTreeMap<DiffId, Known<'a>>> {
    let layers = request.known.iter().map(|layer| {
        let invalid = |error| AgentError::invalid(format!("layer {}: {error}", layer.digest));
        let known = Known {
            digest: layer.digest.parse().map_err(invalid)?,
            lengths: hull_image::unpack::UnpackedLayer {
                data_length: layer.data_length,
                index_length: layer.index_length,
            },
            device: input,
            offset: layer.index_offset,
        };
        Ok((layer.diff_id.parse().map_err(invalid)?, known))
    });
    layers.collect()
}

/// The indexes of the image's layers, lowest first.
fn indexes<'a>(
    request: &UnpackRequest,
    known: &BTreeMap<DiffId, Known<'a>>,
) -> Result<Vec<LayerIndex<'a>>> {
    let layers = request.diff_ids.iter().map(|text| {
        let invalid = |error| AgentError::invalid(format!("diff ID {text}: {error}"));
        let diff_id: DiffId = text.parse().map_err(invalid)?;
        let layer = known
            .get(&diff_id)
            .ok_or_else(|| AgentError::invalid(format!("no layer has the diff ID {text}")))?;
        Ok(LayerIndex::from_file_range(
            layer.device,
            layer.offset,
            layer.lengths,
            diff_id,
            layer.digest,
        ))
    });
    layers.collect()
}

/// What is wrong with the layers is the request's fault, a failing device is not.
fn explain(error: &UnpackError) -> AgentError {
    let kind = match error {
        UnpackError::Read { .. } | UnpackError::Output { .. } | UnpackError::Index { .. } => {
            Kind::Internal
        }
        UnpackError::Limit { .. } | UnpackError::TooLarge { .. } => Kind::ResourceExhausted,
        _ => Kind::InvalidArgument,
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    AgentError::new(kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_digests_are_the_requests_fault() {
        let request = UnpackRequest {
            layers: vec![LayerBlob {
                diff_id: "sha256:xyz".into(),
                digest: "nonsense".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let (input, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let error = unpack_files(&request, &input, &output).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.text().contains("nonsense"), "{}", error.text());
    }

    #[test]
    fn a_layer_that_is_unpacked_is_merged_with_new_ones() {
        use std::io::{Read, Write};
        // An archive without entries.
        let (mut input, mut output) =
            (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        input.write_all(&[0; 1024]).unwrap();
        let diff_id = DiffId::of(&[0; 1024]).to_string();
        let (digest, image_offset) = (diff_id.clone(), 1 << 20);
        let first = UnpackRequest {
            layers: vec![LayerBlob {
                length: 1024,
                diff_id: diff_id.clone(),
                digest: digest.clone(),
                index_offset: 1 << 16,
                ..Default::default()
            }],
            diff_ids: vec![diff_id.clone(), diff_id.clone()],
            image_offset,
            ..Default::default()
        };
        let made = unpack_files(&first, &input, &output).unwrap();
        assert_eq!((made.files, made.layers[0].data_length), (1, 0));
        let mut whole = Vec::new();
        output.read_to_end(&mut whole).unwrap();
        let second = UnpackRequest {
            known: vec![hull_protocol::agent::KnownLayer {
                diff_id: diff_id.clone(),
                digest,
                index_offset: 1 << 16,
                index_length: made.layers[0].index_length,
                ..Default::default()
            }],
            diff_ids: vec![diff_id.clone()],
            ..Default::default()
        };
        let again = unpack_files(&second, &output, &tempfile::tempfile().unwrap()).unwrap();
        assert_eq!((again.files, again.layers.len()), (1, 0));
        let unknown = UnpackRequest {
            known: Vec::new(),
            ..second
        };
        let error = unpack_files(&unknown, &input, &output).unwrap_err();
        assert!(error.text().contains(&diff_id), "{}", error.text());
    }

    #[test]
    fn wrong_diff_id_is_named() {
        use std::io::Write;
        let (mut input, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        input.write_all(&[0; 1024]).unwrap();
        let zeros = format!("sha256:{}", "0".repeat(64));
        let request = UnpackRequest {
            layers: vec![LayerBlob {
                length: 1024,
                diff_id: zeros.clone(),
                digest: zeros,
                ..Default::default()
            }],
            ..Default::default()
        };
        let error = unpack_files(&request, &input, &output).unwrap_err();
        assert!(error.text().contains("diff ID"), "{}", error.text());
    }
}
