//! Reading what users write as JSON: what is wrong in it is told with the name of its field.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// How a NUL byte is written in JSON.
const ESCAPED_NUL: &[u8] = b"\\u0000";
/// Whose values mean nothing to a kernel.
const ANNOTATIONS: &str = "annotations";

/// What is wrong with a text.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// It is no JSON, or has no fields.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    /// A field has a value that it can't have.
    #[error("{field}")]
    Field {
        /// Its path, such as `process.args[0]`.
        field: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A string can't be given to a kernel.
    #[error("{field} contains a NUL byte")]
    Nul {
        /// Its path.
        field: String,
    },
}

/// Reads a text.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    match serde_json::from_slice(text) {
        Ok(parsed) => refuse_nul(text).map(|()| parsed),
        // Finding the field's name costs time, which a text without mistakes has not to spend.
        Err(mistake) => Err(name_field::<T>(text).unwrap_or(mistake.into())),
    }
}

/// Reads a value.
pub(crate) fn parse_value<T: DeserializeOwned>(value: Value) -> Result<T, JsonError> {
    serde_path_to_error::deserialize(value).map_err(of_field)
}

fn name_field<T: DeserializeOwned>(text: &[u8]) -> Option<JsonError> {
    let mut text = serde_json::Deserializer::from_slice(text);
    let parsed: Result<T, _> = serde_path_to_error::deserialize(&mut text);
    parsed.err().map(of_field)
}

fn of_field(error: serde_path_to_error::Error<serde_json::Error>) -> JsonError {
    let field = error.path().to_string();
    let is_whole = error.path().iter().next().is_none();
    let source = error.into_inner();
    match is_whole || source.is_syntax() || source.is_eof() {
        true => JsonError::Syntax(source),
        false => JsonError::Field { field, source },
    }
}

/// Kernels take strings that end with a NUL byte: in one that has another, the rest would be lost.
pub(crate) fn refuse_nul(text: &[u8]) -> Result<(), JsonError> {
    if !text
        .windows(ESCAPED_NUL.len())
        .any(|part| part == ESCAPED_NUL)
    {
        return Ok(());
    }
    let mut value: Value = serde_json::from_slice(text)?;
    if let Some(members) = value.as_object_mut() {
        members.remove(ANNOTATIONS);
    }
    find_nul(&value, "").map_or(Ok(()), |field| Err(JsonError::Nul { field }))
}

/// Path of the first string with a NUL byte, below `path`.
fn find_nul(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(|| path.to_owned()),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| find_nul(item, &format!("{path}[{index}]")))
        }
        Value::Object(members) => members.iter().find_map(|(name, member)| {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{}", name.escape_debug());
            match name.contains('\0') {
                true => Some(path),
                false => find_nul(member, &path),
            }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    use super::*;
    use crate::report::chain;

    fn told(text: &str) -> String {
        let error = parse::<Spec>(text.as_bytes()).unwrap_err();
        chain(&error)
    }

    #[test]
    fn a_field_that_is_wrong_is_named() {
        let process = |fields: &str| {
            format!(
                r#"{{"ociVersion": "1.2.0", "process": {{"cwd": "/", "user": {{"uid": 0, "gid": 0}}, {fields}}}}}"#
            )
        };
        let linux = |fields: &str| format!(r#"{{"ociVersion": "1.2.0", "linux": {{{fields}}}}}"#);
        let resources = |fields: &str| linux(&format!(r#""resources": {{{fields}}}"#));
        let top = |fields: &str| format!(r#"{{"ociVersion": "1.2.0", {fields}}}"#);
        for (text, field, why) in [
            (
                r#"{"ociVersion": 3}"#.to_owned(),
                "ociVersion",
                "integer `3`",
            ),
            (top(r#""process": "x""#), "process", "string \"x\""),
            (
                top(r#""process": {"args": ["x"], "cwd": "/"}"#),
                "process",
                "missing field `user`",
            ),
            (top(r#""root": 5"#), "root", "integer `5`"),
            (top(r#""hostname": 7"#), "hostname", "integer `7`"),
            (
                top(r#""annotations": {"x": 1}"#),
                "annotations.x",
                "integer `1`",
            ),
            (top(r#""mounts": {}"#), "mounts", "invalid type: map"),
            (
                top(r#""mounts": [{"type": "tmpfs"}]"#),
                "mounts[0]",
                "missing field `destination`",
            ),
            (
                top(r#""mounts": [{"destination": "/a", "options": "ro"}]"#),
                "mounts[0].options",
                "string \"ro\"",
            ),
            (
                top(r#""hooks": {"createRuntime": [{}]}"#),
                "hooks.createRuntime[0]",
                "missing field `path`",
            ),
            (
                top(r#""hooks": {"poststop": {"path": "/x"}}"#),
                "hooks.poststop",
                "invalid type: map",
            ),
            (process(r#""args": "x""#), "process.args", "string \"x\""),
            (
                process(r#""args": ["x", 1]"#),
                "process.args[1]",
                "integer `1`",
            ),
            (process(r#""env": "A=1""#), "process.env", "string \"A=1\""),
            (
                process(r#""terminal": "yes""#),
                "process.terminal",
                "string \"yes\"",
            ),
            (
                process(r#""oomScoreAdj": "x""#),
                "process.oomScoreAdj",
                "string \"x\"",
            ),
            (
                process(r#""consoleSize": {"height": -1, "width": 2}"#),
                "process.consoleSize.height",
                "integer `-1`",
            ),
            (
                process(r#""rlimits": [{"type": "RLIMIT_FOO", "hard": 1, "soft": 1}]"#),
                "process.rlimits[0].type",
                "RLIMIT_FOO",
            ),
            (
                process(r#""rlimits": [{"type": "RLIMIT_CPU", "hard": -1, "soft": 1}]"#),
                "process.rlimits[0].hard",
                "integer `-1`",
            ),
            (
                process(r#""capabilities": {"bounding": [7]}"#),
                "process.capabilities.bounding[0]",
                "integer `7`",
            ),
            (
                process(r#""ioPriority": {"class": "IOPRIO_CLASS_X", "priority": 1}"#),
                "process.ioPriority.class",
                "IOPRIO_CLASS_X",
            ),
            (
                process(r#""scheduler": {"policy": "SCHED_X"}"#),
                "process.scheduler.policy",
                "SCHED_X",
            ),
            (
                linux(r#""namespaces": [{"type": "pid"}, {"type": "foo"}]"#),
                "linux.namespaces[1].type",
                "unknown variant `foo`",
            ),
            (
                linux(r#""uidMappings": [{"containerID": -1, "hostID": 0, "size": 1}]"#),
                "linux.uidMappings[0].containerID",
                "integer `-1`",
            ),
            (
                linux(r#""sysctl": {"net.ipv4.ip_forward": 1}"#),
                "linux.sysctl.net.ipv4.ip_forward",
                "integer `1`",
            ),
            (
                linux(r#""maskedPaths": "/a""#),
                "linux.maskedPaths",
                "string \"/a\"",
            ),
            (
                linux(r#""devices": [{"path": "/dev/x", "type": "q", "major": 1, "minor": 3}]"#),
                "linux.devices[0].type",
                "unknown variant `q`",
            ),
            (
                linux(r#""cgroupsPath": 7"#),
                "linux.cgroupsPath",
                "integer `7`",
            ),
            (
                linux(r#""personality": {"domain": "FOO"}"#),
                "linux.personality.domain",
                "FOO",
            ),
            (
                linux(r#""seccomp": {"syscalls": []}"#),
                "linux.seccomp",
                "missing field `defaultAction`",
            ),
            (
                linux(r#""seccomp": {"defaultAction": "SCMP_ACT_FOO"}"#),
                "linux.seccomp.defaultAction",
                "SCMP_ACT_FOO",
            ),
            (
                linux(r#""seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X"]}"#),
                "linux.seccomp.architectures[0]",
                "unknown variant `X`",
            ),
            (
                linux(r#""seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FOO"]}"#),
                "linux.seccomp.flags[0]",
                "unknown variant `FOO`",
            ),
            (
                resources(r#""memory": {"limit": "512m"}"#),
                "linux.resources.memory.limit",
                "string \"512m\"",
            ),
            (
                resources(r#""memory": {"limit": 18446744073709551616}"#),
                "linux.resources.memory.limit",
                "floating point",
            ),
            (
                resources(r#""memory": {"limit": 1.5}"#),
                "linux.resources.memory.limit",
                "floating point `1.5`",
            ),
            (
                resources(r#""cpu": {"burst": -4}"#),
                "linux.resources.cpu.burst",
                "integer `-4`",
            ),
            (
                resources(r#""pids": {"limit": "x"}"#),
                "linux.resources.pids.limit",
                "string \"x\"",
            ),
            (
                resources(r#""blockIO": {"weight": 70000}"#),
                "linux.resources.blockIO.weight",
                "integer `70000`",
            ),
            (
                resources(r#""devices": [{"allow": true, "type": "z"}]"#),
                "linux.resources.devices[0].type",
                "unknown variant `z`",
            ),
        ] {
            let error = told(&text);
            assert!(error.starts_with(&format!("{field}: ")), "{text}: {error}");
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.contains("line 1 column "), "{text}: {error}");
        }
    }

    #[test]
    fn a_string_with_a_nul_byte_is_named() {
        for (text, field) in [
            (r#""hostname": "a\u0000b""#, "hostname"),
            (r#""root": {"path": "\u0000"}"#, "root.path"),
            (
                r#""mounts": [{"destination": "/a", "options": ["ro", "x\u0000"]}]"#,
                "mounts[0].options[1]",
            ),
            (
                r#""linux": {"sysctl": {"net.x": "1\u0000"}}"#,
                "linux.sysctl.net.x",
            ),
            (
                r#""linux": {"sysctl": {"net.\u0000": "1"}}"#,
                r"linux.sysctl.net.\0",
            ),
        ] {
            let error = told(&format!(r#"{{"ociVersion": "1.2.0", {text}}}"#));
            assert_eq!(error, format!("{field} contains a NUL byte"));
        }
        for text in [
            r#""hostname": "a\\u0000b""#,
            r#""annotations": {"a": "\u0000"}"#,
        ] {
            let text = format!(r#"{{"ociVersion": "1.2.0", {text}}}"#);
            assert!(parse::<Spec>(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_configuration_is_told_of_without_a_field() {
        let whole = r#"{"ociVersion": "1.2.0"}"#;
        let deep = format!(r#"{{"process": {}"#, "[".repeat(100_000));
        for (text, why) in [
            ("", "EOF while parsing"),
            ("hello", "expected value"),
            ("null", "invalid type: null"),
            (r#"{"ociVersion": "1.0.2","#, "EOF while parsing"),
            (&format!("{whole}{{}}"), "trailing characters"),
            (&format!("\u{feff}{whole}"), "expected value"),
            (
                r#"{"ociVersion": "1.0.2", "ociVersion": "1.0.2"}"#,
                "duplicate field `ociVersion`",
            ),
            (&deep, "invalid type: sequence"),
        ] {
            let error = told(text);
            assert!(error.contains(why), "{error}");
        }
        let error = parse::<Spec>(b"{\"hostname\": \"\xff\"}").unwrap_err();
        assert!(chain(&error).contains("unicode"), "{error}");
    }
}
