//! `--device`, `--device-cgroup-rule`, `--gpus`.

use bollard::models::{DeviceMapping, DeviceRequest};

use super::mount::fields;
use crate::error::{CliError, Result};

/// What may be done with a device that nothing is said of.
const ALL: &str = "rwm";

/// `PATH[:PATH-INSIDE][:PERMISSIONS]`, or the name of a device of the CDI, which has a `=`.
pub(super) fn mapping(text: &str) -> Result<DeviceMapping> {
    let bad = |why: &str| CliError::usage(format!("invalid --device {text:?}: {why}"));
    let permissions = |word: &str| {
        !word.is_empty() && word.chars().all(|c| ALL.contains(c)) && {
            let mut seen: Vec<char> = word.chars().collect();
            seen.sort_unstable();
            seen.dedup();
            seen.len() == word.len()
        }
    };
    let words: Vec<&str> = text.split(':').collect();
    let (outside, inside, may) = match words[..] {
        [path] => (path, path, ALL),
        [path, may] if permissions(may) => (path, path, may),
        [path, inside] => (path, inside, ALL),
        [path, inside, may] if permissions(may) => (path, inside, may),
        [_, _, may] => {
            return Err(bad(&format!(
                "invalid device mode {may:?}: want r, w and m"
            )))
        }
        _ => return Err(bad("want PATH[:PATH-INSIDE][:PERMISSIONS]")),
    };
    match inside.starts_with('/') {
        true => Ok(DeviceMapping {
            path_on_host: Some(outside.to_owned()),
            path_in_container: Some(inside.to_owned()),
            cgroup_permissions: Some(may.to_owned()),
        }),
        false => Err(bad(&format!("{inside} is not an absolute path"))),
    }
}

/// `TYPE MAJOR:MINOR PERMISSIONS`, which is passed on as it is.
pub(super) fn cgroup_rule(text: &str) -> Result<String> {
    let number = |word: &str| word == "*" || word.parse::<u32>().is_ok();
    let words: Vec<&str> = text.split(' ').collect();
    let valid = match words[..] {
        [kind, numbers, may] => {
            matches!(kind, "a" | "b" | "c")
                && numbers
                    .split_once(':')
                    .is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&may.len())
                && may.chars().all(|c| ALL.contains(c))
        }
        _ => false,
    };
    match valid {
        true => Ok(text.to_owned()),
        false => Err(CliError::usage(format!(
            "invalid device cgroup format '{text}': want such as 'c 10:200 rwm'"
        ))),
    }
}

/// `all`, a number, or fields such as `device=0,capabilities=compute`.
pub(super) fn gpus(text: &str) -> Result<DeviceRequest> {
    let bad = |why: String| CliError::usage(format!("invalid --gpus {text:?}: {why}"));
    let count = |word: &str| match word {
        "all" => Ok(-1),
        word => word
            .parse::<i64>()
            .map_err(|_| bad(format!("{word:?} is not a count"))),
    };
    let words = |value: &str| value.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut request = DeviceRequest::default();
    let mut capabilities = vec!["gpu".to_owned()];
    for field in fields(text) {
        match field.split_once('=') {
            None => request.count = Some(count(&field)?),
            Some(("count", value)) => request.count = Some(count(value)?),
            Some(("device", value)) => request.device_ids = Some(words(value)),
            Some(("driver", value)) => request.driver = Some(value.to_owned()),
            Some(("capabilities", value)) => capabilities.extend(words(value)),
            Some(("options", value)) => {
                request.options = Some(super::values::pairs(&words(value)));
            }
            Some((key, _)) => return Err(bad(format!("unexpected key '{key}'"))),
        }
    }
    if request.count.is_none() && request.device_ids.is_none() {
        request.count = Some(1);
    }
    request.capabilities = Some(vec![capabilities]);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_a_device() {
        let read = |text: &str| {
            let device = mapping(text).unwrap();
            [
                device.path_on_host.unwrap(),
                device.path_in_container.unwrap(),
                device.cgroup_permissions.unwrap(),
            ]
        };
        assert_eq!(read("/dev/fuse"), ["/dev/fuse", "/dev/fuse", "rwm"]);
        assert_eq!(read("/dev/fuse:r"), ["/dev/fuse", "/dev/fuse", "r"]);
        assert_eq!(read("/dev/a:/dev/b"), ["/dev/a", "/dev/b", "rwm"]);
        assert_eq!(read("/dev/a:/dev/b:rw"), ["/dev/a", "/dev/b", "rw"]);
        for bad in ["/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/b:rr", "a:/b:r:w"] {
            assert!(mapping(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn graphics_are_asked_for_by_number_or_name() {
        assert_eq!(gpus("all").unwrap().count, Some(-1));
        let named = gpus(r#""device=0,1",capabilities=compute"#).unwrap();
        assert_eq!(named.device_ids.unwrap(), ["0", "1"]);
        assert_eq!(named.capabilities.unwrap(), [["gpu", "compute"]]);
        for bad in ["some", "colour=red"] {
            assert!(gpus(bad).is_err(), "{bad}");
        }
    }
}
