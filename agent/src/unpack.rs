//! `Unpack`: layers on the image slot's block device to one EROFS image on the scratch slot's.

use std::fs::{File, OpenOptions};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hull_image::unpack::{FileOutput, LayerSource, Limits, Progress, UnpackError};
use hull_image::{DiffId, Digest};
use hull_protocol::agent::{
    Compression, LayerBlob, UnpackProgressResponse, UnpackRequest, UnpackResponse,
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
    let output = OpenOptions::new()
        .write(true)
        .open(&output)
        .context(|| format!("failed to open {}", output.display()))?;
    let failed = || "failed to write the image to its device".to_string();
    let written = output.try_clone().context(failed)?;
    let unpacked = unpack_files(request, &input, output)?;
    written.sync_all().context(failed)?;
    Ok(unpacked)
}

fn unpack_files(request: &UnpackRequest, input: &File, output: File) -> Result<UnpackResponse> {
    let layers = request
        .layers
        .iter()
        .map(|blob| source(blob, input))
        .collect::<Result<Vec<_>>>()?;
    let limits = &request.limits;
    let limits = Limits::from_wire(
        limits.files,
        limits.bytes,
        limits.path_length,
        limits.path_depth,
    );
    let mut output = FileOutput::new(output);
    let unpacked = hull_image::unpack::unpack(layers, &limits, &mut output, &Shown)
        .map_err(|error| explain(&error))?;
    Ok(UnpackResponse {
        image_length: unpacked.image_length,
        files: unpacked.files,
        ..Default::default()
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

/// What is wrong with the layers is the request's fault, a failing device is not.
fn explain(error: &UnpackError) -> AgentError {
    let kind = match error {
        UnpackError::Read { .. } | UnpackError::Output { .. } => Kind::Internal,
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
        let error = unpack_files(&request, &input, output).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.text().contains("nonsense"), "{}", error.text());
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
        let error = unpack_files(&request, &input, output).unwrap_err();
        assert!(error.text().contains("diff ID"), "{}", error.text());
    }
}
