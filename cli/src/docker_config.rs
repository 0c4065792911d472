//! Docker's folder of this user: `config.json`, and the contexts beside it.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use crate::error::{CliError, Result};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// `$DOCKER_CONFIG`, else `~/.docker`.
pub(crate) fn folder() -> Result<PathBuf> {
    folder_of(|name| std::env::var_os(name))
        .ok_or_else(|| CliError::usage("neither DOCKER_CONFIG nor HOME is set"))
}

fn folder_of(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let given = variable("DOCKER_CONFIG").filter(|folder| !folder.is_empty());
    let usual = || variable("HOME").map(|home| PathBuf::from(home).join(".docker"));
    given.map(PathBuf::from).or_else(usual)
}

/// Of `config.json`.
pub(crate) fn path() -> Result<PathBuf> {
    Ok(folder()?.join("config.json"))
}

/// `config.json`; one that is not there is empty, and so is that of a user without a home, such as a service.
pub(crate) fn read() -> Result<Value> {
    let Ok(path) = path() else {
        return Ok(json!({}));
    };
    read_from(&path)
}

fn read_from(path: &Path) -> Result<Value> {
    let failed = || format!("cannot read {}", path.display());
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(json!({})),
        Err(error) => return Err(CliError::io(failed())(error)),
    };
    let config: Value =
        serde_json::from_slice(&text).map_err(|error| CliError::io(failed())(error.into()))?;
    match config.is_object() && (config["auths"].is_null() || config["auths"].is_object()) {
        true => Ok(config),
        false => Err(CliError::usage(format!(
            "{}: not docker's configuration",
            path.display()
        ))),
    }
}

/// Replaces `config.json` as a whole.
pub(crate) fn write(config: &Value) -> Result<()> {
    let text = serde_json::to_vec_pretty(config).map_err(crate::client::broken)?;
    replace(&path()?, &text)
}

/// The file that a path leads to by links, there or not: who keeps it elsewhere wants it changed there.
fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = std::fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(&path).join(target);
    }
    path
}

/// Puts a file for this user alone in the place of what is there, and makes its folder.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = &behind_links(path);
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = std::fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).write(true).truncate(true).mode(0o600);
            options.open(&new)?.write_all(content)
        })
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(CliError::io(format!("cannot write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_user_without_a_home_has_no_folder() {
        let of = |config: Option<&str>, home: Option<&str>| {
            folder_of(|name| match name {
                "DOCKER_CONFIG" => config.map(OsString::from),
                _ => home.map(OsString::from),
            })
        };
        assert_eq!(of(Some("/c"), None), Some("/c".into()));
        assert_eq!(of(Some(""), Some("/h")), Some("/h/.docker".into()));
        assert_eq!(of(None, None), None);
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("kept")).unwrap();
        symlink("kept/a", at("relative")).unwrap();
        symlink(at("kept/b"), at("absolute")).unwrap();
        symlink("relative", at("chain")).unwrap();
        std::fs::write(at("kept/a"), "before").unwrap();
        for (link, target) in [
            ("relative", "kept/a"),
            ("absolute", "kept/b"),
            ("chain", "kept/a"),
        ] {
            replace(&at(link), link.as_bytes()).unwrap();
            assert!(at(link).is_symlink(), "{link}");
            assert_eq!(std::fs::read(at(target)).unwrap(), link.as_bytes());
        }
        symlink("round", at("round")).unwrap();
        replace(&at("round"), b"x").unwrap();
    }
}
