//! `.Label "NAME"` of a row.
//!
//! A row has its labels as one text, in which nobody can tell them apart. So it keeps them in a member more,
//! by a name that no template can write and that is never shown.

use std::borrow::Cow;

use serde_json::Value;

const HIDDEN: &str = "\0labels";

/// A row with the labels of what it is of.
pub(crate) fn with_labels(mut row: Value, labels: &Value) -> Value {
    row[HIDDEN] = match labels {
        Value::Object(_) => labels.clone(),
        _ => Value::Object(serde_json::Map::new()),
    };
    row
}

/// What the line of heads has in place of labels.
pub(crate) fn heads_of_labels() -> (String, Value) {
    (HIDDEN.to_owned(), Value::Null)
}

/// Whether a member is one that users see.
pub(super) fn is_shown(name: &str) -> bool {
    name != HIDDEN
}

/// A row as users see it.
pub(crate) fn shown(row: &Value) -> Cow<'_, Value> {
    let hides = row.as_object().is_some_and(|row| row.contains_key(HIDDEN));
    if !hides {
        return Cow::Borrowed(row);
    }
    let mut row = row.clone();
    if let Some(members) = row.as_object_mut() {
        members.remove(HIDDEN);
    }
    Cow::Owned(row)
}

/// A label of a row, which is empty if there is none; `None`: it is no row that could have any.
pub(super) fn find(row: &Value, name: &str) -> Option<String> {
    match row.get(HIDDEN)? {
        Value::Object(labels) => {
            let value = labels.get(name).and_then(Value::as_str);
            Some(value.unwrap_or_default().to_owned())
        }
        // Its head: as docker's, the last part of the name.
        _ => {
            let last = name.rsplit('.').next().unwrap_or_default();
            Some(last.replace(['-', '_'], " "))
        }
    }
}
