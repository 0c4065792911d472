//! PAX extended headers (POSIX pax, "Extended Header"), with GNU's, star's and libarchive's keys.

use super::error::TarError;

/// Far above what any file system holds per file; bounds the search for duplicates.
const MAX_XATTRS: usize = 1024;

/// What the records of one extended header say. Later records win over earlier ones.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    /// Seconds and nanoseconds; the latter always count upwards.
    pub(super) mtime: Option<(i64, u32)>,
    /// Full attribute names and values.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// GNU sparse formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Format 1.0: the map lies at the start of the data.
    pub(super) map_in_data: bool,
    /// Formats 0.0 and 0.1: the map itself.
    pub(super) map: Option<Vec<(u64, u64)>>,
    pending_offset: Option<u64>,
}

impl Pax {
    /// Parses `length key=value\n` records into `self`.
    pub(super) fn add_records(&mut self, mut data: &[u8]) -> Result<(), TarError> {
        while !data.is_empty() {
            let (key, value, rest) =
                next_record(data).ok_or_else(|| TarError::malformed("bad PAX record"))?;
            self.add(key, value).ok_or_else(|| {
                TarError::malformed(format!(
                    "bad value of PAX record {:?}",
                    String::from_utf8_lossy(key)
                ))
            })?;
            data = rest;
        }
        Ok(())
    }

    /// `None`: the value is not valid for its key. An empty value takes a record back, except
    /// for extended attributes, which may be empty.
    fn add(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return self.set_xattr(name.to_vec(), value.to_vec());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            // SCHILY's form of the same attribute is not encoded, so it wins.
            if let (Some(name), Some(value)) = (percent_decode(name), base64_decode(value)) {
                if !self.xattrs.iter().any(|(known, _)| *known == name) {
                    return self.set_xattr(name, value);
                }
            }
            return Some(());
        }
        let given = !value.is_empty();
        match key {
            b"path" => self.path = path(value, given)?,
            b"linkpath" => self.link_path = path(value, given)?,
            b"size" => self.size = optional(given, || unsigned(value))?,
            b"uid" => self.uid = optional(given, || signed(value))?,
            b"gid" => self.gid = optional(given, || signed(value))?,
            b"mtime" => self.mtime = optional(given, || time(value))?,
            b"GNU.sparse.name" => self.sparse.name = path(value, given)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = optional(given, || unsigned(value))?;
            }
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.map" => self.sparse.map = Some(sparse_map(value)?),
            b"GNU.sparse.offset" => self.sparse.pending_offset = Some(unsigned(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.pending_offset.take()?;
                self.sparse
                    .map
                    .get_or_insert_default()
                    .push((offset, unsigned(value)?));
            }
            _ => {}
        }
        Some(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Option<()> {
        match self.xattrs.iter().position(|(known, _)| *known == name) {
            Some(at) => self.xattrs[at].1 = value,
            None if self.xattrs.len() >= MAX_XATTRS => return None,
            None => self.xattrs.push((name, value)),
        }
        Some(())
    }
}

fn optional<T>(given: bool, parse: impl FnOnce() -> Option<T>) -> Option<Option<T>> {
    if given {
        parse().map(Some)
    } else {
        Some(None)
    }
}

fn path(value: &[u8], given: bool) -> Option<Option<Vec<u8>>> {
    optional(given, || (!value.contains(&0)).then(|| value.to_vec()))
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn next_record(data: &[u8]) -> Option<Record<'_>> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(unsigned(&data[..space])?).ok()?;
    let record = data.get(space + 1..length)?;
    let body = record.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], &data[length..]))
}

fn unsigned(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn signed(digits: &[u8]) -> Option<i64> {
    match digits.strip_prefix(b"-") {
        Some(digits) => i64::try_from(unsigned(digits)?).ok()?.checked_neg(),
        None => i64::try_from(unsigned(digits)?).ok(),
    }
}

/// Decimal seconds with a fraction, which is cut after nanoseconds.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = signed(whole)?;
    let nanoseconds = (0..9).fold(0_u32, |sum, at| {
        sum * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'))
    });
    if whole.starts_with(b"-") && nanoseconds > 0 {
        Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds))
    } else {
        Some((seconds, nanoseconds))
    }
}

fn sparse_map(value: &[u8]) -> Option<Vec<(u64, u64)>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Vec<u64> = value
        .split(|byte| *byte == b',')
        .map(unsigned)
        .collect::<Option<_>>()?;
    if !numbers.len().is_multiple_of(2) {
        return None;
    }
    Some(
        numbers
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect(),
    )
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            decoded.push(*first);
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else {
            return None;
        };
        decoded.push(digit(*high)? << 4 | digit(*low)?);
        rest = tail;
    }
    Some(decoded)
}

fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let sextet = |byte: u8| {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text
        .iter()
        .filter(|byte| !matches!(byte, b'=' | b'\n' | b'\r'))
    {
        bits = bits << 6 | u32::from(sextet(*byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let length = (body..)
            .find(|length| length - length.to_string().len() == body)
            .expect("a length");
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    fn parse(data: &[u8]) -> Result<Pax, TarError> {
        let mut pax = Pax::default();
        pax.add_records(data)?;
        Ok(pax)
    }

    #[test]
    fn records_set_their_fields() {
        let records = [
            record("path", b"a/b"),
            record("size", b"12345"),
            record("mtime", b"1350244992.023960108"),
        ];
        let pax = parse(&records.concat()).expect("parse");
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.size, Some(12345));
        assert_eq!(pax.mtime, Some((1_350_244_992, 23_960_108)));
    }

    #[test]
    fn times_before_the_epoch_count_nanoseconds_upwards() {
        assert_eq!(time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time(b"-1"), Some((-1, 0)));
        assert_eq!(time(b"-0.25"), Some((-1, 750_000_000)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
    }

    #[test]
    fn values_may_hold_newlines_equal_signs_and_nothing() {
        let records = [
            record("SCHILY.xattr.user.k", b"a\n=b\0"),
            record("SCHILY.xattr.user.e", b""),
        ];
        let pax = parse(&records.concat()).expect("parse");
        assert_eq!(
            pax.xattrs,
            [
                (b"user.k".to_vec(), b"a\n=b\0".to_vec()),
                (b"user.e".to_vec(), Vec::new())
            ]
        );
    }

    #[test]
    fn libarchive_attributes_are_decoded() {
        let pax = parse(&record("LIBARCHIVE.xattr.user.a%3Db", b"aGk=")).expect("parse");
        assert_eq!(pax.xattrs, [(b"user.a=b".to_vec(), b"hi".to_vec())]);
    }

    #[test]
    fn broken_records_are_refused() {
        let bad = [
            &b"x"[..],
            b"5 a=b",
            b"6 a=b\n7",
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 =ab\n",
            &record("size", b"12x45"),
        ];
        for records in bad {
            assert!(
                parse(records).is_err(),
                "{:?}",
                String::from_utf8_lossy(records)
            );
        }
    }
}
