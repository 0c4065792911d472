//! Names in archives to places in the tree. Nothing here touches a file system.

use super::tree::{Kind, Meta, Node, NodeId, Tree, TreeFull, ROOT};

/// As Linux: more symbolic links than this on one path are a loop.
const MAX_SYMLINKS: usize = 255;

/// Why a path has no place.
#[derive(Debug)]
pub(super) enum PathError {
    /// `..` leads above the root.
    Escapes,
    Loop,
    NameTooLong(usize),
    Nul,
    Full(TreeFull),
}

impl From<TreeFull> for PathError {
    fn from(full: TreeFull) -> Self {
        Self::Full(full)
    }
}

/// Components of `path`, taken relative to the root, with `.` and `..` resolved by name (as every
/// unpacker does before it looks at the tree).
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, PathError> {
    let mut components = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop().ok_or(PathError::Escapes)?;
            }
            name if name.contains(&0) => return Err(PathError::Nul),
            name if name.len() > 255 => return Err(PathError::NameTooLong(name.len())),
            name => components.push(name),
        }
    }
    Ok(components)
}

/// What to do where a directory on the way does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it, 0755 root:root, also in place of something that is no directory.
    Create {
        layer: u32,
    },
    Stop,
}

/// The directory that `path` leads to. Symbolic links are followed, inside the root.
pub(super) fn directory(
    tree: &mut Tree,
    path: &[&[u8]],
    missing: Missing,
) -> Result<Option<NodeId>, PathError> {
    let mut walk = Walk {
        tree,
        stack: vec![ROOT],
        symlinks: 0,
        missing,
    };
    for component in path {
        if !walk.step(component)? {
            return Ok(None);
        }
    }
    Ok(Some(walk.top()))
}

struct Walk<'a> {
    tree: &'a mut Tree,
    /// The directories from the root to here.
    stack: Vec<NodeId>,
    symlinks: usize,
    missing: Missing,
}

impl Walk<'_> {
    fn top(&self) -> NodeId {
        self.stack.last().copied().unwrap_or(ROOT)
    }

    /// Enters `name`; false if it does not exist and must not be made.
    fn step(&mut self, name: &[u8]) -> Result<bool, PathError> {
        // Components of symbolic links that are still to be walked, the next one last.
        let mut pending: Vec<Box<[u8]>> = Vec::new();
        let mut name: Box<[u8]> = name.into();
        loop {
            match &*name {
                b"" | b"." => {}
                b".." => {
                    if self.stack.len() > 1 {
                        self.stack.pop();
                    }
                }
                plain => match self.enter(plain)? {
                    Entered::Yes => {}
                    Entered::Missing => return Ok(false),
                    Entered::Symlink(target) => {
                        self.symlinks += 1;
                        if self.symlinks > MAX_SYMLINKS {
                            return Err(PathError::Loop);
                        }
                        if target.starts_with(b"/") {
                            self.stack.truncate(1);
                        }
                        pending.extend(target.rsplit(|byte| *byte == b'/').map(Box::from));
                    }
                },
            }
            match pending.pop() {
                Some(next) => name = next,
                None => return Ok(true),
            }
        }
    }

    fn enter(&mut self, name: &[u8]) -> Result<Entered, PathError> {
        let here = self.top();
        if let Some(entry) = self.tree.child(here, name) {
            match &self.tree.node(entry.node).kind {
                Kind::Directory(_) => {
                    self.stack.push(entry.node);
                    return Ok(Entered::Yes);
                }
                Kind::Symlink(target) => return Ok(Entered::Symlink(target.clone())),
                _ => {}
            }
        }
        let Missing::Create { layer } = self.missing else {
            return Ok(Entered::Missing);
        };
        if name.len() > 255 {
            return Err(PathError::NameTooLong(name.len()));
        }
        let node = self.tree.insert(Node::directory(Meta::implied()))?;
        self.tree.link(here, name, node, layer);
        self.stack.push(node);
        Ok(Entered::Yes)
    }
}

enum Entered {
    Yes,
    Missing,
    Symlink(Box<[u8]>),
}
