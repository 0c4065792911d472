//! What is watched, and whom an event is for: no system call is made here but to look at what is
//! open already.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use hull_protocol::watch::{mask, Event, Inode};
use rustix::fs::{fstat, statat, AtFlags};

use super::notice::{Notice, Place, Role, ON_CHILD, OVERFLOW, RENAME};

/// Most inodes that a guest's kernel may watch, by whatever names.
pub(super) const MAX_WATCHES: usize = 8192;
/// Most numbers by which a guest may watch one inode of the host: it has one for each mount that shows it. A
/// guest makes numbers up, and each event is told to all.
pub(super) const MAX_ALIASES: usize = 64;
/// Cookies of the host's renamings: the guest's kernel counts its own from 1.
const FIRST_COOKIE: u32 = 0x8000_0000;

/// What happens to a file's inode, or to a directory's, and is not about a name.
const ITSELF: u32 = mask::MODIFY | mask::ATTRIB | mask::CLOSE_WRITE | mask::MOVE_SELF;
/// What happens to a name in a directory, in the order in which it is told where it came at once.
const AT_NAME: [u32; 5] = [
    mask::CREATE,
    mask::MODIFY,
    mask::ATTRIB,
    mask::CLOSE_WRITE,
    mask::DELETE,
];

/// Something that a guest watches, open.
#[derive(Debug)]
pub(super) struct Opened {
    /// For its attributes only.
    pub(super) file: OwnedFd,
    /// By what the kernel names it.
    pub(super) identity: Box<[u8]>,
    pub(super) is_directory: bool,
}

#[derive(Debug)]
struct Watched {
    file: OwnedFd,
    is_directory: bool,
    path: PathBuf,
    /// Whom to tell: the guest may know one inode by several numbers.
    inodes: Vec<(Inode, u32)>,
}

/// An event for the guest, with its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) inode: Inode,
    pub(super) mask: u32,
    pub(super) cookie: u32,
    pub(super) name: Vec<u8>,
}

impl Told {
    /// As sent. `None` for a name that no file system of Linux has.
    pub(super) fn frame(&self) -> Option<Vec<u8>> {
        let event = Event {
            inode: self.inode,
            mask: self.mask,
            cookie: self.cookie,
            length: u8::try_from(self.name.len()).ok()?,
        };
        let mut frame = event.to_bytes().to_vec();
        frame.extend_from_slice(&self.name);
        Some(frame)
    }
}

/// More is watched than may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The watches of a sandbox.
#[derive(Debug, Default)]
pub(super) struct Table {
    watched: HashMap<Box<[u8]>, Watched>,
    inodes: HashMap<Inode, Box<[u8]>>,
    renamings: u32,
}

impl Table {
    /// Takes a watch. What is to be marked for it is in [`Table::marked`].
    pub(super) fn add(
        &mut self,
        inode: Inode,
        mask: u32,
        opened: Opened,
        path: &Path,
    ) -> Result<(), Full> {
        let known = self.watched.get(&opened.identity);
        let aliases = known.map_or(0, |watched| watched.inodes.len());
        if MAX_WATCHES <= self.inodes.len() || MAX_ALIASES <= aliases {
            return Err(Full);
        }
        let watched = self
            .watched
            .entry(opened.identity.clone())
            .or_insert_with(|| Watched {
                file: opened.file,
                is_directory: opened.is_directory,
                path: path.to_owned(),
                inodes: Vec::new(),
            });
        watched.inodes.push((inode, mask));
        self.inodes.insert(inode, opened.identity);
        Ok(())
    }

    /// Changes the mask of a watch; `false` if there is none.
    pub(super) fn change(&mut self, inode: Inode, mask: u32) -> bool {
        let identity = self.inodes.get(&inode);
        let Some(watched) = identity.and_then(|identity| self.watched.get_mut(identity)) else {
            return false;
        };
        for (_, wanted) in watched.inodes.iter_mut().filter(|(of, _)| *of == inode) {
            *wanted = mask;
        }
        true
    }

    /// What is open for a watch, and what fanotify is to tell of it.
    pub(super) fn marked(&self, inode: Inode) -> Option<(&OwnedFd, u64)> {
        let watched = self.watched.get(self.inodes.get(&inode)?)?;
        let wanted = watched.inodes.iter().fold(0, |all, (_, mask)| all | mask);
        Some((&watched.file, mark_of(wanted, watched.is_directory)))
    }

    /// Removes a watch. What nobody watches any more is returned, with all that it may be marked
    /// for.
    pub(super) fn remove(&mut self, inode: Inode) -> Option<(OwnedFd, u64)> {
        let identity = self.inodes.remove(&inode)?;
        let watched = self.watched.get_mut(&identity)?;
        watched.inodes.retain(|(of, _)| *of != inode);
        if !watched.inodes.is_empty() {
            return None;
        }
        let watched = self.watched.remove(&identity)?;
        Some((watched.file, mark_of(u32::MAX, watched.is_directory)))
    }

    /// How many inodes of the guest's are watched.
    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Whom an event is for. What one of `own` did is known to the guest.
    pub(super) fn lower(&mut self, notice: &Notice<'_>, own: &[i32]) -> Vec<Told> {
        if notice.mask & OVERFLOW != 0 {
            return vec![Told {
                inode: Inode::default(),
                mask: mask::OVERFLOW,
                cookie: 0,
                name: Vec::new(),
            }];
        }
        if own.contains(&notice.pid) {
            return Vec::new();
        }
        let mut told = Vec::new();
        let bits = u32::try_from(notice.mask & u64::from(u32::MAX)).unwrap_or_default();
        let cookie = self.cookie(notice.mask & RENAME != 0);
        for place in &notice.places {
            let Some(watched) = self.watched.get(place.identity) else {
                continue;
            };
            match place.role {
                Role::Itself => tell_itself(&mut told, watched, bits),
                Role::Directory => {
                    tell_name(&mut told, watched, place, bits);
                    if bits & mask::DELETE != 0 && bits & mask::IS_DIRECTORY != 0 {
                        self.tell_gone(
                            &mut told,
                            &watched.path.join(OsStr::from_bytes(place.name)),
                        );
                    }
                }
                Role::From => tell(
                    &mut told,
                    watched,
                    mask::MOVED_FROM,
                    bits,
                    cookie,
                    place.name,
                ),
                Role::To => tell(&mut told, watched, mask::MOVED_TO, bits, cookie, place.name),
            }
        }
        told
    }

    fn cookie(&mut self, renaming: bool) -> u32 {
        if !renaming {
            return 0;
        }
        self.renamings = self.renamings.wrapping_add(1);
        self.renamings | FIRST_COOKIE
    }

    /// A directory does not tell itself that it was removed, while virtiofsd has it open.
    fn tell_gone(&self, told: &mut Vec<Told>, path: &Path) {
        let there = self.watched.values().filter(|watched| watched.path == path);
        for watched in there.filter(|watched| is_gone(&watched.file)) {
            tell(told, watched, mask::DELETE_SELF, 0, 0, b"");
        }
    }
}

fn tell(told: &mut Vec<Told>, watched: &Watched, what: u32, bits: u32, cookie: u32, name: &[u8]) {
    let for_it = watched
        .inodes
        .iter()
        .filter(|(_, wanted)| wanted & what != 0);
    told.extend(for_it.map(|(inode, _)| Told {
        inode: *inode,
        mask: what | (bits & mask::IS_DIRECTORY),
        cookie,
        name: name.to_vec(),
    }));
}

fn tell_itself(told: &mut Vec<Told>, watched: &Watched, bits: u32) {
    for what in [
        mask::MODIFY,
        mask::ATTRIB,
        mask::CLOSE_WRITE,
        mask::MOVE_SELF,
    ] {
        if bits & what != 0 {
            tell(told, watched, what, bits, 0, b"");
        }
    }
    // virtiofsd has it open, so its last name's end is not yet its own for the host's kernel. What is
    // shared by itself is mounted, and so stays whatever becomes of its name.
    let ended = bits & mask::DELETE_SELF != 0;
    let is_below = 1 < watched.path.components().count();
    if ended || (bits & mask::ATTRIB != 0 && is_below && is_gone(&watched.file)) {
        tell(told, watched, mask::DELETE_SELF, 0, 0, b"");
    }
}

fn tell_name(told: &mut Vec<Told>, watched: &Watched, place: &Place<'_>, bits: u32) {
    let both = mask::CREATE | mask::DELETE;
    // The kernel makes one event of what happens to a name in a row, without the order.
    let replaced = bits & both == both && has(&watched.file, place.name);
    if replaced {
        tell(told, watched, mask::DELETE, bits, 0, place.name);
    }
    let last = if replaced { mask::DELETE } else { 0 };
    for what in AT_NAME.into_iter().filter(|what| bits & what & !last != 0) {
        tell(told, watched, what, bits, 0, place.name);
    }
}

fn is_gone(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|found| found.st_nlink == 0)
}

fn has(directory: &OwnedFd, name: &[u8]) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// What fanotify is asked for, where inotify is asked for `wanted`.
fn mark_of(wanted: u32, is_directory: bool) -> u64 {
    let mut mark = wanted & ITSELF;
    if wanted & mask::DELETE_SELF != 0 {
        mark |= mask::ATTRIB;
    }
    if !is_directory {
        return u64::from(mark);
    }
    // A directory below that is watched too is told by this one that it was removed.
    mark |= wanted & mask::CREATE | mask::DELETE | mask::IS_DIRECTORY;
    let renaming = match wanted & (mask::MOVED_FROM | mask::MOVED_TO) {
        0 => 0,
        _ => RENAME,
    };
    u64::from(mark) | renaming | ON_CHILD
}
