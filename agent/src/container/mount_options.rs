//! Mount options as the OCI runtime specification ("Linux mount options") names them.

use serde::{Deserialize, Serialize};

/// Parsed options of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountOptions {
    /// `MS_*` flags that apply to the mount.
    pub(crate) flags: u32,
    /// Options that only say so explicitly what is the default (`rw`, `suid`): a bind mount with
    /// any of them is remounted, one without keeps its source's flags.
    pub(crate) explicit: bool,
    /// Propagation changes (`MS_PRIVATE | MS_REC` ...), in order.
    pub(crate) propagation: Vec<u32>,
    /// The file system's own options, joined by commas.
    pub(crate) data: String,
    /// `bind` or `rbind` was given.
    pub(crate) bind: bool,
    /// `rbind` was given.
    pub(crate) recursive: bool,
    /// A tmpfs starts with a copy of what it hides.
    pub(crate) copy_up: bool,
    /// `MOUNT_ATTR_*` to set on the mount and all below it (`rro` ...).
    pub(crate) recursive_set: u64,
    /// `MOUNT_ATTR_*` to clear there.
    pub(crate) recursive_clear: u64,
}

const RDONLY: u32 = 1;
const NOSUID: u32 = 1 << 1;
const NODEV: u32 = 1 << 2;
const NOEXEC: u32 = 1 << 3;
const SYNCHRONOUS: u32 = 1 << 4;
const MANDLOCK: u32 = 1 << 6;
const DIRSYNC: u32 = 1 << 7;
const NOSYMFOLLOW: u32 = 1 << 8;
const NOATIME: u32 = 1 << 10;
const NODIRATIME: u32 = 1 << 11;
const REC: u32 = 1 << 14;
const SILENT: u32 = 1 << 15;
const UNBINDABLE: u32 = 1 << 17;
const PRIVATE: u32 = 1 << 18;
const SLAVE: u32 = 1 << 19;
const SHARED: u32 = 1 << 20;
const RELATIME: u32 = 1 << 21;
const I_VERSION: u32 = 1 << 23;
const STRICTATIME: u32 = 1 << 24;
const LAZYTIME: u32 = 1 << 25;

/// Flags that belong to a mount point, as against those of the file system: what a bind mount may
/// have changed.
pub(crate) const PER_MOUNT: u32 =
    RDONLY | NOSUID | NODEV | NOEXEC | NOATIME | NODIRATIME | RELATIME | STRICTATIME | NOSYMFOLLOW;

/// `MS_RDONLY`.
pub(crate) const READ_ONLY: u32 = RDONLY;

const BIND: [&str; 2] = ["bind", "rbind"];

/// `MOUNT_ATTR_*` by the name without its leading `r`, and whether the name sets or clears it.
const RECURSIVE: [(&str, u64, bool); 18] = [
    ("ro", 0x1, true),
    ("rw", 0x1, false),
    ("nosuid", 0x2, true),
    ("suid", 0x2, false),
    ("nodev", 0x4, true),
    ("dev", 0x4, false),
    ("noexec", 0x8, true),
    ("exec", 0x8, false),
    // One of the ways to note access times, of which this is the one without bits.
    ("relatime", 0, true),
    ("norelatime", 0, false),
    ("noatime", 0x10, true),
    ("atime", 0x10, false),
    ("strictatime", 0x20, true),
    ("nostrictatime", 0x20, false),
    ("nodiratime", 0x80, true),
    ("diratime", 0x80, false),
    ("nosymfollow", 0x20_0000, true),
    ("symfollow", 0x20_0000, false),
];
/// The access-time bits of `MOUNT_ATTR_*`: an enumeration, so all are cleared before one is set.
const ATIME_ATTRS: u64 = 0x70;

/// The flags for a propagation name such as `rslave`.
pub(crate) fn propagation(name: &str) -> Option<u32> {
    Some(match name {
        "private" => PRIVATE,
        "rprivate" => PRIVATE | REC,
        "slave" => SLAVE,
        "rslave" => SLAVE | REC,
        "shared" => SHARED,
        "rshared" => SHARED | REC,
        "unbindable" => UNBINDABLE,
        "runbindable" => UNBINDABLE | REC,
        _ => return None,
    })
}

fn flag(name: &str) -> Option<(u32, bool)> {
    Some(match name {
        "defaults" => (0, true),
        "ro" => (RDONLY, true),
        "rw" => (RDONLY, false),
        "nosuid" => (NOSUID, true),
        "suid" => (NOSUID, false),
        "nodev" => (NODEV, true),
        "dev" => (NODEV, false),
        "noexec" => (NOEXEC, true),
        "exec" => (NOEXEC, false),
        "sync" => (SYNCHRONOUS, true),
        "async" => (SYNCHRONOUS, false),
        "dirsync" => (DIRSYNC, true),
        "mand" => (MANDLOCK, true),
        "nomand" => (MANDLOCK, false),
        "noatime" => (NOATIME, true),
        "atime" => (NOATIME, false),
        "nodiratime" => (NODIRATIME, true),
        "diratime" => (NODIRATIME, false),
        "relatime" => (RELATIME, true),
        "norelatime" => (RELATIME, false),
        "strictatime" => (STRICTATIME, true),
        "nostrictatime" => (STRICTATIME, false),
        "lazytime" => (LAZYTIME, true),
        "nolazytime" => (LAZYTIME, false),
        "iversion" => (I_VERSION, true),
        "noiversion" => (I_VERSION, false),
        "nosymfollow" => (NOSYMFOLLOW, true),
        "symfollow" => (NOSYMFOLLOW, false),
        "silent" => (SILENT, true),
        "loud" => (SILENT, false),
        _ => return None,
    })
}

/// Parses options, or returns the one that is known and cannot be done.
pub(crate) fn parse(options: &[String]) -> Result<MountOptions, String> {
    let mut parsed = MountOptions::default();
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "bind" => parsed.bind = true,
            "rbind" => {
                parsed.bind = true;
                parsed.recursive = true;
            }
            "tmpcopyup" => parsed.copy_up = true,
            "idmap" | "ridmap" => return Err(option.clone()),
            // Of a bind mount, whose flags are set by a second step anyway.
            "remount" if options.iter().any(|option| BIND.contains(&option.as_str())) => {}
            "remount" => return Err(option.clone()),
            // Labels of a security module that the guest does not have.
            "z" | "Z" => {}
            name => {
                if let Some(change) = propagation(name) {
                    parsed.propagation.push(change);
                } else if let Some((bit, set)) = flag(name) {
                    parsed.explicit = true;
                    parsed.flags = if set {
                        parsed.flags | bit
                    } else {
                        parsed.flags & !bit
                    };
                } else if let Some((bits, set)) = recursive(name) {
                    parsed.set_recursively(bits, set);
                } else if !name.is_empty() {
                    data.push(name);
                }
            }
        }
    }
    parsed.data = data.join(",");
    Ok(parsed)
}

impl MountOptions {
    /// The last word on an attribute counts.
    fn set_recursively(&mut self, bits: u64, set: bool) {
        if bits == 0 && !set {
            // No bit says that access times are not noted so.
            return;
        }
        let is_of_atime = bits & ATIME_ATTRS == bits;
        let cleared = if is_of_atime { ATIME_ATTRS } else { bits };
        self.recursive_set &= !cleared;
        if set {
            self.recursive_set |= bits;
            self.recursive_clear &= !cleared;
        }
        if is_of_atime || !set {
            self.recursive_clear |= cleared;
        }
    }
}

fn recursive(name: &str) -> Option<(u64, bool)> {
    let name = name.strip_prefix('r')?;
    let found = RECURSIVE.iter().find(|(known, _, _)| *known == name)?;
    Some((found.1, found.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        parse(&options).unwrap()
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = parsed(&["nosuid", "noexec", "size=65536k", "mode=1777", "ro", "rw"]);
        assert_eq!(options.flags, NOSUID | NOEXEC);
        assert_eq!(options.data, "size=65536k,mode=1777");
        assert!(options.explicit && !options.bind);
    }

    #[test]
    fn rbind_with_recursive_read_only() {
        let options = parsed(&["rbind", "rro", "rslave"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.recursive_set, 1);
        assert_eq!(options.propagation, [SLAVE | REC]);
        assert_eq!(options.flags, 0);
    }

    #[test]
    fn each_recursive_attribute_can_be_set_and_cleared() {
        let attributes = |options: &[&str]| {
            let parsed = parsed(options);
            assert_eq!((parsed.flags, parsed.data.as_str()), (0, ""));
            (parsed.recursive_set, parsed.recursive_clear)
        };
        for (set, clear, bit) in [
            ("rro", "rrw", 0x1),
            ("rnosuid", "rsuid", 0x2),
            ("rnodev", "rdev", 0x4),
            ("rnoexec", "rexec", 0x8),
            ("rnodiratime", "rdiratime", 0x80),
            ("rnosymfollow", "rsymfollow", 0x20_0000),
        ] {
            assert_eq!(attributes(&[set]), (bit, 0), "{set}");
            assert_eq!(attributes(&[clear]), (0, bit), "{clear}");
            assert_eq!(attributes(&[clear, set]), (bit, 0), "{set} last");
            assert_eq!(attributes(&[set, clear]), (0, bit), "{clear} last");
        }
        // The kernel takes an access time only in the place of all others.
        for (name, bits) in [
            ("rnoatime", 0x10),
            ("rstrictatime", 0x20),
            ("rrelatime", 0),
            ("ratime", 0),
            ("rnostrictatime", 0),
        ] {
            assert_eq!(attributes(&[name]), (bits, 0x70), "{name}");
        }
        assert_eq!(attributes(&["rnoatime", "rstrictatime"]), (0x20, 0x70));
        assert_eq!(attributes(&["rnorelatime"]), (0, 0));
    }

    #[test]
    fn relatime_is_a_flag_not_a_recursive_attribute() {
        assert_eq!(parsed(&["relatime"]).flags, RELATIME);
        assert_eq!(parsed(&["relatime"]).recursive_set, 0);
    }

    #[test]
    fn idmap_is_refused_by_name() {
        assert_eq!(parse(&["idmap".to_string()]), Err("idmap".to_string()));
        assert_eq!(parse(&["remount".to_string()]), Err("remount".to_string()));
        let options = parsed(&["bind", "remount", "ro"]);
        assert_eq!((options.flags, options.data.as_str()), (RDONLY, ""));
    }
}
