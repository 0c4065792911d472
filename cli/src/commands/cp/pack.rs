//! Files of this machine as a tar for a container.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use super::{ends_as_directory, means_content, Found};
use crate::client::RequestBody;
use crate::commands::load::body_of;
use crate::error::{CliError, Result};

/// Where the kernel keeps what a program may do, and as many bytes as that has at most.
const CAPABILITY: &str = "security.capability";
const MAX_CAPABILITY: usize = 64;

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
    let mut pack = Pack {
        tar,
        owners,
        links: HashMap::new(),
    };
    pack.add(&plan.source, name, &metadata)?;
    pack.tar.into_inner()?.flush()
}

struct Pack<W: Write> {
    tar: tar::Builder<W>,
    /// Files keep their owners.
    owners: bool,
    /// Names of files with several links, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Pack<W> {
    /// With its target as it is: the library would write `a//b` as `a/b`, but for those that are too
    /// long for a header.
    fn add_symlink(
        &mut self,
        mut header: tar::Header,
        name: &Path,
        target: &Path,
    ) -> std::io::Result<()> {
        header.set_entry_type(tar::EntryType::Symlink);
        match header.set_link_name_literal(target.as_os_str().as_bytes()) {
            Ok(()) => self.tar.append_data(&mut header, name, std::io::empty()),
            Err(_) => self.tar.append_link(&mut header, name, target),
        }
    }

    /// What the plain header has no room for: a time before 1970, a file's capabilities.
    fn add_extensions(&mut self, path: &Path, metadata: &fs::Metadata) -> std::io::Result<()> {
        let mut all = Vec::new();
        if metadata.mtime() < 0 {
            all.push((
                "mtime".to_owned(),
                metadata.mtime().to_string().into_bytes(),
            ));
        }
        let mut value = vec![0; MAX_CAPABILITY];
        if let Ok(length) = rustix::fs::lgetxattr(path, CAPABILITY, &mut value[..]) {
            value.truncate(length);
            all.push((format!("SCHILY.xattr.{CAPABILITY}"), value));
        }
        match all.is_empty() {
            true => Ok(()),
            false => self.tar.append_pax_extensions(
                all.iter()
                    .map(|(name, value)| (name.as_str(), value.as_slice())),
            ),
        }
    }

    fn add(&mut self, path: &Path, name: &Path, metadata: &fs::Metadata) -> std::io::Result<()> {
        if !(metadata.is_symlink() || metadata.is_file() || metadata.is_dir()) {
            // Sockets and devices of this machine mean nothing in a container.
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_metadata(metadata);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        if !self.owners {
            header.set_uid(0);
            header.set_gid(0);
        }
        if metadata.nlink() > 1 && !metadata.is_dir() {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&key) {
                header.set_entry_type(tar::EntryType::Link);
                return self.tar.append_link(&mut header, name, first);
            }
            self.links.insert(key, name.to_owned());
        }
        self.add_extensions(path, metadata)?;
        if metadata.is_symlink() {
            return self.add_symlink(header, name, &fs::read_link(path)?);
        }
        if metadata.is_file() {
            header.set_size(metadata.size());
            // A file that has become shorter ends in zeros: the header has its size already.
            let content = fs::File::open(path)?.chain(std::io::repeat(0));
            let content = content.take(metadata.size());
            return self.tar.append_data(&mut header, name, content);
        }
        self.tar.append_data(&mut header, name, std::io::empty())?;
        let mut children: Vec<OsString> = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<std::io::Result<_>>()?;
        children.sort();
        for child in children {
            let path = path.join(&child);
            let metadata = fs::symlink_metadata(&path)?;
            self.add(&path, &name.join(&child), &metadata)?;
        }
        Ok(())
    }
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

    #[test]
    fn links_stay_links_and_a_file_that_shrinks_breaks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("a"), "content").unwrap();
        fs::hard_link(top.join("a"), top.join("b")).unwrap();
        let plan = Plan {
            source: top.clone(),
            directory: "/".into(),
            name: Some("new".into()),
        };
        let mut out = Vec::new();
        pack(&plan, false, &mut out).unwrap();
        let mut tar = tar::Archive::new(&out[..]);
        let entries = tar.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap().map(|link| link.into_owned());
            (entry.path().unwrap().into_owned(), link)
        });
        let entries: Vec<_> = entries.collect();
        assert_eq!(entries[2], ("new/b".into(), Some("new/a".into())));
        // As it was when it was looked at.
        let metadata = fs::symlink_metadata(top.join("a")).unwrap();
        fs::write(top.join("a"), "con").unwrap();
        let mut pack = Pack {
            tar: tar::Builder::new(Vec::new()),
            owners: false,
            links: HashMap::new(),
        };
        pack.add(&top.join("a"), Path::new("a"), &metadata).unwrap();
        let out = pack.tar.into_inner().unwrap();
        let mut tar = tar::Archive::new(&out[..]);
        let mut entry = tar.entries().unwrap().next().unwrap().unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"con\0\0\0\0");
    }
}
