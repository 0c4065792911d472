//! Layers to one EROFS image.
//!
//! [`unpack`] streams each layer once: decompress, hash, parse the tar archive, write file data
//! straight to the output, and keep only metadata in memory (about 200 bytes per file). When all
//! layers are merged, the EROFS metadata follows the data, and the superblock comes last: an
//! output that was cut off has none and cannot be mounted.
//!
//! ```no_run
//! # fn demo(device: std::fs::File, output: std::fs::File, digest: hull_image::Digest, diff_id: hull_image::DiffId)
//! #     -> Result<(), hull_image::unpack::UnpackError> {
//! use hull_image::unpack::{unpack, FileOutput, LayerSource, Limits, NoProgress};
//!
//! let layer = LayerSource::from_file_range(&device, 0, 4096, hull_image::Compression::Gzip, diff_id, digest);
//! let unpacked = unpack(vec![layer], &Limits::default(), &mut FileOutput::new(output), &NoProgress)?;
//! println!("{} bytes, {} files", unpacked.image_length, unpacked.files);
//! # Ok(())
//! # }
//! ```

mod error;
pub mod fuzz;
mod io;
mod layer;
mod merge;
mod path;
mod sparse;
pub(crate) mod tree;

use std::io::Read;

use sha2::{Digest as _, Sha256};

use crate::decompress;
use crate::erofs::BlockWriter;
use crate::DiffId;
use merge::Merger;

pub use error::UnpackError;
pub use io::{FileOutput, LayerSource, NoProgress, Output, Progress};

/// What a stack of layers may be at most. The defaults hold what real images hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all layers together.
    pub files: u64,
    /// Bytes of all uncompressed layers together.
    pub bytes: u64,
    /// Bytes of an entry's path.
    pub path_length: u32,
    /// Components of an entry's path.
    pub path_depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            files: 10_000_000,
            bytes: u64::MAX,
            path_length: 4096,
            path_depth: 1024,
        }
    }
}

impl Limits {
    /// Limits as the agent's protocol gives them: 0 means the default.
    pub fn from_wire(files: u64, bytes: u64, path_length: u32, path_depth: u32) -> Self {
        let default = Self::default();
        let wide = |limit: u64, default| if limit == 0 { default } else { limit };
        let narrow = |limit: u32, default| if limit == 0 { default } else { limit };
        Self {
            files: wide(files, default.files),
            bytes: wide(bytes, default.bytes),
            path_length: narrow(path_length, default.path_length),
            path_depth: narrow(path_depth, default.path_depth),
        }
    }
}

/// What [`unpack`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Length of the EROFS image in bytes, a multiple of 4096.
    pub image_length: u64,
    /// Inodes in it, the root directory included.
    pub files: u64,
}

/// Merges `layers`, lowest first, into one EROFS image on `output`.
///
/// The same layers give the same bytes. On an error the output has no superblock.
///
/// # Errors
/// [`UnpackError`] names the layer, and the entry or limit where there is one.
pub fn unpack(
    layers: Vec<LayerSource<'_>>,
    limits: &Limits,
    output: &mut impl Output,
    progress: &dyn Progress,
) -> Result<Unpacked, UnpackError> {
    let mut hasher = Sha256::new_with_prefix(b"hull erofs 1");
    let mut merger = Merger::new(limits, BlockWriter::new(output), progress);
    for (index, layer) in layers.into_iter().enumerate() {
        hasher.update(layer.diff_id.as_bytes());
        merger.layer(index, layer)?;
    }
    merger.finish(uuid(&hasher.finalize().into()))
}

/// Reads a layer to its end for its diff ID, without looking into the archive.
///
/// # Errors
/// [`UnpackError::Read`], [`UnpackError::Decompress`].
pub fn diff_id(layer: LayerSource<'_>) -> Result<DiffId, UnpackError> {
    let digest = layer.digest;
    let read_error = |source| UnpackError::Read {
        layer: digest,
        offset: 0,
        source,
    };
    let (mut reader, _) = decompress::open(layer.reader).map_err(read_error)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(DiffId::from_bytes(hasher.finalize().into())),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                offset += got as u64;
            }
            Err(source) => {
                return Err(UnpackError::Decompress {
                    layer: digest,
                    offset,
                    source,
                })
            }
        }
    }
}

/// A version 8 UUID (RFC 9562) of the image's content.
fn uuid(sum: &[u8; 32]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&sum[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
