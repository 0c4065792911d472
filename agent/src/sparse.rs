//! Files with holes: what reads as zeros takes no room.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

/// What is a hole, or is not, as a whole, in bytes.
const BLOCK: usize = 4096;
/// Bytes read at once.
const CHUNK: usize = 16 * BLOCK;

/// Writes all that comes to a file without content, but for blocks of zeros.
pub(crate) fn write(from: &mut impl Read, to: &File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let length = fill(from, &mut buffer)?;
        let mut at = offset;
        for block in buffer[..length].chunks(BLOCK) {
            if block.iter().any(|byte| *byte != 0) {
                to.write_all_at(block, at)?;
            }
            at += block.len() as u64;
        }
        offset = at;
        if length < CHUNK {
            return to.set_len(offset);
        }
    }
}

/// Reads until the buffer is full or the input has ended, so that blocks lie where they lie in it.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn zeros_take_no_room_and_nothing_is_lost() {
        for (length, data) in [
            (0, None),
            (5, Some(3)),
            (1 << 20, Some(700_001)),
            (BLOCK * 40, None),
        ] {
            let mut whole = vec![0; length];
            if let Some(at) = data {
                whole[at] = 7;
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            write(&mut whole.as_slice(), file.as_file()).unwrap();
            assert!(std::fs::read(file.path()).unwrap() == whole, "{length}");
            let taken = file.as_file().metadata().unwrap().blocks() * 512;
            assert!(taken <= BLOCK as u64, "{taken} bytes for {length}");
        }
    }
}
