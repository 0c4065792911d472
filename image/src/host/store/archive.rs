//! The outer archive of a load.
//!
//! It is read with the strict tar reader; every file of it goes straight into the content store,
//! whatever it is. What no image needs in the end is collected.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::mpsc;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::content::ContentStore;
use crate::decompress;
use crate::host::manifest::MAX_DOCUMENT;
use crate::host::ImageError;
use crate::tar::{EntryKind, SparseMap, TarError, TarReader};
use crate::{Compression, Digest};

/// Bytes that are passed on at once.
const CHUNK: usize = 256 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Chunks between the archive's reader and its parser.
pub(super) const QUEUE: usize = 4;
const MAX_ENTRIES: usize = 100_000;
/// Most bytes that an archive may have of sparse files, and that are not in it: they are written as zeros.
const MAX_HOLES: u64 = 16 << 30;
const MAX_LINKS: usize = 8;

/// Passes the archive to the parser's thread. Ends early, without error, when the parser has.
pub(super) async fn feed(
    mut archive: impl AsyncRead + Send + Unpin,
    sender: mpsc::SyncSender<Option<Vec<u8>>>,
) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            if archive.read_buf(&mut chunk).await? == 0 {
                break;
            }
        }
        let last = chunk.is_empty();
        let mut message = if last { None } else { Some(chunk) };
        loop {
            match sender.try_send(message) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Disconnected(_)) => return Ok(()),
                Err(mpsc::TrySendError::Full(back)) => {
                    message = back;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        }
        if last {
            return Ok(());
        }
    }
}

/// The parser's end: an archive that breaks off is an error, never an end.
pub(super) struct Channel {
    receiver: mpsc::Receiver<Option<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Channel {
    pub(super) fn new(receiver: mpsc::Receiver<Option<Vec<u8>>>) -> Self {
        Self {
            receiver,
            chunk: Vec::new(),
            at: 0,
            ended: false,
        }
    }
}

impl Read for Channel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.ended {
            match self.receiver.recv() {
                Ok(Some(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Ok(None) => self.ended = true,
                Err(mpsc::RecvError) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        let count = buf.len().min(self.chunk.len() - self.at);
        buf[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// One file of the archive, in the content store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
}

/// The outer archive, read to its end.
pub(super) struct Archive {
    pub(super) files: BTreeMap<String, Blob>,
    /// Symbolic and hard links (old versions of docker share layers so), to paths in the archive: where
    /// each may lead, the likely one first.
    links: BTreeMap<String, Vec<String>>,
}

impl Archive {
    pub(super) fn read(
        content: &ContentStore,
        source: impl Read + Send,
    ) -> Result<Self, ImageError> {
        let (mut input, _) = decompress::open(Box::new(source))
            .map_err(|source| ImageError::ReadArchive { source })?;
        let mut archive = Self {
            files: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        archive.read_entries(content, TarReader::new(&mut input))?;
        // A pipe's writer must not see it closed early.
        io::copy(&mut input, &mut io::sink())
            .map_err(|source| ImageError::ReadArchive { source })?;
        Ok(archive)
    }

    fn read_entries(
        &mut self,
        content: &ContentStore,
        mut tar: TarReader<impl Read>,
    ) -> Result<(), ImageError> {
        let mut holes = 0_u64;
        while let Some(entry) = tar.next_entry().map_err(tar_error)? {
            if self.files.len() + self.links.len() >= MAX_ENTRIES {
                return Err(not_an_image(format!(
                    "it has more than {MAX_ENTRIES} files"
                )));
            }
            let Some(path) = normalize(&entry.path) else {
                continue;
            };
            match entry.kind {
                EntryKind::File { size, sparse } => {
                    let map = sparse.unwrap_or_else(|| SparseMap::whole(size));
                    holes += size - map.stored();
                    if MAX_HOLES < holes {
                        return Err(not_an_image(format!(
                            "its sparse files have holes of more than {MAX_HOLES} bytes"
                        )));
                    }
                    let blob = ingest(content, &mut tar, &map, size)?;
                    check_name(&path, &blob)?;
                    self.files.insert(path, blob);
                }
                EntryKind::Symlink { target } => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    // Some mean the archive's root.
                    let beside = [folder.as_bytes(), b"/", &target].concat();
                    let targets = [normalize(&beside), normalize(&target)];
                    self.links
                        .insert(path, targets.into_iter().flatten().collect());
                }
                EntryKind::HardLink { target } => {
                    self.links
                        .insert(path, normalize(&target).into_iter().collect());
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn find(&self, path: &str) -> Option<Blob> {
        self.behind(&normalize(path.as_bytes())?, MAX_LINKS)
    }

    /// The file that a path leads to, over so many links at most.
    fn behind(&self, path: &str, links: usize) -> Option<Blob> {
        if let Some(blob) = self.files.get(path) {
            return Some(*blob);
        }
        let links = links.checked_sub(1)?;
        let mut targets = self.links.get(path)?.iter();
        targets.find_map(|target| self.behind(target, links))
    }

    pub(super) fn document(
        &self,
        content: &ContentStore,
        path: &str,
    ) -> Result<Vec<u8>, ImageError> {
        let blob = self
            .find(path)
            .ok_or_else(|| not_an_image(format!("it has no {path}")))?;
        if blob.size > MAX_DOCUMENT {
            return Err(not_an_image(format!(
                "{path} has {} bytes (the limit is {MAX_DOCUMENT})",
                blob.size
            )));
        }
        content.read(&blob.digest, MAX_DOCUMENT)
    }
}

/// Stores the current entry's content, of `size` bytes with its holes.
fn ingest(
    content: &ContentStore,
    tar: &mut TarReader<impl Read>,
    map: &SparseMap,
    size: u64,
) -> Result<Blob, ImageError> {
    let mut ingest = content.ingest()?;
    let mut head = Vec::with_capacity(4);
    let mut at = 0;
    let mut write = |bytes: &[u8], ingest: &mut dyn Write| {
        let missing = 4_usize.saturating_sub(head.len()).min(bytes.len());
        head.extend_from_slice(&bytes[..missing]);
        ingest.write_all(bytes).map_err(ImageError::file(
            "write a blob in",
            content.temporary_folder(),
        ))
    };
    for (offset, length) in map.ranges().iter().chain([&(size, 0)]) {
        while at < *offset {
            let count = (offset - at).min(ZEROS.len() as u64);
            write(&ZEROS[..count as usize], &mut ingest)?;
            at += count;
        }
        let end = offset + length;
        while at < end {
            let chunk = tar.content().map_err(tar_error)?;
            let room = usize::try_from(end - at).unwrap_or(usize::MAX);
            let count = chunk.len().min(room);
            write(&chunk[..count], &mut ingest)?;
            tar.consume(count);
            at += count as u64;
            if count == 0 {
                return Err(not_an_image("a file of it is cut off".to_owned()));
            }
        }
    }
    let (digest, size) = ingest.commit()?;
    let compression = match head.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::None,
    };
    Ok(Blob {
        digest,
        size,
        compression,
    })
}

/// A file below `blobs/sha256` must be what its name says.
fn check_name(path: &str, blob: &Blob) -> Result<(), ImageError> {
    let Some(hex) = path.strip_prefix("blobs/sha256/") else {
        return Ok(());
    };
    match format!("sha256:{hex}").parse::<Digest>() {
        Ok(want) if want != blob.digest => Err(ImageError::DigestMismatch {
            what: "archive entry".into(),
            want,
            found: blob.digest,
        }),
        _ => Ok(()),
    }
}

/// A path inside the archive, without `.` and `..`; `None` if it leads out or is not text.
fn normalize(path: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for part in std::str::from_utf8(path).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Reads any bytes as an archive, and whatever an archive's documents are named like.
#[cfg(feature = "fuzz")]
pub(in crate::host) fn fuzz(data: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    let Ok(content) = ContentStore::open(folder.path().to_owned()) else {
        return;
    };
    let Ok(archive) = Archive::read(&content, io::Cursor::new(data.to_vec())) else {
        return;
    };
    let names = archive.files.keys().chain(archive.links.keys());
    for name in names.take(8) {
        let _ = archive.document(&content, name);
    }
}

pub(super) fn not_an_image(reason: String) -> ImageError {
    ImageError::NotAnImage { reason }
}

fn tar_error(error: TarError) -> ImageError {
    match error {
        TarError::Io(source) if decompress::is_damage(&source) => {
            not_an_image("its compression is damaged".into())
        }
        TarError::Io(source) => ImageError::ReadArchive { source },
        other => not_an_image(format!("it is not a tar archive ({other})")),
    }
}
