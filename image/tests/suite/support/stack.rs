//! Stacks of layers in memory, unpacked into a file and read back.

use std::collections::BTreeMap;
use std::fs::File;

use hull_image::unpack::{
    unpack, FileOutput, LayerSource, Limits, NoProgress, UnpackError, Unpacked,
};
use hull_image::{Compression, DiffId, Digest};

use super::erofs::{Image, Inode};

pub(crate) struct Stack {
    pub(crate) file: tempfile::NamedTempFile,
    pub(crate) unpacked: Unpacked,
    pub(crate) tree: BTreeMap<String, Inode>,
}

/// A layer of a tar archive as it is.
pub(crate) fn source(tar: &[u8]) -> LayerSource<'_> {
    blob(tar, DiffId::of(tar))
}

pub(crate) fn blob(blob: &[u8], diff_id: DiffId) -> LayerSource<'_> {
    LayerSource {
        reader: Box::new(blob),
        length: blob.len() as u64,
        compression: Compression::None,
        diff_id,
        digest: Digest::of(blob),
    }
}

pub(crate) fn try_unpack(
    layers: Vec<LayerSource<'_>>,
    limits: &Limits,
) -> Result<Stack, UnpackError> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let output = file.reopen().expect("reopen");
    let unpacked = unpack(layers, limits, &mut FileOutput::new(output), &NoProgress)?;
    file.as_file()
        .set_len(unpacked.image_length)
        .expect("resize");
    let tree = Image::open(file.as_file()).tree();
    assert_eq!(
        unpacked.files,
        tree.values()
            .map(|inode| inode.nid)
            .collect::<std::collections::BTreeSet<_>>()
            .len() as u64
    );
    Ok(Stack {
        file,
        unpacked,
        tree,
    })
}

/// Unpacks archives, lowest first, with the default limits.
pub(crate) fn unpacked(layers: &[Vec<u8>]) -> Stack {
    match try_unpack(
        layers.iter().map(|tar| source(tar)).collect(),
        &Limits::default(),
    ) {
        Ok(stack) => stack,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn failure(layers: &[Vec<u8>]) -> UnpackError {
    match try_unpack(
        layers.iter().map(|tar| source(tar)).collect(),
        &Limits::default(),
    ) {
        Ok(_) => panic!("the layers were taken"),
        Err(error) => error,
    }
}

impl Stack {
    pub(crate) fn image(&self) -> Image<'_> {
        Image::open(self.handle())
    }

    fn handle(&self) -> &File {
        self.file.as_file()
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.tree.contains_key(path)
    }

    pub(crate) fn inode(&self, path: &str) -> &Inode {
        self.tree
            .get(path)
            .unwrap_or_else(|| panic!("{path} is missing of {:?}", self.tree.keys()))
    }

    pub(crate) fn content(&self, path: &str) -> Vec<u8> {
        let inode = self.inode(path);
        self.image()
            .read(inode, 0, usize::try_from(inode.size).expect("size"))
    }

    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.content(path)).expect("text")
    }

    /// Names in a directory.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let below = self
            .tree
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix));
        below
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(str::to_owned)
            .collect()
    }

    /// Bytes that the image really takes on the host.
    pub(crate) fn allocated(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        self.handle().metadata().expect("metadata").blocks() * 512
    }
}
