//! The files that an unpack VM reads and writes.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::job::{Done, Job};
use super::{bad, failed, UnpackError, BLOCK_BYTES};

/// Most layers of an image.
const MAX_LAYERS: usize = 500;
const SECTOR_BYTES: u64 = 512;

/// A file that the guest reads, and its length in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) path: PathBuf,
    pub(super) length: u64,
}

pub(super) fn check_layers(job: &Job) -> Result<(), UnpackError> {
    if MAX_LAYERS < job.diff_ids.len() {
        let count = job.diff_ids.len();
        return Err(bad(format!("{count} layers; want at most {MAX_LAYERS}")));
    }
    for layer in &job.layers {
        let metadata = std::fs::metadata(&layer.path).map_err(failed("read", &layer.path))?;
        if metadata.len() != layer.length {
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

/// The files that the guest reads, in the order in which the input device shows them: blobs, then
/// indexes.
pub(super) fn inputs(job: &Job) -> Result<Vec<Input>, UnpackError> {
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
    if inputs.is_empty() {
        // The guest reads nothing of an image without layers, but a disk has at least a sector.
        inputs.push(Input {
            path: job.output.clone(),
            length: SECTOR_BYTES,
        });
    }
    Ok(inputs)
}

/// The files that are written, in the order in which the output device shows them: content and
/// index of each layer, and the image's metadata.
pub(super) fn outputs(job: &Job) -> Vec<&Path> {
    let layers = job.layers.iter();
    let layers = layers.flat_map(|layer| [layer.data.as_path(), layer.index.as_path()]);
    layers.chain([job.output.as_path()]).collect()
}

/// Makes each output a sparse file as long as its place on the device; returns that length.
pub(super) fn prepare_outputs(job: &Job) -> Result<u64, UnpackError> {
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

/// Cuts each output to what the guest says of it, if that can be true.
pub(super) fn finish_outputs(job: &Job, done: &Done, capacity: u64) -> Result<(), UnpackError> {
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

fn truncate(path: &Path, length: u64) -> Result<(), UnpackError> {
    let file = OpenOptions::new().write(true).open(path);
    let cut = |file: File| {
        file.set_len(length)?;
        file.sync_all()
    };
    file.and_then(cut).map_err(failed("cut to length", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::job::tests::job;
    use crate::unpack::Lengths;

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
    }

    #[test]
    fn an_image_may_have_no_layers_but_not_any_number() {
        let directory = tempfile::tempdir().unwrap();
        let mut job = job(directory.path());
        job.layers.clear();
        job.known.clear();
        job.diff_ids.clear();
        check_layers(&job).unwrap();
        let [input] = &inputs(&job).unwrap()[..] else {
            panic!("one disk is read");
        };
        assert_eq!((&input.path, input.length), (&job.output, SECTOR_BYTES));
        job.diff_ids = vec![String::new(); MAX_LAYERS + 1];
        assert!(check_layers(&job).is_err());
    }
}
