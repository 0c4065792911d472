//! Blobs by digest, and blobs that are on their way.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::host::lock::{Locked, Mode};
use crate::host::registry::BlobSink;
use crate::host::ImageError;
use crate::Digest;

const COPY_BUFFER: usize = 1 << 20;

/// `ROOT/content`.
#[derive(Debug, Clone)]
pub(super) struct ContentStore {
    root: PathBuf,
}

impl ContentStore {
    pub(super) fn open(root: PathBuf) -> Result<Self, ImageError> {
        for folder in ["blobs/sha256", "partial", "tmp"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(ImageError::file("create", path))?;
        }
        Ok(Self { root })
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("blobs/sha256").join(&hex[..2]).join(hex)
    }

    pub(super) fn partial_folder(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(super) fn temporary_folder(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.partial_folder().join(digest.hex())
    }

    /// Size of the blob, if it is here. Blobs get their name only when they are complete.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest))
            .ok()
            .map(|metadata| metadata.len())
    }

    /// A small blob as a whole; it is verified again, as it rules what happens.
    pub(super) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.blob_path(digest);
        let file = self.open_blob(digest)?;
        let mut content = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut content)
            .map_err(ImageError::file("read", &path))?;
        if content.len() as u64 > limit {
            return Err(ImageError::DamagedRecord {
                path,
                reason: format!("it is longer than {limit} bytes"),
            });
        }
        if Digest::of(&content) != *digest {
            return Err(damaged(digest, CHANGED));
        }
        Ok(content)
    }

    fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged(digest, "missing"),
            _ => ImageError::file("open", &path)(error),
        })
    }

    /// Reads a blob and compares it with its name.
    pub(super) fn verify(&self, digest: &Digest) -> Result<(), ImageError> {
        match self.is_whole(digest)? {
            true => Ok(()),
            false => Err(damaged(digest, CHANGED)),
        }
    }

    /// Stores a small blob.
    pub(super) fn put(&self, content: &[u8]) -> Result<Digest, ImageError> {
        let mut ingest = self.ingest()?;
        let path = ingest.file.path().to_owned();
        ingest
            .write_all(content)
            .map_err(ImageError::file("write", path))?;
        Ok(ingest.commit()?.0)
    }

    /// Begins a blob whose digest is not known yet.
    pub(super) fn ingest(&self) -> Result<Ingest, ImageError> {
        let folder = self.temporary_folder();
        loop {
            let named = tempfile::Builder::new()
                .prefix("ingest-")
                .tempfile_in(&folder)
                .map_err(ImageError::file("create a file in", &folder))?;
            let path = named.into_temp_path();
            // A collector may have come between; its lock or its removal shows.
            if let Some(file) = Locked::try_open(&path, Mode::Exclusive)? {
                return Ok(Ingest {
                    content: self.clone(),
                    file,
                    guard: path,
                    hasher: Sha256::new(),
                    length: 0,
                });
            }
        }
    }

    /// Gives a complete, synced file its name.
    fn install(&self, file: &File, from: &Path, digest: &Digest) -> Result<(), ImageError> {
        let path = self.blob_path(digest);
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        fs::create_dir_all(&folder).map_err(ImageError::file("create", &folder))?;
        file.set_permissions(fs::Permissions::from_mode(0o444))
            .map_err(ImageError::file("protect", from))?;
        file.sync_all().map_err(ImageError::file("sync", from))?;
        fs::rename(from, &path).map_err(ImageError::file("rename to", &path))?;
        sync_folder(&folder)
    }

    /// Opens what an earlier try left of a blob, hashing it on the way.
    pub(super) fn resume(
        &self,
        locked: Locked,
        digest: &Digest,
        size: u64,
    ) -> Result<Partial, ImageError> {
        let path = locked.path().to_owned();
        let mut partial = Partial {
            locked,
            hasher: Sha256::new(),
            position: 0,
            failed: false,
        };
        let hashed = partial.rehash(size);
        hashed.map_err(ImageError::file("read", path))?;
        tracing::debug!(%digest, position = partial.position, "download starts");
        Ok(partial)
    }

    /// Ends a download: the digest decides whether it becomes a blob or is forgotten.
    pub(super) fn finish(&self, partial: Partial, digest: &Digest) -> Result<(), ImageError> {
        let path = partial.locked.path().to_owned();
        let found = Digest::from_bytes(partial.hasher.finalize().into());
        if found == *digest {
            return self.install(&partial.locked.file, &path, digest);
        }
        fs::remove_file(&path).map_err(ImageError::file("remove", &path))?;
        Err(ImageError::DigestMismatch {
            what: "blob".into(),
            want: *digest,
            found,
        })
    }

    /// Whether a blob that is here has the content that its name says. Reads all of it.
    pub(super) fn is_whole(&self, digest: &Digest) -> Result<bool, ImageError> {
        let path = self.blob_path(digest);
        let mut file = self.open_blob(digest)?;
        let mut hasher = Sha256::new();
        io::copy(&mut file, &mut hasher).map_err(ImageError::file("read", &path))?;
        Ok(Digest::from_bytes(hasher.finalize().into()) == *digest)
    }

    /// All blobs here.
    pub(super) fn list(&self) -> Result<Vec<(Digest, u64)>, ImageError> {
        let root = self.root.join("blobs/sha256");
        let mut found = Vec::new();
        for shard in entries(&root)? {
            for path in entries(&shard)? {
                let name = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                let (Ok(digest), Ok(metadata)) =
                    (format!("sha256:{name}").parse(), fs::metadata(&path))
                else {
                    continue;
                };
                found.push((digest, metadata.len()));
            }
        }
        Ok(found)
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        remove_file(&self.blob_path(digest))
    }
}

/// Paths in a folder; none if it does not exist.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ImageError::file("list", folder)(error)),
    };
    listing
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .map_err(ImageError::file("list", folder))
        })
        .collect()
}

/// Removes a file that may be gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ImageError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// What a blob is whose content is not that of its name.
const CHANGED: &str = "not what its name says";

fn damaged(digest: &Digest, problem: &'static str) -> ImageError {
    ImageError::DamagedBlob {
        digest: *digest,
        problem,
    }
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), ImageError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(ImageError::file("sync", folder))
}

/// A blob that is being written; dropped without [`Ingest::commit`], it is gone.
pub(super) struct Ingest {
    content: ContentStore,
    file: Locked,
    guard: tempfile::TempPath,
    hasher: Sha256,
    length: u64,
}

impl Ingest {
    /// Makes it a blob; gives its digest and length.
    pub(super) fn commit(self) -> Result<(Digest, u64), ImageError> {
        let digest = Digest::from_bytes(self.hasher.finalize().into());
        if self.content.size(&digest).is_none() {
            self.content
                .install(&self.file.file, self.file.path(), &digest)?;
            // It has another name now.
            let _ = self.guard.keep();
        }
        Ok((digest, self.length))
    }
}

impl Write for Ingest {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.file.file.write(data)?;
        self.hasher.update(&data[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.file.flush()
    }
}

/// A blob that is being downloaded. Stays on disk when dropped, to be resumed.
pub(super) struct Partial {
    locked: Locked,
    hasher: Sha256,
    position: u64,
    failed: bool,
}

impl Partial {
    fn rehash(&mut self, size: u64) -> io::Result<()> {
        let file = &mut self.locked.file;
        if file.metadata()?.len() > size {
            file.set_len(0)?;
        }
        file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                got => {
                    self.hasher.update(&buffer[..got]);
                    self.position += got as u64;
                }
            }
        }
    }
}

impl BlobSink for Partial {
    fn position(&self) -> u64 {
        self.position
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        // A failed write may have written a part: the file no longer matches the sum.
        self.failed = true;
        self.locked.file.write_all(data)?;
        self.failed = false;
        self.hasher.update(data);
        self.position += data.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.locked.file.set_len(0)?;
        self.locked.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.position, self.failed) = (Sha256::new(), 0, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ContentStore) {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = ContentStore::open(folder.path().join("content")).expect("open");
        (folder, store)
    }

    #[test]
    fn ingested_blobs_have_their_digest_as_name() {
        let (_folder, store) = store();
        let digest = store.put(b"hull").expect("put");
        assert_eq!(digest, Digest::of(b"hull"));
        assert_eq!(store.read(&digest, 100).expect("read"), b"hull");
        assert!(store.read(&digest, 3).is_err());
        assert_eq!(store.put(b"hull").expect("again"), digest);
        assert_eq!(store.list().expect("list"), [(digest, 4)]);
        assert!(entries(&store.temporary_folder()).expect("list").is_empty());
    }

    #[test]
    fn dropped_ingest_leaves_nothing() {
        let (_folder, store) = store();
        let mut ingest = store.ingest().expect("ingest");
        ingest.write_all(b"half").expect("write");
        drop(ingest);
        assert!(entries(&store.temporary_folder()).expect("list").is_empty());
        assert!(store.list().expect("list").is_empty());
    }

    #[test]
    fn partial_downloads_resume_and_are_verified() {
        let (_folder, store) = store();
        let digest = Digest::of(b"hello world");
        let open = || {
            let locked = Locked::try_open(&store.partial_path(&digest), Mode::Exclusive)
                .expect("open")
                .expect("free");
            store.resume(locked, &digest, 11).expect("resume")
        };
        let mut first = open();
        first.write(b"hello ").expect("write");
        drop(first);
        let mut second = open();
        assert_eq!(second.position(), 6);
        second.write(b"world").expect("write");
        store.finish(second, &digest).expect("finish");
        assert_eq!(store.size(&digest), Some(11));
        let mut wrong = open();
        wrong.write(b"hello earth").expect("write");
        assert!(matches!(
            store.finish(wrong, &digest),
            Err(ImageError::DigestMismatch { .. })
        ));
        assert!(!store.partial_path(&digest).exists());
    }
}
