//! Blob bytes to tar bytes: gzip of many members, zstd of many frames, plain.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const INPUT_BUFFER: usize = 256 << 10;
/// RFC 8878: frames with these magic numbers carry no content.
const ZSTD_SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184D_2A50..=0x184D_2A5F;
const ZSTD_FRAME: u32 = 0xFD2F_B528;

/// Counts what is read of a blob and remembers whether reading itself failed, which its errors
/// can't tell once a decompressor passed them on.
#[derive(Debug, Default)]
pub(crate) struct BlobState {
    pub(crate) read: Cell<u64>,
    pub(crate) failure: RefCell<Option<io::Error>>,
}

struct CountedBlob<'a> {
    inner: Box<dyn Read + Send + 'a>,
    state: Rc<BlobState>,
}

impl Read for CountedBlob<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buf) {
                Ok(got) => {
                    self.state
                        .read
                        .set(self.state.read.get().saturating_add(got as u64));
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    *self.state.failure.borrow_mut() = Some(error);
                    return Err(kind.into());
                }
            }
        }
    }
}

/// Reads a blob uncompressed. What it is compressed with is seen from its first bytes, as
/// containerd and docker do: media types are often wrong, and the diff ID settles it.
pub(crate) fn open<'a>(
    blob: Box<dyn Read + Send + 'a>,
) -> io::Result<(Box<dyn Read + 'a>, Rc<BlobState>)> {
    let state = Rc::new(BlobState::default());
    let mut input = BufReader::with_capacity(
        INPUT_BUFFER,
        CountedBlob {
            inner: blob,
            state: Rc::clone(&state),
        },
    );
    // A device gives far more than these few bytes at its first read, if it has them.
    let head = input.fill_buf()?;
    check_known(head)?;
    let reader: Box<dyn Read + 'a> = match magic(head) {
        Magic::Gzip => Box::new(MultiGzDecoder::new(input)),
        Magic::Zstd => Box::new(ZstdReader {
            input,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }),
        Magic::Other => Box::new(input),
    };
    Ok((reader, state))
}

/// Refuses a compression by name.
pub(crate) fn check_known(head: &[u8]) -> io::Result<()> {
    let Some(name) = unsupported(head) else {
        return Ok(());
    };
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "its compression ({name}) is not supported: use gzip or zstd, or decompress it first"
        ),
    ))
}

/// Whether what was read of a blob is at fault, rather than the reading.
#[cfg(feature = "host")]
pub(crate) fn is_damage(error: &io::Error) -> bool {
    // flate2 uses the first, ruzstd's reader here the second.
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
    )
}

enum Magic {
    Gzip,
    Zstd,
    Other,
}

/// How many of the first bytes tell what a stream is compressed with.
#[cfg(feature = "host")]
pub(crate) const MAGIC_BYTES: usize = 10;

/// The name of a compression that docker knows and this does not. As much of the head is looked at as
/// no tar begins with: the name of a tar's first file may be `BZh`.
fn unsupported(head: &[u8]) -> Option<&'static str> {
    const XZ: &[u8] = b"\xfd7zXZ\0";
    const BZIP2_BLOCK: &[u8] = b"1AY&SY";
    match head {
        head if head.starts_with(XZ) => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..] if rest.starts_with(BZIP2_BLOCK) => {
            Some("bzip2")
        }
        _ => None,
    }
}

fn magic(head: &[u8]) -> Magic {
    match head {
        [0x1f, 0x8b, 0x08, ..] => Magic::Gzip,
        [a, b, c, d, ..] => match u32::from_le_bytes([*a, *b, *c, *d]) {
            ZSTD_FRAME => Magic::Zstd,
            word if ZSTD_SKIPPABLE.contains(&word) => Magic::Zstd,
            _ => Magic::Other,
        },
        _ => Magic::Other,
    }
}

/// Whether what begins so is compressed.
#[cfg(feature = "host")]
pub(crate) fn is_compressed(head: &[u8]) -> bool {
    !matches!(magic(head), Magic::Other)
}

struct ZstdReader<R> {
    input: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdReader<R> {
    /// Enters the next frame that has content; false at the end of the input.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.input) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(
                        &mut (&mut self.input).take(u64::from(length)),
                        &mut io::sink(),
                    )?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }

    /// The frame's own checksum, where it has one.
    fn check_frame(&self) -> io::Result<()> {
        match (
            self.decoder.get_checksum_from_data(),
            self.decoder.get_calculated_checksum(),
        ) {
            (Some(want), Some(found)) if want != found => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "zstd frame checksum mismatch",
            )),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let got = self.decoder.read(buf)?;
            if got > 0 || buf.is_empty() {
                return Ok(got);
            }
            self.check_frame()?;
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use ruzstd::encoding::{compress_to_vec, CompressionLevel};

    use super::*;

    fn read_all(blob: &[u8]) -> io::Result<Vec<u8>> {
        let (mut reader, _) = open(Box::new(blob))?;
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        Ok(content)
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).expect("write");
        encoder.finish().expect("finish")
    }

    #[test]
    fn gzip_members_are_joined() {
        assert_eq!(
            read_all(&[gzip(b"one "), gzip(b"two")].concat()).expect("read"),
            b"one two"
        );
    }

    #[test]
    fn zstd_frames_are_joined_and_skippable_ones_skipped() {
        let frame = |content: &[u8]| compress_to_vec(content, CompressionLevel::Fastest);
        let skippable = [
            &0x184D_2A55_u32.to_le_bytes()[..],
            &3_u32.to_le_bytes(),
            b"xyz",
        ]
        .concat();
        let blob = [
            skippable.clone(),
            frame(b"one "),
            frame(b""),
            skippable,
            frame(b"two"),
        ]
        .concat();
        assert_eq!(read_all(&blob).expect("read"), b"one two");
    }

    #[test]
    fn cut_off_streams_are_errors() {
        let content: Vec<u8> = (0..100_000_u32)
            .flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes())
            .collect();
        let (gz, zst) = (
            gzip(&content),
            compress_to_vec(&content[..], CompressionLevel::Fastest),
        );
        for blob in [gz, zst] {
            assert_eq!(read_all(&blob).expect("whole"), content);
            for cut in [5, 20, blob.len() * 6 / 10, blob.len() - 1] {
                assert!(read_all(&blob[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn plain_and_empty_blobs_pass_through() {
        assert_eq!(read_all(b"").expect("read"), b"");
        assert_eq!(read_all(b"tar").expect("read"), b"tar");
    }
}
