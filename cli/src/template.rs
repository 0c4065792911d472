//! The subset of Go templates that `--format` takes: text, `{{.Path.To.Field}}` and
//! `{{json .Path}}`.

use serde_json::Value;

use crate::error::{CliError, Result};

/// Fills a template from a JSON document.
///
/// # Errors
/// A template that uses more than the subset, or names a field that is not there.
pub(crate) fn render(template: &str, document: &Value) -> Result<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        out.push_str(&unescape(&rest[..start]));
        let after = &rest[start + 2..];
        let end = after.find("}}").ok_or_else(|| {
            CliError::usage(format!("template {template:?}: an action is not closed"))
        })?;
        out.push_str(&action(after[..end].trim(), document)?);
        rest = &after[end + 2..];
    }
    out.push_str(&unescape(rest));
    Ok(out)
}

fn action(text: &str, document: &Value) -> Result<String> {
    if let Some(path) = text.strip_prefix("json ") {
        return Ok(lookup(path.trim(), document)?.to_string());
    }
    Ok(match lookup(text, document)? {
        Value::String(text) => text.clone(),
        Value::Null => "<no value>".into(),
        Value::Array(items) => {
            let words: Vec<String> = items.iter().map(plain).collect();
            format!("[{}]", words.join(" "))
        }
        other => other.to_string(),
    })
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn lookup<'a>(path: &str, document: &'a Value) -> Result<&'a Value> {
    let fields = path.strip_prefix('.').ok_or_else(|| {
        CliError::usage(format!(
            "template action {path:?} is not supported: use {{{{.Field}}}} or {{{{json .Field}}}}"
        ))
    })?;
    let mut value = document;
    for field in fields.split('.').filter(|field| !field.is_empty()) {
        value = value.get(field).ok_or_else(|| {
            CliError::usage(format!(
                "template: there is no field {field:?} (in {path:?})"
            ))
        })?;
    }
    Ok(value)
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_json() {
        let document =
            json!({"State": {"ExitCode": 7, "OOMKilled": true}, "Name": "/x", "L": ["a", "b"]});
        let text = |template: &str| render(template, &document).unwrap();
        assert_eq!(text("{{.State.OOMKilled}} {{ .State.ExitCode }}"), "true 7");
        assert_eq!(text("n={{.Name}}\\t{{json .L}}"), "n=/x\t[\"a\",\"b\"]");
        assert_eq!(text("{{.L}}"), "[a b]");
        assert_eq!(text("{{json .}}"), document.to_string());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let document = json!({});
        assert!(render("{{.Nope}}", &document)
            .unwrap_err()
            .to_string()
            .contains("Nope"));
        assert!(render("{{range .X}}", &document).is_err());
        assert!(render("{{.X", &document).is_err());
    }
}
