//! `--mount`: comma-separated `key=value` fields, as docker writes them.

use bollard::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountTmpfsOptions, MountType,
    MountVolumeOptions,
};

use crate::error::{CliError, Result};
use crate::units::parse_bytes;

/// Reads one `--mount`.
pub(super) fn parse(text: &str) -> Result<Mount> {
    let bad = |why: String| CliError::usage(format!("invalid --mount {text:?}: {why}"));
    let mut mount = Mount {
        typ: Some(MountType::VOLUME),
        ..Mount::default()
    };
    for field in text.split(',') {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        set(&mut mount, &key.to_ascii_lowercase(), value).map_err(bad)?;
    }
    if mount.target.is_none() {
        return Err(bad("target is required".to_owned()));
    }
    Ok(mount)
}

fn set(mount: &mut Mount, key: &str, value: Option<&str>) -> std::result::Result<(), String> {
    let text = || {
        value
            .map(str::to_owned)
            .ok_or(format!("{key} needs a value"))
    };
    let switched = || match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{key}={other}: want true or false")),
    };
    match key {
        "type" => {
            mount.typ = Some(match text()?.as_str() {
                "bind" => MountType::BIND,
                "volume" => MountType::VOLUME,
                "tmpfs" => MountType::TMPFS,
                other => return Err(format!("unknown type {other:?}")),
            });
        }
        "source" | "src" => mount.source = Some(text()?),
        "target" | "destination" | "dst" => mount.target = Some(text()?),
        "readonly" | "ro" => mount.read_only = Some(switched()?),
        "bind-propagation" => {
            bind(mount).propagation = Some(propagation(&text()?)?);
        }
        "bind-recursive" => {
            bind(mount).non_recursive = Some(text()? == "disabled");
        }
        "volume-nocopy" => volume(mount).no_copy = Some(switched()?),
        "volume-subpath" => volume(mount).subpath = Some(text()?),
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
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
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
