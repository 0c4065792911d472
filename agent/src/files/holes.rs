//! Files with holes as GNU tar and bsdtar write them into PAX archives: formats 0.0, 0.1 and 1.0 (GNU tar's
//! manual, "Storing Sparse Files"). The name that such an entry's header has is made up.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::PathBuf;

use tar::Entry;

use super::pack::path_of;

/// Longest map, in bytes.
const MAX_MAP: usize = 1 << 20;
/// The map of format 1.0 fills blocks of this size.
const BLOCK: usize = 512;

/// What PAX records say of an entry's holes.
#[derive(Debug, Default)]
pub(super) struct Holes {
    /// What the file is really called.
    pub(super) name: Option<PathBuf>,
    size: Option<u64>,
    /// Where its data goes: offsets and lengths.
    map: Vec<(u64, u64)>,
    /// The map is at the beginning of the content.
    map_in_content: bool,
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

fn number(text: &str) -> io::Result<u64> {
    let number = text.parse();
    number.map_err(|_| bad("the map of a sparse file is not valid"))
}

impl Holes {
    /// `None`: it is no such entry.
    pub(super) fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Option<Self>> {
        let mut holes = Self::default();
        let mut any = false;
        let mut offset = None;
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            let Some(key) = record
                .key()
                .ok()
                .and_then(|key| key.strip_prefix("GNU.sparse."))
            else {
                continue;
            };
            any = true;
            let value = || {
                let text = std::str::from_utf8(record.value_bytes());
                text.map_err(|_| bad("a record of a sparse file is not text"))
            };
            match key {
                "name" => holes.name = Some(path_of(record.value_bytes())),
                "size" | "realsize" => holes.size = Some(number(value()?)?),
                "major" => holes.map_in_content = value()? == "1",
                "map" => holes.map = pairs(value()?.split(','))?,
                "offset" => offset = Some(number(value()?)?),
                "numbytes" => {
                    let offset = offset.take().ok_or_else(|| bad("a hole has no offset"))?;
                    holes.map.push((offset, number(value()?)?));
                }
                _ => {}
            }
        }
        Ok(any.then_some(holes))
    }

    /// Writes the file, whose content is what is left of the entry.
    pub(super) fn write(mut self, from: &mut impl Read, mut to: &File) -> io::Result<()> {
        if self.map_in_content {
            self.map = read_map(from)?;
        }
        let size = self.size.ok_or_else(|| bad("a sparse file has no size"))?;
        let mut end = 0;
        for (offset, length) in self.map {
            let next = offset.checked_add(length).filter(|next| *next <= size);
            let fits = end <= offset;
            end = next
                .filter(|_| fits)
                .ok_or_else(|| bad("the pieces of a sparse file overlap, or lie outside of it"))?;
            to.seek(SeekFrom::Start(offset))?;
            let written = io::copy(&mut from.by_ref().take(length), &mut to)?;
            if written != length {
                return Err(bad("a sparse file is cut off"));
            }
        }
        to.set_len(size)
    }
}

fn pairs<'a>(mut numbers: impl Iterator<Item = &'a str>) -> io::Result<Vec<(u64, u64)>> {
    let mut pairs = Vec::new();
    while let Some(offset) = numbers.next().filter(|text| !text.is_empty()) {
        let length = numbers.next().ok_or_else(|| bad("a hole has no length"))?;
        pairs.push((number(offset)?, number(length)?));
    }
    Ok(pairs)
}

/// A line with the count of pieces, and two for each: offset and length.
fn read_map(from: &mut impl Read) -> io::Result<Vec<(u64, u64)>> {
    let (mut text, mut lines, mut wanted) = (Vec::new(), 0, None);
    while wanted.is_none_or(|wanted| lines < wanted) {
        if MAX_MAP <= text.len() {
            return Err(bad("the map of a sparse file is too long"));
        }
        let mut block = [0; BLOCK];
        from.read_exact(&mut block)?;
        text.extend_from_slice(&block);
        lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
        let first = text.split(|byte| *byte == b'\n').next();
        if let Some(first) = first.filter(|_| wanted.is_none() && 0 < lines) {
            let first = std::str::from_utf8(first).map_err(|_| bad("a map is not text"))?;
            wanted = Some(number(first)?.saturating_mul(2).saturating_add(1));
        }
    }
    let text = std::str::from_utf8(&text).map_err(|_| bad("a map is not text"))?;
    let mut lines = text.lines();
    let count = number(lines.next().unwrap_or_default())?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    pairs(lines.take(count.saturating_mul(2)))
}
