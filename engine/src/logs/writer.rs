//! Cutting output into records and appending them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use jiff::Timestamp;
use tokio::sync::watch;

use super::cuts::Cuts;
use super::remote::Remote;
use super::{older, LogOptions, LogRecord, Stream, MAX_PART_BYTES};
use crate::error::{EngineError, Result};

/// Who may read a log: its owner, and the group that reads logs. As dockerd has it.
const MODE: u32 = 0o640;

/// How much is read at once.
const BLOCK_BYTES: usize = 64 << 10;

/// How far the file reaches and whether it may grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of whole records.
    pub(super) length: u64,
    /// A container writes to it.
    pub(super) live: bool,
    /// When somebody else has cut it off.
    pub(super) cuts: Cuts,
    /// How often it has begun anew. Files from before this daemon are of generations below 0.
    pub(super) generation: i64,
}

/// Where the parts of lines go, in one run of the container.
#[derive(Debug, Default)]
struct Outlets {
    options: LogOptions,
    remote: Option<Remote>,
}

/// A container's log: its file, and the way to the server that gets it too.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    writer: Mutex<Writer>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Writer {
    file: Option<File>,
    partial: [Vec<u8>; 2],
    /// Records that could not be written since the file could be written last.
    lost: usize,
    out: Outlets,
    /// Compresses the file before the present one.
    compressing: Option<std::thread::JoinHandle<()>>,
}

impl Log {
    /// The log at `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        let length = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let progress = watch::Sender::new(Progress {
            length,
            ..Progress::default()
        });
        Self {
            path,
            writer: Mutex::default(),
            progress,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file for a run of the container. A record that a crash cut short is cut off.
    pub fn begin(&self, mut options: LogOptions) -> Result<()> {
        let (file, length) = match options.unreadable {
            true => (None, 0),
            false => self.open().map(|(file, length)| (Some(file), length))?,
        };
        let mut writer = self.lock();
        writer.file = file;
        writer.lost = 0;
        writer.out = Outlets {
            remote: options.remote.take().map(Remote::start),
            options,
        };
        self.progress.send_modify(|progress| {
            progress.length = length;
            progress.live = true;
        });
        Ok(())
    }

    fn open(&self) -> Result<(File, u64)> {
        let io = |what| move |source: std::io::Error| EngineError::io(what, &self.path, source);
        let file = open_to_append(&self.path).map_err(io("open the log"))?;
        let length = whole_records(&file).map_err(io("read the log"))?;
        file.set_len(length).map_err(io("truncate the log"))?;
        Ok((file, length))
    }

    /// Appends output. What a disk error, such as a full disk, loses is told of, and the log goes on
    /// when it can.
    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut writer = self.lock();
        let mut records = Vec::with_capacity(bytes.len() + bytes.len() / 4 + 128);
        writer.cut(stream, bytes, &mut records);
        self.append(&mut writer, &records);
    }

    /// Writes what is left of unfinished lines; the run is over.
    pub fn end(&self) {
        let mut writer = self.lock();
        let mut records = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut writer.partial[slot(stream)]);
            if !rest.is_empty() {
                writer.out.put(stream, &rest, true, &mut records);
            }
        }
        self.append(&mut writer, &records);
        writer.file = None;
        writer.out.remote = None;
        self.progress.send_modify(|progress| progress.live = false);
    }

    /// Waits until a server has got everything so far.
    pub(crate) async fn delivered(&self) {
        let drained = self.lock().out.remote.as_ref().map(Remote::drained);
        if let Some(drained) = drained {
            drained.await;
        }
    }

    /// The present file, and how far it reached when it was opened. `None`: there is none. Of a container that
    /// runs it is the file that is written to, also where somebody has moved it or put another in its place.
    pub(super) fn present(&self) -> std::io::Result<Option<(File, Progress)>> {
        // It does not begin anew meanwhile.
        let writer = self.lock();
        if let Some(own) = &writer.file {
            self.notice_cut(own, Cut::Tidy)?;
            let file = File::open(format!("/proc/self/fd/{}", own.as_raw_fd()))?;
            return Ok(Some((file, *self.progress.borrow())));
        }
        match File::open(&self.path) {
            Ok(file) => {
                self.notice_cut(&file, Cut::Leave)?;
                Ok(Some((file, *self.progress.borrow())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file of a generation, wherever it has moved to. `None`: it is gone.
    pub(super) fn file_of(&self, generation: i64) -> std::io::Result<Option<older::Found>> {
        let _writer = self.lock();
        let number = self.progress.borrow().generation - generation;
        match u32::try_from(number) {
            Ok(number) => older::find(&self.path, number),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Each record by itself where the file has a largest size.
    fn append(&self, writer: &mut Writer, records: &[u8]) {
        match writer.out.options.rotation.max_bytes {
            None => self.append_at_once(writer, records),
            Some(_) => {
                for record in records.split_inclusive(|byte| *byte == b'\n') {
                    self.append_at_once(writer, record);
                }
            }
        }
    }

    fn append_at_once(&self, writer: &mut Writer, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.rotate_for(writer, records.len() as u64) {
            // It grows on, rather than being lost.
            tracing::error!(path = ?self.path, %error, "the log can't begin anew");
        }
        let Some(file) = &mut writer.file else { return };
        if let Err(error) = self.notice_cut(file, Cut::Tidy) {
            tracing::error!(path = ?self.path, %error, "looking at the log");
        }
        if let Err(error) = file.write_all(records) {
            // A record is there as a whole or not at all.
            let cut = shorten(file, self.progress.borrow().length);
            if writer.lost == 0 {
                tracing::error!(path = ?self.path, %error, "output of a container is lost: its log can't be written");
            }
            if let Err(error) = cut {
                tracing::error!(path = ?self.path, %error, "the log has a record that is cut off");
            }
            writer.lost += records.iter().filter(|byte| **byte == b'\n').count();
            return;
        }
        let lost = std::mem::take(&mut writer.lost);
        if lost != 0 {
            tracing::warn!(path = ?self.path, lost, "the log goes on, without so many records");
        }
        let more = records.len() as u64;
        self.progress
            .send_modify(|progress| progress.length += more);
    }

    /// Looks whether somebody has cut the file off, as those do who keep a copy of it, or whose disk is full:
    /// it goes on from where it ends now.
    fn notice_cut(&self, file: &File, cut: Cut) -> std::io::Result<()> {
        if self.progress.borrow().length <= file.metadata()?.len() {
            return Ok(());
        }
        let length = whole_records(file)?;
        if cut == Cut::Tidy {
            shorten(file, length)?;
        }
        self.progress.send_modify(|progress| {
            progress.length = length;
            progress.cuts.note(length);
        });
        Ok(())
    }

    /// Begins anew where the next records would make the file too large.
    fn rotate_for(&self, writer: &mut Writer, more: u64) -> std::io::Result<()> {
        let length = self.progress.borrow().length;
        let full = |max: u64| 0 < length && max < length.saturating_add(more);
        if writer.file.is_none() || !writer.out.options.rotation.max_bytes.is_some_and(full) {
            return Ok(());
        }
        let rotation = writer.out.options.rotation;
        // It names the files: one move after the other.
        if let Some(compressing) = writer.compressing.take() {
            let _ = compressing.join();
        }
        older::rotate(&self.path, rotation.files)?;
        if rotation.compress {
            writer.compressing = Some(self.compress());
        }
        writer.file = Some(open_to_append(&self.path)?);
        self.progress.send_modify(|progress| {
            progress.length = 0;
            progress.generation += 1;
        });
        Ok(())
    }

    /// In a thread: the container's output goes on meanwhile.
    fn compress(&self) -> std::thread::JoinHandle<()> {
        let path = self.path.clone();
        std::thread::spawn(move || {
            if let Err(error) = older::compress(&path) {
                // It stays as it is, and is read so.
                tracing::error!(?path, %error, "an older log can't be compressed");
            }
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.writer
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

/// What becomes of half a record at the end of a file that somebody has cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// It goes: what is written next begins a record.
    Tidy,
    /// It stays: nobody writes to the file.
    Leave,
}

fn open_to_append(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true).mode(MODE);
    options.open(path)
}

/// Cuts a file off; it is never made longer.
pub(super) fn shorten(file: &File, length: u64) -> std::io::Result<()> {
    match length < file.metadata()?.len() {
        true => file.set_len(length),
        false => Ok(()),
    }
}

/// Length of the file up to the end of its last whole record.
fn whole_records(file: &File) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; BLOCK_BYTES];
    while 0 < end {
        let want = usize::try_from(end).map_or(BLOCK_BYTES, |end| end.min(BLOCK_BYTES));
        let start = end - want as u64;
        file.read_exact_at(&mut block[..want], start)?;
        if let Some(at) = block[..want].iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl Writer {
    fn cut(&mut self, stream: Stream, bytes: &[u8], records: &mut Vec<u8>) {
        let partial = &mut self.partial[slot(stream)];
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut line = line;
            while !line.is_empty() {
                let room = MAX_PART_BYTES.saturating_sub(partial.len()).min(line.len());
                let (now, later) = line.split_at(room);
                partial.extend_from_slice(now);
                line = later;
                if partial.ends_with(b"\n") {
                    self.out.put(stream, partial, true, records);
                    partial.clear();
                } else if MAX_PART_BYTES <= partial.len() {
                    let rest = partial.split_off(character_boundary(partial));
                    self.out.put(stream, partial, false, records);
                    *partial = rest;
                }
            }
        }
    }
}

/// Where a full part may be cut without splitting a UTF-8 character.
fn character_boundary(bytes: &[u8]) -> usize {
    let is_start = |byte: u8| byte & 0xc0 != 0x80;
    let tail = bytes.len().saturating_sub(4);
    let Some(start) = (tail..bytes.len()).rev().find(|at| is_start(bytes[*at])) else {
        return bytes.len();
    };
    let width = match bytes[start] {
        byte if byte & 0xe0 == 0xc0 => 2,
        byte if byte & 0xf0 == 0xe0 => 3,
        byte if byte & 0xf8 == 0xf0 => 4,
        _ => 1,
    };
    if start + width <= bytes.len() {
        bytes.len()
    } else {
        start
    }
}

impl Outlets {
    /// Encodes a part of a line for the file, and hands it to the server; `ends`: it is the last.
    fn put(&mut self, stream: Stream, part: &[u8], ends: bool, records: &mut Vec<u8>) {
        let time = Timestamp::now();
        if let Some(remote) = &mut self.remote {
            remote.push(stream, part, ends, time);
        }
        if self.options.unreadable {
            return;
        }
        let record = LogRecord {
            log: String::from_utf8_lossy(part).into_owned(),
            stream,
            attrs: self.options.attributes.clone(),
            time,
        };
        // Strings, an enum and a time always have a JSON form.
        if serde_json::to_writer(&mut *records, &record).is_ok() {
            records.push(b'\n');
        }
    }
}
