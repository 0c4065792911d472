//! A tar whose entries have the names that they are given, byte for byte. The library's own setters
//! write `./a` and `/a` as `a`, and Docker's clients look for what they asked for at a name's beginning.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use tar::{Builder, EntryType, Header};

/// What the record of a long name is called, by GNU tar's format.
const LONG_LINK: &[u8] = b"././@LongLink";

/// Records of PAX for one entry.
pub(super) type Records = Vec<(String, Vec<u8>)>;

pub(super) struct Archive<W: Write> {
    tar: Builder<W>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            tar: Builder::new(out),
        }
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.tar.into_inner()?.flush()
    }

    /// An entry; a directory's name gets the slash that it ends in.
    pub(super) fn append(
        &mut self,
        header: &mut Header,
        name: &Path,
        records: &Records,
        content: impl Read,
    ) -> io::Result<()> {
        let pairs = records.iter();
        let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(pairs)?;
        let mut name = name.as_os_str().as_bytes().to_vec();
        if header.entry_type().is_dir() && !name.ends_with(b"/") {
            name.push(b'/');
        }
        self.put(EntryType::GNULongName, &name, &mut header.as_old_mut().name)?;
        header.set_cksum();
        self.tar.append(header, content)
    }

    /// A symbolic or a hard link.
    pub(super) fn append_link(
        &mut self,
        header: &mut Header,
        name: &Path,
        target: &Path,
        records: &Records,
    ) -> io::Result<()> {
        let target = target.as_os_str().as_bytes();
        self.put(
            EntryType::GNULongLink,
            target,
            &mut header.as_old_mut().linkname,
        )?;
        self.append(header, name, records, io::empty())
    }

    /// A name into its field; one that is too long goes before the entry too, as a record of its own.
    fn put(&mut self, kind: EntryType, name: &[u8], field: &mut [u8; 100]) -> io::Result<()> {
        *field = [0; 100];
        let most = name.len().min(field.len());
        field[..most].copy_from_slice(&name[..most]);
        if name.len() <= field.len() {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..LONG_LINK.len()].copy_from_slice(LONG_LINK);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // With the zero that ends it.
        header.set_size(name.len() as u64 + 1);
        header.set_cksum();
        self.tar.append(&header, name.chain(&b"\0"[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_targets_are_literal_at_any_length() {
        let long = |length: usize| format!("./{}", "x".repeat(length));
        let mut archive = Archive::new(Vec::new());
        let names = [
            "./".to_owned(),
            "/".into(),
            "./a//b".into(),
            long(98),
            long(99),
            long(300),
        ];
        for name in &names {
            let mut header = Header::new_gnu();
            header.set_size(0);
            let kind = if name.ends_with('/') {
                EntryType::Directory
            } else {
                EntryType::Regular
            };
            header.set_entry_type(kind);
            let records = vec![("mtime".to_owned(), b"1.5".to_vec())];
            archive
                .append(&mut header, Path::new(name), &records, io::empty())
                .unwrap();
            header.set_entry_type(EntryType::Symlink);
            archive
                .append_link(
                    &mut header,
                    Path::new("l"),
                    Path::new(name),
                    &Records::new(),
                )
                .unwrap();
        }
        let tar = archive.tar.into_inner().unwrap();
        let mut read = tar::Archive::new(&tar[..]);
        let found = read.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let link = entry.link_name_bytes().map(|link| link.into_owned());
            let name = link.unwrap_or_else(|| entry.path_bytes().into_owned());
            (name, entry.pax_extensions().unwrap().is_some())
        });
        let found = found.collect::<Vec<_>>();
        let wanted = names.iter().flat_map(|name| {
            let name = name.as_bytes().to_vec();
            [(name.clone(), true), (name, false)]
        });
        assert_eq!(found, wanted.collect::<Vec<_>>());
    }
}
