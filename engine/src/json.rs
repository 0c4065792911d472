//! Small decoders for Docker's looser JSON and query habits.

mod fold;

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::error::{EngineError, Result};

pub(crate) use fold::fold_case;

/// Docker's `filters`: key to wanted values.
pub(crate) type Filters = BTreeMap<String, Vec<String>>;

/// Query parameters of a request; of one that is given several times the first counts, unless all
/// are asked for.
#[derive(Debug, Default)]
pub(crate) struct Params(HashMap<String, Vec<String>>);

impl FromIterator<(String, String)> for Params {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let mut params = Self::default();
        for (key, value) in pairs {
            params.0.entry(key).or_default().push(value);
        }
        params
    }
}

impl Params {
    /// The parameter as it was sent.
    fn raw(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// The parameter, unless absent or empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.raw(key).filter(|value| !value.is_empty())
    }

    /// The lines of a parameter's values, without empty ones.
    pub(crate) fn lines(&self, key: &str) -> Vec<String> {
        let lines = self.all(key).iter().flat_map(|value| value.lines());
        let lines = lines.filter(|line| !line.trim().is_empty());
        lines.map(str::to_owned).collect()
    }

    /// Docker's booleans: absent, empty, `0`, `no`, `false`, `none` are false.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    /// As [`Params::flag`], with what an absent parameter means.
    pub(crate) fn flag_or(&self, key: &str, absent: bool) -> bool {
        match self.raw(key).map(|value| value.trim().to_ascii_lowercase()) {
            None => absent,
            Some(value) => !matches!(value.as_str(), "" | "0" | "no" | "false" | "none"),
        }
    }

    /// A number.
    pub(crate) fn int(&self, key: &str) -> Result<Option<i64>> {
        self.get(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    EngineError::BadRequest(format!("parameter {key}: {text:?} is no number"))
                })
            })
            .transpose()
    }

    /// The `filters` parameter.
    pub(crate) fn filters(&self) -> Result<Filters> {
        self.get("filters")
            .map_or_else(|| Ok(Filters::new()), parse_filters)
    }
}

/// Decodes `{"key":["value"]}` and the older `{"key":{"value":true}}`.
pub(crate) fn parse_filters(text: &str) -> Result<Filters> {
    let bad = || EngineError::BadRequest(format!("invalid filter {text:?}"));
    let Ok(Value::Object(map)) = serde_json::from_str(text) else {
        return Err(bad());
    };
    map.into_iter()
        .map(|(key, value)| {
            let values = match value {
                Value::Array(items) => items
                    .into_iter()
                    .map(|item| item.as_str().map(str::to_owned).ok_or_else(bad))
                    .collect::<Result<Vec<_>>>()?,
                Value::Object(items) => items
                    .into_iter()
                    .filter(|(_, wanted)| wanted.as_bool() != Some(false))
                    .map(|(item, _)| item)
                    .collect(),
                _ => return Err(bad()),
            };
            Ok((key, values))
        })
        .collect()
}

/// Replaces a string by a list of that string under each of `keys`: `Cmd`, `Entrypoint` and the
/// like may be sent either way.
pub(crate) fn lists_from_strings(value: &mut Value, keys: &[&str]) {
    for key in keys {
        if let Some(slot) = value.get_mut(key) {
            if let Value::String(text) = slot {
                *slot = if text.is_empty() {
                    Value::Null
                } else {
                    Value::Array(vec![Value::String(std::mem::take(text))])
                };
            }
        }
    }
}

/// Decodes a request's body, which is an object.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    let bad = |why: String| EngineError::BadRequest(format!("invalid JSON: {why}"));
    let decoded = as_go_does(body).map_err(|error| bad(why(&error, body)))?;
    // An array would be taken for the members of a structure, in their order.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Err(bad("an array, where an object is wanted".to_owned())),
        _ => Ok(decoded),
    }
}

/// Decodes JSON in which members may be named in any case, and `null` is as good as nothing for one
/// of any type: clients in languages with optional values send it for what they leave out.
pub(crate) fn as_go_does<T: serde::de::DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(text)?;
    fold_case::<T>(&mut value);
    serde_json::from_value(value.clone()).or_else(|error| {
        drop_nulls(&mut value);
        fold_case::<T>(&mut value);
        // The error of the text knows its place.
        let placed = || serde_json::from_slice::<T>(text).err().unwrap_or(error);
        serde_json::from_value(value).map_err(|_| placed())
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Why a body can't be decoded, in the words that clients of dockerd know where it has such.
fn why(error: &serde_json::Error, body: &[u8]) -> String {
    if body.iter().all(u8::is_ascii_whitespace) {
        return "EOF".to_owned();
    }
    let text = error.to_string();
    let line = body
        .split(|byte| *byte == b'\n')
        .nth(error.line().saturating_sub(1));
    let at = line.and_then(|line| {
        let start = line.get(error.column().saturating_sub(1)..)?;
        String::from_utf8_lossy(start).chars().next()
    });
    let known = [
        (
            "key must be a string",
            "looking for beginning of object key string",
        ),
        (
            "trailing comma",
            "looking for beginning of object key string",
        ),
        ("expected value", "looking for beginning of value"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
    ];
    if text.starts_with("trailing characters") {
        return "unexpected content after JSON".to_owned();
    }
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    match (known.iter().find(|(ours, _)| text.starts_with(ours)), at) {
        (Some((_, place)), Some(at)) => format!("invalid character '{at}' {place}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_of_as_docker_does() {
        for (body, text) in [
            ("", "EOF"),
            (" \n", "EOF"),
            ("{\"a\":", "unexpected EOF"),
            ("{} x", "unexpected content after JSON"),
            (
                "{invalid",
                "invalid character 'i' looking for beginning of object key string",
            ),
            (
                "{\"a\":x}",
                "invalid character 'x' looking for beginning of value",
            ),
            ("{\"a\"\n x}", "invalid character 'x' after object key"),
            (
                "{\"a\":1 ä}",
                "invalid character 'ä' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
        ] {
            let error = decode::<Value>(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid JSON: {text}"), "{body}");
        }
    }

    #[test]
    fn a_body_is_an_object() {
        let text = |body: &str| decode::<Value>(body.as_bytes()).unwrap_err().to_string();
        assert!(text(" [7]").ends_with("an array, where an object is wanted"));
        assert!(decode::<Value>(b" {}").is_ok());
    }

    #[test]
    fn both_filter_shapes_are_read() {
        for text in [
            r#"{"status":["a","b"]}"#,
            r#"{"status":{"a":true,"b":true,"c":false}}"#,
        ] {
            assert_eq!(parse_filters(text).unwrap()["status"], ["a", "b"]);
        }
        for bad in ["[]", "x", r#"{"a":1}"#, r#"{"a":[1]}"#] {
            assert!(parse_filters(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_are_read_as_docker_reads_them() {
        let params = [("a", "1"), ("b", "False"), ("c", ""), ("b", "1")];
        let params: Params = params
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into_iter()
            .collect();
        assert!(params.flag("a") && !params.flag("b") && !params.flag("c") && !params.flag("d"));
        assert!(params.flag_or("d", true));
        assert_eq!(params.all("b"), ["False", "1"]);
    }

    #[test]
    fn every_value_of_a_parameter_has_lines() {
        let pairs = [
            ("changes", "CMD x"),
            ("other", "y"),
            ("changes", "ENV a=b\n\nUSER u"),
        ];
        let params: Params = pairs
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(params.lines("changes"), ["CMD x", "ENV a=b", "USER u"]);
    }
}
