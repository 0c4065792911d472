//! Advisory file locks that tasks and processes share.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{flock, FlockOperation};

use super::ImageError;

/// How often a held lock is tried again: short against a download, long against a system call.
const POLL: Duration = Duration::from_millis(25);

/// An open file whose lock ends when it is dropped.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) file: File,
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

impl Locked {
    /// Locks the file at `path`, making it if it is missing; `None` if another holds it.
    pub(super) fn try_open(path: &Path, mode: Mode) -> Result<Option<Self>, ImageError> {
        let operation = match mode {
            Mode::Shared => FlockOperation::NonBlockingLockShared,
            Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(ImageError::file("open", path))?;
            match flock(&file, operation) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(ImageError::file("lock", path)(error.into())),
            }
            // The holder before may have renamed or removed the file: then the lock is on a file
            // that this path does not name.
            let locked = Self {
                file,
                path: path.to_owned(),
            };
            if locked.is_current()? {
                return Ok(Some(locked));
            }
        }
    }

    /// Waits for the lock. `waiting` is called once if it is held.
    pub(super) async fn open(
        path: &Path,
        mode: Mode,
        mut waiting: impl FnMut(),
    ) -> Result<Self, ImageError> {
        let mut told = false;
        loop {
            if let Some(locked) = Self::try_open(path, mode)? {
                return Ok(locked);
            }
            if !told {
                waiting();
                told = true;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn is_current(&self) -> Result<bool, ImageError> {
        let own = self
            .file
            .metadata()
            .map_err(ImageError::file("examine", &self.path))?;
        match std::fs::symlink_metadata(&self.path) {
            Ok(named) => Ok((own.dev(), own.ino()) == (named.dev(), named.ino())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ImageError::file("examine", &self.path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn exclusive_excludes_and_survives_rename() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("lock");
        let held = Locked::try_open(&path, Mode::Exclusive)
            .expect("open")
            .expect("free");
        assert!(Locked::try_open(&path, Mode::Shared)
            .expect("open")
            .is_none());
        std::fs::rename(&path, folder.path().join("done")).expect("rename");
        // The path is free again although the old file is still locked.
        assert!(Locked::try_open(&path, Mode::Exclusive)
            .expect("open")
            .is_some());
        drop(held);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_holder_drops() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("lock");
        let held = Locked::try_open(&path, Mode::Exclusive)
            .expect("open")
            .expect("free");
        let mut waits = 0;
        let (got, ()) = tokio::join!(Locked::open(&path, Mode::Shared, || waits += 1), async {
            tokio::time::sleep(POLL * 3).await;
            drop(held);
        });
        assert!(got.is_ok());
        assert_eq!(waits, 1);
    }
}
