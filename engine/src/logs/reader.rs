//! Reading a log, from its end backwards for `tail`, and on while it grows.

use std::io::SeekFrom;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::older;
use super::{Log, LogRecord, Stream};
use crate::error::{EngineError, Result};

const BLOCK_BYTES: u64 = 64 << 10;
/// Batches of records on their way to a client, of a block each; a slow one stops the reader, not the
/// container.
const QUEUE: usize = 2;

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
    log: &Log,
    options: &ReadOptions,
    sender: &mpsc::Sender<Result<Batch>>,
) -> Result<()> {
    let io = |what| move |source: std::io::Error| EngineError::io(what, log.path(), source);
    let mut progress = log.subscribe();
    let mut file = loop {
        match File::open(log.path()).await {
            Ok(file) => break file,
            // Never started: an empty log.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !options.follow || !progress.borrow_and_update().live {
                    return Ok(());
                }
                if progress.changed().await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => return Err(io("open the log")(error)),
        }
    };
    let begun = *progress.borrow_and_update();
    let (mut position, found) = match options.tail {
        Some(count) => tail_start(&mut file, begun.length, count)
            .await
            .map_err(io("read the log"))?,
        None => (0, 0),
    };
    let left = options.tail.map(|count| count.saturating_sub(found));
    if !read_older(log, left, options, sender)
        .await
        .map_err(io("read an older log"))?
    {
        return Ok(());
    }
    let mut pending = Vec::new();
    let mut generation = begun.generation;
    loop {
        let mut now = *progress.borrow_and_update();
        if now.generation != generation {
            // The file that is open has its end now; then comes the present one.
            file.seek(SeekFrom::Start(position))
                .await
                .map_err(io("read the log"))?;
            file.read_to_end(&mut pending)
                .await
                .map_err(io("read the log"))?;
            if !emit(&mut pending, options, sender).await {
                return Ok(());
            }
            pending.clear();
            file = File::open(log.path()).await.map_err(io("open the log"))?;
            (position, generation) = (0, now.generation);
            now = *progress.borrow_and_update();
        }
        file.seek(SeekFrom::Start(position))
            .await
            .map_err(io("read the log"))?;
        while position < now.length {
            let want = (now.length - position).min(BLOCK_BYTES);
            let read = (&mut file)
                .take(want)
                .read_to_end(&mut pending)
                .await
                .map_err(io("read the log"))?;
            if read == 0 {
                return Ok(());
            }
            position += read as u64;
            if !emit(&mut pending, options, sender).await {
                return Ok(());
            }
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

/// Reads the files before the present one, the oldest first; with `left`, only that many records
/// from their end. `false`: nobody wants more.
async fn read_older(
    log: &Log,
    mut left: Option<u64>,
    options: &ReadOptions,
    sender: &mpsc::Sender<Result<Batch>>,
) -> std::io::Result<bool> {
    let mut parts = Vec::new();
    for number in 1.. {
        if left == Some(0) {
            break;
        }
        let path = log.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || older::open(&path, number)).await;
        let Some(file) = opened.map_err(std::io::Error::other)?? else {
            break;
        };
        let mut file = File::from_std(file);
        let length = file.metadata().await?.len();
        let mut start = 0;
        if let Some(count) = left {
            let (from, found) = tail_start(&mut file, length, count).await?;
            start = from;
            left = Some(count.saturating_sub(found));
        }
        parts.push((file, start));
    }
    for (mut file, start) in parts.into_iter().rev() {
        file.seek(SeekFrom::Start(start)).await?;
        let mut pending = Vec::new();
        loop {
            let read = (&mut file)
                .take(BLOCK_BYTES)
                .read_to_end(&mut pending)
                .await?;
            if read == 0 {
                break;
            }
            if !emit(&mut pending, options, sender).await {
                return Ok(false);
            }
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
