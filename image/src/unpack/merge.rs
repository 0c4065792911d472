//! Applies layers to the tree, one entry at a time.

use super::layer::{meta, too_many_files, Layer};
use super::path::{self, Missing};
use super::sparse::SparseLayout;
use super::tree::{chunk_size, Kind, Meta, Node, NodeId, Tree, TreeFull, ROOT};
use super::{LayerSource, Limits, Output, Progress, UnpackError, Unpacked};
use crate::decompress;
use crate::erofs::{self, BlockWriter, OutputFailure, WriteError, BLOCK_SIZE};
use crate::tar::{display, Entry, EntryKind, SparseMap, TarReader};
use crate::DiffId;

/// OCI image specification, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS's own files, which no unpacker shows.
const AUFS: &[u8] = b".wh..wh.";
/// Linux has no longer link targets (`PATH_MAX` with its NUL).
const MAX_SYMLINK: usize = 4095;

type Reader<'s> = TarReader<Box<dyn std::io::Read + 's>>;

pub(super) struct Merger<'a, O> {
    limits: &'a Limits,
    progress: &'a dyn Progress,
    tree: Tree,
    data: BlockWriter<'a, O>,
    /// Entries and uncompressed bytes of the layers so far.
    entries: u64,
    bytes: u64,
}

impl<'a, O: Output> Merger<'a, O> {
    pub(super) fn new(
        limits: &'a Limits,
        data: BlockWriter<'a, O>,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            limits,
            progress,
            tree: Tree::new(),
            data,
            entries: 0,
            bytes: 0,
        }
    }

    /// Applies one layer above those before it.
    pub(super) fn layer(
        &mut self,
        index: usize,
        source: LayerSource<'_>,
    ) -> Result<(), UnpackError> {
        let LayerSource {
            reader,
            length,
            diff_id,
            digest,
            ..
        } = source;
        let (reader, blob) = decompress::open(reader).map_err(|source| UnpackError::Read {
            layer: digest,
            offset: 0,
            source,
        })?;
        let number = u32::try_from(index).map_err(|_| UnpackError::TooLarge {
            reason: format!("{index} layers"),
        })?;
        let mut layer = Layer {
            index,
            number,
            digest,
            length,
            blob,
            reported: 0,
        };
        let mut tar = TarReader::new(reader);
        self.tree.start_layer();
        while let Some(entry) = tar
            .next_entry()
            .map_err(|error| layer.tar_error(error, tar.offset()))?
        {
            self.entry(&mut layer, &mut tar, entry)?;
            self.check_bytes(&layer, tar.offset(), "")?;
            layer.report(self.progress);
        }
        let offset = tar.offset();
        let left = self.limits.bytes.saturating_sub(self.bytes);
        let sum = tar
            .into_stream()
            .finish(left)
            .map_err(|error| layer.tar_error(error.into(), offset))?;
        let Some(sum) = sum else {
            return Err(layer.limit("bytes", self.limits.bytes, b"end of the archive"));
        };
        let found = DiffId::from_bytes(sum);
        if found != diff_id {
            return Err(UnpackError::DiffIdMismatch {
                layer: digest,
                want: diff_id,
                found,
            });
        }
        self.bytes = self.bytes.saturating_add(offset);
        self.progress.layer(index, length, length);
        Ok(())
    }

    /// Writes the metadata of all layers and the superblock.
    pub(super) fn finish(mut self, uuid: [u8; 16]) -> Result<Unpacked, UnpackError> {
        self.data.align().map_err(output_error)?;
        let image_length =
            erofs::write(&self.tree, &mut self.data, uuid).map_err(|error| match error {
                WriteError::Output(failure) => output_error(failure),
                WriteError::TooLarge(reason) => UnpackError::TooLarge { reason },
            })?;
        self.discard_dead()?;
        Ok(Unpacked {
            image_length,
            files: self.tree.len() as u64,
        })
    }

    /// Contents that no name leads to any more.
    fn discard_dead(&mut self) -> Result<(), UnpackError> {
        let block = BLOCK_SIZE as u64;
        for content in self.tree.take_dead() {
            match content {
                Kind::File { size, block: first } if size > 0 => {
                    self.data
                        .discard(u64::from(first) * block, size.next_multiple_of(block))
                        .map_err(output_error)?;
                }
                Kind::Chunked(chunks) => {
                    for run in &chunks.runs {
                        // The last chunk may be stored in part: only what is behind it in the file
                        // is certain to be its own.
                        let end = (run.first + run.count) * chunk_size(chunks.chunk_bits);
                        let beyond = end.saturating_sub(chunks.size.next_multiple_of(block));
                        let length = run.count * chunk_size(chunks.chunk_bits) - beyond;
                        self.data
                            .discard(u64::from(run.at.block) * block, length)
                            .map_err(output_error)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        layer: &mut Layer,
        tar: &mut Reader<'_>,
        entry: Entry,
    ) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.files {
            return Err(layer.limit("files", self.limits.files, &entry.path));
        }
        if entry.path.len() as u64 > u64::from(self.limits.path_length) {
            return Err(layer.limit("path length", self.limits.path_length.into(), &entry.path));
        }
        let components =
            path::components(&entry.path).map_err(|error| layer.path_error(error, &entry.path))?;
        if components.len() as u64 > u64::from(self.limits.path_depth) {
            return Err(layer.limit("path depth", self.limits.path_depth.into(), &entry.path));
        }
        let Some((name, parents)) = components.split_last() else {
            return self.root(layer, &entry);
        };
        if *name == OPAQUE {
            let directory = self.directory(layer, parents, &entry.path)?;
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
            return self.whiteout(layer, parents, hidden, &entry.path);
        }
        let parent = self.directory(layer, parents, &entry.path)?;
        self.place(layer, tar, parent, name, &entry)
    }

    /// An entry for the root itself: only a directory can be that.
    fn root(&mut self, layer: &Layer, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != EntryKind::Directory {
            return Err(layer.entry_error(&entry.path, "the root is not a directory"));
        }
        self.tree.node_mut(ROOT).meta = meta(layer, entry)?;
        Ok(())
    }

    fn directory(
        &mut self,
        layer: &Layer,
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
        layer: &Layer,
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

    fn place(
        &mut self,
        layer: &mut Layer,
        tar: &mut Reader<'_>,
        parent: NodeId,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let meta = meta(layer, entry)?;
        let kind = match &entry.kind {
            EntryKind::Directory => return self.place_directory(layer, parent, name, meta),
            EntryKind::HardLink { target } => {
                return self.place_hard_link(layer, parent, name, entry, target, meta)
            }
            EntryKind::File { size, sparse: None } => self.file(layer, tar, *size, &entry.path)?,
            EntryKind::File {
                size,
                sparse: Some(map),
            } => self.sparse_file(layer, tar, *size, map, &entry.path)?,
            EntryKind::Symlink { target } => {
                if target.is_empty() || target.len() > MAX_SYMLINK || target.contains(&0) {
                    return Err(layer
                        .entry_error(&entry.path, "the target of the symbolic link is not valid"));
                }
                Kind::Symlink(target.clone().into())
            }
            EntryKind::CharDevice { major, minor } => Kind::CharDevice {
                major: *major,
                minor: *minor,
            },
            EntryKind::BlockDevice { major, minor } => Kind::BlockDevice {
                major: *major,
                minor: *minor,
            },
            EntryKind::Fifo => Kind::Fifo,
        };
        let node = self
            .tree
            .insert(Node::new(meta, kind))
            .map_err(|TreeFull| too_many_files())?;
        self.tree.link(parent, name, node, layer.number);
        Ok(())
    }

    /// A directory replaces anything but a directory, with which it is merged.
    fn place_directory(
        &mut self,
        layer: &Layer,
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
        layer: &Layer,
        parent: NodeId,
        name: &[u8],
        entry: &Entry,
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
            let (path, target) = (display(&entry.path), display(target));
            return Err(UnpackError::MissingLinkTarget {
                layer: layer.digest,
                path,
                target,
            });
        };
        let node = self.tree.node_mut(found.node);
        if matches!(node.kind, Kind::Directory(_)) {
            return Err(layer.entry_error(&entry.path, "hard link to a directory"));
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

    fn file(
        &mut self,
        layer: &mut Layer,
        tar: &mut Reader<'_>,
        size: u64,
        path: &[u8],
    ) -> Result<Kind, UnpackError> {
        self.check_bytes(layer, tar.offset().saturating_add(size), display(path))?;
        if size == 0 {
            return Ok(Kind::File { size: 0, block: 0 });
        }
        let block = self.start_content(size)?;
        let block = u32::try_from(block).map_err(|_| too_many_blocks())?;
        self.copy(layer, tar, u64::MAX)?;
        Ok(Kind::File { size, block })
    }

    fn sparse_file(
        &mut self,
        layer: &mut Layer,
        tar: &mut Reader<'_>,
        size: u64,
        map: &SparseMap,
        path: &[u8],
    ) -> Result<Kind, UnpackError> {
        let stored: u64 = map.ranges().iter().map(|(_, length)| length).sum();
        self.check_bytes(layer, tar.offset().saturating_add(stored), display(path))?;
        if stored == size {
            return self.file(layer, tar, size, path);
        }
        let layout = SparseLayout::choose(map, size);
        let block = self.start_content(layout.stored_length())?;
        let chunks = layout.place(block).ok_or_else(too_many_blocks)?;
        let base = block * BLOCK_SIZE as u64;
        for (offset, length) in map.ranges() {
            self.data
                .advance_to(base + layout.stored_offset(*offset))
                .map_err(output_error)?;
            self.copy(layer, tar, *length)?;
        }
        self.data
            .advance_to(base + layout.stored_length())
            .map_err(output_error)?;
        Ok(Kind::Chunked(Box::new(chunks)))
    }

    /// Aligns; gives the block where content of `length` bytes starts.
    fn start_content(&mut self, length: u64) -> Result<u64, UnpackError> {
        let block = self.data.align().map_err(output_error)?;
        let end = block
            .checked_add(length.div_ceil(BLOCK_SIZE as u64))
            .filter(|end| *end < u64::from(u32::MAX));
        end.map(|_| block).ok_or_else(too_many_blocks)
    }

    /// Copies up to `length` content bytes of the current entry.
    fn copy(
        &mut self,
        layer: &mut Layer,
        tar: &mut Reader<'_>,
        mut length: u64,
    ) -> Result<(), UnpackError> {
        while length > 0 {
            let offset = tar.offset();
            let chunk = tar
                .content()
                .map_err(|error| layer.tar_error(error, offset))?;
            let count =
                usize::try_from(length).map_or(chunk.len(), |length| length.min(chunk.len()));
            if count == 0 {
                break;
            }
            self.data.write(&chunk[..count]).map_err(output_error)?;
            tar.consume(count);
            length -= count as u64;
            layer.report(self.progress);
        }
        Ok(())
    }

    fn check_bytes(
        &self,
        layer: &Layer,
        in_layer: u64,
        path: impl AsRef<str>,
    ) -> Result<(), UnpackError> {
        if self.bytes.saturating_add(in_layer) > self.limits.bytes {
            return Err(layer.limit("bytes", self.limits.bytes, path.as_ref().as_bytes()));
        }
        Ok(())
    }
}

fn output_error(failure: OutputFailure) -> UnpackError {
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

fn too_many_blocks() -> UnpackError {
    UnpackError::TooLarge {
        reason: "more than 2^32 blocks of 4096 bytes".into(),
    }
}
