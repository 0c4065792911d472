use super::*;
use std::sync::Arc;

async fn all(log: &Arc<Log>, options: ReadOptions) -> Vec<LogRecord> {
    let mut receiver = read(Arc::clone(log), options);
    let mut records = Vec::new();
    while let Some(batch) = receiver.recv().await {
        records.extend(batch.unwrap());
    }
    records
}

fn new_log(dir: &tempfile::TempDir) -> Arc<Log> {
    let log = Arc::new(Log::new(dir.path().join("x.log")));
    log.begin(Default::default()).unwrap();
    log
}

#[tokio::test]
async fn lines_and_parts_come_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = new_log(&dir);
    // "ü" straddles the limit of a part.
    let long = format!("{}ü{}", "x".repeat(MAX_PART_BYTES - 1), "y".repeat(40_000));
    for piece in long.as_bytes().chunks(1000) {
        log.write(Stream::Stdout, piece);
    }
    log.write(Stream::Stderr, b"e1\ne2\nrest");
    log.write(Stream::Stdout, b"\n");
    log.end();
    let records = all(&log, ReadOptions::default()).await;
    let text = |stream| {
        records
            .iter()
            .filter(|r| r.stream == stream)
            .map(|r| r.log.as_str())
            .collect::<String>()
    };
    assert_eq!(text(Stream::Stdout), long + "\n");
    assert_eq!(text(Stream::Stderr), "e1\ne2\nrest");
    assert!(records
        .iter()
        .all(|record| record.log.len() <= MAX_PART_BYTES));
}

#[tokio::test]
async fn tail_gives_the_last_records() {
    let dir = tempfile::tempdir().unwrap();
    let log = new_log(&dir);
    for number in 0..5000 {
        log.write(Stream::Stdout, format!("line {number}\n").as_bytes());
    }
    log.end();
    for count in [0, 1, 7, 4999, 5000, 9000] {
        let records = all(
            &log,
            ReadOptions {
                tail: Some(count),
                ..Default::default()
            },
        )
        .await;
        assert_eq!(records.len() as u64, count.min(5000), "tail {count}");
        if let Some(last) = records.last() {
            assert_eq!(last.log, "line 4999\n");
        }
    }
}

#[tokio::test]
async fn follow_sees_later_lines_and_ends_with_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let log = new_log(&dir);
    log.write(Stream::Stdout, b"one\n");
    let mut receiver = read(
        Arc::clone(&log),
        ReadOptions {
            follow: true,
            ..Default::default()
        },
    );
    assert_eq!(receiver.recv().await.unwrap().unwrap()[0].log, "one\n");
    log.write(Stream::Stdout, b"two\n");
    assert_eq!(receiver.recv().await.unwrap().unwrap()[0].log, "two\n");
    log.end();
    assert!(receiver.recv().await.is_none());
}

#[tokio::test]
async fn a_record_cut_short_by_a_crash_is_dropped_at_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let log = new_log(&dir);
    log.write(Stream::Stdout, b"whole\n");
    log.end();
    let path = log.path().to_owned();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"log\":\"cut");
    std::fs::write(&path, bytes).unwrap();
    let log = Arc::new(Log::new(path));
    log.begin(Default::default()).unwrap();
    log.write(Stream::Stdout, b"next\n");
    log.end();
    let records = all(&log, ReadOptions::default()).await;
    let texts: Vec<_> = records.iter().map(|r| r.log.as_str()).collect();
    assert_eq!(texts, ["whole\n", "next\n"]);
}

#[tokio::test]
async fn a_log_begins_anew_and_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = new_log(&dir);
    let rotation = Rotation {
        max_bytes: Some(300),
        files: 3,
        compress: false,
    };
    log.end();
    log.begin(LogOptions {
        rotation,
        ..LogOptions::default()
    })
    .unwrap();
    let follow = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let mut follower = read(Arc::clone(&log), follow);
    for number in 0..20 {
        log.write(Stream::Stdout, format!("line {number}\n").as_bytes());
        let batch = follower.recv().await.unwrap().unwrap();
        assert_eq!(batch[0].log, format!("line {number}\n"));
    }
    log.end();
    let lines = |records: Vec<LogRecord>| -> Vec<String> {
        records.into_iter().map(|record| record.log).collect()
    };
    let kept = lines(all(&log, ReadOptions::default()).await);
    // Three files of at most 300 bytes, the newest records in them.
    assert!((6..20).contains(&kept.len()), "{kept:?}");
    assert_eq!(kept.last().unwrap(), "line 19\n");
    let last = ReadOptions {
        tail: Some(5),
        ..ReadOptions::default()
    };
    let tail = lines(all(&log, last).await);
    assert_eq!(tail, kept[kept.len() - 5..]);
    assert!(dir.path().read_dir().unwrap().count() <= 3);
}

#[tokio::test]
async fn compressed_files_are_read_with_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(Log::new(dir.path().join("x.log")));
    let attributes = [("tag".to_owned(), "t".to_owned())].into();
    log.begin(LogOptions {
        rotation: Rotation {
            max_bytes: Some(2000),
            files: 4,
            compress: true,
        },
        attributes,
        ..LogOptions::default()
    })
    .unwrap();
    for number in 0..60 {
        log.write(Stream::Stdout, format!("line {number}\n").as_bytes());
    }
    log.end();
    let records = all(&log, ReadOptions::default()).await;
    let last = records.last().unwrap();
    assert_eq!(
        (last.log.as_str(), last.attrs["tag"].as_str()),
        ("line 59\n", "t")
    );
    // Four files of about twenty records, without a gap.
    assert_eq!(records.len(), 60);
    let tail = ReadOptions {
        tail: Some(50),
        ..Default::default()
    };
    assert_eq!(all(&log, tail).await[0].log, "line 10\n");
    assert!(dir.path().join("x.log.2.gz").exists());
}

/// A log of small files.
fn small_log(dir: &tempfile::TempDir, files: u32) -> Arc<Log> {
    let log = Arc::new(Log::new(dir.path().join("x.log")));
    log.begin(LogOptions {
        rotation: Rotation {
            max_bytes: Some(1000),
            files,
            compress: false,
        },
        ..LogOptions::default()
    })
    .unwrap();
    log
}

fn numbers(records: &[LogRecord]) -> Vec<usize> {
    let numbers = records.iter().map(|record| record.log.trim().parse());
    numbers.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_slow_follower_misses_nothing_that_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(&dir, 100);
    let mut follower = read(
        Arc::clone(&log),
        ReadOptions {
            follow: true,
            ..ReadOptions::default()
        },
    );
    log.write(Stream::Stdout, b"0\n");
    let mut seen = numbers(&follower.recv().await.unwrap().unwrap());
    // Some fifty files, before it is looked at again.
    for number in 1..500 {
        log.write(Stream::Stdout, format!("{number}\n").as_bytes());
    }
    log.end();
    while let Some(batch) = follower.recv().await {
        seen.extend(numbers(&batch.unwrap()));
    }
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_begins_anew_while_it_is_read_is_read_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(&dir, 4);
    let writer = std::thread::spawn({
        let log = Arc::clone(&log);
        move || {
            for number in 0..5000 {
                log.write(Stream::Stdout, format!("{number}\n").as_bytes());
            }
        }
    });
    let mut reads = 0;
    while !writer.is_finished() || reads == 0 {
        let tail = (reads % 2 == 0).then_some(20);
        let options = ReadOptions {
            tail,
            ..ReadOptions::default()
        };
        let seen = numbers(&all(&log, options).await);
        let gap = seen.windows(2).find(|pair| pair[0] + 1 != pair[1]);
        assert_eq!(gap, None, "{seen:?}");
        reads += 1;
    }
    writer.join().unwrap();
}

#[tokio::test]
async fn a_log_that_somebody_empties_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = new_log(&dir);
    let follow = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let mut follower = read(Arc::clone(&log), follow.clone());
    for number in 0..100 {
        log.write(Stream::Stdout, format!("{number}\n").as_bytes());
    }
    let mut seen = Vec::new();
    while seen.len() < 100 {
        seen.extend(numbers(&follower.recv().await.unwrap().unwrap()));
    }
    let file = std::fs::File::options()
        .write(true)
        .open(log.path())
        .unwrap();
    file.set_len(0).unwrap();
    // One that comes before the next record, and waits for it.
    let mut later = read(Arc::clone(&log), follow);
    let last = ReadOptions {
        tail: Some(1),
        ..ReadOptions::default()
    };
    assert!(all(&log, last.clone()).await.is_empty());
    log.write(Stream::Stdout, b"100\n");
    assert_eq!(numbers(&all(&log, last.clone()).await), [100]);
    for follower in [&mut follower, &mut later] {
        assert_eq!(numbers(&follower.recv().await.unwrap().unwrap()), [100]);
    }
    // In the middle of a record.
    log.write(Stream::Stdout, b"101\n102\n");
    file.set_len(file.metadata().unwrap().len() - 3).unwrap();
    log.write(Stream::Stdout, b"103\n");
    assert_eq!(
        numbers(&all(&log, ReadOptions::default()).await),
        [100, 101, 103]
    );
    log.end();
}

/// Reads from a follower until a number comes.
async fn up_to(
    follower: &mut tokio::sync::mpsc::Receiver<crate::error::Result<Vec<LogRecord>>>,
    last: usize,
) -> Vec<usize> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        seen.extend(numbers(&follower.recv().await.unwrap().unwrap()));
    }
    seen
}

#[tokio::test]
async fn who_follows_a_log_whose_end_is_cut_off_sees_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let log = new_log(&dir);
    let follow = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let mut follower = read(Arc::clone(&log), follow);
    log.write(Stream::Stdout, b"0\n1\n2\n");
    assert_eq!(up_to(&mut follower, 2).await, [0, 1, 2]);
    let file = std::fs::File::options()
        .write(true)
        .open(log.path())
        .unwrap();
    file.set_len(file.metadata().unwrap().len() - 3).unwrap();
    log.write(Stream::Stdout, b"3\n");
    assert_eq!(up_to(&mut follower, 3).await, [3]);
    log.end();
}

#[tokio::test]
async fn a_log_that_somebody_moves_away_is_not_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let log = new_log(&dir);
    log.write(Stream::Stdout, b"0\n1\n2\n");
    let moved = dir.path().join("elsewhere");
    std::fs::rename(log.path(), &moved).unwrap();
    let before = std::fs::read(&moved).unwrap();
    let everything = || all(&log, ReadOptions::default());
    // With another file in its place, and without.
    std::fs::File::create(log.path()).unwrap();
    assert_eq!(numbers(&everything().await), [0, 1, 2]);
    assert_eq!(std::fs::read(&moved).unwrap(), before);
    std::fs::remove_file(log.path()).unwrap();
    assert_eq!(numbers(&everything().await), [0, 1, 2]);
    log.write(Stream::Stdout, b"3\n");
    assert_eq!(numbers(&everything().await), [0, 1, 2, 3]);
    let lines = std::fs::read_to_string(&moved).unwrap().lines().count();
    assert_eq!(lines, 4);
    log.end();
}

#[tokio::test]
async fn a_hole_in_a_log_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.log");
    let record = |text: &str| {
        serde_json::to_string(&LogRecord {
            log: text.to_owned(),
            stream: Stream::Stdout,
            attrs: Default::default(),
            time: jiff::Timestamp::now(),
        })
        .unwrap()
    };
    let mut bytes = format!("{}\n", record("1\n")).into_bytes();
    bytes.resize(bytes.len() + (8 << 20), 0);
    bytes.extend(format!("\n{}\n", record("2\n")).bytes());
    std::fs::write(&path, bytes).unwrap();
    let log = Arc::new(Log::new(path));
    assert_eq!(numbers(&all(&log, ReadOptions::default()).await), [1, 2]);
}

#[test]
fn a_full_disk_does_not_make_an_emptied_log_long_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.log");
    std::fs::write(&path, b"short\n").unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    writer::shorten(&file, 1 << 30).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 6);
    writer::shorten(&file, 3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
}
