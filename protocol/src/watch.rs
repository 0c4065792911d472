//! What is watched on shared directories, and what became of it on the host: the frames on
//! [`WATCH_PORT`].
//!
//! The host connects once the agent's `Watched` event says that somebody watches. Then the agent
//! sends a [`Change`] for each inode whose watches are others than before, and the host an
//! [`Event`] for what happens to one of them. A frame is a header of fixed length (numbers little
//! endian), and a path or name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

/// vsock port (in the guest) of the connection for watches.
pub const WATCH_PORT: u32 = 1028;
/// Length of the header of a [`Change`], in bytes.
pub const CHANGE_BYTES: usize = 18;
/// Length of the header of an [`Event`], in bytes.
pub const EVENT_BYTES: usize = 21;
/// Longest path of a [`Change`], in bytes.
pub const MAX_PATH: usize = 4095;

/// Bits of a mask, as inotify has them.
pub mod mask {
    /// A file's content.
    pub const MODIFY: u32 = 0x2;
    /// Mode, owner, times, links.
    pub const ATTRIB: u32 = 0x4;
    /// Closed by who could write.
    pub const CLOSE_WRITE: u32 = 0x8;
    /// A name that left a directory by renaming.
    pub const MOVED_FROM: u32 = 0x40;
    /// A name that came to a directory by renaming.
    pub const MOVED_TO: u32 = 0x80;
    /// A new name in a directory.
    pub const CREATE: u32 = 0x100;
    /// A name that is gone.
    pub const DELETE: u32 = 0x200;
    /// What is watched is gone.
    pub const DELETE_SELF: u32 = 0x400;
    /// What is watched has another name.
    pub const MOVE_SELF: u32 = 0x800;
    /// Events were lost. Its event is for all that is watched.
    pub const OVERFLOW: u32 = 0x4000;
    /// Beside another bit: it is a directory.
    pub const IS_DIRECTORY: u32 = 0x4000_0000;
    /// Those that the host tells of.
    pub const TOLD: u32 = MODIFY
        | ATTRIB
        | CLOSE_WRITE
        | MOVED_FROM
        | MOVED_TO
        | CREATE
        | DELETE
        | DELETE_SELF
        | MOVE_SELF;
}

/// An inode, as the guest's kernel knows it. Says nothing to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Inode {
    /// Its file system.
    pub device: u32,
    /// Its number there.
    pub node: u64,
}

impl Inode {
    fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.device.to_le_bytes());
        bytes[4..].copy_from_slice(&self.node.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; 12]) -> Self {
        let [a, b, c, d, node @ ..] = bytes;
        Self {
            device: u32::from_le_bytes([a, b, c, d]),
            node: u64::from_le_bytes(node),
        }
    }
}

/// From the guest, before a path of [`length`](Self::length) bytes: what an inode is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub inode: Inode,
    /// For what; 0: no more.
    pub mask: u32,
    /// Bytes of the path, from the root of what is shared, with a slash at its beginning.
    pub length: u16,
}

impl Change {
    /// As sent.
    pub fn to_bytes(self) -> [u8; CHANGE_BYTES] {
        let mut bytes = [0; CHANGE_BYTES];
        bytes[..12].copy_from_slice(&self.inode.to_bytes());
        bytes[12..16].copy_from_slice(&self.mask.to_le_bytes());
        bytes[16..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The reverse; `None` where the path would be too long.
    pub fn from_bytes(bytes: [u8; CHANGE_BYTES]) -> Option<Self> {
        let (inode, rest) = bytes.split_first_chunk()?;
        let (mask, rest) = rest.split_first_chunk()?;
        let change = Self {
            inode: Inode::from_bytes(*inode),
            mask: u32::from_le_bytes(*mask),
            length: u16::from_le_bytes(*rest.first_chunk()?),
        };
        (usize::from(change.length) <= MAX_PATH).then_some(change)
    }
}

/// To the guest, before a name of [`length`](Self::length) bytes: what happened to an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which; nothing for [`mask::OVERFLOW`].
    pub inode: Inode,
    /// What: one bit, and [`mask::IS_DIRECTORY`].
    pub mask: u32,
    /// Of both halves of a renaming.
    pub cookie: u32,
    /// Bytes of the name in the directory; 0: it happened to the inode itself.
    pub length: u8,
}

impl Event {
    /// As sent.
    pub fn to_bytes(self) -> [u8; EVENT_BYTES] {
        let mut bytes = [0; EVENT_BYTES];
        bytes[..12].copy_from_slice(&self.inode.to_bytes());
        bytes[12..16].copy_from_slice(&self.mask.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.cookie.to_le_bytes());
        bytes[20] = self.length;
        bytes
    }

    /// The reverse.
    pub fn from_bytes(bytes: [u8; EVENT_BYTES]) -> Option<Self> {
        let (inode, rest) = bytes.split_first_chunk()?;
        let (mask, rest) = rest.split_first_chunk()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        Some(Self {
            inode: Inode::from_bytes(*inode),
            mask: u32::from_le_bytes(*mask),
            cookie: u32::from_le_bytes(*cookie),
            length: *rest.first()?,
        })
    }
}

/// The path of a [`Change`], relative to the root of what is shared, if it may be one: it names
/// something in a share, by its plain names.
pub fn relative(path: &[u8]) -> Option<&Path> {
    let inner = path.strip_prefix(b"/")?;
    let plain = Path::new(OsStr::from_bytes(inner));
    let is_plain = plain
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    // `Path` passes over what is empty or a dot.
    let exact = inner
        .split(|byte| *byte == b'/')
        .all(|part| !matches!(part, b"" | b"." | b".."));
    (is_plain && exact && !inner.contains(&0)).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INODE: Inode = Inode {
        device: 0x0102_0304,
        node: 0x0506_0708_090a_0b0c,
    };

    #[test]
    fn a_change_survives_its_bytes() {
        let change = Change {
            inode: INODE,
            mask: 0x8000_0fff,
            length: 4095,
        };
        assert_eq!(Change::from_bytes(change.to_bytes()), Some(change));
        let long = Change {
            length: 4096,
            ..change
        };
        assert_eq!(Change::from_bytes(long.to_bytes()), None);
    }

    #[test]
    fn an_event_survives_its_bytes() {
        let event = Event {
            inode: INODE,
            mask: mask::MOVED_TO | mask::IS_DIRECTORY,
            cookie: 0xfeed_beef,
            length: 255,
        };
        assert_eq!(Event::from_bytes(event.to_bytes()), Some(event));
    }

    #[test]
    fn only_plain_paths_below_a_share_are_taken() {
        let odd = Path::new(OsStr::from_bytes(b"0/a b/\xff"));
        assert_eq!(relative(b"/0/a b/\xff"), Some(odd));
        for bad in [
            &b""[..],
            b"/",
            b"0/a",
            b"//0",
            b"/0//a",
            b"/0/",
            b"/./0",
            b"/0/./a",
            b"/0/..",
            b"/../etc/passwd",
            b"/0/../../etc",
            b"/0/a\0b",
        ] {
            assert_eq!(relative(bad), None, "{bad:?}");
        }
    }
}
