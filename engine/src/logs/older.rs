//! The files before the present one, which may be compressed.

use std::fs::File;
use std::io::{self, ErrorKind, Seek as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// How the name of a compressed file ends; while it is made, there is more.
const COMPRESSED: &str = ".gz";
const HALF_MADE: &str = ".gz.tmp";

fn named(path: &Path, number: u32, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}{end}"));
    PathBuf::from(name)
}

/// Without error where there is nothing.
fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves each file on by one; the last goes.
pub(super) fn rotate(path: &Path, files: u32) -> io::Result<()> {
    if files < 2 {
        return std::fs::remove_file(path);
    }
    for end in ["", COMPRESSED] {
        if_there(std::fs::remove_file(named(path, files - 1, end)))?;
    }
    // Only those that there are: a client may ask for any number of files.
    let is_there = |number: &u32| {
        let names = ["", COMPRESSED].map(|end| named(path, *number, end));
        names.iter().any(|name| name.exists())
    };
    let last = (1..files - 1).take_while(is_there).last().unwrap_or(0);
    for number in (1..=last).rev() {
        for end in ["", COMPRESSED] {
            if_there(std::fs::rename(
                named(path, number, end),
                named(path, number + 1, end),
            ))?;
        }
    }
    std::fs::rename(path, named(path, 1, ""))
}

/// Compresses the file before the present one.
pub(super) fn compress(path: &Path) -> io::Result<()> {
    let (plain, half) = (named(path, 1, ""), named(path, 1, HALF_MADE));
    let packed = (|| {
        let mut encoder = GzEncoder::new(File::create(&half)?, flate2::Compression::default());
        io::copy(&mut File::open(&plain)?, &mut encoder)?;
        encoder.finish()?;
        std::fs::rename(&half, named(path, 1, COMPRESSED))
    })();
    match packed {
        // Only now: a reader finds one of them at any time.
        Ok(()) => std::fs::remove_file(&plain),
        Err(error) => {
            let _ = std::fs::remove_file(&half);
            Err(error)
        }
    }
}

/// An open file of a log.
#[derive(Debug)]
pub(super) struct Found {
    file: File,
    compressed: bool,
}

impl Found {
    /// As a file of records: a compressed one is copied into an unnamed file in `dir`.
    pub(super) fn plain(self, dir: &Path) -> io::Result<File> {
        if !self.compressed {
            return Ok(self.file);
        }
        let mut copy = tempfile::tempfile_in(dir)?;
        io::copy(&mut GzDecoder::new(self.file), &mut copy)?;
        copy.rewind()?;
        Ok(copy)
    }
}

/// Opens the file with a number, 0 being the present one. `None`: there is none.
pub(super) fn find(path: &Path, number: u32) -> io::Result<Option<Found>> {
    let names = match number {
        0 => vec![(path.to_owned(), false)],
        // Once more: it may be compressed between the two looks.
        _ => ["", COMPRESSED, ""]
            .map(|end| (named(path, number, end), !end.is_empty()))
            .to_vec(),
    };
    for (name, compressed) in names {
        match File::open(name) {
            Ok(file) => return Ok(Some(Found { file, compressed })),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn text(path: &Path, number: u32) -> Option<String> {
        let mut text = String::new();
        let found = find(path, number).unwrap()?;
        let mut file = found.plain(path.parent().unwrap()).unwrap();
        file.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn any_number_of_files_costs_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for content in ["one", "two", "three"] {
            std::fs::write(&path, content).unwrap();
            rotate(&path, u32::MAX).unwrap();
        }
        assert_eq!(text(&path, 3).as_deref(), Some("one"));
        assert_eq!(text(&path, 1).as_deref(), Some("three"));
    }

    #[test]
    fn files_move_on_whether_compressed_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for content in ["one", "two", "three"] {
            std::fs::write(&path, content).unwrap();
            rotate(&path, 3).unwrap();
            if content == "one" {
                compress(&path).unwrap();
                assert!(!named(&path, 1, "").exists());
                assert_eq!(text(&path, 1).as_deref(), Some("one"));
            }
        }
        assert_eq!(text(&path, 1).as_deref(), Some("three"));
        assert_eq!(text(&path, 2).as_deref(), Some("two"));
        assert_eq!(text(&path, 3), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
