//! `--mount`: comma-separated `key=value` fields, as docker writes them.

use bollard::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountImageOptions, MountTmpfsOptions,
    MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig,
};

use crate::error::{CliError, Result};
use crate::flags::boolean;
use crate::units::parse_bytes;

/// Reads one `--mount`.
pub(super) fn parse(text: &str) -> Result<Mount> {
    let bad = |why: String| CliError::usage(format!("invalid --mount {text:?}: {why}"));
    let mut mount = Mount {
        typ: Some(MountType::VOLUME),
        ..Mount::default()
    };
    for field in &fields(text) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        set(&mut mount, &key.to_ascii_lowercase(), value).map_err(bad)?;
    }
    if mount.typ == Some(MountType::BIND) {
        let whole = mount.source.as_deref().and_then(super::values::absolute);
        mount.source = whole.or(mount.source);
    }
    if mount.target.is_none() {
        return Err(bad("target is required".to_owned()));
    }
    check_recursion(&mount).map_err(bad)?;
    let parts = [
        (mount.bind_options.is_some(), MountType::BIND, "bind"),
        (mount.volume_options.is_some(), MountType::VOLUME, "volume"),
        (mount.tmpfs_options.is_some(), MountType::TMPFS, "tmpfs"),
        (mount.image_options.is_some(), MountType::IMAGE, "image"),
    ];
    for (given, kind, name) in parts {
        if given && mount.typ != Some(kind) {
            let other = mount.typ.map(|kind| kind.to_string()).unwrap_or_default();
            return Err(bad(format!(
                "cannot mix '{name}-*' options with mount type '{other}'"
            )));
        }
    }
    Ok(mount)
}

/// Docker's conditions for what becomes of the mounts below a read-only one.
fn check_recursion(mount: &Mount) -> std::result::Result<(), String> {
    let options = mount.bind_options.clone().unwrap_or_default();
    let read_only = mount.read_only.unwrap_or(false);
    let needs = |kind: &str, what: &str| {
        Err(format!(
            "option 'bind-recursive={kind}' requires '{what}' to be specified in conjunction"
        ))
    };
    let forced = options.read_only_force_recursive.unwrap_or(false);
    let private = options.propagation == Some(MountBindOptionsPropagationEnum::RPRIVATE);
    match (options.read_only_non_recursive.unwrap_or(false), forced) {
        (true, _) if !read_only => needs("writable", "readonly"),
        (_, true) if !read_only => needs("readonly", "readonly"),
        (_, true) if !private => needs("readonly", "bind-propagation=rprivate"),
        _ => Ok(()),
    }
}

/// The fields of a line of comma-separated values, as RFC 4180 has it: a field with a comma in it
/// is put in double quotes.
pub(super) fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.last_mut();
        match (character, field) {
            ('"', Some(field)) if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', Some(field)) if quoted || field.is_empty() => quoted = !quoted,
            (',', _) if !quoted => fields.push(String::new()),
            (other, Some(field)) => field.push(other),
            (_, None) => {}
        }
    }
    fields
}

fn set(mount: &mut Mount, key: &str, value: Option<&str>) -> std::result::Result<(), String> {
    let text = || {
        value
            .map(str::to_owned)
            .ok_or(format!("{key} needs a value"))
    };
    let switched = || match value {
        None => Ok(true),
        Some(text) => boolean(text).map_err(|why| format!("{key}={text}: {why}")),
    };
    match key {
        "type" => {
            mount.typ = Some(match text()?.as_str() {
                "bind" => MountType::BIND,
                "volume" => MountType::VOLUME,
                "tmpfs" => MountType::TMPFS,
                "image" => MountType::IMAGE,
                other => return Err(format!("unknown type {other:?}")),
            });
        }
        "source" | "src" => mount.source = Some(text()?),
        "target" | "destination" | "dst" => mount.target = Some(text()?),
        "readonly" | "ro" => mount.read_only = Some(switched()?),
        "bind-propagation" => {
            bind(mount).propagation = Some(propagation(&text()?)?);
        }
        "bind-recursive" => match text()?.as_str() {
            "enabled" => bind(mount).non_recursive = Some(false),
            "disabled" => bind(mount).non_recursive = Some(true),
            "writable" => bind(mount).read_only_non_recursive = Some(true),
            "readonly" => bind(mount).read_only_force_recursive = Some(true),
            other => {
                return Err(format!(
                    "bind-recursive={other}: want enabled, disabled, writable or readonly"
                ))
            }
        },
        "bind-nonrecursive" => bind(mount).non_recursive = Some(switched()?),
        // A hint for other platforms.
        "consistency" => mount.consistency = Some(text()?),
        "volume-nocopy" => volume(mount).no_copy = Some(switched()?),
        "volume-label" => {
            let (key, value) = pair(&text()?);
            volume(mount)
                .labels
                .get_or_insert_default()
                .insert(key, value);
        }
        "volume-driver" => driver(mount).name = Some(text()?),
        "volume-opt" => {
            let (key, value) = pair(&text()?);
            driver(mount)
                .options
                .get_or_insert_default()
                .insert(key, value);
        }
        "volume-subpath" => volume(mount).subpath = Some(text()?),
        "image-subpath" => {
            mount.image_options = Some(MountImageOptions {
                subpath: Some(text()?),
            })
        }
        "tmpfs-size" => tmpfs(mount).size_bytes = Some(parse_bytes(&text()?)?),
        "tmpfs-mode" => {
            let mode = text()?;
            let parsed = i64::from_str_radix(&mode, 8);
            tmpfs(mount).mode = Some(parsed.map_err(|_| format!("bad mode {mode:?}"))?);
        }
        other => return Err(format!("unknown field {other:?}")),
    }
    Ok(())
}

fn bind(mount: &mut Mount) -> &mut MountBindOptions {
    mount.bind_options.get_or_insert_default()
}

fn volume(mount: &mut Mount) -> &mut MountVolumeOptions {
    mount.volume_options.get_or_insert_default()
}

fn driver(mount: &mut Mount) -> &mut MountVolumeOptionsDriverConfig {
    volume(mount).driver_config.get_or_insert_default()
}

fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

fn tmpfs(mount: &mut Mount) -> &mut MountTmpfsOptions {
    mount.tmpfs_options.get_or_insert_default()
}

fn propagation(text: &str) -> std::result::Result<MountBindOptionsPropagationEnum, String> {
    use MountBindOptionsPropagationEnum as Kind;
    match text {
        "private" => Ok(Kind::PRIVATE),
        "rprivate" => Ok(Kind::RPRIVATE),
        "shared" => Ok(Kind::SHARED),
        "rshared" => Ok(Kind::RSHARED),
        "slave" => Ok(Kind::SLAVE),
        "rslave" => Ok(Kind::RSLAVE),
        other => Err(format!("unknown propagation {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_with_their_short_names() {
        let mount = parse("type=bind,src=/a,dst=/b,readonly").unwrap();
        assert_eq!(mount.typ, Some(MountType::BIND));
        assert_eq!(mount.source.as_deref(), Some("/a"));
        assert_eq!(mount.read_only, Some(true));
        let mount = parse("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap();
        let options = mount.tmpfs_options.unwrap();
        assert_eq!(
            (options.size_bytes, options.mode),
            (Some(1 << 20), Some(0o1770))
        );
        let mount = parse("type=image,source=tools:1,target=/t,image-subpath=usr/bin").unwrap();
        let subpath = mount.image_options.and_then(|options| options.subpath);
        assert_eq!(subpath.as_deref(), Some("usr/bin"));
    }

    #[test]
    fn a_switch_is_what_go_takes_for_one() {
        let read_only = |value: &str| {
            let mount = parse(&format!("type=bind,src=/a,dst=/b,readonly={value}"));
            mount.unwrap().read_only
        };
        for value in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(read_only(value), Some(true), "{value}");
        }
        for value in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(read_only(value), Some(false), "{value}");
        }
        let mount = parse("src=v,dst=/x,volume-nocopy=T").unwrap();
        assert_eq!(mount.volume_options.unwrap().no_copy, Some(true));
    }

    #[test]
    fn a_binds_source_with_a_dot_is_a_path_of_here() {
        let here = std::env::current_dir().unwrap().display().to_string();
        let source = |text: &str| parse(text).unwrap().source.unwrap();
        assert_eq!(source("type=bind,src=.,dst=/x"), here);
        assert_eq!(source("src=./a,dst=/x,type=bind"), format!("{here}/a"));
        assert_eq!(source("type=volume,src=a,dst=/x"), "a");
    }

    #[test]
    fn a_field_with_a_comma_is_quoted() {
        let mount = parse(r#"src=v,dst=/x,volume-label=a=b,"volume-opt=o=uid=1,gid=2""#).unwrap();
        let options = mount.volume_options.unwrap();
        assert_eq!(options.labels.unwrap()["a"], "b");
        let driver = options.driver_config.unwrap();
        assert_eq!(driver.options.unwrap()["o"], "uid=1,gid=2");
        assert_eq!(fields(r#"a,"b ""c""",,d"#), ["a", r#"b "c""#, "", "d"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("type=tmpfs,target=/t,volume-nocopy", "volume-"),
            ("type=bind,src=/a,target=/t,bind-recursive=some", "some"),
            ("type=bind,source=/a,target=/b,image-subpath=x", "image-"),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=writable",
                "requires 'readonly'",
            ),
            (
                "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly",
                "rprivate",
            ),
            ("type=bind,source=/a", "target"),
            ("type=nfs,target=/a", "nfs"),
            ("target=/a,colour=red", "colour"),
            ("target=/a,readonly=maybe", "maybe"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
