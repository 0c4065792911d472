//! Memory file systems: their options and their mounts.

use bollard_stubs::models::{Mount, MountType};
use serde_json::{json, Value};

use super::mounts::mount_point;
use crate::container::clean_path;
use crate::error::{EngineError, Result};
use crate::record::Record;

/// Options without a value.
const FLAGS: [&str; 22] = [
    "defaults",
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "dirsync",
    "mand",
    "nomand",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
];

/// The first option, of several with commas between them, that the guest would refuse.
pub(crate) fn wrong_option(options: &str) -> Option<&str> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let good = |option: &str| {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "size" | "nr_blocks" | "nr_inodes" => {
                digits(value.trim_end_matches(['k', 'm', 'g', 'K', 'M', 'G', '%']))
            }
            "mode" => digits(value) && i64::from_str_radix(value, 8).is_ok(),
            "uid" | "gid" => digits(value),
            "mpol" | "huge" => !value.is_empty(),
            _ => FLAGS.contains(&option),
        }
    };
    let mut options = options.split(',').filter(|option| !option.is_empty());
    options.find(|option| !good(option))
}

/// The mounts of `--tmpfs` and of `--mount type=tmpfs`.
pub(super) fn mounts(record: &Record) -> Result<Vec<Value>> {
    let mut mounts = Vec::new();
    for (target, options) in record.host.tmpfs.iter().flatten() {
        let target = mount_point(target).map_err(EngineError::BadRequest)?;
        let options = options.split(',').filter(|option| !option.is_empty());
        mounts.push(tmpfs(&target, options));
    }
    for mount in tmpfs_of(record) {
        let mut options = Vec::new();
        if let Some(asked) = &mount.tmpfs_options {
            if let Some(size) = asked.size_bytes.filter(|size| 0 < *size) {
                options.push(format!("size={size}"));
            }
            if let Some(mode) = asked.mode.filter(|mode| *mode != 0) {
                options.push(format!("mode={mode:o}"));
            }
        }
        if mount.read_only.unwrap_or(false) {
            options.push("ro".to_owned());
        }
        let target = clean_path(mount.target.as_deref().unwrap_or_default());
        mounts.push(tmpfs(&target, options.iter().map(String::as_str)));
    }
    Ok(mounts)
}

/// What `--mount type=tmpfs` asks for, and `--volumes-from` brings along.
pub(crate) fn tmpfs_of(record: &Record) -> impl Iterator<Item = &Mount> {
    let own = record.host.mounts.iter().flatten();
    let own = own.filter(|mount| mount.typ == Some(MountType::TMPFS));
    own.chain(&record.inherited_tmpfs)
}

/// Docker's safe defaults, each undone by its opposite.
pub(super) fn tmpfs<'a>(target: &str, asked: impl Iterator<Item = &'a str>) -> Value {
    let asked: Vec<&str> = asked.collect();
    let mut options: Vec<&str> = [("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev")]
        .into_iter()
        .filter(|(no, yes)| !asked.contains(no) && !asked.contains(yes))
        .map(|(no, _)| no)
        .collect();
    options.extend(asked);
    json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_the_guest_would_refuse_are_found() {
        for good in [
            "",
            "size=10m,mode=1770,uid=1000,gid=5,nr_inodes=20k",
            "size=50%,exec,noatime,rw",
            "defaults,strictatime,mpol=local,huge=never",
        ] {
            assert_eq!(wrong_option(good), None, "{good}");
        }
        for (options, wrong) in [
            ("bogus", "bogus"),
            ("rw,size=", "size="),
            ("size=10x", "size=10x"),
            ("mode=9", "mode=9"),
            ("uid=root,ro", "uid=root"),
            ("exec=1", "exec=1"),
            ("data=/x", "data=/x"),
        ] {
            assert_eq!(wrong_option(options), Some(wrong), "{options}");
        }
    }
}
