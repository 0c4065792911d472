//! What Docker's filters have in common, whatever they filter.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use regex::{Regex, RegexBuilder};

use crate::error::{EngineError, Result};
use crate::events::label_matches;
use crate::json::Filters;

/// Largest compiled pattern of a client, in bytes.
const MAX_PATTERN_BYTES: usize = 256 << 10;

/// Refuses a filter that is none of `known`.
pub(crate) fn check(filters: &Filters, known: &[&str]) -> Result<()> {
    match filters.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(EngineError::BadRequest(format!("invalid filter '{key}'"))),
        None => Ok(()),
    }
}

/// The patterns of a filter, regular expressions as Docker's: made once for a whole list.
pub(crate) struct Patterns(Option<Vec<Result<Regex, String>>>);

impl Patterns {
    /// Those of the filter `key`, if it is there.
    pub(crate) fn of(filters: &Filters, key: &str) -> Self {
        let build = |pattern: &String| {
            let built = RegexBuilder::new(pattern)
                .size_limit(MAX_PATTERN_BYTES)
                .dfa_size_limit(MAX_PATTERN_BYTES)
                .build();
            // What is no expression is found as it is written.
            built.map_err(|_| pattern.clone())
        };
        Self(
            filters
                .get(key)
                .map(|wanted| wanted.iter().map(build).collect()),
        )
    }

    /// Whether there is no such filter, or one of its patterns is found in one of `texts`.
    pub(crate) fn pass(&self, texts: &[&str]) -> bool {
        self.0.as_ref().is_none_or(|wanted| {
            wanted.iter().any(|pattern| match pattern {
                Ok(pattern) => texts.iter().any(|text| pattern.is_match(text)),
                Err(text) => texts.contains(&text.as_str()),
            })
        })
    }
}

/// `label` and `label!`.
pub(crate) fn labels_pass(filters: &Filters, labels: &HashMap<String, String>) -> bool {
    let values = |key: &str| filters.get(key).into_iter().flatten();
    values("label").all(|value| label_matches(value, labels))
        && !values("label!").any(|value| label_matches(value, labels))
}

/// The filter `until` of a prune: only what is older.
pub(crate) fn until(filters: &Filters) -> Result<Option<Timestamp>> {
    let Some(values) = filters.get("until") else {
        return Ok(None);
    };
    match values.as_slice() {
        [value] => time(value).map(Some),
        _ => Err(EngineError::BadRequest(
            "more than one until filter specified".to_owned(),
        )),
    }
}

/// The filter `until` of a list: of several the earliest.
pub(crate) fn earliest_until(filters: &Filters) -> Result<Option<Timestamp>> {
    let values = filters.get("until").into_iter().flatten();
    let times: Vec<_> = values.map(|value| time(value)).collect::<Result<_>>()?;
    Ok(times.into_iter().min())
}

/// The values of a boolean filter.
pub(crate) fn booleans(filters: &Filters, key: &str) -> Result<Option<Vec<bool>>> {
    let Some(values) = filters.get(key) else {
        return Ok(None);
    };
    let read = |value: &String| match value.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(EngineError::BadRequest(format!(
            "invalid filter '{key}=[{other}]'"
        ))),
    };
    values.iter().map(read).collect::<Result<_>>().map(Some)
}

/// A time as Docker's clients write it: seconds since the epoch with a fraction, RFC 3339 in full
/// or a part of it (UTC then), or a duration before now such as `1h30m`.
pub(crate) fn time(text: &str) -> Result<Timestamp> {
    let read = of_epoch(text)
        .or_else(|| text.parse().ok())
        .or_else(|| of_date(text))
        .or_else(|| Timestamp::now().checked_sub(duration(text)?).ok());
    read.ok_or_else(|| {
        EngineError::BadRequest(format!(
            "failed to parse value as time or duration: {text:?}"
        ))
    })
}

fn of_epoch(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = fraction.chars().chain(std::iter::repeat('0'));
    let nanos: String = digits.take(9).collect();
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Timestamp::new(seconds.parse().ok()?, nanos.parse().ok()?).ok()
}

fn of_date(text: &str) -> Option<Timestamp> {
    let zone = jiff::tz::TimeZone::UTC;
    let date_time: jiff::civil::DateTime = text.parse().ok()?;
    Some(date_time.to_zoned(zone).ok()?.timestamp())
}

/// Go's durations: `1h30m`, `1.5s`.
pub(crate) fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, tail) = rest.split_at(number);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += digits.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    if text.is_empty() {
        return None;
    }
    SignedDuration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(key: &str, value: &str) -> Filters {
        Filters::from([(key.to_owned(), vec![value.to_owned()])])
    }

    #[test]
    fn names_are_found_by_expression() {
        let finds = |pattern: &str| {
            Patterns::of(&filters("name", pattern), "name").pass(&["web-1", "/web-1"])
        };
        assert!(finds("web") && finds("^/web-1$") && finds("^web-[0-9]$"));
        assert!(!finds("^eb") && !finds("web-2") && !finds("("));
        // A pattern that would grow without bound is only a text.
        assert!(!finds("(((a{1000}){1000}){1000})"));
        assert!(Patterns::of(&Filters::new(), "name").pass(&["any"]));
    }

    #[test]
    fn times_are_read_in_dockers_forms() {
        let nanos = |text: &str| time(text).unwrap().as_nanosecond();
        assert_eq!(nanos("12.5"), 12_500_000_000);
        assert_eq!(nanos("1970-01-01T00:00:01Z"), 1_000_000_000);
        assert_eq!(nanos("1970-01-02"), 86_400_000_000_000);
        assert_eq!(nanos("1970-01-01T00:00:02"), 2_000_000_000);
        let ago = Timestamp::now().as_nanosecond() - nanos("1h30m");
        assert!(
            (5_399_000_000_000..5_401_000_000_000).contains(&ago),
            "{ago}"
        );
        for bad in ["yesterday", "1x", "", "1.x", "99999999999999999999h"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_filters_and_odd_booleans_are_refused() {
        assert!(check(&filters("x", "1"), &["y"]).is_err());
        assert!(booleans(&filters("dangling", "maybe"), "dangling").is_err());
        let two = Filters::from([("until".to_owned(), vec!["1".to_owned(), "2".to_owned()])]);
        assert!(until(&two).is_err());
        assert_eq!(earliest_until(&two).unwrap().unwrap().as_second(), 1);
        assert_eq!(earliest_until(&Filters::new()).unwrap(), None);
    }
}
