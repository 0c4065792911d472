//! From the merged tree to inodes, directories and the superblock.

use super::blocks::{BlockWriter, OutputFailure, BLOCK_SIZE};
use super::directory::{self, Entry};
use super::format::{
    encode_device, DataLayout, Inode, Superblock, CHUNK_FORMAT_INDEXES, CHUNK_INDEX_SIZE, NID_UNIT,
    XATTR_HEADER_SIZE,
};
use super::inode::{Place, Shape};
use super::xattr;
use crate::unpack::tree::{Chunks, Kind, Node, NodeId, Tree, ROOT};
use crate::unpack::Output;

/// "No data": a hole in a chunk index.
const HOLE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) enum WriteError {
    Output(OutputFailure),
    /// What 32-bit addresses cannot hold.
    TooLarge(String),
}

impl From<OutputFailure> for WriteError {
    fn from(failure: OutputFailure) -> Self {
        Self::Output(failure)
    }
}

/// Writes the metadata of `tree` behind the content that `out` has, then the superblock. Gives the
/// image's length in bytes.
pub(crate) fn write<O: Output>(
    tree: &Tree,
    out: &mut BlockWriter<'_, O>,
    uuid: [u8; 16],
) -> Result<u64, WriteError> {
    let meta_block = block_number(out.align()?)?;
    let plan = Plan::new(tree)?;
    let directory_block =
        block_number(u64::from(meta_block) + plan.length.div_ceil(BLOCK_SIZE as u64))?;
    let end_block = block_number(u64::from(directory_block) + plan.directory_blocks)?;

    write_inodes(
        tree,
        &plan,
        out,
        u64::from(meta_block) * BLOCK_SIZE as u64,
        directory_block,
    )?;
    out.advance_to(u64::from(directory_block) * BLOCK_SIZE as u64)?;
    write_directory_blocks(tree, &plan, out)?;
    out.finish()?;

    let superblock = Superblock {
        root_nid: plan.nid(ROOT) as u16, // The root comes first: its nid is 1.
        inodes: tree.len() as u64,
        blocks: end_block,
        meta_block,
        uuid,
        has_chunks: plan.has_chunks,
    };
    out.write_first_block(&superblock.encode())?;
    Ok(u64::from(end_block) * BLOCK_SIZE as u64)
}

fn block_number(block: u64) -> Result<u32, WriteError> {
    // The highest number means "hole".
    u32::try_from(block)
        .ok()
        .filter(|block| *block != HOLE)
        .ok_or_else(|| WriteError::TooLarge("more than 2^32 blocks of 4096 bytes".into()))
}

/// Where every inode goes. 12 bytes a node.
struct Plan {
    /// Nodes in the order of their inodes: breadth first, so that a directory's children lie
    /// together.
    order: Vec<NodeId>,
    /// By node; 0: not reached.
    nids: Vec<u32>,
    /// By node; of directories only.
    parents: Vec<NodeId>,
    /// Length of the inode area in bytes.
    length: u64,
    directory_blocks: u64,
    has_chunks: bool,
}

impl Plan {
    fn new(tree: &Tree) -> Result<Self, WriteError> {
        const QUEUED: u32 = u32::MAX;
        let mut plan = Self {
            order: Vec::with_capacity(tree.len()),
            nids: vec![0; tree.slots()],
            parents: vec![ROOT; tree.slots()],
            // Inode number 0 is "no entry" to readers of directories.
            length: NID_UNIT,
            directory_blocks: 0,
            has_chunks: false,
        };
        plan.order.push(ROOT);
        let mut next = 0;
        while let Some(id) = plan.order.get(next).copied() {
            next += 1;
            let node = tree.node(id);
            let place = Shape::of(node).place(plan.length);
            plan.length = place.end;
            plan.directory_blocks += place.blocks;
            plan.has_chunks |= matches!(node.kind, Kind::Chunked(_));
            plan.nids[id as usize] = u32::try_from(place.start / NID_UNIT)
                .ok()
                .filter(|nid| *nid != QUEUED)
                .ok_or_else(|| WriteError::TooLarge("more than 128 GiB of metadata".into()))?;
            for entry in tree
                .children(id)
                .into_iter()
                .flat_map(|children| children.values())
            {
                let child = entry.node as usize;
                if plan.nids[child] == 0 {
                    plan.nids[child] = QUEUED;
                    plan.parents[child] = id;
                    plan.order.push(entry.node);
                }
            }
        }
        Ok(plan)
    }

    fn nid(&self, id: NodeId) -> u64 {
        u64::from(self.nids[id as usize])
    }

    /// Content of directory `id`.
    fn directory(&self, tree: &Tree, id: NodeId) -> Vec<u8> {
        let children = tree
            .children(id)
            .into_iter()
            .flatten()
            .map(|(name, entry)| (&**name, entry.node));
        let entries =
            directory::with_dots(id, self.parents[id as usize], children).map(|(name, node)| {
                Entry {
                    name,
                    nid: self.nid(node),
                    file_type: file_type(&tree.node(node).kind),
                }
            });
        directory::encode(entries)
    }
}

fn write_inodes<O: Output>(
    tree: &Tree,
    plan: &Plan,
    out: &mut BlockWriter<'_, O>,
    base: u64,
    directory_block: u32,
) -> Result<(), WriteError> {
    let mut cursor = NID_UNIT;
    let mut content_block = directory_block;
    for (number, id) in (1_u32..).zip(plan.order.iter().copied()) {
        let node = tree.node(id);
        let place = Shape::of(node).place(cursor);
        cursor = place.end;
        let content = match &node.kind {
            Kind::Directory(_) => plan.directory(tree, id),
            Kind::Symlink(target) => target.to_vec(),
            _ => Vec::new(),
        };
        out.advance_to(base + place.start)?;
        out.write(
            &inode(
                node,
                place,
                content.len() as u64,
                number,
                content_block,
                links(tree, node),
            )
            .encode(),
        )?;
        if !node.meta.xattrs.is_empty() {
            // Name filter (all zero: no filter) and no shared attributes.
            out.write(&[0; XATTR_HEADER_SIZE])?;
            out.write(&node.meta.xattrs)?;
        }
        if place.inline {
            out.write(&content[content.len() / BLOCK_SIZE * BLOCK_SIZE..])?;
        }
        if let Kind::Chunked(chunks) = &node.kind {
            let position = out.position().next_multiple_of(CHUNK_INDEX_SIZE);
            out.advance_to(position)?;
            write_chunk_indexes(chunks, out)?;
        }
        content_block += place.blocks as u32; // `write` checked the sum.
    }
    Ok(())
}

fn inode(
    node: &Node,
    place: Place,
    content: u64,
    number: u32,
    content_block: u32,
    links: u32,
) -> Inode {
    let layout = match &node.kind {
        Kind::Chunked(_) => DataLayout::ChunkBased,
        _ if place.inline => DataLayout::FlatInline,
        _ => DataLayout::FlatPlain,
    };
    let (size, union) = match &node.kind {
        Kind::File { size, block } => (*size, *block),
        Kind::Chunked(chunks) => (
            chunks.size,
            u32::from(CHUNK_FORMAT_INDEXES) | u32::from(chunks.chunk_bits),
        ),
        Kind::Directory(_) | Kind::Symlink(_) => {
            (content, if place.blocks > 0 { content_block } else { 0 })
        }
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            (0, encode_device(*major, *minor))
        }
        Kind::Fifo => (0, 0),
    };
    Inode {
        layout,
        xattr_length: xattr::body_length(&node.meta.xattrs),
        mode: file_mode(&node.kind) | node.meta.permissions,
        size,
        union,
        number,
        uid: node.meta.uid,
        gid: node.meta.gid,
        mtime: node.meta.mtime,
        mtime_nanoseconds: node.meta.mtime_nanoseconds,
        links,
    }
}

/// Names of a file; of a directory its own, its `.` and the `..` of those below.
fn links(tree: &Tree, node: &Node) -> u32 {
    let Kind::Directory(children) = &node.kind else {
        return node.links;
    };
    let below = children
        .values()
        .filter(|entry| tree.children(entry.node).is_some())
        .count();
    u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2)
}

fn write_chunk_indexes<O: Output>(
    chunks: &Chunks,
    out: &mut BlockWriter<'_, O>,
) -> Result<(), WriteError> {
    let index = |device: u16, block: u32| {
        let mut bytes = [0; CHUNK_INDEX_SIZE as usize];
        bytes[2..4].copy_from_slice(&device.to_le_bytes());
        bytes[4..].copy_from_slice(&block.to_le_bytes());
        bytes
    };
    let blocks_per_chunk = 1_u64 << chunks.chunk_bits;
    let mut next = 0;
    for run in &chunks.runs {
        for _ in next..run.first {
            out.write(&index(0, HOLE))?;
        }
        for at in 0..run.count {
            let block = block_number(u64::from(run.at.block) + at * blocks_per_chunk)?;
            out.write(&index(run.at.device, block))?;
        }
        next = run.first + run.count;
    }
    for _ in next..chunks.count() {
        out.write(&index(0, HOLE))?;
    }
    Ok(())
}

fn write_directory_blocks<O: Output>(
    tree: &Tree,
    plan: &Plan,
    out: &mut BlockWriter<'_, O>,
) -> Result<(), WriteError> {
    let mut cursor = NID_UNIT;
    for id in plan.order.iter().copied() {
        let node = tree.node(id);
        let place = Shape::of(node).place(cursor);
        cursor = place.end;
        if place.blocks == 0 {
            continue;
        }
        let mut content = match &node.kind {
            Kind::Directory(_) => plan.directory(tree, id),
            Kind::Symlink(target) => target.to_vec(),
            _ => continue,
        };
        content.resize(place.blocks as usize * BLOCK_SIZE, 0);
        out.write(&content)?;
    }
    Ok(())
}

/// `S_IF*`.
fn file_mode(kind: &Kind) -> u16 {
    match kind {
        Kind::File { .. } | Kind::Chunked(_) => 0o100_000,
        Kind::Directory(_) => 0o040_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::CharDevice { .. } => 0o020_000,
        Kind::BlockDevice { .. } => 0o060_000,
        Kind::Fifo => 0o010_000,
    }
}

/// `FT_*` of the kernel's `fs_types.h`.
fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } | Kind::Chunked(_) => 1,
        Kind::Directory(_) => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}
