//! Applies layers to the tree, one entry at a time, and writes the metadata of the result.

use super::index::{Content, IndexReader, LayerEntry};
use super::layer::{too_many_files, Merging};
use super::path::{self, Missing};
use super::tree::{Kind, Meta, Node, NodeId, Tree, TreeFull, ROOT};
use super::{LayerIndex, Limits, Output, UnpackError, Unpacked};
use crate::erofs::{self, BlockWriter, OutputFailure, WriteError, BLOCK_SIZE};
use crate::tar::display;

/// OCI image specification, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS's own files, which no unpacker shows.
const AUFS: &[u8] = b".wh..wh.";

/// A file's node in the tree, its entry in its directory and its place in the plan, in bytes of memory.
const NODE_BYTES: u64 = 256;

pub(super) struct Merger<'a> {
    limits: &'a Limits,
    tree: Tree,
    /// Entries of the layers so far.
    entries: u64,
    /// What the tree takes in memory, about, in bytes.
    memory: u64,
}

impl<'a> Merger<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            tree: Tree::new(),
            entries: 0,
            memory: 0,
        }
    }

    /// Applies one layer, whose content begins at block `base` of the image, above those before it.
    pub(super) fn layer(
        &mut self,
        number: usize,
        layer: LayerIndex<'_>,
        base: u64,
    ) -> Result<(), UnpackError> {
        let merging = Merging {
            number: u32::try_from(number).map_err(|_| UnpackError::TooLarge {
                reason: format!("{number} layers"),
            })?,
            digest: layer.digest,
        };
        let damaged = |source| UnpackError::Index {
            layer: layer.digest,
            source,
        };
        let blocks = layer.data_length / BLOCK_SIZE as u64;
        let mut index = IndexReader::open(layer.reader, blocks).map_err(damaged)?;
        self.tree.start_layer();
        while let Some(mut entry) = index.next_entry().map_err(damaged)? {
            relocate(&mut entry.content, base).ok_or_else(too_many_blocks)?;
            self.entry(&merging, entry)?;
        }
        Ok(())
    }

    /// Writes the metadata of all layers from where `out` stands, and the superblock. Gives the
    /// length that the whole image has with the layers' content.
    pub(super) fn finish<O: Output>(
        self,
        out: &mut BlockWriter<'_, O>,
        uuid: [u8; 16],
    ) -> Result<Unpacked, UnpackError> {
        let image_length = erofs::write(&self.tree, out, uuid).map_err(|error| match error {
            WriteError::Output(failure) => output_error(failure),
            WriteError::TooLarge(reason) => UnpackError::TooLarge { reason },
        })?;
        Ok(Unpacked {
            image_length,
            files: self.tree.len() as u64,
        })
    }

    fn entry(&mut self, layer: &Merging, entry: LayerEntry) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.files {
            return Err(layer.limit("files", self.limits.files, &entry.path));
        }
        self.memory += NODE_BYTES + (entry.path.len() + entry.meta.xattrs.len()) as u64;
        if self.memory > self.limits.memory {
            return Err(layer.limit("memory", self.limits.memory, &entry.path));
        }
        let path = entry.path;
        let components = path::components(&path).map_err(|error| layer.path_error(error, &path))?;
        if components.len() as u64 > u64::from(self.limits.path_depth) {
            return Err(layer.limit("path depth", self.limits.path_depth.into(), &path));
        }
        let Some((name, parents)) = components.split_last() else {
            return self.root(layer, &path, entry.meta, &entry.content);
        };
        if *name == OPAQUE {
            let directory = self.directory(layer, parents, &path)?;
            self.tree.hide_lower(directory, layer.number);
            return Ok(());
        }
        if components
            .iter()
            .any(|component| component.starts_with(AUFS))
        {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(layer, parents, hidden, &path);
        }
        let parent = self.directory(layer, parents, &path)?;
        match entry.content {
            Content::HardLink(target) => {
                self.place_hard_link(layer, parent, name, &path, &target, entry.meta)
            }
            Content::Node(Kind::Directory(_)) => {
                self.place_directory(layer, parent, name, entry.meta)
            }
            Content::Node(kind) => {
                let node = self
                    .tree
                    .insert(Node::new(entry.meta, kind))
                    .map_err(|TreeFull| too_many_files())?;
                self.tree.link(parent, name, node, layer.number);
                Ok(())
            }
        }
    }

    /// An entry for the root itself: only a directory can be that.
    fn root(
        &mut self,
        layer: &Merging,
        path: &[u8],
        meta: Meta,
        content: &Content,
    ) -> Result<(), UnpackError> {
        if !matches!(content, Content::Node(Kind::Directory(_))) {
            return Err(layer.entry_error(path, "the root is not a directory"));
        }
        self.tree.node_mut(ROOT).meta = meta;
        Ok(())
    }

    fn directory(
        &mut self,
        layer: &Merging,
        path: &[&[u8]],
        whole: &[u8],
    ) -> Result<NodeId, UnpackError> {
        let missing = Missing::Create {
            layer: layer.number,
        };
        let found = path::directory(&mut self.tree, path, missing)
            .map_err(|error| layer.path_error(error, whole))?;
        // It was to be made where it was missing.
        Ok(found.unwrap_or(ROOT))
    }

    fn whiteout(
        &mut self,
        layer: &Merging,
        parents: &[&[u8]],
        hidden: &[u8],
        whole: &[u8],
    ) -> Result<(), UnpackError> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(layer.entry_error(whole, "a whiteout that names nothing"));
        }
        let parent = path::directory(&mut self.tree, parents, Missing::Stop)
            .map_err(|error| layer.path_error(error, whole))?;
        if let Some(parent) = parent {
            self.tree.whiteout(parent, hidden, layer.number);
        }
        Ok(())
    }

    /// A directory replaces anything but a directory, with which it is merged.
    fn place_directory(
        &mut self,
        layer: &Merging,
        parent: NodeId,
        name: &[u8],
        meta: Meta,
    ) -> Result<(), UnpackError> {
        match self.tree.child(parent, name) {
            Some(old) if self.tree.children(old.node).is_some() => {
                self.tree.node_mut(old.node).meta = meta;
                self.tree.touch(parent, name, layer.number);
            }
            _ => {
                let node = self
                    .tree
                    .insert(Node::directory(meta))
                    .map_err(|TreeFull| too_many_files())?;
                self.tree.link(parent, name, node, layer.number);
            }
        }
        Ok(())
    }

    /// One more name for a file of this layer or a lower one. A symbolic link is linked itself,
    /// never what it points to.
    fn place_hard_link(
        &mut self,
        layer: &Merging,
        parent: NodeId,
        name: &[u8],
        whole: &[u8],
        target: &[u8],
        meta: Meta,
    ) -> Result<(), UnpackError> {
        let components =
            path::components(target).map_err(|error| layer.path_error(error, target))?;
        let found = match components.split_last() {
            Some((last, parents)) => path::directory(&mut self.tree, parents, Missing::Stop)
                .map_err(|error| layer.path_error(error, target))?
                .and_then(|directory| self.tree.child(directory, last)),
            None => None,
        };
        let Some(found) = found else {
            let (path, target) = (display(whole), display(target));
            return Err(UnpackError::MissingLinkTarget {
                layer: layer.digest,
                path,
                target,
            });
        };
        let node = self.tree.node_mut(found.node);
        if matches!(node.kind, Kind::Directory(_)) {
            return Err(layer.entry_error(whole, "hard link to a directory"));
        }
        // Docker applies the link entry's owner, time and (but for symbolic links) mode too.
        let permissions = if matches!(node.kind, Kind::Symlink(_)) {
            node.meta.permissions
        } else {
            meta.permissions
        };
        let xattrs = if meta.xattrs.is_empty() {
            std::mem::take(&mut node.meta.xattrs)
        } else {
            meta.xattrs
        };
        node.meta = Meta {
            permissions,
            xattrs,
            ..meta
        };
        let already = self
            .tree
            .child(parent, name)
            .is_some_and(|old| old.node == found.node);
        if already {
            self.tree.touch(parent, name, layer.number);
        } else {
            self.tree.link(parent, name, found.node, layer.number);
        }
        Ok(())
    }
}

/// Blocks of a layer's content to blocks of the image; `None` if they leave its range.
fn relocate(content: &mut Content, base: u64) -> Option<()> {
    let moved = |block: u32| {
        let block = base.checked_add(u64::from(block))?;
        u32::try_from(block).ok().filter(|block| *block != u32::MAX)
    };
    match content {
        Content::Node(Kind::File { size, block }) if *size > 0 => *block = moved(*block)?,
        Content::Node(Kind::Chunked(chunks)) => {
            for run in &mut chunks.runs {
                run.at.block = moved(run.at.block)?;
            }
        }
        _ => {}
    }
    Some(())
}

pub(super) fn output_error(failure: OutputFailure) -> UnpackError {
    let OutputFailure {
        action,
        offset,
        source,
    } = failure;
    UnpackError::Output {
        action,
        offset,
        source,
    }
}

pub(super) fn too_many_blocks() -> UnpackError {
    UnpackError::TooLarge {
        reason: "more than 2^32 blocks of 4096 bytes".into(),
    }
}
