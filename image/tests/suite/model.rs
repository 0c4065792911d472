//! Random stacks of layers against a simple model of what merging means.

use std::collections::BTreeMap;

use crate::support::stack;
use crate::support::tarball::{self, Header, Tarball};
use proptest::prelude::*;

/// One entry of a random layer. Paths are made of `a`, `b` and `c`, at most three deep, so that
/// entries meet often.
#[derive(Debug, Clone)]
enum Op {
    File {
        path: Vec<u8>,
        size: usize,
        mode: u32,
    },
    Directory {
        path: Vec<u8>,
        mode: u32,
        opaque: Option<bool>,
    },
    /// Link targets are never walked through: no path has an `s`.
    Symlink {
        path: Vec<u8>,
    },
    HardLink {
        path: Vec<u8>,
        target: Vec<u8>,
    },
    Whiteout {
        path: Vec<u8>,
    },
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..3_u8, 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), 0..9000_usize, 0..0o1000_u32).prop_map(|(path, size, mode)| Op::File { path, size, mode }),
        3 => (path(), 0..0o1000_u32, prop::option::weighted(0.3, any::<bool>()))
            .prop_map(|(path, mode, opaque)| Op::Directory { path, mode, opaque }),
        1 => path().prop_map(|mut path| {
            path.push(3);
            Op::Symlink { path }
        }),
        2 => (path(), path()).prop_map(|(path, target)| Op::HardLink { path, target }),
        2 => path().prop_map(|path| Op::Whiteout { path }),
    ]
}

fn text(path: &[u8]) -> String {
    path.iter()
        .map(|part| ["a", "b", "c", "s"][usize::from(*part)])
        .collect::<Vec<_>>()
        .join("/")
}

fn content(layer: usize, at: usize, size: usize) -> Vec<u8> {
    (0..size)
        .map(|n| (n + layer * 31 + at * 7) as u8 | 1)
        .collect()
}

fn archive(layer: usize, ops: &[Op]) -> Vec<u8> {
    let mut tar = Tarball::new();
    for (at, op) in ops.iter().enumerate() {
        tar = match op {
            Op::File { path, size, mode } => {
                let header = Header {
                    mode: *mode,
                    ..Header::default()
                };
                tar.entry(text(path).as_bytes(), &header, &content(layer, at, *size))
            }
            Op::Directory { path, mode, opaque } => {
                let path = text(path);
                let marker = format!("{path}/.wh..wh..opq");
                match opaque {
                    None => tar.directory(&path, *mode),
                    Some(true) => tar.file(&marker, b"").directory(&path, *mode),
                    Some(false) => tar.directory(&path, *mode).file(&marker, b""),
                }
            }
            Op::Symlink { path } => tar.symlink(&text(path), "target"),
            Op::HardLink { path, target } => {
                let header = Header {
                    kind: b'1',
                    link: text(target).into_bytes(),
                    ..Header::default()
                };
                tar.entry(text(path).as_bytes(), &header, b"")
            }
            Op::Whiteout { path } => {
                let (last, folder) = path.split_last().expect("a name");
                let name = format!(".wh.{}", text(&[*last]));
                match folder {
                    [] => tar.file(&name, b""),
                    folder => tar.file(&format!("{}/{name}", text(folder)), b""),
                }
            }
        };
    }
    tar.finish()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink,
}

#[derive(Debug, Clone)]
struct Entry {
    inode: usize,
    kind: Kind,
}

/// Paths to entries; modes by inode, as links share them.
#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    modes: Vec<u32>,
}

impl Model {
    fn insert(&mut self, path: &str, kind: Kind, mode: u32) {
        self.remove(path);
        self.entries.insert(
            path.to_owned(),
            Entry {
                inode: self.modes.len(),
                kind,
            },
        );
        self.modes.push(mode);
    }

    fn remove_below(&mut self, path: &str) {
        let prefix = format!("{path}/");
        self.entries.retain(|name, _| !name.starts_with(&prefix));
    }

    fn remove(&mut self, path: &str) {
        self.remove_below(path);
        self.entries.remove(path);
    }

    fn is_directory(&self, path: &str) -> bool {
        self.entries
            .get(path)
            .is_some_and(|entry| entry.kind == Kind::Directory)
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            if !self.is_directory(&path[..end]) {
                self.insert(&path[..end], Kind::Directory, 0o755);
            }
        }
    }

    /// Gives the operations that were possible: hard links with a target that is no directory.
    fn apply(&mut self, layer: usize, ops: Vec<Op>) -> Vec<Op> {
        // What hides lower layers comes first, wherever it stands.
        for op in &ops {
            match op {
                Op::Whiteout { path } => self.remove(&text(path)),
                Op::Directory {
                    path,
                    opaque: Some(_),
                    ..
                } => self.remove_below(&text(path)),
                _ => {}
            }
        }
        let mut done = Vec::new();
        for op in ops {
            // Content depends on the place in the archive.
            let at = done.len();
            match &op {
                Op::File { path, size, mode } => {
                    self.parents(&text(path));
                    self.insert(&text(path), Kind::File(content(layer, at, *size)), *mode);
                }
                Op::Directory { path, mode, .. } => {
                    let path = text(path);
                    self.parents(&path);
                    if self.is_directory(&path) {
                        let inode = self.entries[&path].inode;
                        self.modes[inode] = *mode;
                    } else {
                        self.insert(&path, Kind::Directory, *mode);
                    }
                }
                Op::Symlink { path } => {
                    self.parents(&text(path));
                    self.insert(&text(path), Kind::Symlink, 0o777);
                }
                Op::HardLink { path, target } => {
                    let before = self.entries.clone();
                    self.parents(&text(path));
                    let entry = self
                        .entries
                        .get(&text(target))
                        .filter(|entry| entry.kind != Kind::Directory)
                        .cloned();
                    let Some(entry) = entry else {
                        self.entries = before;
                        continue;
                    };
                    if entry.kind != Kind::Symlink {
                        self.modes[entry.inode] = Header::default().mode;
                    }
                    self.remove(&text(path));
                    self.entries.insert(text(path), entry);
                }
                Op::Whiteout { .. } => {}
            }
            done.push(op);
        }
        done
    }
}

/// A hard link may reach a lower file that the same layer hides, or not, depending on order: real
/// archives do not do that, so neither do these.
fn plain(mut ops: Vec<Op>) -> Vec<Op> {
    if ops.iter().any(|op| {
        matches!(
            op,
            Op::Whiteout { .. }
                | Op::Directory {
                    opaque: Some(_),
                    ..
                }
        )
    }) {
        ops.retain(|op| !matches!(op, Op::HardLink { .. }));
    }
    ops
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merged_layers_agree_with_the_model(
        layers in prop::collection::vec(prop::collection::vec(op(), 0..12).prop_map(plain), 1..5),
    ) {
        let mut model = Model::default();
        let archives: Vec<Vec<u8>> =
            layers.into_iter().enumerate().map(|(n, ops)| archive(n, &model.apply(n, ops))).collect();
        let stack = stack::unpacked(&archives);
        let found: Vec<&String> = stack.tree.keys().filter(|path| !path.is_empty()).collect();
        prop_assert_eq!(found, model.entries.keys().collect::<Vec<_>>());
        let mut inodes = BTreeMap::new();
        for (path, entry) in &model.entries {
            let inode = stack.inode(path);
            prop_assert_eq!(u32::from(inode.mode & 0o7777), model.modes[entry.inode], "mode of {}", path);
            prop_assert_eq!(*inodes.entry(entry.inode).or_insert(inode.nid), inode.nid, "links of {}", path);
            match &entry.kind {
                Kind::File(content) => prop_assert!(stack.content(path) == *content, "content of {}", path),
                Kind::Directory => prop_assert_eq!(inode.mode & 0o170_000, 0o040_000),
                Kind::Symlink => prop_assert_eq!(stack.text(path), "target"),
            }
        }
    }

    #[test]
    fn any_bytes_are_an_archive_or_an_error(
        mut bytes in prop::collection::vec(any::<u8>(), 0..4096),
        block in 0..8_usize,
        at in 0..512_usize,
        value in any::<u8>(),
    ) {
        hull_image::unpack::fuzz::layer(&bytes);
        // Close to valid: one byte of a good archive changed, with a checksum that is right again.
        let mut tar = Tarball::new()
            .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"5000"), ("SCHILY.xattr.user.a", b"b")])
            .file("s", &[&b"1\n0\n5\n"[..], &[0; 506], b"hello"].concat())
            .hard_link("l", "s")
            .file(".wh.s", b"")
            .finish();
        let start = block * 512;
        tar[start + at] = value;
        if let Ok(header) = <&mut [u8; 512]>::try_from(&mut tar[start..start + 512]) {
            tarball::seal(header);
        }
        hull_image::unpack::fuzz::layer(&tar);
        bytes.truncate(100);
        tar.splice(600..600, bytes);
        hull_image::unpack::fuzz::layer(&tar);
    }
}
