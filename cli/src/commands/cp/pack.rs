//! Files of this machine as a tar for a container.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use super::{ends_as_directory, means_content, Found};
use crate::client::RequestBody;
use crate::commands::load::body_of;
use crate::error::{CliError, Result};

/// What goes where.
#[derive(Debug)]
pub(super) struct Plan {
    /// Here.
    source: PathBuf,
    /// In the container: an existing directory.
    pub(super) directory: String,
    /// What it is called there; `None`: its content goes there.
    name: Option<OsString>,
}

/// Docker's rules.
pub(super) fn plan(
    source: &Path,
    follow: bool,
    path: &str,
    target: Option<&Found>,
) -> Result<Plan> {
    let failed = CliError::io(format!("cannot read {}", source.display()));
    let metadata = match follow || ends_as_directory(source) {
        true => fs::metadata(source),
        false => fs::symlink_metadata(source),
    };
    let metadata = metadata.map_err(failed)?;
    let resolved = match follow {
        true => fs::canonicalize(source).map_err(CliError::io("cannot follow the link"))?,
        false => source.to_owned(),
    };
    let base = || {
        let real = fs::canonicalize(source).ok();
        let name = source
            .file_name()
            .or(real.as_deref().and_then(Path::file_name));
        name.map_or_else(|| OsString::from("root"), ToOwned::to_owned)
    };
    let (directory, name) = match target {
        Some(found) if found.directory => {
            let content = metadata.is_dir() && means_content(source);
            (found.path.clone(), (!content).then(base))
        }
        Some(found) if metadata.is_dir() => {
            return Err(CliError::usage(format!(
                "cannot copy a directory over the file {}",
                found.path
            )));
        }
        Some(found) => split(&found.path)?,
        None if !metadata.is_dir() && path.ends_with('/') => {
            return Err(CliError::usage(format!("no such directory: {path}")));
        }
        None => split(path.trim_end_matches('/'))?,
    };
    Ok(Plan {
        source: resolved,
        directory,
        name,
    })
}

fn split(path: &str) -> Result<(String, Option<OsString>)> {
    let absolute = Path::new("/").join(path);
    let name = absolute.file_name().map(ToOwned::to_owned);
    let name = name.ok_or_else(|| CliError::usage(format!("invalid destination {path:?}")))?;
    let parent = absolute.parent().unwrap_or(Path::new("/"));
    Ok((parent.to_string_lossy().into_owned(), Some(name)))
}

/// The request's body, made as it is sent; the handle tells how long it was.
pub(super) fn body(plan: Plan, owners: bool) -> Result<(RequestBody, JoinHandle<Result<u64>>)> {
    let (reader, writer) = std::io::pipe().map_err(CliError::io("cannot open a pipe"))?;
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into());
    let reader = reader.map_err(CliError::io("cannot use a pipe"))?;
    let packing = tokio::task::spawn_blocking(move || {
        let mut counted = Counted {
            out: writer,
            count: 0,
        };
        match pack(&plan, owners, &mut counted) {
            Ok(()) => Ok(counted.count),
            Err(source) => Err(CliError::Io {
                what: format!("cannot read {}", plan.source.display()),
                source,
            }),
        }
    });
    Ok((body_of(reader), packing))
}

fn pack(plan: &Plan, owners: bool, out: &mut impl Write) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(out);
    tar.follow_symlinks(false);
    let name = plan.name.as_ref().map_or(Path::new("."), Path::new);
    let metadata = match ends_as_directory(&plan.source) {
        true => fs::metadata(&plan.source)?,
        false => fs::symlink_metadata(&plan.source)?,
    };
    add(&mut tar, &plan.source, name, &metadata, owners)?;
    tar.into_inner()?.flush()
}

/// With its target as it is: the library would write `a//b` as `a/b`, but for those that are too
/// long for a header.
fn add_symlink(
    tar: &mut tar::Builder<&mut impl Write>,
    mut header: tar::Header,
    name: &Path,
    target: &Path,
) -> std::io::Result<()> {
    header.set_entry_type(tar::EntryType::Symlink);
    match header.set_link_name_literal(target.as_os_str().as_bytes()) {
        Ok(()) => tar.append_data(&mut header, name, std::io::empty()),
        Err(_) => tar.append_link(&mut header, name, target),
    }
}

fn add(
    tar: &mut tar::Builder<&mut impl Write>,
    path: &Path,
    name: &Path,
    metadata: &fs::Metadata,
    owners: bool,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    if !owners {
        header.set_uid(0);
        header.set_gid(0);
    }
    if metadata.mtime() < 0 && (metadata.is_symlink() || metadata.is_file() || metadata.is_dir()) {
        // The header's field has no sign.
        let mtime = metadata.mtime().to_string();
        tar.append_pax_extensions([("mtime", mtime.as_bytes())])?;
    }
    if metadata.is_symlink() {
        return add_symlink(tar, header, name, &fs::read_link(path)?);
    }
    if metadata.is_file() {
        header.set_size(metadata.size());
        let file = fs::File::open(path)?;
        return tar.append_data(
            &mut header,
            name,
            std::io::Read::take(file, metadata.size()),
        );
    }
    if !metadata.is_dir() {
        // Sockets and devices of this machine mean nothing in a container.
        return Ok(());
    }
    tar.append_data(&mut header, name, std::io::empty())?;
    let mut children: Vec<OsString> = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<std::io::Result<_>>()?;
    children.sort();
    for child in children {
        let path = path.join(&child);
        let metadata = fs::symlink_metadata(&path)?;
        add(tar, &path, &name.join(&child), &metadata, owners)?;
    }
    Ok(())
}

struct Counted<W: Write> {
    out: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rules_of_sources_hold() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let found = |path: &str, directory| Found {
            path: path.to_owned(),
            directory,
        };
        let directory = found("/d", true);
        let there = plan(&file, false, "/d", Some(&directory)).unwrap();
        assert_eq!(
            (there.directory.as_str(), there.name),
            ("/d", Some("file".into()))
        );
        let content = plan(&dir.path().join("."), false, "/d", Some(&directory)).unwrap();
        assert_eq!(content.name, None);
        let renamed = plan(&file, false, "/d/new", None).unwrap();
        assert_eq!(
            (renamed.directory.as_str(), renamed.name),
            ("/d", Some("new".into()))
        );
        assert!(plan(&file, false, "/d/new/", None).is_err());
        let over = found("/d/f", false);
        assert!(plan(dir.path(), false, "/d/f", Some(&over)).is_err());
        assert!(plan(&dir.path().join("none"), false, "/d", None).is_err());
    }

    #[test]
    fn a_tree_is_packed_under_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), "x").unwrap();
        let plan = Plan {
            source: dir.path().join("sub"),
            directory: "/".into(),
            name: Some("new".into()),
        };
        let mut out = Vec::new();
        pack(&plan, false, &mut out).unwrap();
        let mut tar = tar::Archive::new(&out[..]);
        let names: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().into_owned())
            .collect();
        assert_eq!(names, [Path::new("new"), Path::new("new/file")]);
    }
}
