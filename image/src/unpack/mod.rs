//! Layers to EROFS images.
//!
//! [`read_layer`] streams a layer once: decompress, hash, parse the tar archive, write file data to
//! one output and the entries to another. [`merge`] makes the metadata of an image of the entries of
//! its layers, in memory (about 200 bytes per file). So images share what their layers hold. The
//! superblock comes last: an output that was cut off has none and cannot be mounted.
//!
//! [`unpack`] does both, to one file:
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
mod index;
mod io;
mod layer;
mod merge;
mod path;
mod read_layer;
mod single;
mod sparse;
pub(crate) mod tree;

use std::collections::BTreeMap;
use std::io::Read;
use std::rc::Rc;

use sha2::{Digest as _, Sha256};

use crate::decompress;
use crate::erofs::{BlockWriter, BLOCK_SIZE};
use crate::DiffId;
use merge::Merger;
use single::{Behind, InMemory, WithContent};

pub use error::UnpackError;
pub use io::{FileOutput, LayerIndex, LayerSource, NoProgress, Output, Progress};
pub use read_layer::{read_layer, Budget};

/// Linux has no longer link targets (`PATH_MAX` with its NUL), in bytes.
const MAX_SYMLINK: u32 = 4095;

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
    /// Bytes written to the outputs of all layers together. Zeros are not written.
    pub stored: u64,
    /// Bytes of memory for the tree of all files.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            files: 10_000_000,
            bytes: u64::MAX,
            path_length: 4096,
            path_depth: 1024,
            stored: u64::MAX,
            memory: u64::MAX,
        }
    }
}

impl Limits {
    /// These, where 0 means the default, as in the agent's protocol.
    #[must_use]
    pub fn or_defaults(self) -> Self {
        let default = Self::default();
        let wide = |limit: u64, default| if limit == 0 { default } else { limit };
        let narrow = |limit: u32, default| if limit == 0 { default } else { limit };
        Self {
            files: wide(self.files, default.files),
            bytes: wide(self.bytes, default.bytes),
            path_length: narrow(self.path_length, default.path_length),
            path_depth: narrow(self.path_depth, default.path_depth),
            stored: wide(self.stored, default.stored),
            memory: wide(self.memory, default.memory),
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

/// What [`read_layer`] made of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// Length of its content in bytes, a multiple of 4096.
    pub data_length: u64,
    /// Length of its index in bytes, a multiple of 4096.
    pub index_length: u64,
}

/// Merges `layers`, lowest first, and writes the metadata of the image that they make: the first
/// block, and what lies behind the layers' content. An image is
///
/// ```text
/// [block 0][content of each layer, each once, in order][the rest]
/// ```
///
/// and `output` gets `[block 0][the rest]`. The same layers give the same bytes. On an error the
/// output has no superblock.
///
/// # Errors
/// [`UnpackError`] names the layer, and the entry or limit where there is one.
pub fn merge(
    layers: Vec<LayerIndex<'_>>,
    limits: &Limits,
    output: &mut impl Output,
) -> Result<Unpacked, UnpackError> {
    let mut hasher = Sha256::new_with_prefix(b"hull erofs 2");
    let mut merger = Merger::new(limits);
    let mut places = BTreeMap::new();
    let mut content = 0_u64;
    for (index, layer) in layers.into_iter().enumerate() {
        hasher.update(layer.diff_id.as_bytes());
        let base = *places.entry(layer.diff_id).or_insert_with(|| {
            let base = content;
            content = content.saturating_add(layer.data_length);
            base
        });
        merger.layer(index, layer, 1 + base / BLOCK_SIZE as u64)?;
    }
    let mut out = BlockWriter::behind(output, content);
    let mut unpacked = merger.finish(&mut out, uuid(&hasher.finalize().into()))?;
    unpacked.image_length -= content;
    Ok(unpacked)
}

/// Makes one file of `layers`, lowest first: all of the image that [`merge`] describes.
///
/// # Errors
/// As [`read_layer`] and [`merge`].
pub fn unpack(
    layers: Vec<LayerSource<'_>>,
    limits: &Limits,
    output: &mut impl Output,
    progress: &dyn Progress,
) -> Result<Unpacked, UnpackError> {
    let budget = Budget::new(limits);
    let mut known: BTreeMap<DiffId, Rc<(UnpackedLayer, Vec<u8>)>> = BTreeMap::new();
    let mut indexes = Vec::new();
    let mut content = 0;
    for (number, layer) in layers.into_iter().enumerate() {
        let (diff_id, digest) = (layer.diff_id, layer.digest);
        let read = match known.get(&diff_id) {
            Some(read) => Rc::clone(read),
            None => {
                let mut data = Behind(&mut *output, BLOCK_SIZE as u64 + content);
                let mut index = InMemory::default();
                let read = read_layer(number, layer, &budget, &mut data, &mut index, progress)?;
                content += read.data_length;
                // Blocks of zeros at its end were left out.
                let length = usize::try_from(read.index_length).unwrap_or(usize::MAX);
                index.0.resize(length, 0);
                known
                    .entry(diff_id)
                    .or_insert(Rc::new((read, index.0)))
                    .clone()
            }
        };
        indexes.push((diff_id, digest, read));
    }
    let indexes = indexes.iter().map(|(diff_id, digest, read)| LayerIndex {
        reader: Box::new(read.1.as_slice()),
        data_length: read.0.data_length,
        diff_id: *diff_id,
        digest: *digest,
    });
    let mut unpacked = merge(indexes.collect(), limits, &mut WithContent(output, content))?;
    unpacked.image_length += content;
    Ok(unpacked)
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
