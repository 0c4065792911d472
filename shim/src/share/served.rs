//! The directory that virtiofsd serves, and what is mounted in it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{openat2, Mode, OFlags, ResolveFlags, CWD};

use super::mounts::{detach, place, Taken};
use super::places::{Identity, Places, Released};
use super::{children_of, prepare, ShareError};
use crate::lower::Share;
use crate::report::chain;
use crate::sys;

/// What is served. It belongs to one thread, which is in the namespace of its mounts.
#[derive(Debug)]
pub(super) struct Served {
    root: PathBuf,
    places: Places<Option<OwnedFd>>,
    /// It has a namespace of its own once it runs, where mounts come to by themselves and their
    /// attributes do not.
    virtiofsd: Option<u32>,
}

impl Served {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            places: Places::default(),
            virtiofsd: None,
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn is_served_by(&mut self, virtiofsd: u32) {
        self.virtiofsd = Some(virtiofsd);
    }

    /// Shows a share by its name: at a place of its own, or where the same is shown already.
    pub(super) fn attach(&mut self, share: &Share, taken: Option<Taken>) -> Result<(), ShareError> {
        let identity = taken.as_ref().map(|taken| taken.identity.clone());
        if let Some(identity) = &identity {
            if self.join(share, identity)? {
                return Ok(());
            }
        }
        let mount = place(&self.root, share, taken)?;
        self.places
            .add(&share.subpath, mount, identity, !share.read_only);
        Ok(())
    }

    /// Gives a source that is shown a further name; whether there is such a one.
    fn join(&mut self, share: &Share, identity: &Identity) -> Result<bool, ShareError> {
        let Some((name, place)) = self.places.find(identity) else {
            return Ok(false);
        };
        let writes = !share.read_only;
        if writes && place.is_held() {
            let changed = match place.can_change() {
                true => self.set_read_only(name, false),
                false => Err(io::Error::other("other file systems are mounted below it")),
            };
            if let Err(error) = changed {
                let source = &share.source;
                tracing::info!(
                    ?source, %error,
                    "what was shared for reading is shared once more for writing: \
                     containers of the VM see each other's changes late"
                );
                return Ok(false);
            }
        }
        let name = name.to_owned();
        // The guest's agent follows it.
        let linked = std::os::unix::fs::symlink(&name, self.root.join(&share.subpath));
        linked.map_err(prepare("name a share"))?;
        self.places.join(&name, &share.subpath, writes);
        Ok(true)
    }

    /// A name is not used any more.
    pub(super) fn detach(&mut self, subpath: &str) {
        let Some((name, released)) = self.places.release(subpath) else {
            return;
        };
        if subpath != name {
            // A link, unless the guest has put something else there, which is its own.
            let _ = std::fs::remove_file(self.root.join(subpath));
        }
        match released {
            Released::Kept => {}
            Released::Gone(_) => detach(&self.root.join(name)),
            Released::ReadOnly => match self.set_read_only(&name, true) {
                Ok(()) => self.places.set_read_only(&name),
                Err(error) => tracing::info!(
                    error = chain(&error),
                    "what is shared for reading stays writable for the guest until nobody uses it"
                ),
            },
        }
    }

    /// Changes whether the guest may write at a place. That something is mounted below it needs no thought
    /// but when it is made read-only.
    fn set_read_only(&self, name: &str, read_only: bool) -> io::Result<()> {
        let place = self.places.get(name);
        let (mount, identity) = place
            .and_then(|place| Some((place.mount.as_ref()?, place.identity()?)))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        match self.virtiofsd {
            None => sys::mount_set_read_only(mount, read_only),
            Some(virtiofsd) => {
                let known = (identity.device, identity.inode);
                within(virtiofsd, || change(name, known, read_only))
            }
        }
    }
}

/// The same in the caller's namespace of mounts, whose root is the served directory.
fn change(name: &str, known: (u64, u64), read_only: bool) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS;
    let place = Path::new("/").join(name);
    let mount = openat2(CWD, place, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&mount)?;
    // What is mounted over it in the meantime is not meant.
    if (stat.st_dev, stat.st_ino) != known {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    sys::mount_set_read_only(&mount, read_only)
}

/// Does something in the namespace of mounts in which a virtiofsd works.
fn within(virtiofsd: u32, what: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    let own = std::fs::read_link("/proc/thread-self/ns/mnt")?;
    let path = |pid: u32| PathBuf::from(format!("/proc/{pid}/ns/mnt"));
    let children = children_of(virtiofsd)?.into_iter().flat_map(u32::try_from);
    let mut all = std::iter::once(virtiofsd).chain(children);
    let other = all.find(|pid| std::fs::read_link(path(*pid)).is_ok_and(|it| it != own));
    let other = other.ok_or_else(|| io::Error::other("virtiofsd is not at work"))?;
    let namespace = std::fs::File::open(path(other))?;
    // A thread that has left its namespace is of no more use.
    std::thread::scope(|scope| {
        let enter = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNS)?;
            what()
        };
        let entered = std::thread::Builder::new().spawn_scoped(scope, enter)?;
        let ended = entered.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
    })
}
