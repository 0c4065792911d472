//! Blob bytes to tar bytes: gzip of many members, zstd of many frames, xz and bzip2 of many streams, plain.

mod bzip2;
mod xz;

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use self::bzip2::Bzip2Reader;
use self::xz::XzReader;

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
    let reader: Box<dyn Read + 'a> = match magic(head) {
        Magic::Gzip => Box::new(MultiGzDecoder::new(input)),
        Magic::Zstd => Box::new(ZstdReader {
            input,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }),
        Magic::Xz => Box::new(XzReader::new(input)),
        Magic::Bzip2 => Box::new(Bzip2Reader::new(input)),
        Magic::Other => Box::new(input),
    };
    Ok((reader, state))
}

/// Whether what was read of a blob is at fault, rather than the reading.
#[cfg(feature = "host")]
pub(crate) fn is_damage(error: &io::Error) -> bool {
    // flate2 and LZMA use the first, the readers here the second.
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
    )
}

enum Magic {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
    Other,
}

/// How many of the first bytes tell what a stream is compressed with.
#[cfg(feature = "host")]
pub(crate) const MAGIC_BYTES: usize = 10;

fn magic(head: &[u8]) -> Magic {
    match head {
        [0x1f, 0x8b, 0x08, ..] => Magic::Gzip,
        head if head.starts_with(&xz::MAGIC) => Magic::Xz,
        // As much as no tar begins with: the name of its first file may be `BZh`.
        [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..] if bzip2::begins(rest) => Magic::Bzip2,
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

    /// By a program of the machine's; `None`: it has none.
    fn packed(program: &[&str], content: &[u8]) -> Option<Vec<u8>> {
        let mut child = std::process::Command::new(program[0])
            .args(&program[1..])
            .arg("-c")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .ok()?;
        let mut stdin = child.stdin.take().expect("a pipe");
        let content = content.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&content));
        let output = child.wait_with_output().expect("output");
        writer.join().expect("a thread").expect("written");
        Some(output.stdout)
    }

    fn mixed() -> Vec<u8> {
        // What repeats near and far, what does not, and runs of every length around those that are coded.
        let noise = (0..20_000_u32).flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes());
        let runs = (0..600_usize).flat_map(|n| vec![n as u8; n]);
        let text = b"some words, many times; ".repeat(10_000);
        noise.chain(runs).chain(text).collect()
    }

    const PROGRAMS: [&[&str]; 9] = [
        &["xz", "-0"],
        &["xz", "-9"],
        &["xz", "--check=none"],
        &["xz", "--check=crc32"],
        &["xz", "--check=sha256", "--block-size=100000"],
        &["xz", "-T2", "--block-size=65536"],
        &["bzip2", "-1"],
        &["bzip2", "-9"],
        &["gzip"],
    ];

    #[test]
    fn what_programs_pack_is_read_also_one_after_the_other() {
        for program in PROGRAMS {
            for content in [mixed(), Vec::new(), b"x".to_vec(), vec![0; 1_000_000]] {
                let Some(blob) = packed(program, &content) else {
                    continue;
                };
                assert!(read_all(&blob).expect("read") == content, "{program:?}");
                let twice = [&content[..], &content].concat();
                assert!(read_all(&blob.repeat(2)).expect("read") == twice);
                let trailing = [&blob[..], b"more"].concat();
                let trailing = read_all(&trailing);
                assert!(trailing.is_err() || program[0] == "gzip", "{program:?}");
            }
        }
    }

    #[test]
    fn damage_is_an_error_wherever_it_is() {
        // Nothing of it is the same when it is turned.
        let numbers: Vec<String> = (0..300).map(|n| (n * n).to_string()).collect();
        let content = numbers.join(" ").into_bytes();
        let programs: [&[&str]; 5] = [
            &["xz", "-0"],
            &["xz", "-0", "--check=none"],
            &["xz", "-0", "--check=crc32", "--block-size=1000"],
            &["xz", "-0", "--check=sha256"],
            &["bzip2", "-1"],
        ];
        for program in programs {
            let Some(blob) = packed(program, &content) else {
                continue;
            };
            for at in 10..blob.len() {
                for flip in [1, 0x80] {
                    let mut damaged = blob.clone();
                    damaged[at] ^= flip;
                    // Without a checksum of the content nothing tells that it is another; of a code not all
                    // is used.
                    let unseen = program.contains(&"--check=none");
                    let other = read_all(&damaged).is_ok_and(|found| !unseen && found != content);
                    assert!(!other, "{program:?} {at}");
                }
            }
        }
    }

    #[test]
    fn what_takes_more_memory_than_is_given_is_refused_by_name() {
        let Some(blob) = packed(&["xz", "--lzma2=dict=128MiB"], b"x") else {
            return;
        };
        let error = read_all(&blob).expect_err("too much");
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("128 MiB"), "{error}");
        let filtered = packed(&["xz", "--x86", "--lzma2"], b"x").expect("xz");
        let error = read_all(&filtered).expect_err("a filter");
        assert!(error.to_string().contains("filter (0x4)"), "{error}");
    }

    #[test]
    fn cut_off_streams_are_errors() {
        let content: Vec<u8> = (0..100_000_u32)
            .flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes())
            .collect();
        let mut blobs = vec![
            gzip(&content),
            compress_to_vec(&content[..], CompressionLevel::Fastest),
        ];
        let programs = [&["xz"], &["bzip2"]];
        blobs.extend(
            programs
                .iter()
                .flat_map(|program| packed(*program, &content)),
        );
        for blob in blobs {
            assert_eq!(read_all(&blob).expect("whole"), content);
            for cut in [12, 20, blob.len() * 6 / 10, blob.len() - 1] {
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
