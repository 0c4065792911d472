//! Reading a log, from its end backwards for `tail`, and on while it grows.

use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::cuts::Cuts;
use super::{Log, LogRecord, Stream};
use crate::error::{EngineError, Result};

const BLOCK_BYTES: u64 = 64 << 10;
/// Batches of records on their way to a client, of a block each; a slow one stops the reader, not the
/// container.
const QUEUE: usize = 2;

/// Longest record that is read. Whatever is longer is none: a hole in a file that was cut off, say.
const MAX_RECORD_BYTES: usize = 1 << 20;

/// Most records of a batch: what is read at the end of a file may be long.
const MAX_BATCH: usize = 1024;

/// Records that were read at once: one by one they would cost a client of a long log most of its time.
pub(super) type Batch = Vec<LogRecord>;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Only so many records from the end.
    pub tail: Option<u64>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Go on while the container runs.
    pub follow: bool,
    /// Leave out standard output.
    pub no_stdout: bool,
    /// Leave out standard error.
    pub no_stderr: bool,
}

/// Starts to read a log.
pub fn read(log: Arc<Log>, options: ReadOptions) -> mpsc::Receiver<Result<Vec<LogRecord>>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = read_into(&log, &options, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    receiver
}

async fn read_into(
    log: &Arc<Log>,
    options: &ReadOptions,
    sender: &mpsc::Sender<Result<Batch>>,
) -> Result<()> {
    let io = |what| move |source: std::io::Error| EngineError::io(what, log.path(), source);
    let mut progress = log.subscribe();
    let (mut file, begun) = loop {
        let live = progress.borrow_and_update().live;
        let present = blocking(log, Log::present).await;
        if let Some((file, begun)) = present.map_err(io("open the log"))? {
            break (File::from_std(file), begun);
        }
        // Never started: an empty log.
        if !options.follow || !live || progress.changed().await.is_err() {
            return Ok(());
        }
    };
    let (start, found) = match options.tail {
        Some(count) => tail_start(&mut file, begun.length, count)
            .await
            .map_err(io("read the log"))?,
        None => (0, 0),
    };
    let left = options.tail.map(|count| count.saturating_sub(found));
    if !read_older(log, begun.generation, left, options, sender)
        .await
        .map_err(io("read an older log"))?
    {
        return Ok(());
    }
    let mut place = Place::new(file, begun.generation, start);
    place.cuts = begun.cuts.count();
    loop {
        let now = match options.follow {
            true => *progress.borrow_and_update(),
            false => begun,
        };
        if now.generation == place.generation {
            place.step_back(&now.cuts);
        }
        // A file that is not the present one any more has its end.
        let end = (now.generation == place.generation).then_some(now.length);
        let goes_on = place.send_until(end, options, sender).await;
        if !goes_on.map_err(io("read the log"))? {
            return Ok(());
        }
        if end.is_none() {
            let next = next_place(log, place.generation, now.generation).await;
            match next.map_err(io("open the log"))? {
                Some(next) => place = next,
                None => return Ok(()),
            }
            continue;
        }
        if !options.follow || !now.live {
            return Ok(());
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return Ok(()) },
            () = sender.closed() => return Ok(()),
        }
    }
}

/// Does something with a log that may wait for its writer or the disk.
async fn blocking<T: Send + 'static>(
    log: &Arc<Log>,
    act: impl FnOnce(&Log) -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let log = Arc::clone(log);
    let done = tokio::task::spawn_blocking(move || act(&log)).await;
    done.map_err(std::io::Error::other)?
}

/// The file of a generation, readable. `None`: it is gone.
async fn file_of(log: &Arc<Log>, generation: i64) -> std::io::Result<Option<File>> {
    blocking(log, move |log| {
        let Some(found) = log.file_of(generation)? else {
            return Ok(None);
        };
        let dir = log.path().parent().unwrap_or(Path::new("/"));
        found.plain(dir).map(|file| Some(File::from_std(file)))
    })
    .await
}

/// The beginning of the next file that is still there: output may come faster than it is read.
async fn next_place(log: &Arc<Log>, from: i64, to: i64) -> std::io::Result<Option<Place>> {
    for generation in from + 1..=to {
        if let Some(file) = file_of(log, generation).await? {
            return Ok(Some(Place::new(file, generation, 0)));
        }
    }
    Ok(None)
}

/// How far a reader has come.
struct Place {
    file: File,
    generation: i64,
    position: u64,
    /// How often the file had been cut off.
    cuts: u64,
    /// The beginning of a record that is not yet whole.
    pending: Vec<u8>,
    /// What comes up to the next line end is no record.
    skips: bool,
}

impl Place {
    fn new(file: File, generation: i64, position: u64) -> Self {
        Self {
            file,
            generation,
            position,
            cuts: 0,
            pending: Vec::new(),
            skips: false,
        }
    }

    /// What comes after a place at which the file was cut off is new.
    fn step_back(&mut self, cuts: &Cuts) {
        let least = cuts.least_since(self.cuts);
        self.cuts = cuts.count();
        if let Some(least) = least.filter(|least| *least < self.position) {
            self.position = least;
            self.pending.clear();
            self.skips = false;
        }
    }

    /// Drops what is no record, since it is too long.
    fn drop_too_long(&mut self) {
        if self.skips {
            let end = self.pending.iter().position(|byte| *byte == b'\n');
            let end = end.map_or(self.pending.len(), |at| {
                self.skips = false;
                at + 1
            });
            self.pending.drain(..end);
        }
    }

    /// Sends the records up to a position, or up to the file's end. `false`: nobody wants more.
    async fn send_until(
        &mut self,
        end: Option<u64>,
        options: &ReadOptions,
        sender: &mpsc::Sender<Result<Batch>>,
    ) -> std::io::Result<bool> {
        self.file.seek(SeekFrom::Start(self.position)).await?;
        while end.is_none_or(|end| self.position < end) {
            let want = end.map_or(BLOCK_BYTES, |end| end - self.position);
            let read = (&mut self.file)
                .take(want.min(BLOCK_BYTES))
                .read_to_end(&mut self.pending)
                .await?;
            if read == 0 {
                // Cut off by somebody; the next record tells how much.
                return Ok(true);
            }
            self.position += read as u64;
            self.drop_too_long();
            if !emit(&mut self.pending, options, sender).await {
                return Ok(false);
            }
            if MAX_RECORD_BYTES < self.pending.len() {
                self.pending.clear();
                self.skips = true;
            }
        }
        Ok(true)
    }
}

/// Reads the files before that of a generation, the oldest first; with `left`, only that many
/// records from their end. `false`: nobody wants more.
async fn read_older(
    log: &Arc<Log>,
    generation: i64,
    mut left: Option<u64>,
    options: &ReadOptions,
    sender: &mpsc::Sender<Result<Batch>>,
) -> std::io::Result<bool> {
    let mut places = Vec::new();
    for back in 1.. {
        if left == Some(0) {
            break;
        }
        let generation = generation - back;
        let mut file = match file_of(log, generation).await {
            Ok(Some(file)) => file,
            Ok(None) => break,
            // Such as a full disk, on which no compressed file can be unpacked: what is newer is the
            // more wanted.
            Err(error) => {
                tracing::warn!(path = ?log.path(), back, %error, "older logs are left out");
                break;
            }
        };
        let mut start = 0;
        if let Some(count) = left {
            let length = file.metadata().await?.len();
            let (from, found) = tail_start(&mut file, length, count).await?;
            start = from;
            left = Some(count.saturating_sub(found));
        }
        places.push(Place::new(file, generation, start));
    }
    for mut place in places.into_iter().rev() {
        if !place.send_until(None, options, sender).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sends the whole records of `pending`. `false`: nobody wants more.
async fn emit(
    pending: &mut Vec<u8>,
    options: &ReadOptions,
    sender: &mpsc::Sender<Result<Batch>>,
) -> bool {
    let end = pending
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let rest = pending.split_off(end);
    let whole = std::mem::replace(pending, rest);
    let mut batch = Batch::new();
    let mut over = false;
    for line in whole
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        // A damaged record is skipped: the others are still worth reading.
        let Ok(record) = serde_json::from_slice::<LogRecord>(line) else {
            continue;
        };
        over = options.until.is_some_and(|until| until < record.time);
        if over {
            break;
        }
        let wanted = match record.stream {
            Stream::Stdout => !options.no_stdout,
            Stream::Stderr => !options.no_stderr,
        };
        if !wanted || options.since.is_some_and(|since| record.time < since) {
            continue;
        }
        batch.push(record);
        if batch.len() == MAX_BATCH && sender.send(Ok(std::mem::take(&mut batch))).await.is_err() {
            return false;
        }
    }
    let sent = batch.is_empty() || sender.send(Ok(batch)).await.is_ok();
    sent && !over
}

/// Offset of the last `count` records of the first `length` bytes, and how many there are.
async fn tail_start(file: &mut File, length: u64, count: u64) -> std::io::Result<(u64, u64)> {
    if count == 0 || length == 0 {
        return Ok((length, 0));
    }
    let mut end = length;
    let mut seen = 0;
    let mut block = Vec::new();
    while 0 < end {
        let start = end.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(start)).await?;
        block.clear();
        (&mut *file)
            .take(end - start)
            .read_to_end(&mut block)
            .await?;
        for (at, _) in block
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            // The line end of the last record does not begin another one.
            let after = start + at as u64 + 1;
            if after == length {
                continue;
            }
            seen += 1;
            if seen == count {
                return Ok((after, seen));
            }
        }
        end = start;
    }
    // The first record has no line end before it.
    Ok((0, seen + 1))
}
