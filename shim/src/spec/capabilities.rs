//! Capabilities of a configuration: one that no kernel of ours has is left out, as the
//! specification says, and told of.

use std::path::Path;

use oci_spec::runtime::{Capability, LinuxCapabilities, Spec};
use serde_json::Value;

use super::json::{self, JsonError};
use super::scheduler::rename_flags;

/// The sets of `process.capabilities`.
const SETS: [&str; 5] = [
    "bounding",
    "effective",
    "inheritable",
    "permitted",
    "ambient",
];

/// Whether a name is that of a capability.
pub(crate) fn is_known(name: &str) -> bool {
    serde_json::from_value::<Capability>(name.into()).is_ok()
}

/// What is told of names that were left out, in runc's words.
pub(crate) fn warning(unknown: &[String]) -> String {
    let names = unknown.join(" ");
    format!("ignoring unknown or unavailable capabilities: [{names}]")
}

/// What is told of a process's ambient capabilities that stay out, in runc's words: only what is
/// permitted and inheritable can be ambient.
pub(crate) fn ambient_warnings(all: Option<&LinuxCapabilities>) -> Vec<String> {
    let Some(all) = all else {
        return Vec::new();
    };
    let mut names: Vec<_> = all.ambient().iter().flatten().collect();
    names.retain(|capability| {
        let sets = [all.permitted(), all.inheritable()];
        !sets
            .iter()
            .all(|set| set.iter().flatten().any(|one| one == *capability))
    });
    let mut names: Vec<_> = names.iter().map(|name| format!("CAP_{name}")).collect();
    names.sort();
    let warning = |name| format!("can't raise ambient capability {name}: operation not permitted");
    names.iter().map(warning).collect()
}

/// Reads a configuration, and the names of capabilities in it that were left out.
pub(crate) fn parse_spec(text: &[u8]) -> Result<(Spec, Vec<String>), JsonError> {
    let (mut spec, unknown) = parse_leniently(text)?;
    let linux = spec.linux_mut().as_mut();
    let namespaces = linux.and_then(|linux| linux.namespaces_mut().as_mut());
    for namespace in namespaces.into_iter().flatten() {
        // As good as none: Go's encoders write it so.
        if namespace.path().as_deref() == Some(Path::new("")) {
            namespace.set_path(None);
        }
    }
    Ok((spec, unknown))
}

fn parse_leniently(text: &[u8]) -> Result<(Spec, Vec<String>), JsonError> {
    let strict = match json::parse(text) {
        Ok(spec) => return Ok((spec, Vec::new())),
        // It has the place in the text.
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        return Err(strict);
    };
    let (mut renamed, mut unknown) = (false, Vec::new());
    if let Some(process) = value.get_mut("process") {
        renamed = rename_flags(process);
        unknown = take_unknown(process);
    }
    if !renamed && unknown.is_empty() {
        return Err(strict);
    }
    json::refuse_nul(text)?;
    Ok((json::parse_value(value)?, unknown))
}

/// Takes unknown names out of a process; returns each once, sorted.
pub(crate) fn take_unknown(process: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let Some(sets) = process.get_mut("capabilities") else {
        return unknown;
    };
    for set in SETS {
        let Some(names) = sets.get_mut(set).and_then(Value::as_array_mut) else {
            continue;
        };
        names.retain(|name| match name.as_str() {
            Some(name) if !is_known(name) => {
                unknown.push(name.to_owned());
                false
            }
            _ => true,
        });
    }
    unknown.sort();
    unknown.dedup();
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bounding: &str) -> String {
        let process = format!(
            r#""process": {{"args": ["true"], "cwd": "/", "user": {{"uid": 0, "gid": 0}}, "capabilities": {{"bounding": {bounding}}}}}"#
        );
        format!(r#"{{"ociVersion": "1.0.2", {process}}}"#)
    }

    #[test]
    fn what_is_unknown_is_left_out_and_named_once() {
        let text = config(r#"["UNKNOWN_CAP", "CAP_KILL", "CAP_UNKNOWN", "CAP_UNKNOWN"]"#);
        let (spec, unknown) = parse_spec(text.as_bytes()).unwrap();
        assert_eq!(
            warning(&unknown),
            "ignoring unknown or unavailable capabilities: [CAP_UNKNOWN UNKNOWN_CAP]"
        );
        let capabilities = spec.process().as_ref().unwrap().capabilities().clone();
        let bounding = capabilities.unwrap().bounding().clone().unwrap();
        assert_eq!(bounding, [Capability::Kill].into());
        let (_, unknown) = parse_spec(config(r#"["CAP_KILL"]"#).as_bytes()).unwrap();
        assert!(unknown.is_empty());
    }

    #[test]
    fn a_schedulers_flags_are_the_specifications() {
        let flags =
            r#"[]}, "scheduler": {"policy": "SCHED_FIFO", "flags": ["SCHED_FLAG_RESET_ON_FORK"]"#;
        let (spec, unknown) = parse_spec(config(flags).as_bytes()).unwrap();
        assert!(unknown.is_empty());
        let scheduler = spec.process().as_ref().unwrap().scheduler().clone();
        assert_eq!(scheduler.unwrap().flags().iter().flatten().count(), 1);
    }

    #[test]
    fn an_empty_path_of_a_namespace_is_none() {
        let text = br#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "pid", "path": ""}, {"type": "ipc", "path": "/x"}]}}"#;
        let (spec, _) = parse_spec(text).unwrap();
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        assert_eq!(namespaces[0].path(), &None);
        assert_eq!(namespaces[1].path().as_deref(), Some(Path::new("/x")));
    }

    #[test]
    fn what_cannot_be_ambient_is_named() {
        let set = |names: &[Capability]| Some(names.iter().copied().collect());
        let mut all = LinuxCapabilities::default();
        all.set_permitted(set(&[Capability::Kill, Capability::Chown]));
        all.set_inheritable(set(&[Capability::Kill, Capability::Syslog]));
        all.set_ambient(set(&[
            Capability::Kill,
            Capability::Chown,
            Capability::Syslog,
        ]));
        let warnings = ambient_warnings(Some(&all));
        let want = "can't raise ambient capability CAP_CHOWN: operation not permitted";
        assert_eq!((warnings.len(), warnings[0].as_str()), (2, want));
        assert!(ambient_warnings(None).is_empty());
    }

    #[test]
    fn what_is_wrong_otherwise_keeps_its_place() {
        let text = config("\n7");
        let error = crate::report::chain(&parse_spec(text.as_bytes()).unwrap_err());
        let field = "process.capabilities.bounding: ";
        assert!(
            error.starts_with(field) && error.contains("line 2"),
            "{error}"
        );
        let text = config(r#"["CAP_FOO"]}, "env": {"x": 1"#);
        let error = crate::report::chain(&parse_spec(text.as_bytes()).unwrap_err());
        assert!(error.starts_with("process.env: "), "{error}");
        assert!(parse_spec(b"{").is_err());
    }
}
