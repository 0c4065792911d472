//! The functions of templates.

use std::cmp::Ordering;

use serde_json::Value;

use super::{escape, labels, structs};

/// What an action prints that has no value at all.
pub(super) const NO_VALUE: &str = "<no value>";
/// Widest field of `printf` and `pad`.
const MAX_WIDTH: usize = 10_000;

const NAMES: [&str; 26] = [
    "and", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower", "lt",
    "ne", "not", "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate",
    "upper", "urlquery",
];

type Answer = Result<Value, String>;

/// Whether a value counts as true: what is empty does not.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as it is printed.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        Value::Array(items) => {
            let words: Vec<String> = items.iter().map(plain).collect();
            format!("[{}]", words.join(" "))
        }
        Value::Object(map) => {
            if let Some(members) = structs::members(map) {
                let words: Vec<String> = members
                    .map(|(value, nothing)| value.map_or_else(|| nothing.to_owned(), plain))
                    .collect();
                return format!("{{{}}}", words.join(" "));
            }
            let mut items: Vec<_> = map
                .iter()
                .filter(|(key, _)| labels::is_shown(key))
                .collect();
            items.sort_by_key(|(key, _)| *key);
            let words: Vec<String> = items
                .iter()
                .map(|(key, value)| format!("{key}:{}", member(key, value)))
                .collect();
            format!("map[{}]", words.join(" "))
        }
        other => other.to_string(),
    }
}

/// A value of a map: docker's sets, such as of ports and of volumes, are maps to nothing, and what is
/// published of a port is a list.
fn member(key: &str, value: &Value) -> String {
    let is_port = key.starts_with(|c: char| c.is_ascii_digit());
    match value {
        Value::Object(map) if map.is_empty() && (is_port || key.starts_with('/')) => {
            "{}".to_owned()
        }
        Value::Null if is_port => "[]".to_owned(),
        value => plain(value),
    }
}

/// Go's `Sprint`: a space stands between two that are no texts.
fn print(values: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in values.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| values.get(before));
        if before.is_some_and(|before| !before.is_string() && !value.is_string()) {
            out.push(' ');
        }
        out.push_str(&plain(value));
    }
    out
}

/// Calls the function of this name.
pub(super) fn call(name: &str, arguments: &[Value]) -> Answer {
    match (name, arguments) {
        ("json", [value]) => Ok(labels::shown(value).to_string().into()),
        ("len", [value]) => length(value),
        ("not", [value]) => Ok((!is_true(value)).into()),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            for other in others {
                if compare(first, other)? == Some(Ordering::Equal) {
                    return Ok(true.into());
                }
            }
            Ok(false.into())
        }
        ("ne" | "lt" | "le" | "gt" | "ge", [one, other]) => {
            let order = compare(one, other)?;
            Ok(match name {
                "ne" => order != Some(Ordering::Equal),
                "lt" => order == Some(Ordering::Less),
                "le" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                "gt" => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            }
            .into())
        }
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [value, bounds @ ..]) if bounds.len() <= 2 => slice(value, bounds),
        ("print", values) => Ok(print(values).into()),
        ("html", values) => Ok(escape::html(&print(values)).into()),
        ("js", values) => Ok(escape::js(&print(values)).into()),
        ("urlquery", values) => Ok(escape::urlquery(&print(values)).into()),
        ("println", values) => {
            let words: Vec<String> = values.iter().map(plain).collect();
            Ok(format!("{}\n", words.join(" ")).into())
        }
        ("printf", [Value::String(format), values @ ..]) => printf(format, values),
        ("join", [Value::Array(items), Value::String(between)]) => {
            let words: Vec<String> = items.iter().map(plain).collect();
            Ok(words.join(between).into())
        }
        ("join", [Value::Null, _]) => Ok("".into()),
        ("split", [Value::String(text), Value::String(at)]) if at.is_empty() => {
            Ok(text.chars().map(String::from).collect::<Vec<_>>().into())
        }
        ("split", [Value::String(text), Value::String(at)]) => {
            Ok(text.split(at.as_str()).collect::<Vec<_>>().into())
        }
        ("upper", [Value::String(text)]) => Ok(text.to_uppercase().into()),
        ("lower", [Value::String(text)]) => Ok(text.to_lowercase().into()),
        ("title", [Value::String(text)]) => Ok(title(text).into()),
        ("truncate", [Value::String(text), count]) => {
            let end = text.char_indices().nth(whole(count)?);
            Ok(text[..end.map_or(text.len(), |(at, _)| at)].into())
        }
        ("pad", [Value::String(text), before, after]) => {
            let spaces = |count| whole(count).map(|count| " ".repeat(count.min(MAX_WIDTH)));
            match text.is_empty() {
                true => Ok("".into()),
                false => Ok(format!("{}{text}{}", spaces(before)?, spaces(after)?).into()),
            }
        }
        _ if NAMES.contains(&name) => Err(format!("wrong number or kind of arguments for {name}")),
        _ => Err(format!("there is no function {name:?}")),
    }
}

fn length(value: &Value) -> Answer {
    match value {
        Value::String(text) => Ok(text.len().into()),
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(map) => Ok(map.len().into()),
        Value::Null => Ok(0.into()),
        other => Err(format!("len of {}, which has none", plain(other))),
    }
}

/// `None`: they differ in kind, so they are not equal and have no order.
fn compare(one: &Value, other: &Value) -> Result<Option<Ordering>, String> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => Ok(match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => one
                .as_f64()
                .zip(other.as_f64())
                .and_then(|(one, other)| one.partial_cmp(&other)),
        }),
        (Value::String(one), Value::String(other)) => Ok(Some(one.cmp(other))),
        (Value::Bool(one), Value::Bool(other)) => Ok(Some(one.cmp(other))),
        (Value::Null, Value::Null) => Ok(Some(Ordering::Equal)),
        (Value::Null, _) | (_, Value::Null) => Ok(None),
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
            Err("can't compare lists or maps".into())
        }
        _ => Err(format!("can't compare {} and {}", plain(one), plain(other))),
    }
}

/// What is missing in a map is empty.
fn index(value: &Value, keys: &[Value]) -> Answer {
    let mut value = value;
    const MISSING: &Value = &Value::String(String::new());
    for key in keys {
        value = match (value, key) {
            (Value::Object(map), Value::String(key)) => map.get(key).unwrap_or(MISSING),
            (Value::Array(items), Value::Number(number)) => {
                let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
                at.and_then(|at| items.get(at))
                    .ok_or_else(|| format!("index {number} is out of range"))?
            }
            // A map that nobody has made has nothing.
            (Value::Null, Value::String(_)) => MISSING,
            (Value::Null, _) => return Err("index of nothing".into()),
            (value, key) => return Err(format!("can't index {} by {}", plain(value), plain(key))),
        };
    }
    Ok(value.clone())
}

fn slice(value: &Value, bounds: &[Value]) -> Answer {
    let bounds = bounds.iter().map(whole).collect::<Result<Vec<_>, _>>()?;
    let from = bounds.first().copied().unwrap_or_default();
    let out_of_range = || "slice is out of range".to_owned();
    match value {
        Value::String(text) => {
            let to = bounds.get(1).copied().unwrap_or(text.len());
            let part = text.get(from..to).ok_or_else(out_of_range)?;
            Ok(part.into())
        }
        Value::Array(items) => {
            let to = bounds.get(1).copied().unwrap_or(items.len());
            let part = items.get(from..to).ok_or_else(out_of_range)?;
            Ok(part.to_vec().into())
        }
        other => Err(format!("can't slice {}", plain(other))),
    }
}

fn whole(value: &Value) -> Result<usize, String> {
    let number = value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| format!("{} is no whole number", plain(value)))
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .flat_map(|c| {
            let upper = std::mem::replace(&mut start, c.is_whitespace());
            match upper {
                true => c.to_uppercase().collect::<Vec<_>>(),
                false => vec![c],
            }
        })
        .collect()
}

/// Go's `Sprintf`: flags `-` and `0`, a width, a precision, and the verbs s v d q t f x.
fn printf(format: &str, values: &[Value]) -> Answer {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let end = after
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '.' | '+')))
            .ok_or("printf: a verb is missing behind %")?;
        let (flags, verb) = after.split_at(end);
        let mut characters = verb.chars();
        let verb = characters.next().unwrap_or_default();
        rest = characters.as_str();
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values
            .next()
            .ok_or_else(|| format!("printf: there is no value for %{flags}{verb}"))?;
        out.push_str(&formatted(flags, verb, value)?);
    }
    out.push_str(rest);
    match values.next() {
        None => Ok(out.into()),
        Some(left) => Err(format!("printf: {} is one value too many", plain(left))),
    }
}

fn formatted(flags: &str, verb: char, value: &Value) -> Result<String, String> {
    let left = flags.contains('-');
    let flags = flags.trim_start_matches(['-', '+']);
    let (width, precision) = flags.split_once('.').unwrap_or((flags, ""));
    let zeros = width.starts_with('0');
    let number = |text: &str| match text {
        "" => Ok(None),
        text => match text.parse::<usize>() {
            Ok(number) if number <= MAX_WIDTH => Ok(Some(number)),
            _ => Err(format!("printf: bad width {text:?}")),
        },
    };
    let (width, precision) = (number(width)?.unwrap_or_default(), number(precision)?);
    let text = match (verb, value) {
        ('d', Value::Number(number)) if !number.is_f64() => number.to_string(),
        ('x', Value::Number(number)) if number.is_u64() => {
            format!("{:x}", number.as_u64().unwrap_or_default())
        }
        ('f', Value::Number(number)) => {
            format!(
                "{:.*}",
                precision.unwrap_or(6),
                number.as_f64().unwrap_or_default()
            )
        }
        ('t', Value::Bool(yes)) => yes.to_string(),
        ('q', value) => escape::quoted(&plain(value)),
        ('s' | 'v', value) => {
            let text = plain(value);
            let end = precision.and_then(|count| text.char_indices().nth(count));
            end.map_or(text.clone(), |(at, _)| text[..at].to_owned())
        }
        (verb, value) => return Err(format!("printf: %{verb} does not fit {}", plain(value))),
    };
    Ok(match (left, zeros) {
        (true, _) => format!("{text:<width$}"),
        (false, true) => format!("{text:0>width$}"),
        (false, false) => format!("{text:>width$}"),
    })
}
