//! Directory blocks: entries first, names behind them, sorted by bytes over the whole directory.

use super::blocks::BLOCK_SIZE;
use super::format::DIRENT_SIZE;

/// One entry: its name, the nid it points to and its file type (`FT_*` of the kernel).
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: u64,
    pub(super) file_type: u8,
}

/// Merges `.` and `..` into sorted names: they have no special place in EROFS.
pub(super) fn with_dots<'a, T: Copy>(
    own: T,
    parent: T,
    children: impl Iterator<Item = (&'a [u8], T)>,
) -> impl Iterator<Item = (&'a [u8], T)> {
    let dots: [(&'a [u8], T); 2] = [(b".", own), (b"..", parent)];
    let (mut dots, mut children) = (dots.into_iter().peekable(), children.peekable());
    std::iter::from_fn(move || match (dots.peek(), children.peek()) {
        (Some(dot), Some(child)) if child.0 < dot.0 => children.next(),
        (Some(_), _) => dots.next(),
        (None, _) => children.next(),
    })
}

/// Length in bytes of a directory with these names, in order, `.` and `..` included. All blocks
/// but the last count whole.
pub(super) fn length<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut full_blocks, mut used) = (0_u64, 0);
    for name in names {
        let need = DIRENT_SIZE + name.len();
        if used + need > BLOCK_SIZE {
            full_blocks += 1;
            used = 0;
        }
        used += need;
    }
    full_blocks * BLOCK_SIZE as u64 + used as u64
}

/// The directory's content, as long as [`length`] says.
pub(super) fn encode<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<u8> {
    let mut content = Vec::new();
    let mut block: Vec<Entry<'a>> = Vec::new();
    let mut used = 0;
    for entry in entries {
        let need = DIRENT_SIZE + entry.name.len();
        if used + need > BLOCK_SIZE {
            encode_block(&block, &mut content);
            content.resize(content.len().next_multiple_of(BLOCK_SIZE), 0);
            block.clear();
            used = 0;
        }
        block.push(entry);
        used += need;
    }
    encode_block(&block, &mut content);
    content
}

fn encode_block(block: &[Entry<'_>], content: &mut Vec<u8>) {
    let mut name_offset = block.len() * DIRENT_SIZE;
    for entry in block {
        content.extend_from_slice(&entry.nid.to_le_bytes());
        // Below the block size, so 16 bits hold it.
        content.extend_from_slice(&(name_offset as u16).to_le_bytes());
        content.extend_from_slice(&[entry.file_type, 0]);
        name_offset += entry.name.len();
    }
    for entry in block {
        content.extend_from_slice(entry.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_sorted_among_the_names() {
        let names: [&[u8]; 3] = [b"!first", b".-", b"a"];
        let merged: Vec<_> = with_dots(0, 1, names.iter().map(|n| (*n, 2)))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(merged, [&b"!first"[..], b".", b".-", b"..", b"a"]);
    }

    #[test]
    fn length_agrees_with_encoding_at_every_block_boundary() {
        for count in 1..60_usize {
            for length_of_name in [1, 2, 100, 243, 255] {
                let names: Vec<Vec<u8>> = (0..count)
                    .map(|n| format!("{n:0>length_of_name$}").into_bytes())
                    .collect();
                let encoded = encode(names.iter().map(|name| Entry {
                    name,
                    nid: 7,
                    file_type: 1,
                }));
                assert_eq!(encoded.len() as u64, length(names.iter().map(|n| &n[..])));
            }
        }
    }
}
