//! Seccomp profiles that a client sends: docker's form, with conditions, to that of the OCI runtime
//! specification. Who sends none gets none: the fence is the VM.

use bollard_stubs::models::HostConfig;
use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{json, Value};

use super::process::capabilities;
use crate::error::{chain, EngineError, Result};

/// The guest's kernel is not older than that.
const KERNEL: (u32, u32) = (6, 12);
/// What docker calls the guest's architecture.
const ARCHITECTURE: &str = "amd64";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    flags: Option<Vec<String>>,
    /// An empty list of Go's is null.
    syscalls: Option<Vec<Call>>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<Value>>,
}

impl Profile {
    fn names_architectures_twice(&self) -> bool {
        let some = |length: Option<usize>| length.is_some_and(|length| 0 < length);
        some(self.architectures.as_ref().map(Vec::len))
            && some(self.arch_map.as_ref().map(Vec::len))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    /// What profiles had before `names`.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Value>,
    includes: Option<Conditions>,
    excludes: Option<Conditions>,
}

/// When an entry counts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Conditions {
    fn arches(&self) -> Option<bool> {
        let arches = self.arches.as_deref().filter(|all| !all.is_empty());
        arches.map(|all| all.iter().any(|arch| arch == ARCHITECTURE))
    }

    fn kernel(&self) -> Option<bool> {
        let text = self.min_kernel.as_deref().filter(|text| !text.is_empty())?;
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        // What can't be read is not reached.
        let wanted = major.parse().ok().zip(minor.parse().ok());
        Some(wanted.is_some_and(|wanted| wanted <= KERNEL))
    }

    fn caps<'a>(&'a self, held: &'a [&str]) -> impl Iterator<Item = bool> + 'a {
        let caps = self.caps.iter().flatten();
        caps.map(|cap| held.contains(&cap.as_str()))
    }

    /// Every condition holds.
    fn all(&self, held: &[&str]) -> bool {
        self.arches() != Some(false)
            && self.kernel() != Some(false)
            && self.caps(held).all(|held| held)
    }

    /// One of the conditions holds.
    fn any(&self, held: &[&str]) -> bool {
        self.arches() == Some(true)
            || self.kernel() == Some(true)
            || self.caps(held).any(|held| held)
    }
}

impl Call {
    fn is_named_twice(&self) -> bool {
        let name = self.name.as_deref().unwrap_or_default();
        let names = self.names.as_deref().unwrap_or_default();
        !name.is_empty() && !names.is_empty()
    }

    fn counts(&self, held: &[&str]) -> bool {
        let included = self.includes.as_ref().is_none_or(|it| it.all(held));
        let excluded = self.excludes.as_ref().is_some_and(|it| it.any(held));
        included && !excluded
    }

    fn lower(self) -> Value {
        let mut names = self.names.unwrap_or_default();
        names.extend(self.name.filter(|name| !name.is_empty()));
        let mut call = json!({ "names": names, "action": self.action });
        if let Some(errno) = self.errno_ret {
            call["errnoRet"] = json!(errno);
        }
        if let Some(args) = self.args.filter(|args| !args.is_null()) {
            call["args"] = args;
        }
        call
    }
}

/// The profile that a container asks for by `seccomp=PROFILE`, the last one.
pub(super) fn profile(host: &HostConfig) -> Result<Option<Value>> {
    let asked = host.security_opt.iter().flatten().rev();
    let mut asked = asked.filter_map(|option| option.strip_prefix("seccomp"));
    let Some(text) = asked.find_map(|rest| rest.strip_prefix(['=', ':'])) else {
        return Ok(None);
    };
    if matches!(text, "unconfined" | "builtin") {
        return Ok(None);
    }
    let held = capabilities(host, host.privileged.unwrap_or(false))?;
    lower(text, &held).map(Some).map_err(|error| {
        EngineError::BadRequest(format!(
            "Decoding seccomp profile failed: {}",
            chain(&error)
        ))
    })
}

fn lower(text: &str, held: &[&str]) -> Result<Value, serde_json::Error> {
    use serde::de::Error as _;
    let profile: Profile = serde_json::from_str(text)?;
    let twice = |one: &str, other: &str| {
        serde_json::Error::custom(format!(
            "'{one}' and '{other}' were specified in the seccomp profile, use either '{one}' or '{other}'"
        ))
    };
    if profile.names_architectures_twice() {
        return Err(twice("architectures", "archMap"));
    }
    let calls = profile.syscalls.unwrap_or_default();
    if calls.iter().any(Call::is_named_twice) {
        return Err(twice("name", "names"));
    }
    let calls = calls.into_iter();
    let calls: Vec<Value> = calls
        .filter(|call| call.counts(held))
        .map(Call::lower)
        .collect();
    let mut lowered = json!({
        "defaultAction": profile.default_action,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": calls,
    });
    if let Some(errno) = profile.default_errno_ret {
        lowered["defaultErrnoRet"] = json!(errno);
    }
    if let Some(flags) = profile.flags {
        lowered["flags"] = json!(flags);
    }
    // Names of actions and operators are checked now and not when the container starts.
    serde_json::from_value::<LinuxSeccomp>(lowered.clone())?;
    Ok(lowered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(option: &str) -> Result<Option<Value>> {
        profile(&HostConfig {
            security_opt: Some(vec![option.to_owned()]),
            ..HostConfig::default()
        })
    }

    #[test]
    fn a_profile_becomes_the_specifications() {
        let lowered = asking(
            r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","archMap":null,"syscalls":[
                {"names":["chown"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"args":null},
                {"name":"personality","action":"SCMP_ACT_ERRNO",
                 "args":[{"index":0,"value":8,"valueTwo":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        let lowered = lowered.unwrap().unwrap();
        assert_eq!(lowered["syscalls"][0]["names"], json!(["chown"]));
        assert_eq!(lowered["syscalls"][0]["errnoRet"], 38);
        assert_eq!(lowered["syscalls"][1]["names"], json!(["personality"]));
    }

    #[test]
    fn an_empty_list_may_be_null() {
        let lowered = asking(
            r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","architectures":null,"syscalls":null}"#,
        );
        assert_eq!(lowered.unwrap().unwrap()["syscalls"], json!([]));
        let lowered = asking(
            r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"name":"chmod","names":null,"action":"SCMP_ACT_ERRNO"}]}"#,
        );
        let lowered = lowered.unwrap().unwrap();
        assert_eq!(lowered["syscalls"][0]["names"], json!(["chmod"]));
    }

    #[test]
    fn conditions_are_judged_by_the_container() {
        let counts = |conditions: &str| {
            let text = format!(
                r#"seccomp={{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["x"],
                    "action":"SCMP_ACT_ALLOW",{conditions}}}]}}"#
            );
            let lowered = asking(&text).unwrap().unwrap();
            lowered["syscalls"].as_array().unwrap().len() == 1
        };
        assert!(counts(
            r#""includes":{"arches":["amd64","x32"],"minKernel":"4.8"}"#
        ));
        assert!(counts(r#""includes":{"caps":["CAP_CHOWN"]},"excludes":{}"#));
        assert!(counts(
            r#""excludes":{"caps":["CAP_SYS_ADMIN"],"arches":["s390"]}"#
        ));
        assert!(!counts(r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#));
        assert!(!counts(r#""includes":{"minKernel":"99.1"}"#));
        assert!(!counts(r#""excludes":{"caps":["CAP_CHOWN"]}"#));
        assert!(!counts(r#""includes":{"arches":["arm64"]}"#));
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for none in ["seccomp=unconfined", "seccomp:builtin", "no-new-privileges"] {
            assert_eq!(asking(none).unwrap(), None, "{none}");
        }
        for bad in [
            "seccomp=x",
            "seccomp={}",
            r#"seccomp={"defaultAction":"SCMP_ACT_NOPE"}"#,
            r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"name":"read","names":["write"],"action":"SCMP_ACT_LOG"}]}"#,
            r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
                "archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
        ] {
            let text = asking(bad).unwrap_err().to_string();
            assert!(
                text.starts_with("Decoding seccomp profile failed: "),
                "{text}"
            );
        }
    }
}
