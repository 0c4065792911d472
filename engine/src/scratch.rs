//! Writable layers: sparse copies of an empty ext4 file system that is made once.

use std::fs::{File, OpenOptions};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use bollard_stubs::models::HostConfig;
use rustix::fs::SeekFrom;

use crate::error::{EngineError, Result};

/// Size of a writable layer as the container sees it.
const SCRATCH_BYTES: u64 = 64 << 30;

/// Makes the template if it is not there. Whole or not at all.
pub(crate) async fn ensure_template(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    let result = make(&temporary, SCRATCH_BYTES).await.and_then(|()| {
        std::fs::rename(&temporary, path)
            .map_err(|source| EngineError::io("rename the scratch template to", path, source))
    });
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Sizes of disks in bytes: the journal takes a part, and ext4 has an end.
pub(crate) const SIZES: RangeInclusive<u64> = (128 << 20)..=(16 << 40);

/// The size that `StorageOpt` asks for, in bytes.
pub(crate) fn wanted_bytes(host: &HostConfig) -> Result<Option<u64>> {
    let bad = |text: String| Err(EngineError::BadRequest(text));
    let mut wanted = None;
    for (key, text) in host.storage_opt.iter().flatten() {
        if key != "size" {
            return bad(format!(
                "Unknown option {key} in StorageOpt: only size is known"
            ));
        }
        let Some(bytes) = crate::logs::bytes(text) else {
            return bad(format!("invalid size in StorageOpt: '{text}'"));
        };
        if !SIZES.contains(&bytes) {
            return bad(format!(
                "StorageOpt: a writable layer has from 128 MiB to 16 TiB, not {text}"
            ));
        }
        wanted = Some(bytes);
    }
    Ok(wanted)
}

/// Makes a container's writable layer, of the size that it asks for. Whole or not at all, whenever
/// this ends: what is half made has another name.
pub(crate) async fn of_container(template: &Path, path: &Path, host: &HostConfig) -> Result<()> {
    let half_made = path.with_extension("new");
    let _ = std::fs::remove_file(&half_made);
    let made = match wanted_bytes(host)? {
        Some(bytes) => make(&half_made, bytes).await,
        None => create(template, &half_made).await,
    };
    let kept = made.and_then(|()| {
        std::fs::rename(&half_made, path)
            .map_err(|source| EngineError::io("rename the writable layer to", path, source))
    });
    if kept.is_err() {
        let _ = std::fs::remove_file(&half_made);
    }
    kept
}

/// Makes an empty file system.
async fn make(path: &Path, bytes: u64) -> Result<()> {
    let io = |what| move |source: std::io::Error| EngineError::io(what, path, source);
    let _ = std::fs::remove_file(path);
    let file = create_private(path).map_err(io("create the scratch template"))?;
    file.set_len(bytes)
        .map_err(io("size the scratch template"))?;
    let mut mkfs = tokio::process::Command::from(mkfs(path, "hull-scratch"));
    check_mkfs(path, mkfs.kill_on_drop(true).output().await)?;
    file.sync_all().map_err(io("sync the scratch template"))
}

/// The program that makes an ext4 file system in a file that is all holes. They read as zero, so
/// nothing needs to be zeroed, now or by the kernel later.
pub(crate) fn mkfs(path: &Path, label: &str) -> Command {
    let mut command = Command::new("mkfs.ext4");
    command
        .args(["-q", "-F", "-m", "0", "-L", label, "-J", "size=32"])
        .args([
            "-E",
            "assume_storage_prezeroed=1,nodiscard,lazy_itable_init=0",
        ])
        .arg(path)
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    command
}

/// Whether it did.
pub(crate) fn check_mkfs(path: &Path, output: std::io::Result<Output>) -> Result<()> {
    let io = |what| move |source: std::io::Error| EngineError::io(what, path, source);
    let output = output.map_err(io("run mkfs.ext4 (is e2fsprogs installed?) for"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io("run mkfs.ext4 for")(std::io::Error::other(text)))
}

/// Copies the template to `path`: shared extents where the file system can, else only the data.
async fn create(template: &Path, path: &Path) -> Result<()> {
    let (template, path) = (template.to_owned(), path.to_owned());
    let copied = tokio::task::spawn_blocking(move || {
        copy(&template, &path)
            .map_err(|source| EngineError::io("create the writable layer", path, source))
    });
    copied.await.map_err(|error| {
        EngineError::io("create", "the writable layer", std::io::Error::other(error))
    })?
}

pub(crate) fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn copy(template: &Path, path: &Path) -> std::io::Result<()> {
    let from = File::open(template)?;
    let to = create_private(path)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
        copy_data(&from, &to)?;
    }
    // Before it has its name: after a power cut it would be holes by that name.
    to.sync_data()
}

/// Copies the parts of `from` that are not holes.
fn copy_data(from: &File, to: &File) -> std::io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut position = 0;
    while position < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(position)) {
            Ok(start) => start,
            // No data from here on.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        copy_range(from, to, start, end)?;
        position = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> std::io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let want = usize::try_from(end - read_at)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        let copied =
            rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want)?;
        if copied == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    #[test]
    fn sizes_are_read_and_bounded() {
        let wanted = |key: &str, text: &str| {
            let options = [(key.to_owned(), text.to_owned())];
            wanted_bytes(&HostConfig {
                storage_opt: Some(options.into()),
                ..HostConfig::default()
            })
        };
        assert_eq!(wanted("size", "1G").unwrap(), Some(1 << 30));
        assert_eq!(wanted("size", "1T").unwrap(), Some(1 << 40));
        assert_eq!(wanted("size", "1.5GiB").unwrap(), Some(3 << 29));
        assert_eq!(wanted_bytes(&HostConfig::default()).unwrap(), None);
        for (key, text) in [
            ("size", "1m"),
            ("size", "1000t"),
            ("size", "x"),
            ("colour", "1G"),
        ] {
            assert!(wanted(key, text).is_err(), "{key}={text}");
        }
    }

    #[tokio::test]
    async fn a_layer_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (template, path) = (dir.path().join("template"), dir.path().join("scratch.ext4"));
        let host = HostConfig::default();
        assert!(of_container(&template, &path, &host).await.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::write(&template, "whole").unwrap();
        // What an attempt has left that was cut off.
        std::fs::write(path.with_extension("new"), "who").unwrap();
        of_container(&template, &path, &host).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn copies_hold_the_data_and_stay_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let from = create_private(&dir.path().join("a")).unwrap();
        from.set_len(1 << 30).unwrap();
        from.write_all_at(b"start", 0).unwrap();
        from.write_all_at(b"middle", 512 << 20).unwrap();
        let path = dir.path().join("b");
        let to = create_private(&path).unwrap();
        copy_data(&from, &to).unwrap();
        let mut found = [0; 6];
        to.read_exact_at(&mut found, 512 << 20).unwrap();
        assert_eq!(&found, b"middle");
        let meta = to.metadata().unwrap();
        assert_eq!(meta.len(), 1 << 30);
        assert!(meta.blocks() * 512 < 16 << 20);
    }
}
