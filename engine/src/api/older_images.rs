//! What older versions of the API tell of images, and ask for.

use hull_image::Image;
use serde_json::{json, Value};

use super::Version;
use crate::error::{EngineError, Result};
use crate::json::{Filters, Params};

/// Fields that have since been taken out of the API, as an image has them that no old builder made.
const NO_STEP: &str = r#"{"Hostname": "", "Domainname": "", "User": "", "AttachStdin": false,
    "AttachStdout": false, "AttachStderr": false, "Tty": false, "OpenStdin": false,
    "StdinOnce": false, "Env": null, "Cmd": null, "Image": "", "Volumes": null, "WorkingDir": "",
    "Entrypoint": null, "OnBuild": null, "Labels": null}"#;

/// Before 1.41 names were asked for by a parameter of their own.
pub(super) fn filter(filters: &mut Filters, query: &Params, version: Version) {
    if let Some(name) = query.get("filter").filter(|_| version.is_before(41)) {
        let names = filters.entry("reference".to_owned()).or_default();
        names.push(name.to_owned());
    }
}

/// A line of a list, as a client of this version knows it.
pub(super) fn listed(mut image: Value, version: Version) -> Value {
    let is_empty = |key: &str| image[key].as_array().is_none_or(Vec::is_empty);
    if version.is_before(43) && is_empty("RepoTags") && is_empty("RepoDigests") {
        image["RepoTags"] = json!(["<none>:<none>"]);
        image["RepoDigests"] = json!(["<none>@<none>"]);
    }
    if version.is_before(44) {
        image["VirtualSize"] = image["Size"].clone();
    }
    if version.is_before(51) {
        image["Containers"] = json!(-1);
    }
    image
}

/// Members of an image's configuration that are there with no value, too.
const OF_CONFIGS: [(&str, Value); 8] = [
    ("Cmd", Value::Null),
    ("Entrypoint", Value::Null),
    ("Env", Value::Null),
    ("Labels", Value::Null),
    ("OnBuild", Value::Null),
    ("User", Value::String(String::new())),
    ("Volumes", Value::Null),
    ("WorkingDir", Value::String(String::new())),
];

/// The description of an image, as a client of this version knows it. The step by which an old builder
/// made it is in its own configuration.
pub(super) fn inspected(
    description: impl serde::Serialize,
    image: &Image,
    version: Version,
) -> Result<Value> {
    let decode = |source| EngineError::Json {
        what: "decode the image's configuration",
        source,
    };
    let mut shown = serde_json::to_value(description).map_err(decode)?;
    let whole: Value = serde_json::from_slice(&image.config_json).map_err(decode)?;
    let text = |key: &str| json!(whole[key].as_str().unwrap_or_default());
    if let Some(config) = shown["Config"].as_object_mut() {
        for (key, absent) in OF_CONFIGS {
            config.entry(key).or_insert(absent);
        }
    }
    shown["Parent"] = json!("");
    shown["DockerVersion"] = text("docker_version");
    shown["GraphDriver"] = json!({ "Name": "erofs", "Data": null });
    if version.is_before(44) {
        shown["VirtualSize"] = shown["Size"].clone();
    }
    if version.is_before(45) {
        if let Some(container) = whole["container"].as_str().filter(|id| !id.is_empty()) {
            shown["Container"] = json!(container);
        }
        shown["ContainerConfig"] = match &whole["container_config"] {
            step @ Value::Object(_) => step.clone(),
            _ => serde_json::from_str(NO_STEP).map_err(decode)?,
        };
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_name_is_called_so_before_1_43() {
        let image = json!({ "RepoTags": [], "RepoDigests": [], "Size": 7, "Containers": 2 });
        let old = listed(image.clone(), Version(1, 41));
        assert_eq!(old["RepoTags"][0], "<none>:<none>");
        assert_eq!(old["RepoDigests"][0], "<none>@<none>");
        assert_eq!(
            (&old["VirtualSize"], &old["Containers"]),
            (&json!(7), &json!(-1))
        );
        assert_eq!(listed(image.clone(), Version(1, 51)), image);
        let named = json!({ "RepoTags": ["a:b"], "RepoDigests": [], "Size": 7 });
        assert_eq!(listed(named, Version(1, 41))["RepoTags"], json!(["a:b"]));
    }

    #[test]
    fn names_were_asked_for_apart_before_1_41() {
        let asked = |version| {
            let pairs = [("filter".to_owned(), "busybox".to_owned())];
            let mut filters = Filters::new();
            filter(&mut filters, &pairs.into_iter().collect(), version);
            filters.contains_key("reference")
        };
        assert!(asked(Version(1, 40)) && !asked(Version(1, 41)));
    }
}
