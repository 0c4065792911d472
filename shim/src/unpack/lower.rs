//! From a job to the VM's disks and the agent's request: pure.

use hull_protocol::agent::{
    self, KnownLayer, LayerBlob, UnpackLimits, UnpackRequest, UnpackResponse,
};
use hull_vm_config::{BlockConfig, Extent, MAX_VCPUS};
use protobuf::{EnumOrUnknown, MessageField};

use super::files::{outputs, Input};
use super::job::{Compression, Done, Job, Lengths};

/// Begin of the names of the descriptors that the guest reads.
pub(super) const INPUT_FD: &str = "input";

/// Begin of the names of those that it writes.
pub(super) const OUTPUT_FD: &str = "output";

/// vCPUs unless the job says otherwise: one for each new layer, from these to those.
const LEAST_VCPUS: usize = 2;

const MOST_VCPUS: usize = 4;

/// Layers are read side by side.
pub(super) fn vcpus(job: &Job) -> u8 {
    let wanted = job.layers.len().clamp(LEAST_VCPUS, MOST_VCPUS);
    job.vcpus
        .unwrap_or_else(|| u8::try_from(wanted).unwrap_or(MAX_VCPUS))
}

pub(super) fn fd_name(kind: &str, index: usize) -> String {
    format!("{kind}-{index}")
}

/// All inputs one after another, each filled up to a whole sector.
pub(super) fn input_device(inputs: &[Input]) -> BlockConfig {
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
pub(super) fn output_device(job: &Job, capacity: u64) -> BlockConfig {
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

/// What it takes of the device: a sector where a layer is of no bytes at all, since a disk has no piece
/// without any.
fn sectors(length: u64) -> u64 {
    length.max(1).next_multiple_of(512)
}

pub(super) fn request(job: &Job, inputs: &[Input], capacity: u64) -> UnpackRequest {
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
            stored: job.limits.stored,
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn done_of(done: &UnpackResponse) -> Done {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::files::inputs;
    use crate::unpack::job::tests::job;
    use crate::unpack::Known;

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
}
