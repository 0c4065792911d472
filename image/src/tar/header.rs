//! The 512-byte header block (POSIX ustar, GNU, v7).

use super::error::TarError;
use super::stream::BLOCK;

/// Offsets and lengths of a sparse map as the header has them.
pub(super) type SparsePairs = Vec<(i64, i64)>;

/// A header block whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK],
}

impl Header {
    /// Checks the checksum, which historic archivers also summed as signed bytes.
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, TarError> {
        let want = number(&block[148..156])
            .ok_or_else(|| TarError::malformed("header checksum is not a number"))?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        if want == unsigned || want == signed {
            Ok(Self { block })
        } else {
            Err(TarError::malformed("header checksum does not match"))
        }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    /// Name, with the prefix field where the header is POSIX ustar.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = text(&self.block[345..500]);
        if self.is_posix() && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    pub(super) fn link_name(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<i64, TarError> {
        self.field("mode", 100..108)
    }

    pub(super) fn uid(&self) -> Result<i64, TarError> {
        self.field("uid", 108..116)
    }

    pub(super) fn gid(&self) -> Result<i64, TarError> {
        self.field("gid", 116..124)
    }

    pub(super) fn size(&self) -> Result<i64, TarError> {
        self.field("size", 124..136)
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        self.field("mtime", 136..148)
    }

    /// Device numbers exist in POSIX and GNU headers only.
    pub(super) fn device(&self) -> Result<(i64, i64), TarError> {
        if &self.block[257..262] == b"ustar" {
            Ok((
                self.field("device major", 329..337)?,
                self.field("device minor", 337..345)?,
            ))
        } else {
            Ok((0, 0))
        }
    }

    /// Old GNU sparse: four pairs of offset and length, whether more follow, and the real size.
    pub(super) fn gnu_sparse(&self) -> Result<(SparsePairs, bool, i64), TarError> {
        let pairs = sparse_pairs(&self.block[386..482])?;
        Ok((
            pairs,
            self.block[482] != 0,
            self.field("real size", 483..495)?,
        ))
    }

    fn is_posix(&self) -> bool {
        &self.block[257..263] == b"ustar\0"
    }

    fn field(&self, name: &str, range: std::ops::Range<usize>) -> Result<i64, TarError> {
        number(&self.block[range])
            .ok_or_else(|| TarError::malformed(format!("header field {name} is not a number")))
    }
}

/// An extension block of old GNU sparse: 21 pairs, and whether another block follows.
pub(super) fn gnu_sparse_extension(block: &[u8; BLOCK]) -> Result<(SparsePairs, bool), TarError> {
    Ok((sparse_pairs(&block[..504])?, block[504] != 0))
}

fn sparse_pairs(bytes: &[u8]) -> Result<Vec<(i64, i64)>, TarError> {
    bytes
        .chunks_exact(24)
        .take_while(|pair| pair[0] != 0)
        .map(|pair| number(&pair[..12]).zip(number(&pair[12..])))
        .map(|pair| pair.ok_or_else(|| TarError::malformed("sparse map is not made of numbers")))
        .collect()
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// An octal number padded with spaces and NULs, or GNU's base-256 (first bit set, two's
/// complement). An empty field is 0.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let negative = first & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        // The marker bit counts as a copy of the sign.
        let byte = match (at, negative) {
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value << 8 | i128::from(byte);
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let is_padding = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field
        .iter()
        .position(|byte| !is_padding(byte))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_padding).unwrap_or(digits.len());
    digits[..end]
        .iter()
        .try_fold(0_i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"00008\0\0\0"), None);
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]),
            Some(2 << 32)
        );
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(
            number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            None
        );
    }
}
