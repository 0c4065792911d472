//! xz: streams of blocks, each compressed by LZMA2, with an index behind them.
//!
//! What a stream takes is its dictionary, which is bounded; of the blocks a hash is kept, by which the index is
//! known to be theirs.

use std::io::{self, BufRead, Read};

use lzma_rust2::Lzma2Reader;
use sha2::{Digest as _, Sha256};

pub(super) const MAGIC: [u8; 6] = *b"\xfd7zXZ\0";
const END_MAGIC: [u8; 2] = *b"YZ";
/// Largest dictionary, in bytes: what `xz -9` takes.
const MAX_DICTIONARY: u32 = 64 << 20;
/// The one filter that there is without special wishes.
const LZMA2: u64 = 0x21;
/// Most filters of a block.
const MAX_FILTERS: u8 = 4;

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("damaged xz stream: {what}"),
    )
}

fn unsupported(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what)
}

/// Reads the streams of a file, one after the other.
pub(super) struct XzReader<R> {
    at: At<R>,
    check: Check,
    /// Of the blocks of the stream.
    blocks: Blocks,
}

enum At<R> {
    Start(Counted<R>),
    Between(Counted<R>),
    Block(Box<Block<R>>),
    End,
    /// An error was met.
    Failed,
}

struct Block<R> {
    content: Lzma2Reader<Counted<R>>,
    header_bytes: u64,
    /// Where its content begins.
    begin: u64,
    said: Said,
    written: u64,
    sum: Sum,
}

/// Sizes as a block's header has them, if it does.
#[derive(Default)]
struct Said {
    compressed: Option<u64>,
    written: Option<u64>,
}

impl<R: BufRead> XzReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            at: At::Start(Counted { input, count: 0 }),
            check: Check::None,
            blocks: Blocks::default(),
        }
    }

    fn begin(&mut self, mut input: Counted<R>) -> io::Result<At<R>> {
        if input.array::<6>()? != MAGIC {
            return Err(damaged("no stream where one should begin"));
        }
        let flags: [u8; 2] = input.array()?;
        if u32::from_le_bytes(input.array()?) != crc32(&flags) {
            return Err(damaged("the checksum of its header is another"));
        }
        self.check = Check::of(flags)?;
        self.blocks = Blocks::default();
        Ok(At::Between(input))
    }

    fn next_block(&mut self, mut input: Counted<R>) -> io::Result<At<R>> {
        let [size] = input.array::<1>()?;
        if size == 0 {
            return self.finish(input);
        }
        let header_bytes = (usize::from(size) + 1) * 4;
        let mut header = vec![0; header_bytes];
        header[0] = size;
        input.read_exact(&mut header[1..])?;
        let (fields, sum) = header.split_at(header_bytes - 4);
        if sum != crc32(fields).to_le_bytes() {
            return Err(damaged("the checksum of a block's header is another"));
        }
        let (said, dictionary) = block_header(&fields[1..])?;
        Ok(At::Block(Box::new(Block {
            begin: input.count,
            content: Lzma2Reader::new(input, dictionary, None),
            header_bytes: header_bytes as u64,
            said,
            written: 0,
            sum: self.check.begin(),
        })))
    }

    /// A block's padding and checksum.
    fn end_block(&mut self, block: Block<R>) -> io::Result<At<R>> {
        let mut input = block.content.into_inner();
        let compressed = input.count - block.begin;
        let differs = |said: Option<u64>, is: u64| said.is_some_and(|said| said != is);
        if differs(block.said.compressed, compressed) || differs(block.said.written, block.written)
        {
            return Err(damaged("a block has another size than it says"));
        }
        input.pad(compressed)?;
        let sum = block.sum.finish();
        let mut found = vec![0; sum.len()];
        input.read_exact(&mut found)?;
        if found != sum {
            return Err(damaged("the checksum of a block is another"));
        }
        let unpadded = block.header_bytes + compressed + sum.len() as u64;
        self.blocks.add(unpadded, block.written);
        Ok(At::Between(input))
    }

    /// The index, whose first byte has been read, and what follows it.
    fn finish(&mut self, mut input: Counted<R>) -> io::Result<At<R>> {
        let begin = input.count - 1;
        let mut index = Index {
            input: &mut input,
            sum: Sum::crc32(),
        };
        index.sum.add(&[0]);
        let count = index.number()?;
        let mut blocks = Blocks::default();
        for _ in 0..count {
            let (unpadded, written) = (index.number()?, index.number()?);
            blocks.add(unpadded, written);
            if self.blocks.count < blocks.count {
                break;
            }
        }
        if blocks.finish() != std::mem::take(&mut self.blocks).finish() {
            return Err(damaged("its index is of other blocks"));
        }
        while !(index.input.count - begin).is_multiple_of(4) {
            if index.byte()? != 0 {
                return Err(damaged("its index is not padded"));
            }
        }
        let sum = index.sum.finish();
        let bytes = input.count - begin + 4;
        if input.array::<4>()? != *sum {
            return Err(damaged("the checksum of its index is another"));
        }
        self.end_stream(input, bytes)
    }

    fn end_stream(&mut self, mut input: Counted<R>, index_bytes: u64) -> io::Result<At<R>> {
        let sum = u32::from_le_bytes(input.array()?);
        let fields: [u8; 6] = input.array()?;
        let [a, b, c, d, flags @ ..] = fields;
        let said = (u64::from(u32::from_le_bytes([a, b, c, d])) + 1) * 4;
        let same = Check::of(flags).is_ok_and(|check| check == self.check);
        if input.array::<2>()? != END_MAGIC || sum != crc32(&fields) || said != index_bytes || !same
        {
            return Err(damaged("its end is not of this stream"));
        }
        while let Some(0) = input.peek()? {
            input.array::<4>().and_then(|zeroes| match zeroes {
                [0, 0, 0, 0] => Ok(()),
                _ => Err(damaged("what is between streams is not padding")),
            })?;
        }
        match input.peek()? {
            Some(_) => Ok(At::Start(input)),
            None => Ok(At::End),
        }
    }

    fn advance(&mut self) -> io::Result<()> {
        self.at = match std::mem::replace(&mut self.at, At::Failed) {
            At::Start(input) => self.begin(input)?,
            At::Between(input) => self.next_block(input)?,
            At::Block(block) => self.end_block(*block)?,
            At::End => At::End,
            At::Failed => return Err(damaged("it has been told")),
        };
        Ok(())
    }
}

impl<R: BufRead> Read for XzReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.at {
                At::Block(block) => {
                    let got = block.content.read(buffer)?;
                    block.written += got as u64;
                    block.sum.add(&buffer[..got]);
                    if 0 < got || buffer.is_empty() {
                        return Ok(got);
                    }
                }
                At::End => return Ok(0),
                At::Start(_) | At::Between(_) | At::Failed => {}
            }
            self.advance()?;
        }
    }
}

/// What a block's header says: sizes, and that of the dictionary.
fn block_header(fields: &[u8]) -> io::Result<(Said, u32)> {
    let mut rest = fields;
    let [flags] = rest.array::<1>()?;
    if flags & 0x3c != 0 {
        return Err(unsupported(
            "an xz stream with options that are not known".into(),
        ));
    }
    let mut size = |has: bool| {
        has.then(|| number(|| Ok(rest.array::<1>()?[0])))
            .transpose()
    };
    let said = Said {
        compressed: size(flags & 0x40 != 0)?,
        written: size(flags & 0x80 != 0)?,
    };
    let filters = flags % MAX_FILTERS + 1;
    let filter = number(|| Ok(rest.array::<1>()?[0]))?;
    if filters != 1 || filter != LZMA2 {
        return Err(unsupported(format!(
            "an xz stream with a filter ({filter:#x}) before its compression: compress it without"
        )));
    }
    let [length, bits] = rest.array::<2>()?;
    if length != 1 || 40 < bits || rest.iter().any(|padding| *padding != 0) {
        return Err(damaged("a block's header makes no sense"));
    }
    let dictionary = match bits {
        40 => u32::MAX,
        bits => (2 | u32::from(bits & 1)) << (bits / 2 + 11),
    };
    if MAX_DICTIONARY < dictionary {
        return Err(unsupported(format!(
            "an xz stream with a dictionary of {} MiB: up to {} MiB are taken, which all levels of \
             xz do with",
            dictionary >> 20,
            MAX_DICTIONARY >> 20
        )));
    }
    Ok((said, dictionary))
}

/// A number in pieces of seven bits, the lowest first.
fn number(mut byte: impl FnMut() -> io::Result<u8>) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let piece = byte()?;
        number |= u64::from(piece & 0x7f) << shift;
        if piece & 0x80 == 0 {
            return match piece == 0 && shift != 0 {
                true => Err(damaged("a number has zeroes at its end")),
                false => Ok(number),
            };
        }
    }
    Err(damaged("a number is too long"))
}

/// Reads what has a fixed length.
trait ReadArray: Read {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        self.read_exact(&mut array)?;
        Ok(array)
    }
}

impl<T: Read> ReadArray for T {}

/// Counts what is read.
struct Counted<R> {
    input: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.count += got as u64;
        Ok(got)
    }
}

impl<R: BufRead> Counted<R> {
    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.input.fill_buf()?.first().copied())
    }

    /// Reads the zeroes that make `bytes` a multiple of four.
    fn pad(&mut self, bytes: u64) -> io::Result<()> {
        for _ in 0..bytes.wrapping_neg() % 4 {
            if self.array::<1>()? != [0] {
                return Err(damaged("a block is not padded"));
            }
        }
        Ok(())
    }
}

/// The index, as it is read.
struct Index<'a, R> {
    input: &'a mut Counted<R>,
    sum: Sum,
}

impl<R: BufRead> Index<'_, R> {
    fn byte(&mut self) -> io::Result<u8> {
        let byte = self.input.array::<1>()?;
        self.sum.add(&byte);
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        number(|| self.byte())
    }
}

/// Blocks, by their sizes.
#[derive(Default)]
struct Blocks {
    count: u64,
    sizes: Sha256,
}

impl Blocks {
    fn add(&mut self, unpadded: u64, written: u64) {
        self.count += 1;
        self.sizes.update(unpadded.to_le_bytes());
        self.sizes.update(written.to_le_bytes());
    }

    fn finish(self) -> (u64, [u8; 32]) {
        (self.count, self.sizes.finalize().into())
    }
}

/// How the content of blocks is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    None,
    Crc32,
    Crc64,
    Sha256,
}

impl Check {
    fn of(flags: [u8; 2]) -> io::Result<Self> {
        match flags {
            [0, 0] => Ok(Self::None),
            [0, 1] => Ok(Self::Crc32),
            [0, 4] => Ok(Self::Crc64),
            [0, 10] => Ok(Self::Sha256),
            _ => Err(unsupported(
                "an xz stream with a checksum that is not known".into(),
            )),
        }
    }

    fn begin(self) -> Sum {
        match self {
            Self::None => Sum::None,
            Self::Crc32 => Sum::crc32(),
            Self::Crc64 => Sum::Crc {
                table: &CRC64,
                sum: u64::MAX,
                bytes: 8,
            },
            Self::Sha256 => Sum::Sha256(Box::default()),
        }
    }
}

/// A checksum that is being made.
enum Sum {
    None,
    Crc {
        table: &'static [u64; 256],
        sum: u64,
        bytes: usize,
    },
    Sha256(Box<Sha256>),
}

impl Sum {
    fn crc32() -> Self {
        Self::Crc {
            table: &CRC32,
            sum: u32::MAX.into(),
            bytes: 4,
        }
    }

    fn add(&mut self, content: &[u8]) {
        match self {
            Self::None => {}
            Self::Sha256(hash) => hash.update(content),
            Self::Crc { table, sum, .. } => {
                for byte in content {
                    let [low, ..] = sum.to_le_bytes();
                    *sum = table[usize::from(low ^ byte)] ^ *sum >> 8;
                }
            }
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Crc { sum, bytes, .. } => (!sum).to_le_bytes()[..bytes].to_vec(),
        }
    }
}

fn crc32(content: &[u8]) -> u32 {
    let mut sum = Sum::crc32();
    sum.add(content);
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&sum.finish());
    u32::from_le_bytes(bytes)
}

static CRC32: [u64; 256] = table(0xedb8_8320);
static CRC64: [u64; 256] = table(0xc96c_5795_d787_0f42);

/// Of a CRC with the lowest bit first.
const fn table(polynomial: u64) -> [u64; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut sum = index as u64;
        let mut bit = 0;
        while bit < 8 {
            let carry = sum & 1 != 0;
            sum >>= 1;
            if carry {
                sum ^= polynomial;
            }
            bit += 1;
        }
        table[index] = sum;
        index += 1;
    }
    table
}
