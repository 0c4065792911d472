//! Reads EROFS images, as little of the format as the writer uses, straight from the layout in the
//! kernel's `erofs_fs.h`. Shares no code with the writer.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

const BLOCK: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) nid: u64,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) rdev: u32,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    layout: u16,
    /// Block address or chunk format.
    data: u32,
    /// Where the inode's tail or chunk indexes begin.
    tail: u64,
}

pub(crate) struct Image<'a> {
    file: &'a File,
    meta: u64,
    root: u64,
}

impl<'a> Image<'a> {
    pub(crate) fn open(file: &'a File) -> Self {
        let mut superblock = [0; 128];
        file.read_exact_at(&mut superblock, 1024)
            .expect("superblock");
        assert_eq!(u32_at(&superblock, 0), 0xE0F5_E1E2, "magic");
        assert_eq!(superblock[12], 12, "block size");
        let blocks = u64::from(u32_at(&superblock, 36));
        assert!(
            file.metadata().expect("metadata").len() >= blocks * BLOCK,
            "the image is whole"
        );
        let root = u64::from(u16_at(&superblock, 14));
        Self {
            file,
            meta: u64::from(u32_at(&superblock, 40)) * BLOCK,
            root,
        }
    }

    fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).expect("read");
        bytes
    }

    pub(crate) fn inode(&self, nid: u64) -> Inode {
        let at = self.meta + nid * 32;
        let raw = self.bytes(at, 64);
        let format = u16_at(&raw, 0);
        assert_eq!(format & 1, 1, "extended inode");
        let count = usize::from(u16_at(&raw, 2));
        let xattr_length = if count == 0 { 0 } else { 12 + 4 * (count - 1) };
        Inode {
            nid,
            mode: u16_at(&raw, 4),
            uid: u32_at(&raw, 24),
            gid: u32_at(&raw, 28),
            size: u64::from_le_bytes(raw[8..16].try_into().expect("8 bytes")),
            mtime: (
                i64::from_le_bytes(raw[32..40].try_into().expect("8 bytes")),
                u32_at(&raw, 40),
            ),
            links: u32_at(&raw, 44),
            rdev: u32_at(&raw, 16),
            xattrs: xattrs(&self.bytes(at + 64, xattr_length)),
            layout: format >> 1,
            data: u32_at(&raw, 16),
            tail: at + 64 + xattr_length as u64,
        }
    }

    /// `length` bytes of content from `offset`.
    pub(crate) fn read(&self, inode: &Inode, offset: u64, length: usize) -> Vec<u8> {
        let end = (offset + length as u64).min(inode.size);
        let mut content = Vec::new();
        let mut at = offset;
        while at < end {
            let (place, run) = self.map(inode, at);
            let count = run.min(end - at) as usize;
            match place {
                Some(place) => content.extend(self.bytes(place, count)),
                None => content.resize(content.len() + count, 0),
            }
            at += count as u64;
        }
        content
    }

    /// Where the byte at `at` lies (`None`: in a hole), and how many follow it there.
    fn map(&self, inode: &Inode, at: u64) -> (Option<u64>, u64) {
        let start = u64::from(inode.data) * BLOCK;
        let whole = inode.size / BLOCK * BLOCK;
        match inode.layout {
            2 if at >= whole => {
                let place = inode.tail + (at - whole);
                let last = inode.tail + (inode.size - whole) - 1;
                assert_eq!(
                    inode.tail / BLOCK,
                    last / BLOCK,
                    "inline tail crosses a block"
                );
                (Some(place), inode.size - at)
            }
            2 => (Some(start + at), whole - at),
            0 => (Some(start + at), inode.size - at),
            4 => {
                assert_eq!(inode.data & 0xffff_ffe0, 0x20, "chunk indexes");
                let chunk_size = BLOCK << (inode.data & 31);
                let index = inode.tail.next_multiple_of(8) + at / chunk_size * 8;
                let raw = self.bytes(index, 8);
                let block = u32_at(&raw, 4);
                let place = (block != u32::MAX).then(|| u64::from(block) * BLOCK + at % chunk_size);
                (place, chunk_size - at % chunk_size)
            }
            other => panic!("data layout {other}"),
        }
    }

    pub(crate) fn entries(&self, directory: &Inode) -> Vec<(Vec<u8>, u64, u8)> {
        let mut found = Vec::new();
        let mut offset = 0;
        while offset < directory.size {
            let block = self.read(directory, offset, BLOCK as usize);
            let count = usize::from(u16_at(&block, 8)) / 12;
            for n in 0..count {
                let entry = &block[n * 12..];
                let start = usize::from(u16_at(entry, 8));
                let end = if n + 1 < count {
                    usize::from(u16_at(entry, 20))
                } else {
                    block.len()
                };
                let name: Vec<u8> = block[start..end]
                    .iter()
                    .copied()
                    .take_while(|byte| *byte != 0)
                    .collect();
                let nid = u64::from_le_bytes(entry[..8].try_into().expect("8 bytes"));
                found.push((name, nid, entry[10]));
            }
            offset += BLOCK;
        }
        assert!(
            found.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "names are sorted"
        );
        found
    }

    /// The whole tree, by path; the root is the empty path. Checks what must agree.
    pub(crate) fn tree(&self) -> BTreeMap<String, Inode> {
        let mut found = BTreeMap::new();
        let mut names: BTreeMap<u64, u32> = BTreeMap::new();
        let mut pending = vec![(String::new(), self.root, self.root)];
        while let Some((path, nid, parent)) = pending.pop() {
            let inode = self.inode(nid);
            *names.entry(nid).or_default() += 1;
            if inode.mode & 0o170_000 == 0o040_000 {
                let mut directories = 0;
                for (name, child, file_type) in self.entries(&inode) {
                    match &name[..] {
                        b"." => assert_eq!(child, nid),
                        b".." => assert_eq!(child, parent),
                        name => {
                            let name = String::from_utf8_lossy(name);
                            let mode = self.inode(child).mode;
                            assert_eq!(file_type, type_of(mode), "{path}/{name}");
                            directories += u32::from(file_type == 2);
                            let path = if path.is_empty() {
                                name.into_owned()
                            } else {
                                format!("{path}/{name}")
                            };
                            pending.push((path, child, nid));
                        }
                    }
                }
                assert_eq!(inode.links, directories + 2, "links of {path}");
            }
            assert!(found.insert(path, inode).is_none());
        }
        for (path, inode) in &found {
            if inode.mode & 0o170_000 != 0o040_000 {
                assert_eq!(inode.links, names[&inode.nid], "links of {path}");
            }
        }
        found
    }
}

fn type_of(mode: u16) -> u8 {
    match mode >> 12 {
        0o10 => 1,
        0o04 => 2,
        0o02 => 3,
        0o06 => 4,
        0o01 => 5,
        0o14 => 6,
        0o12 => 7,
        other => panic!("file type {other:o}"),
    }
}

fn xattrs(body: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut rest = body.get(12..).unwrap_or_default();
    while rest.len() >= 4 {
        let (name, value) = (usize::from(rest[0]), usize::from(u16_at(rest, 2)));
        let prefix = match rest[1] {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => panic!("attribute index {other}"),
        };
        let full = format!("{prefix}{}", String::from_utf8_lossy(&rest[4..4 + name]));
        found.insert(full, rest[4 + name..4 + name + value].to_vec());
        rest = &rest[(4 + name + value).next_multiple_of(4)..];
    }
    found
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
