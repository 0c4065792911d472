//! What the local driver's options can say.

use std::collections::HashMap;

use super::{BLOCK, TMPFS};
use crate::error::{EngineError, Result};
use crate::spec::is_mount_flag;

const SIZE: &str = "size";

/// A directory of the host, memory or a disk can be a volume; other mounts of the local driver can't.
pub(super) fn check(options: &HashMap<String, String>) -> Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    if disk_bytes(options)?.is_some() {
        return known(options, &["type", SIZE]);
    }
    known(options, &["type", "o", "device"])?;
    if options.get("type").is_some_and(|kind| kind == TMPFS) {
        return check_tmpfs(options.get("o").map(String::as_str).unwrap_or_default());
    }
    let value = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let kind = value("type");
    let binds = value("o").split(',').any(|o| matches!(o, "bind" | "rbind"));
    if matches!(kind, "" | "none" | "bind") && binds && value("device").starts_with('/') {
        return check_bind(value("o"));
    }
    Err(match kind {
        "" | "none" | "bind" => EngineError::BadRequest(
            "missing device in volume options: want type=none,o=bind,device=/a/directory".into(),
        ),
        kind => EngineError::NotBuilt(format!(
            "a volume of type {kind:?} (mount it on the host and use o=bind)"
        )),
    })
}

fn known(options: &HashMap<String, String>, names: &[&str]) -> Result<()> {
    match options.keys().find(|key| !names.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(EngineError::BadRequest(format!("invalid option: {key:?}"))),
    }
}

/// The size of a volume that is a disk, in bytes.
pub(super) fn disk_bytes(options: &HashMap<String, String>) -> Result<Option<u64>> {
    if options.get("type").is_none_or(|kind| kind != BLOCK) {
        return Ok(None);
    }
    let bad = |text: &str| Err(EngineError::BadRequest(text.to_owned()));
    let Some(size) = options.get(SIZE) else {
        return bad("missing size in volume options: want type=block,size=10g");
    };
    match crate::logs::bytes(size) {
        Some(bytes) if crate::scratch::SIZES.contains(&bytes) => Ok(Some(bytes)),
        _ => bad(&format!(
            "invalid size of a volume: {size:?}; want 128 MiB to 16 TiB"
        )),
    }
}

/// What says how mounts spread on the host, and changes nothing in a container.
const PROPAGATION: [&str; 8] = [
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "unbindable",
    "runbindable",
];

/// There is nothing to mount anew.
const REMOUNT: &str = "remount";

/// Options of a directory's mount that mean something in a container.
pub(super) fn flags(options: Option<&str>) -> Vec<String> {
    let options = options.unwrap_or_default().split(',');
    // What is so anyway must not undo what the container asks for.
    let usual = ["defaults", "rw"];
    let flags = options.filter(|option| !usual.contains(option) && is_mount_flag(option));
    flags.map(str::to_owned).collect()
}

/// As with dockerd, what is no mount's flag is for the file system, and a directory's mount has none to hand
/// it to.
fn check_bind(options: &str) -> Result<()> {
    let known = |option: &&str| {
        matches!(*option, "" | "bind" | "rbind")
            || is_mount_flag(option)
            || PROPAGATION.contains(option)
    };
    for option in options.split(',').filter(|option| !known(option)) {
        if option == REMOUNT {
            return Err(EngineError::BadRequest(format!(
                "invalid option of a volume: {option:?} (in o={options})"
            )));
        }
        tracing::warn!(option, "an option of a directory's mount changes nothing");
    }
    Ok(())
}

/// Options of a tmpfs that the guest would refuse are refused now.
fn check_tmpfs(options: &str) -> Result<()> {
    match crate::spec::wrong_tmpfs_option(options) {
        None => Ok(()),
        Some(option) => Err(EngineError::BadRequest(format!(
            "invalid option of a tmpfs volume: {option:?}"
        ))),
    }
}
