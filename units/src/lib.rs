//! Sizes as docker's users write them: a number, which may have a fraction, a blank or none, and a unit.

use std::ops::RangeInclusive;

/// Bytes of a size of memory or of a disk, whose units are powers of 1024: `512m`, `1.5 GiB`, `77`.
/// `None`: it is no size, or beyond the bounds.
pub fn binary(text: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
    parse(text, 1024).filter(|bytes| bounds.contains(bytes))
}

/// The same where units are powers of 1000, as for files of logs.
pub fn decimal(text: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
    parse(text, 1000).filter(|bytes| bounds.contains(bytes))
}

fn parse(text: &str, base: u64) -> Option<u64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let unit = base.pow(power(&unit.to_ascii_lowercase())?);
    // Beyond 2^53 a float would lose some.
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        Err(_) => fraction(number, unit as f64),
    }
}

/// `k`, `m`, `g`, `t` or `p`, alone or with `b` or `ib` behind it; or `b`.
fn power(unit: &str) -> Option<u32> {
    let mut letters = unit.chars();
    let first = letters.next();
    match (first, letters.as_str()) {
        (None | Some('b'), "") => Some(0),
        (Some(first), "" | "b" | "ib") => {
            let place = "kmgtp".find(first)?;
            u32::try_from(place + 1).ok()
        }
        _ => None,
    }
}

/// A fraction of a byte is none.
fn fraction(number: &str, unit: f64) -> Option<u64> {
    const ABOVE: f64 = 18_446_744_073_709_551_616.0;
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if number.starts_with('-') || !number.chars().all(is_number) {
        return None;
    }
    let bytes = number.parse::<f64>().ok()? * unit;
    (0.0..ABOVE).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: RangeInclusive<u64> = 0..=u64::MAX;

    #[test]
    fn sizes_are_numbers_with_units() {
        for (text, bytes) in [
            ("0", 0),
            ("77", 77),
            ("7b", 7),
            ("7 ", 7),
            ("1k", 1 << 10),
            ("1kb", 1 << 10),
            ("1KiB", 1 << 10),
            ("64 m", 64 << 20),
            ("1.5g", 3 << 29),
            ("0.5GiB", 512 << 20),
            (".5k", 512),
            ("2.k", 2 << 10),
            ("2T", 2 << 40),
            ("1p", 1 << 50),
            ("1e3", 1000),
            ("1.9", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(binary(text, ANY), Some(bytes), "{text}");
        }
        assert_eq!(decimal("10 MiB", ANY), Some(10_000_000));
        assert_eq!(decimal("1.5k", ANY), Some(1500));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            " ",
            ".",
            "x",
            "k",
            "g",
            "-1",
            "-2",
            "-0.5",
            "1x",
            "1ib",
            "1bb",
            "1gg",
            "1mbb",
            "1kiii",
            "1.5.5g",
            "1..2",
            "5µ",
            "1  g",
            " 1",
            "1 k ",
            "1e",
            "1e400",
            "inf",
            "nan",
            "0x10",
            "1_000",
            "9999999999999t",
            "18446744073709551616",
            "1,5g",
            "1é",
        ] {
            assert_eq!(binary(text, ANY), None, "{text}");
            assert_eq!(decimal(text, ANY), None, "{text}");
        }
    }

    #[test]
    fn bounds_are_the_callers() {
        assert_eq!(binary("0", 1..=10), None);
        assert_eq!(binary("10b", 1..=10), Some(10));
        assert_eq!(binary("11", 1..=10), None);
        assert_eq!(decimal("1k", 1..=999), None);
    }
}
