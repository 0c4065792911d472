//! What containers watch on shared directories (inotify), and what the host tells of it.
//!
//! The guest's kernel says on a device which inodes of virtio-fs are watched, and takes events for
//! them there (`guest-kernel/patches`). The host connects once the first is watched
//! ([`hull_protocol::watch`]); before, and where nothing is shared, there is only the open device.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_protocol::watch::{mask, Change, Event, Inode, EVENT_BYTES, MAX_PATH, WATCH_PORT};
use rustix::fs::{Mode, OFlags, CWD};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_vsock::VsockStream;

use crate::events::Events;
use crate::host::{self, HostListener};
use crate::{console, sys};

const DEVICE: &str = "/dev/fuse_watch";
/// Length of the kernel's record, in bytes: node, device, mask, cookie or flags, length.
const RECORD_BYTES: usize = 24;
/// The flag of a record that says: more changed than the kernel keeps.
const LOST: u32 = 1;
/// Bytes of changes that are sent at once, and of events that are taken at once.
const CHUNK: usize = 16 << 10;
/// Inodes that were found to be gone and that the host does not know of yet.
const GONE: usize = 64;

type Device = Arc<AsyncFd<OwnedFd>>;

/// Begins, with the first shared directory.
pub(crate) fn begin(events: &Events) {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if BEGUN.swap(true, Ordering::Relaxed) {
        return;
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, DEVICE, flags, Mode::empty());
    let opened = opened.map_err(std::io::Error::from).and_then(sys::watch);
    let listens = host::listen(WATCH_PORT);
    match (opened, listens) {
        (Ok(device), Ok(host)) => {
            tokio::spawn(serve(Arc::new(device), host, events.clone()));
        }
        (Err(error), _) | (_, Err(error)) => console::log(&format!(
            "changes of the host in shared directories are not told: {error}"
        )),
    }
}

async fn serve(device: Device, mut listener: HostListener, events: Events) {
    if device.readable().await.is_err() {
        return;
    }
    events.watched();
    let Some(host) = listener.accept().await else {
        return;
    };
    let (reader, writer) = tokio::io::split(host);
    let (sender, gone) = mpsc::channel(GONE);
    let told = Told::default();
    tokio::select! {
        () = send_changes(&device, writer, gone, &told) => {}
        () = take_events(&device, reader, sender, &told) => {}
    }
}

/// What the host was told to watch.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<HashSet<Inode>>>);

impl Told {
    fn lock(&self) -> MutexGuard<'_, HashSet<Inode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the host has to hear of it: what is watched, and what is no more.
    fn changes(&self, change: &Change) -> bool {
        match change.mask {
            0 => self.lock().remove(&change.inode),
            _ => {
                self.lock().insert(change.inode);
                true
            }
        }
    }
}

async fn send_changes(
    device: &Device,
    mut host: WriteHalf<VsockStream>,
    mut gone: mpsc::Receiver<Inode>,
    told: &Told,
) {
    let mut record = vec![0; RECORD_BYTES + MAX_PATH + 1];
    loop {
        let mut frames = Vec::new();
        tokio::select! {
            inode = gone.recv() => {
                let Some(inode) = inode else { return };
                let change = Change { inode, mask: 0, length: 0 };
                frames.extend_from_slice(&change.to_bytes());
            }
            ready = device.readable() => {
                let Ok(mut ready) = ready else { return };
                while frames.len() < CHUNK {
                    match rustix::io::read(device.as_fd(), &mut record) {
                        Ok(length) => {
                            let read = record.get(..length).and_then(Record::parse);
                            match read {
                                Some(Record { flags: LOST, .. }) => frames.extend(ended(device, told)),
                                Some(record) => frames.extend(record.frame(told)),
                                None => {}
                            }
                        }
                        Err(Errno::INTR) => {}
                        Err(Errno::AGAIN) => {
                            ready.clear_ready();
                            break;
                        }
                        Err(_) => return,
                    }
                }
            }
        }
        if host.write_all(&frames).await.is_err() {
            return;
        }
    }
}

/// What the host is told after the kernel has lost changes. Who begins to watch waits for the kernel,
/// so what is lost are ends.
fn ended(device: &Device, told: &Told) -> Vec<u8> {
    let is_watched = |inode: &Inode| {
        let question = Event {
            inode: *inode,
            mask: 0,
            cookie: 0,
            length: 0,
        };
        rustix::io::write(device.as_fd(), &record(&question, b"")) != Err(Errno::NOENT)
    };
    let mut known = told.lock();
    let ended: Vec<_> = known
        .iter()
        .copied()
        .filter(|inode| !is_watched(inode))
        .collect();
    let changes = ended
        .into_iter()
        .filter(|inode| known.remove(inode))
        .map(|inode| Change {
            inode,
            mask: 0,
            length: 0,
        });
    changes.flat_map(Change::to_bytes).collect()
}

/// What the kernel's device says, read.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    inode: Inode,
    mask: u32,
    flags: u32,
    path: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (node, rest) = bytes.split_first_chunk()?;
        let (device, rest) = rest.split_first_chunk()?;
        let (mask, rest) = rest.split_first_chunk()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (length, path) = rest.split_first_chunk()?;
        Some(Self {
            inode: Inode {
                device: u32::from_ne_bytes(*device),
                node: u64::from_ne_bytes(*node),
            },
            mask: u32::from_ne_bytes(*mask),
            flags: u32::from_ne_bytes(*flags),
            path: path.get(..u32::from_ne_bytes(*length) as usize)?,
        })
    }

    /// What the host is told; nothing of what it can do nothing about.
    fn frame(&self, told: &Told) -> Vec<u8> {
        let length = u16::try_from(self.path.len()).unwrap_or_default();
        let change = Change {
            inode: self.inode,
            // What has no name any more can't be found on the host.
            mask: if length == 0 {
                0
            } else {
                self.mask & mask::TOLD
            },
            length,
        };
        if !told.changes(&change) {
            return Vec::new();
        }
        let mut frame = change.to_bytes().to_vec();
        frame.extend_from_slice(self.path);
        frame
    }
}

async fn take_events(
    device: &Device,
    mut host: ReadHalf<VsockStream>,
    gone: mpsc::Sender<Inode>,
    told: &Told,
) {
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(CHUNK);
        if !matches!(host.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
        let (events, used) = complete(&bytes);
        bytes.drain(..used);
        let (device, told, gone) = (Arc::clone(device), told.clone(), gone.clone());
        // The kernel waits for pages of the file that are just being read.
        let work = tokio::task::spawn_blocking(move || tell_all(&device, &told, &gone, events));
        if work.await.is_err() {
            return;
        }
    }
}

/// Whole events with their names, and how many bytes they take.
fn complete(bytes: &[u8]) -> (Vec<(Event, Vec<u8>)>, usize) {
    let mut events = Vec::new();
    let mut rest = bytes;
    while let Some((event, after)) = rest
        .split_first_chunk::<EVENT_BYTES>()
        .and_then(|(header, after)| Some((Event::from_bytes(*header)?, after)))
    {
        let Some((name, after)) = after.split_at_checked(usize::from(event.length)) else {
            break;
        };
        events.push((event, name.to_vec()));
        rest = after;
    }
    (events, bytes.len() - rest.len())
}

fn tell_all(
    device: &Device,
    told: &Told,
    gone: &mpsc::Sender<Inode>,
    events: Vec<(Event, Vec<u8>)>,
) {
    for (event, name) in events {
        let inodes = match event.mask {
            mask::OVERFLOW => told.lock().iter().copied().collect(),
            _ => vec![event.inode],
        };
        for inode in inodes {
            let event = Event { inode, ..event };
            let written = rustix::io::write(device.as_fd(), &record(&event, &name));
            // The kernel says so as well, unless it lost that.
            if written == Err(Errno::NOENT) && told.lock().remove(&inode) {
                let _ = gone.try_send(inode);
            }
        }
    }
}

fn record(event: &Event, name: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_BYTES + name.len());
    record.extend_from_slice(&event.inode.node.to_ne_bytes());
    record.extend_from_slice(&event.inode.device.to_ne_bytes());
    record.extend_from_slice(&event.mask.to_ne_bytes());
    record.extend_from_slice(&event.cookie.to_ne_bytes());
    record.extend_from_slice(&u32::from(event.length).to_ne_bytes());
    record.extend_from_slice(name);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    const INODE: Inode = Inode { device: 7, node: 9 };

    fn read(mask: u32, path: &[u8]) -> Vec<u8> {
        let event = Event {
            inode: INODE,
            mask,
            cookie: 0,
            length: u8::try_from(path.len()).unwrap(),
        };
        record(&event, path)
    }

    #[test]
    fn what_is_watched_and_no_more_is_told_once() {
        let told = Told::default();
        let frame = |mask, path: &[u8]| {
            let bytes = read(mask, path);
            Record::parse(&bytes).unwrap().frame(&told)
        };
        let watched = frame(mask::MODIFY | 0x20, b"/0/f");
        let change = Change::from_bytes(*watched.first_chunk().unwrap()).unwrap();
        assert_eq!((change.inode, change.mask), (INODE, mask::MODIFY));
        assert_eq!(watched.get(change.to_bytes().len()..), Some(&b"/0/f"[..]));
        // Only opened and read: of that the host does not tell.
        let ended = frame(0x20, b"/0/f");
        assert_eq!(
            Change::from_bytes(*ended.first_chunk().unwrap())
                .unwrap()
                .mask,
            0
        );
        assert!(frame(0, b"").is_empty() && frame(mask::MODIFY, b"").is_empty());
    }

    #[test]
    fn a_record_that_is_cut_is_none() {
        let bytes = read(mask::MODIFY, b"/0/f");
        assert!((0..bytes.len()).all(|length| Record::parse(&bytes[..length]).is_none()));
    }

    #[test]
    fn events_may_come_in_pieces() {
        let event = |length| Event {
            inode: INODE,
            mask: mask::CREATE,
            cookie: 1,
            length,
        };
        let mut bytes = event(3).to_bytes().to_vec();
        bytes.extend_from_slice(b"abc");
        bytes.extend_from_slice(&event(0).to_bytes());
        let whole = bytes.len();
        bytes.extend_from_slice(&event(2).to_bytes());
        bytes.push(b'x');
        let (events, used) = complete(&bytes);
        assert_eq!(events, [(event(3), b"abc".to_vec()), (event(0), vec![])]);
        assert_eq!(used, whole);
        assert_eq!(complete(&bytes[..5]), (vec![], 0));
    }
}
