//! What a guest watches on shared directories is watched on the host, and told to the guest.
//!
//! The guest's kernel tells its agent which inodes of virtio-fs are watched, the agent tells it here
//! ([`hull_protocol::watch`]), and fanotify has the host's kernel tell what happens to them. Unlike
//! inotify it says who did it: what virtiofsd did was done by the guest itself, which knows it.
//!
//! Nothing of this exists before a guest watches something. The guest is hostile: it names paths
//! that are opened below what it is shared and without following any link, and its watches have a
//! bound. The host's kernel keeps events that the guest does not fetch, up to its own bound.

mod notice;
mod sys;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use hull_protocol::watch::{mask, relative, Change, Inode, CHANGE_BYTES, WATCH_PORT};
use rustix::fs::{fstat, openat2, FileType, Mode, OFlags, ResolveFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::report::chain;
use crate::vmm::Vm;
use table::{Opened, Table, MAX_ALIASES, MAX_WATCHES};

/// Bytes of events that are read at once.
const BUFFER: usize = 32 << 10;
/// Changes of the guest's that wait here.
const WAITING: usize = 64;
/// After so many changes, those to come wait: a guest that changes its mind all the time costs the
/// host no more than opening 10,000 files a second.
const AT_ONCE: usize = 512;
const REST: Duration = Duration::from_millis(50);

/// Why something is not watched.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the path {0:?} is none below a shared directory")]
    Path(Vec<u8>),
    #[error("failed to open it")]
    Open(#[source] io::Error),
    #[error("failed to identify it: its file system may not be able to tell of changes")]
    Identify(#[source] io::Error),
    #[error(
        "failed to watch it: its file system or this kernel (Linux 5.17 can) may not be able to"
    )]
    Mark(#[source] io::Error),
    #[error("the container watches more than {MAX_WATCHES} files and directories, or one by more than {MAX_ALIASES} numbers")]
    Full,
}

/// What the guest sees of the host.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The directory that virtiofsd serves, in the mount namespace that it is served from.
    pub(crate) root: OwnedFd,
    /// The processes that do the guest's work there.
    pub(crate) servers: Vec<i32>,
}

/// Watches for a guest as long as its VM lives.
pub(crate) async fn serve(vm: Vm, shared: Shared) {
    let group = sys::group().and_then(crate::sys::async_fd);
    let group = match group {
        Ok(group) => group,
        Err(error) => {
            return tracing::warn!(
                error = chain(&error),
                "changes of the host in shared directories are not told to the container: fanotify \
                 can't be had (fs.fanotify.max_user_groups may be too low)"
            )
        }
    };
    let Ok(stream) = vm.connect(WATCH_PORT).await else {
        return;
    };
    let (reader, writer) = stream.into_split();
    let (sender, changes) = mpsc::channel(WAITING);
    let watcher = Watcher {
        group,
        shared,
        table: Table::default(),
        refused: false,
    };
    tokio::select! {
        () = read_changes(reader, sender) => {}
        () = watcher.run(writer, changes) => {}
        _ = vm.ended() => {}
    }
}

/// Reads until the guest's end is closed, or says what is no change.
async fn read_changes(mut guest: OwnedReadHalf, sender: mpsc::Sender<(Change, Vec<u8>)>) {
    let mut header = [0; CHANGE_BYTES];
    for number in 1.. {
        if guest.read_exact(&mut header).await.is_err() {
            return;
        }
        let Some(change) = Change::from_bytes(header) else {
            return;
        };
        let mut path = vec![0; usize::from(change.length)];
        if guest.read_exact(&mut path).await.is_err() || sender.send((change, path)).await.is_err()
        {
            return;
        }
        if number % AT_ONCE == 0 {
            tokio::time::sleep(REST).await;
        }
    }
}

struct Watcher {
    group: AsyncFd<OwnedFd>,
    shared: Shared,
    table: Table,
    /// That something could not be watched was said.
    refused: bool,
}

impl Watcher {
    async fn run(
        mut self,
        mut guest: OwnedWriteHalf,
        mut changes: mpsc::Receiver<(Change, Vec<u8>)>,
    ) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let frames = tokio::select! {
                change = changes.recv() => {
                    let Some((change, path)) = change else { return };
                    self.apply(change, &path);
                    continue;
                }
                frames = next_events(&self.group, &mut buffer, &mut self.table, &self.shared.servers) => frames,
            };
            let sent = match frames {
                Ok(frames) => guest.write_all(&frames).await,
                Err(error) => Err(error),
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn apply(&mut self, change: Change, path: &[u8]) {
        if change.mask & mask::TOLD == 0 {
            return self.remove(change.inode);
        }
        if let Err(error) = self.watch(change, path) {
            self.remove(change.inode);
            // Once: a guest could fill the log.
            if !self.refused {
                self.refused = true;
                tracing::warn!(
                    path = %String::from_utf8_lossy(path),
                    error = chain(&error),
                    "a change of the host is not told to the container; further ones like this are not logged"
                );
            }
        }
    }

    fn watch(&mut self, change: Change, path: &[u8]) -> Result<(), WatchError> {
        if !self.table.change(change.inode, change.mask) {
            let path = relative(path).ok_or_else(|| WatchError::Path(path.to_vec()))?;
            let opened = open(&self.shared.root, path)?;
            let added = self.table.add(change.inode, change.mask, opened, path);
            added.map_err(|table::Full| WatchError::Full)?;
        }
        match self.table.marked(change.inode) {
            None | Some((_, 0)) => Ok(()),
            Some((file, mask)) => {
                sys::mark(&self.group, file, mask, true).map_err(WatchError::Mark)
            }
        }
    }

    fn remove(&mut self, inode: Inode) {
        if let Some((file, mask)) = self.table.remove(inode) {
            // It may never have been marked.
            let _ = sys::mark(&self.group, &file, mask, false);
        }
        tracing::debug!(watched = self.table.len(), "a watch ended");
    }
}

/// Opens what the guest watches: not what a link leads to, and nothing outside of what is shared,
/// whatever the guest changes meanwhile.
fn open(root: &OwnedFd, path: &Path) -> Result<Opened, WatchError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let file = openat2(root, path, flags, Mode::empty(), resolve)
        .map_err(|errno| WatchError::Open(errno.into()))?;
    let found = fstat(&file).map_err(|errno| WatchError::Open(errno.into()))?;
    Ok(Opened {
        identity: sys::identity(&file).map_err(WatchError::Identify)?,
        is_directory: FileType::from_raw_mode(found.st_mode).is_dir(),
        file,
    })
}

/// Waits for events; what is to be sent of them, which may be nothing.
async fn next_events(
    group: &AsyncFd<OwnedFd>,
    buffer: &mut [u8],
    table: &mut Table,
    own: &[i32],
) -> io::Result<Vec<u8>> {
    let mut ready = group.readable().await?;
    let read = ready.try_io(|group| Ok(rustix::io::read(group.as_fd(), &mut *buffer)?));
    let length = match read {
        Ok(length) => length?,
        Err(_would_block) => return Ok(Vec::new()),
    };
    let notices = notice::all(buffer.get(..length).unwrap_or_default());
    let told = notices.flat_map(|notice| table.lower(&notice, own));
    Ok(told.filter_map(|told| told.frame()).flatten().collect())
}
