//! Builds tar archives byte by byte, good and bad ones.

/// Header fields of one entry; `Default` is an empty file of root's.
#[derive(Clone)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    /// The size field, where it is not the content's length.
    pub(crate) size: Option<u64>,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            kind: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            link: Vec::new(),
            device: (0, 0),
            size: None,
        }
    }
}

#[derive(Default, Clone)]
pub(crate) struct Tarball {
    bytes: Vec<u8>,
}

impl Tarball {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path.as_bytes(), &Header::default(), content)
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(
            path.as_bytes(),
            &Header {
                kind: b'5',
                mode,
                ..Header::default()
            },
            b"",
        )
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(
            path.as_bytes(),
            &Header {
                kind: b'2',
                mode: 0o777,
                link: target.into(),
                ..Header::default()
            },
            b"",
        )
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(
            path.as_bytes(),
            &Header {
                kind: b'1',
                link: target.into(),
                ..Header::default()
            },
            b"",
        )
    }

    /// PAX records for the entry that follows.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length = (body..)
                .find(|length| length - length.to_string().len() == body)
                .expect("a length");
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(
            b"PaxHeaders/x",
            &Header {
                kind: b'x',
                ..Header::default()
            },
            &data,
        )
    }

    /// GNU's long name (`L`) or long link (`K`) for the entry that follows.
    pub(crate) fn gnu_long(self, kind: u8, text: &[u8]) -> Self {
        self.entry(
            b"././@LongLink",
            &Header {
                kind,
                ..Header::default()
            },
            &[text, b"\0"].concat(),
        )
    }

    /// A path longer than the name field is cut, as archivers do behind an extension.
    pub(crate) fn entry(mut self, path: &[u8], header: &Header, content: &[u8]) -> Self {
        self.bytes
            .extend_from_slice(&header_block(path, header, content.len() as u64));
        self.raw(content)
    }

    /// Bytes, padded to a block.
    pub(crate) fn raw(mut self, content: &[u8]) -> Self {
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }

    /// Without the end-of-archive blocks.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}

pub(crate) fn header_block(path: &[u8], header: &Header, length: u64) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8], room: usize| {
        let count = bytes.len().min(room);
        block[at..at + count].copy_from_slice(&bytes[..count]);
    };
    put(0, path, 100);
    put(100, &number(header.mode.into(), 8), 8);
    put(108, &number(header.uid, 8), 8);
    put(116, &number(header.gid, 8), 8);
    put(124, &number(header.size.unwrap_or(length), 12), 12);
    put(136, &number(header.mtime, 12), 12);
    put(156, &[header.kind], 1);
    put(157, &header.link, 100);
    put(257, b"ustar\x0000", 8);
    put(329, &number(header.device.0.into(), 8), 8);
    put(337, &number(header.device.1.into(), 8), 8);
    seal(&mut block);
    block
}

/// Writes the checksum.
pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Octal, or base-256 where that does not fit.
fn number(value: u64, room: usize) -> Vec<u8> {
    let octal = format!("{value:0width$o}\0", width = room - 1);
    if octal.len() == room {
        return octal.into_bytes();
    }
    let mut bytes = vec![0; room];
    let tail = value.to_be_bytes();
    let count = tail.len().min(room);
    bytes[room - count..].copy_from_slice(&tail[tail.len() - count..]);
    bytes[0] |= 0x80;
    bytes
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("write");
    encoder.finish().expect("finish")
}
