//! Sizes and times as docker's users write and read them.

use crate::error::{CliError, Result};

/// Parses a size of memory, such as `512m` or `1.5gb`.
pub(crate) fn parse_bytes(text: &str) -> Result<i64, String> {
    let bytes = hull_units::binary(text, 0..=i64::MAX.unsigned_abs());
    let bytes = bytes.and_then(|bytes| i64::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("invalid size: '{text}'"))
}

/// A size in powers of 1024, such as `1.91MiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while 1024.0 <= size && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    // Four digits, without zeros at the end.
    let decimals = match size {
        size if size < 10.0 => 3,
        size if size < 100.0 => 2,
        size if size < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{size:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", UNITS[unit])
}

/// A duration as Go writes it, such as `1m30s` or `500ms`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid duration {text:?}: want such as 30s, 1m30s or 500ms");
    let mut rest = text;
    let mut total = 0f64;
    if rest == "0" {
        return Ok(0);
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let nanoseconds = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += number * nanoseconds;
        rest = &rest[unit..];
    }
    match text.is_empty() || total > i64::MAX as f64 {
        true => Err(bad()),
        false => Ok(total as i64),
    }
}

/// Parses a number of CPUs (`1.5`) to billionths, as the API has it.
pub(crate) fn parse_cpus(text: &str) -> Result<i64, String> {
    let cpus: f64 = text
        .parse()
        .map_err(|_| format!("'{text}' is not a number of CPUs"))?;
    if !(0.0..1e6).contains(&cpus) {
        return Err(format!("'{text}' is not a number of CPUs"));
    }
    Ok((cpus * 1e9).round() as i64)
}

/// A size for people: decimal units, three digits.
pub(crate) fn human_size(bytes: i64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            let digits = if value < 10.0 {
                2
            } else {
                usize::from(value < 100.0)
            };
            let text = format!("{value:.digits$}");
            let text = if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.')
            } else {
                &text
            };
            return format!("{text}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1}TB")
}

/// A time in seconds since 1970, as Go writes it: `2026-01-31 12:00:00 +0100 CET`.
pub(crate) fn local_time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// How long ago, for people: `3 minutes ago`.
pub(crate) fn ago(seconds: i64) -> String {
    let (count, unit) = match seconds.max(0) {
        0 => return "Less than a second ago".into(),
        s @ 1..60 => (s, "second"),
        s @ 60..3600 => (s / 60, "minute"),
        s @ 3600..172_800 => (s / 3600, "hour"),
        s @ 172_800..1_209_600 => (s / 86_400, "day"),
        s @ 1_209_600..5_184_000 => (s / 604_800, "week"),
        s @ 5_184_000..63_072_000 => (s / 2_592_000, "month"),
        s => (s / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// Reads the lines of an env file: `NAME=value`, `NAME` (taken from this process's environment),
/// comments and empty lines. Values are raw, as docker has it.
pub(crate) fn parse_env_file(text: &str) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    // Some editors begin files with a byte order mark.
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start().trim_end_matches('\r');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(CliError::usage(format!(
                "poorly formatted environment: variable '{name}' contains whitespaces or is empty"
            )));
        }
        // A name that is set nowhere is left out here, as by docker.
        variables.extend(Some(env_word(line)).filter(|word| word.contains('=')));
    }
    Ok(variables)
}

/// Reads the lines of a label file: `KEY=VALUE` or `KEY`, comments and empty lines.
pub(crate) fn parse_label_file(text: &str) -> Result<Vec<String>> {
    let mut labels = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start().trim_end_matches('\r');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split('=').next().unwrap_or_default();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(CliError::usage(format!(
                "invalid label '{key}': contains whitespaces or is empty"
            )));
        }
        labels.push(line.to_owned());
    }
    Ok(labels)
}

/// An `-e` word: with a value as it is; without one from this process's environment. What is not set
/// there is a name alone, which unsets what the image has.
pub(crate) fn env_word(word: &str) -> String {
    match std::env::var(word) {
        Ok(value) if !word.contains('=') => format!("{word}={value}"),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_sizes_have_four_digits() {
        assert_eq!(binary_size(0), "0B");
        assert_eq!(binary_size(128 << 20), "128MiB");
        assert_eq!(binary_size(2_000_000), "1.907MiB");
        assert_eq!(binary_size(1 << 30), "1GiB");
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse_duration("500ms"), Ok(500_000_000));
        assert_eq!(parse_duration("1.5h"), Ok(5_400_000_000_000));
        assert_eq!(parse_duration("0"), Ok(0));
        for bad in ["", "5", "s", "1x", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("128m"), Ok(128 << 20));
        assert_eq!(parse_bytes("1.5GB"), Ok(3 << 29));
        assert_eq!(parse_bytes("42"), Ok(42));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        for bad in ["", "m", "-1m", "12x", "1e300t"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(human_size(1_234_567), "1.23MB");
        assert_eq!(human_size(999), "999B");
        assert_eq!(human_size(120_000_000), "120MB");
    }

    #[test]
    fn ages() {
        assert_eq!(ago(0), "Less than a second ago");
        assert_eq!(ago(1), "1 second ago");
        assert_eq!(ago(7200), "2 hours ago");
    }

    #[test]
    fn env_files_keep_values_raw() {
        let text = "# c\nP='abc$def'\r\n\nR=x # c\nNOT_SET_ANYWHERE_1\n";
        assert_eq!(parse_env_file(text).unwrap(), ["P='abc$def'", "R=x # c"]);
        assert!(parse_env_file("export T=1").is_err());
    }
}
