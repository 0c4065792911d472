//! What hull-unpack is asked, and what it answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// Bytes written to the output files, of which zeros need none.
    pub stored: u64,
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

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::*;

    pub(in crate::unpack) fn job(directory: &Path) -> Job {
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
