//! The merged tree: all metadata of the image in memory, no content.
//!
//! An arena of nodes addressed by index, so that hard links are two directory entries with one
//! index and nothing recurses, however deep a tree is.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type NodeId = u32;

pub(crate) const ROOT: NodeId = 0;

/// Where a file's content lies: a device of the image (0: the image itself) and a 4 KiB block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRef {
    pub(crate) device: u16,
    pub(crate) block: u32,
}

/// `count` chunks from chunk `first` of a sparse file, one behind the other from `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkRun {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) at: BlockRef,
}

/// Content of a sparse file in chunks of `4096 << chunk_bits` bytes; what no run has is a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunks {
    pub(crate) size: u64,
    pub(crate) chunk_bits: u8,
    pub(crate) runs: Vec<ChunkRun>,
}

impl Chunks {
    /// Chunks of the file, holes included.
    pub(crate) fn count(&self) -> u64 {
        self.size.div_ceil(chunk_size(self.chunk_bits))
    }
}

/// Bytes of a chunk.
pub(crate) fn chunk_size(chunk_bits: u8) -> u64 {
    4096 << chunk_bits
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Content in one piece, from a block of the image itself.
    File {
        size: u64,
        block: u32,
    },
    /// Content in pieces, with holes, on any device of the image.
    Chunked(Box<Chunks>),
    Directory(BTreeMap<Name, Dirent>),
    Symlink(Box<[u8]>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

pub(crate) type Name = Box<[u8]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dirent {
    pub(crate) node: NodeId,
    /// The last layer that had an entry for this name (or needed it as a parent).
    pub(crate) layer: u32,
}

/// Owner, permissions, time and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_nanoseconds: u32,
    /// Extended attributes in EROFS's form, see [`crate::erofs::xattr`]; empty for none.
    pub(crate) xattrs: Box<[u8]>,
}

impl Meta {
    /// A directory that no entry describes.
    pub(crate) fn implied() -> Self {
        Self {
            permissions: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanoseconds: 0,
            xattrs: Box::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
    /// Directory entries that name it; 0: the slot is free.
    pub(crate) links: u32,
}

impl Node {
    pub(crate) fn new(meta: Meta, kind: Kind) -> Self {
        Self {
            meta,
            kind,
            links: 0,
        }
    }

    pub(crate) fn directory(meta: Meta) -> Self {
        Self::new(meta, Kind::Directory(BTreeMap::new()))
    }
}

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    /// Directories whose lower content was hidden in the current layer already.
    hidden: BTreeSet<NodeId>,
}

/// More nodes than an index can name.
#[derive(Debug)]
pub(crate) struct TreeFull;

impl Tree {
    pub(crate) fn new() -> Self {
        let mut root = Node::directory(Meta::implied());
        root.links = 1;
        Self {
            nodes: vec![root],
            free: Vec::new(),
            hidden: BTreeSet::new(),
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// Slots in use or free: node indices are below this.
    pub(crate) fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// Nodes in use.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    pub(crate) fn children(&self, id: NodeId) -> Option<&BTreeMap<Name, Dirent>> {
        match &self.node(id).kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Name, Dirent>> {
        match &mut self.node_mut(id).kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    pub(crate) fn child(&self, directory: NodeId, name: &[u8]) -> Option<Dirent> {
        self.children(directory)?.get(name).copied()
    }

    /// Begins the next layer.
    pub(crate) fn start_layer(&mut self) {
        self.hidden.clear();
    }

    pub(crate) fn insert(&mut self, node: Node) -> Result<NodeId, TreeFull> {
        if let Some(id) = self.free.pop() {
            self.nodes[id as usize] = node;
            return Ok(id);
        }
        // The last index is kept free: writers use it for "none".
        let id = NodeId::try_from(self.nodes.len())
            .ok()
            .filter(|id| *id < NodeId::MAX)
            .ok_or(TreeFull)?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Puts `node` at `name`, in place of what is there. The node gains a link first, so that
    /// replacing a directory that holds its other name does not lose it.
    pub(crate) fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId, layer: u32) {
        let links = &mut self.node_mut(node).links;
        *links = links.saturating_add(1);
        let old = self
            .children_mut(directory)
            .and_then(|c| c.insert(name.into(), Dirent { node, layer }));
        if let Some(old) = old {
            self.unref(old.node);
        }
    }

    /// Marks the entry as one of `layer`.
    pub(crate) fn touch(&mut self, directory: NodeId, name: &[u8], layer: u32) {
        if let Some(entry) = self
            .children_mut(directory)
            .and_then(|children| children.get_mut(name))
        {
            entry.layer = layer;
        }
    }

    pub(crate) fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        if let Some(old) = self
            .children_mut(directory)
            .and_then(|children| children.remove(name))
        {
            self.unref(old.node);
        }
    }

    /// Takes one link away; nodes without any go, with all that is below them.
    fn unref(&mut self, id: NodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let node = self.node_mut(id);
            node.links = node.links.saturating_sub(1);
            if node.links > 0 {
                continue;
            }
            let kind = std::mem::replace(&mut node.kind, Kind::Fifo);
            node.meta.xattrs = Box::default();
            self.hidden.remove(&id);
            self.free.push(id);
            if let Kind::Directory(children) = kind {
                pending.extend(children.values().map(|entry| entry.node));
            }
        }
    }

    /// A whiteout of `name` in `layer`: what lower layers had there goes, what this layer has
    /// stays, whichever came first in the archive.
    pub(crate) fn whiteout(&mut self, directory: NodeId, name: &[u8], layer: u32) {
        let Some(entry) = self.child(directory, name) else {
            return;
        };
        if self.children(entry.node).is_some() {
            self.hide_lower(entry.node, layer);
        }
        self.settle(directory, name, layer);
    }

    /// An opaque marker: everything that lower layers had below `directory` goes.
    pub(crate) fn hide_lower(&mut self, directory: NodeId, layer: u32) {
        if self.hidden.contains(&directory) {
            return;
        }
        // Children before their directories, so that emptied ones can go.
        let mut found = vec![directory];
        let mut next = 0;
        while let Some(id) = found.get(next).copied() {
            next += 1;
            if !self.hidden.insert(id) {
                continue;
            }
            let below = self
                .children(id)
                .into_iter()
                .flat_map(|children| children.values());
            found.extend(
                below
                    .map(|entry| entry.node)
                    .filter(|child| self.children(*child).is_some()),
            );
        }
        for id in found.into_iter().rev() {
            let stale: Vec<Name> = self
                .children(id)
                .into_iter()
                .flatten()
                .filter(|(_, entry)| entry.layer != layer)
                .map(|(name, _)| name.clone())
                .collect();
            for name in stale {
                self.settle(id, &name, layer);
            }
        }
    }

    /// Ends the whiteout of one entry, whose own children are settled: a lower entry goes, unless
    /// it is a directory that this layer put something into, which becomes a new, implied one.
    fn settle(&mut self, directory: NodeId, name: &[u8], layer: u32) {
        match self.child(directory, name) {
            Some(entry) if entry.layer != layer => {
                if self
                    .children(entry.node)
                    .is_some_and(|children| !children.is_empty())
                {
                    self.node_mut(entry.node).meta = Meta::implied();
                    self.touch(directory, name, layer);
                } else {
                    self.unlink(directory, name);
                }
            }
            _ => {}
        }
    }
}
