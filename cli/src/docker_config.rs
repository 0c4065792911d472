//! Docker's folder of this user: `config.json`, and the contexts beside it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use crate::error::{CliError, Result};

/// `$DOCKER_CONFIG`, else `~/.docker`.
pub(crate) fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let home = std::env::var_os("HOME")
        .ok_or_else(|| CliError::usage("neither DOCKER_CONFIG nor HOME is set"))?;
    Ok(PathBuf::from(home).join(".docker"))
}

/// Of `config.json`.
pub(crate) fn path() -> Result<PathBuf> {
    Ok(folder()?.join("config.json"))
}

/// `config.json`; one that is not there is empty.
pub(crate) fn read() -> Result<Value> {
    let path = path()?;
    let failed = || format!("cannot read {}", path.display());
    let text = match std::fs::read(&path) {
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

/// Puts a file for this user alone in the place of what is there, and makes its folder.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
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
