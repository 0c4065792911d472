//! What fanotify writes, read. It comes from the host's kernel; only names in it are others'.

/// Bits of a mask that inotify has not.
pub(super) const RENAME: u64 = 0x1000_0000;
pub(super) const ON_CHILD: u64 = 0x0800_0000;
/// The queue was full.
pub(super) const OVERFLOW: u64 = 0x4000;

/// `struct fanotify_event_metadata`.
const METADATA_BYTES: usize = 24;
const METADATA_VERSION: u8 = 3;

/// Types of `struct fanotify_event_info_header`.
const INFO_FILE: u8 = 1;
const INFO_NAME: u8 = 2;
const INFO_DIRECTORY: u8 = 3;
const INFO_OLD_NAME: u8 = 10;
const INFO_NEW_NAME: u8 = 12;

/// How a file or directory has to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It happened to this.
    Itself,
    /// It happened to a name in this directory.
    Directory,
    /// The name was here before.
    From,
    /// The name is here now.
    To,
}

/// A file or directory of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) role: Role,
    /// As [`super::sys::identity`] gives it.
    pub(super) identity: &'a [u8],
    /// Empty for [`Role::Itself`].
    pub(super) name: &'a [u8],
}

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notice<'a> {
    pub(super) mask: u64,
    /// Who did it.
    pub(super) pid: i32,
    pub(super) places: Vec<Place<'a>>,
}

/// The events in a buffer, up to what is none.
pub(super) fn all(mut bytes: &[u8]) -> impl Iterator<Item = Notice<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let event = bytes.get(..length)?;
        let head = event.get(..METADATA_BYTES)?;
        if head.get(4) != Some(&METADATA_VERSION) {
            return None;
        }
        let head_length = usize::from(u16_at(head, 6)?);
        bytes = bytes.get(length..)?;
        Some(Notice {
            mask: u64::from_ne_bytes(*head.get(8..)?.first_chunk()?),
            pid: i32::from_ne_bytes(*head.get(20..)?.first_chunk()?),
            places: places(event.get(head_length..)?),
        })
    })
}

fn places(mut bytes: &[u8]) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    while let Some(length) = u16_at(bytes, 2)
        .map(usize::from)
        .filter(|length| 4 <= *length)
    {
        let Some(info) = bytes.get(..length) else {
            break;
        };
        places.extend(place(info));
        bytes = bytes.get(length..).unwrap_or_default();
    }
    places
}

/// A header, the file system's id, the handle's length, type and bytes, and perhaps a name.
fn place(info: &[u8]) -> Option<Place<'_>> {
    const HANDLE: usize = 20;
    let handle_length = u32_at(info, 12)? as usize;
    let end = HANDLE.checked_add(handle_length)?;
    let name = info.get(end..)?.split(|byte| *byte == 0).next()?;
    let role = match (*info.first()?, name) {
        (INFO_FILE | INFO_DIRECTORY, _) | (INFO_NAME, b"." | b"") => Role::Itself,
        (INFO_NAME, _) => Role::Directory,
        (INFO_OLD_NAME, _) => Role::From,
        (INFO_NEW_NAME, _) => Role::To,
        _ => return None,
    };
    Some(Place {
        role,
        identity: info.get(4..end)?,
        name: match role {
            Role::Itself => b"",
            _ => name,
        },
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
