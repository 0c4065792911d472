//! bzip2: blocks of up to 900 kB, each sorted (Burrows-Wheeler), moved to front, and Huffman coded.
//!
//! A block is held as four bytes for each of its own, so no stream takes more than 3.6 MB.

use std::io::{self, BufRead, Read};

const BLOCK_MAGIC: u64 = 0x3141_5926_5359;
const END_MAGIC: u64 = 0x1772_4538_5090;
/// A level's number stands for so many bytes of a block.
const LEVEL_BYTES: usize = 100_000;
/// So many symbols are coded by one table before the next one is chosen.
const GROUP: usize = 50;
const MAX_TABLES: usize = 6;
/// What a block of the largest size needs; more are passed over.
const MAX_SELECTORS: usize = 2 + 9 * LEVEL_BYTES / GROUP;
const MAX_CODE_BITS: usize = 20;
/// All bytes, one more for what stands for the length of a run, and the end.
const MAX_SYMBOLS: usize = 258;
/// After so many of the same byte comes one with how many follow.
const RUN: u8 = 4;

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("damaged bzip2 stream: {what}"),
    )
}

/// Whether so begins what follows a stream's first four bytes.
pub(super) fn begins(rest: &[u8]) -> bool {
    let magics = [BLOCK_MAGIC, END_MAGIC].map(u64::to_be_bytes);
    magics.iter().any(|magic| rest.starts_with(&magic[2..]))
}

/// Reads the streams of a file, one after the other.
pub(super) struct Bzip2Reader<R> {
    bits: Bits<R>,
    at: At,
    /// Most bytes of a block.
    most: usize,
    /// Checksum of the stream so far.
    checksum: u32,
    block: Block,
}

enum At {
    Start,
    Between,
    Block,
    End,
}

impl<R: BufRead> Bzip2Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            bits: Bits {
                input,
                held: 0,
                count: 0,
            },
            at: At::Start,
            most: 0,
            checksum: 0,
            block: Block::default(),
        }
    }

    /// Reads on to something that has content, or to the end.
    fn advance(&mut self) -> io::Result<()> {
        self.at = match self.at {
            At::Start => self.begin()?,
            At::Between => match self.bits.take(48)? {
                BLOCK_MAGIC => {
                    self.block.read(&mut self.bits, self.most)?;
                    At::Block
                }
                END_MAGIC => {
                    if self.bits.take(32)? != u64::from(self.checksum) {
                        return Err(damaged("its checksum is another"));
                    }
                    self.bits.align();
                    match self.bits.input.fill_buf()?.is_empty() {
                        true => At::End,
                        false => At::Start,
                    }
                }
                _ => return Err(damaged("no block where one should begin")),
            },
            At::Block => {
                let checksum = self.block.finish()?;
                self.checksum = self.checksum.rotate_left(1) ^ checksum;
                At::Between
            }
            At::End => At::End,
        };
        Ok(())
    }

    fn begin(&mut self) -> io::Result<At> {
        let magic = self.bits.take(24)?;
        let level = self.bits.take(8)?;
        let level = match (magic, u8::try_from(level).unwrap_or_default()) {
            (0x42_5a68, level @ b'1'..=b'9') => level - b'0',
            _ => return Err(damaged("no stream where one should begin")),
        };
        self.most = usize::from(level) * LEVEL_BYTES;
        self.checksum = 0;
        Ok(At::Between)
    }
}

impl<R: BufRead> Read for Bzip2Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let At::Block = self.at {
                let got = self.block.write(buffer)?;
                if 0 < got || buffer.is_empty() {
                    return Ok(got);
                }
            }
            if let At::End = self.at {
                return Ok(0);
            }
            self.advance()?;
        }
    }
}

/// The highest bit of each byte comes first.
struct Bits<R> {
    input: R,
    held: u64,
    count: u32,
}

impl<R: BufRead> Bits<R> {
    /// The next bits, 48 at most.
    fn take(&mut self, count: u32) -> io::Result<u64> {
        while self.count < count {
            let Some(byte) = self.input.fill_buf()?.first().copied() else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            self.input.consume(1);
            self.held = self.held << 8 | u64::from(byte);
            self.count += 8;
        }
        self.count -= count;
        let bits = self.held >> self.count;
        self.held &= (1 << self.count) - 1;
        Ok(bits)
    }

    fn small(&mut self, count: u32) -> io::Result<usize> {
        usize::try_from(self.take(count)?).map_err(io::Error::other)
    }

    fn bit(&mut self) -> io::Result<bool> {
        Ok(self.take(1)? != 0)
    }

    /// Passes over what is left of a byte.
    fn align(&mut self) {
        self.count -= self.count % 8;
        self.held &= (1 << self.count) - 1;
    }
}

/// A Huffman code, of which the lengths of the words say all.
struct Table {
    /// How many words of each length there are.
    counts: [usize; MAX_CODE_BITS + 1],
    /// Symbols in the order of their words.
    symbols: Vec<usize>,
}

impl Table {
    fn read<R: BufRead>(bits: &mut Bits<R>, symbols: usize) -> io::Result<Self> {
        let mut lengths = [0; MAX_SYMBOLS];
        let mut length = bits.small(5)?;
        for slot in lengths.iter_mut().take(symbols) {
            while (1..=MAX_CODE_BITS).contains(&length) && bits.bit()? {
                length = match bits.bit()? {
                    true => length - 1,
                    false => length + 1,
                };
            }
            if !(1..=MAX_CODE_BITS).contains(&length) {
                return Err(damaged("a code is too long"));
            }
            *slot = length;
        }
        let lengths = &lengths[..symbols];
        let mut counts = [0; MAX_CODE_BITS + 1];
        for length in lengths {
            counts[*length] += 1;
        }
        let mut in_order: Vec<usize> = (0..symbols).collect();
        in_order.sort_by_key(|symbol| lengths[*symbol]);
        Ok(Self {
            counts,
            symbols: in_order,
        })
    }

    fn next<R: BufRead>(&self, bits: &mut Bits<R>) -> io::Result<usize> {
        let (mut word, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            word = word << 1 | bits.small(1)?;
            if word < first + count {
                // Lengths that no code has can lead a word before the first one.
                let place = word.checked_sub(first).map(|at| index + at);
                let symbol = place.and_then(|place| self.symbols.get(place));
                return symbol.copied().ok_or_else(|| damaged("not a code"));
            }
            index += count;
            first = (first + count) << 1;
        }
        Err(damaged("not a code"))
    }
}

/// A block, and how far it has been written out.
#[derive(Default)]
struct Block {
    /// In the lowest byte of each what was sorted, above it where the next one is.
    sorted: Vec<u32>,
    place: u32,
    left: usize,
    last: Option<u8>,
    /// So many of the last byte have come one after the other.
    same: u8,
    /// So many are still to be written.
    repeats: u8,
    wanted: u32,
    checksum: u32,
}

impl Block {
    fn read<R: BufRead>(&mut self, bits: &mut Bits<R>, most: usize) -> io::Result<()> {
        let word = |word: u64| u32::try_from(word).map_err(io::Error::other);
        self.wanted = word(bits.take(32)?)?;
        if bits.bit()? {
            let text = "a bzip2 stream that a version before 0.9.5 has made";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let origin = bits.small(24)?;
        self.read_sorted(bits, most)?;
        if self.sorted.len() <= origin {
            return Err(damaged("a block begins behind its end"));
        }
        self.chain();
        (self.left, self.place) = (self.sorted.len(), self.sorted[origin] >> 8);
        (self.last, self.same, self.repeats) = (None, 0, 0);
        self.checksum = u32::MAX;
        Ok(())
    }

    fn read_sorted<R: BufRead>(&mut self, bits: &mut Bits<R>, most: usize) -> io::Result<()> {
        let mut front = used_bytes(bits)?;
        let end = front.len() + 1;
        let tables = bits.small(3)?;
        if !(2..=MAX_TABLES).contains(&tables) {
            return Err(damaged("a block has no codes"));
        }
        let selectors = read_selectors(bits, tables)?;
        let tables = (0..tables).map(|_| Table::read(bits, end + 1));
        let tables: Vec<Table> = tables.collect::<io::Result<_>>()?;
        self.sorted.clear();
        let (mut run, mut digit) = (0_usize, 1_usize);
        for selector in selectors {
            for _ in 0..GROUP {
                let symbol = tables[selector].next(bits)?;
                if symbol < 2 {
                    // A length, in digits of one and two, the smallest first.
                    run = run.saturating_add(digit << symbol);
                    digit <<= 1;
                    if most < run {
                        return Err(damaged("a block is too long"));
                    }
                    continue;
                }
                self.repeat(front[0], run, most)?;
                (run, digit) = (0, 1);
                if symbol == end {
                    return Ok(());
                }
                front[..symbol].rotate_right(1);
                self.repeat(front[0], 1, most)?;
            }
        }
        Err(damaged("a block has no end"))
    }

    fn repeat(&mut self, byte: u8, count: usize, most: usize) -> io::Result<()> {
        if most < self.sorted.len() + count {
            return Err(damaged("a block is too long"));
        }
        let length = self.sorted.len() + count;
        self.sorted.resize(length, u32::from(byte));
        Ok(())
    }

    /// Undoes the sorting: what comes after each byte.
    fn chain(&mut self) {
        let mut next = [0; 256];
        for entry in &self.sorted {
            next[byte_of(*entry)] += 1;
        }
        let mut sum = 0;
        for count in &mut next {
            sum += std::mem::replace(count, sum);
        }
        for index in 0..self.sorted.len() {
            let next = &mut next[byte_of(self.sorted[index])];
            // An index is below 900 000.
            self.sorted[*next] |= (index as u32) << 8;
            *next += 1;
        }
    }

    /// Writes what there is room for; nothing at its end.
    fn write(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < buffer.len() {
            let Some(byte) = self.next() else { break };
            buffer[written] = byte;
            written += 1;
        }
        for byte in &buffer[..written] {
            self.checksum = checksum(self.checksum, *byte);
        }
        Ok(written)
    }

    fn next(&mut self) -> Option<u8> {
        loop {
            if let Some(left) = self.repeats.checked_sub(1) {
                self.repeats = left;
                return self.last;
            }
            self.left = self.left.checked_sub(1)?;
            let entry = *self.sorted.get(self.place as usize)?;
            self.place = entry >> 8;
            let [byte, ..] = entry.to_le_bytes();
            if self.same == RUN {
                (self.repeats, self.same) = (byte, 0);
                continue;
            }
            self.same = match self.last == Some(byte) && 0 < self.same {
                true => self.same + 1,
                false => 1,
            };
            self.last = Some(byte);
            return Some(byte);
        }
    }

    /// Its checksum, which must be the one that it came with.
    fn finish(&self) -> io::Result<u32> {
        match !self.checksum == self.wanted {
            true => Ok(self.wanted),
            false => Err(damaged("the checksum of a block is another")),
        }
    }
}

/// Which bytes a block has.
fn used_bytes<R: BufRead>(bits: &mut Bits<R>) -> io::Result<Vec<u8>> {
    let rows = bits.take(16)?;
    let mut used = Vec::with_capacity(256);
    for row in (0..16_u8).filter(|row| rows >> (15 - row) & 1 == 1) {
        let columns = bits.take(16)?;
        let columns = (0..16_u8).filter(|column| columns >> (15 - column) & 1 == 1);
        used.extend(columns.map(|column| row << 4 | column));
    }
    match used.is_empty() {
        true => Err(damaged("a block has no bytes")),
        false => Ok(used),
    }
}

/// Which table codes each group.
fn read_selectors<R: BufRead>(bits: &mut Bits<R>, tables: usize) -> io::Result<Vec<usize>> {
    let count = bits.small(15)?;
    let mut front: Vec<usize> = (0..tables).collect();
    let mut selectors = Vec::new();
    for index in 0..count {
        let mut place = 0;
        while bits.bit()? {
            place += 1;
            if tables <= place {
                return Err(damaged("a code that is not there is chosen"));
            }
        }
        front[..=place].rotate_right(1);
        if index < MAX_SELECTORS {
            selectors.push(front[0]);
        }
    }
    Ok(selectors)
}

fn byte_of(entry: u32) -> usize {
    (entry & 0xff) as usize
}

/// CRC-32 with the highest bit first.
fn checksum(sum: u32, byte: u8) -> u32 {
    const TABLE: [u32; 256] = table();
    let [high, ..] = sum.to_be_bytes();
    sum << 8 ^ TABLE[usize::from(high ^ byte)]
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut sum = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            let carry = sum >> 31 != 0;
            sum <<= 1;
            if carry {
                sum ^= 0x04c1_1db7;
            }
            bit += 1;
        }
        table[index] = sum;
        index += 1;
    }
    table
}
