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

/// Whether a word is an option of any mount.
pub(crate) fn is_flag(word: &str) -> bool {
    FLAGS.contains(&word)
}

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
        let mut options = asked(mount).map_err(EngineError::BadRequest)?;
        if mount.read_only.unwrap_or(false) {
            options.push("ro".to_owned());
        }
        let target = clean_path(mount.target.as_deref().unwrap_or_default());
        mounts.push(tmpfs(&target, options.iter().map(String::as_str)));
    }
    Ok(mounts)
}

/// The options of a mount of the API.
pub(super) fn asked(mount: &Mount) -> Result<Vec<String>, String> {
    let Some(asked) = &mount.tmpfs_options else {
        return Ok(Vec::new());
    };
    let mut options = Vec::new();
    match asked.size_bytes.unwrap_or(0) {
        0 => {}
        size if size < 0 => return Err(format!("TmpfsOptions.SizeBytes {size} is below zero")),
        size => options.push(format!("size={size}")),
    }
    match asked.mode.unwrap_or(0) {
        0 => {}
        mode if mode < 0 => return Err(format!("TmpfsOptions.Mode {mode} is below zero")),
        mode => options.push(format!("mode={mode:o}")),
    }
    for words in asked.options.iter().flatten() {
        let option = words.join("=");
        let is_one = matches!(words.len(), 1 | 2) && !option.is_empty() && !option.contains(',');
        if !is_one || wrong_option(&option).is_some() {
            return Err(format!("invalid option in TmpfsOptions.Options: {words:?}"));
        }
        options.push(option);
    }
    Ok(options)
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
    fn options_of_the_api_are_taken() {
        let of = |json: Value| {
            let mount = json!({ "Type": "tmpfs", "Target": "/t", "TmpfsOptions": json });
            asked(&serde_json::from_value(mount).unwrap())
        };
        let options = [["exec"].as_slice(), &["uid", "1000"]];
        let all = json!({ "SizeBytes": 4096, "Mode": 0o700, "Options": options });
        assert_eq!(
            of(all).unwrap(),
            ["size=4096", "mode=700", "exec", "uid=1000"]
        );
        assert_eq!(of(json!({})).unwrap(), [""; 0]);
        for bad in [
            json!({ "SizeBytes": -1 }),
            json!({ "Mode": -1 }),
            json!({ "Options": [["bogus"]] }),
            json!({ "Options": [["uid", "1", "2"]] }),
            json!({ "Options": [["exec,dev"]] }),
            json!({ "Options": [[]] }),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
        // What is asked for undoes the usual.
        let mount = tmpfs("/t", ["exec"].into_iter());
        assert_eq!(mount["options"], json!(["nosuid", "nodev", "exec"]));
    }

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
