//! The mount table: Docker's defaults, the small files of the engine, and the user's mounts.

use std::collections::HashSet;

use bollard_stubs::models::{
    ContainerConfig, HostConfig, Mount, MountBindOptionsPropagationEnum, MountType,
};
use hull_shim::spec::{LAYER_OPTION, MEMBER_ROOT, WITHIN_OPTION};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use super::{config, files, process, tmpfs, Host, INLINE_OPTION};
use crate::container::{clean_path, PREFIX};
use crate::error::{EngineError, Result};
use crate::record::{ImageMount, Record};
use crate::volumes::VolumeUse;

/// Mount option that fills an empty volume with what the image has at its place.
const COPY_UP_OPTION: &str = "tmpcopyup";

const DEFAULT_SHM_BYTES: i64 = 64 << 20;

/// A host directory or file shown in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Writes are refused.
    pub read_only: bool,
    /// A missing source is made as a directory, as for `-v`.
    pub create: bool,
    /// Mounts that the host makes below it later are seen too.
    #[serde(default)]
    pub follow: bool,
    /// Mounts that the host has below it are not seen.
    #[serde(default)]
    pub non_recursive: bool,
}

/// What an element of `HostConfig.Binds` means.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Parsed {
    /// A path of the host.
    Bind(Bind),
    /// A volume by its name.
    Volume(VolumeUse),
}

/// Every bind mount of a container, checked.
pub fn binds_of(record: &Record) -> Result<Vec<Bind>> {
    let mut binds = own_binds(&record.host)?;
    binds.extend(record.inherited_binds.iter().cloned());
    Ok(binds)
}

/// Where bind mounts and tmpfs mounts are asked for, without a slash at the end.
pub(crate) fn bind_targets(host: &HostConfig) -> Result<Vec<String>> {
    let clean = clean_path;
    let mut all: Vec<String> = own_binds(host)?
        .iter()
        .map(|bind| clean(&bind.target))
        .collect();
    all.extend(host.tmpfs.iter().flatten().map(|(target, _)| clean(target)));
    let mounts = host.mounts.iter().flatten();
    let others = [Some(MountType::TMPFS), Some(MountType::IMAGE)];
    let others = mounts.filter(|mount| others.contains(&mount.typ));
    all.extend(
        others
            .filter_map(|mount| mount.target.as_deref())
            .map(clean),
    );
    Ok(all)
}

fn own_binds(host: &HostConfig) -> Result<Vec<Bind>> {
    let mut binds = Vec::new();
    for text in host.binds.iter().flatten() {
        if let Parsed::Bind(bind) = parse_bind(text)? {
            binds.push(bind);
        }
    }
    for mount in host.mounts.iter().flatten() {
        if let Some(bind) = bind_of_mount(mount)? {
            binds.push(bind);
        }
    }
    Ok(binds)
}

/// `SOURCE:TARGET[:OPTIONS]`; a source that is no absolute path names a volume.
pub(crate) fn parse_bind(text: &str) -> Result<Parsed> {
    let bad = |why: &str| {
        EngineError::BadRequest(format!("invalid volume specification: '{text}': {why}"))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(bad("it has to be SOURCE:TARGET[:OPTIONS]")),
    };
    if source.is_empty() || target.is_empty() {
        return Err(bad("empty section between colons"));
    }
    let kind = match source.starts_with('/') {
        true => "bind",
        false => "volume",
    };
    let target = mount_point(target)
        .map_err(|why| bad(&format!("invalid mount config for type \"{kind}\": {why}")))?;
    if let Some((one, other)) = contradiction(options) {
        return Err(EngineError::BadRequest(format!(
            "invalid mode: {options}: {one} and {other} can't be had together"
        )));
    }
    let (mut read_only, mut no_copy, mut follow) = (false, false, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "nocopy" => no_copy = true,
            "slave" | "rslave" => follow = true,
            "shared" | "rshared" => return Err(not_shared()),
            // SELinux labels and consistency hints have nothing to act on in a VM.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate"
            | "volume-nocopy" => {}
            other => return Err(EngineError::BadRequest(format!("invalid mode: {other}"))),
        }
    }
    if !source.starts_with('/') {
        return Ok(Parsed::Volume(VolumeUse {
            name: source.to_owned(),
            target,
            read_only,
            no_copy,
            own: false,
            subpath: None,
        }));
    }
    Ok(Parsed::Bind(Bind {
        source: source.to_owned(),
        target,
        read_only,
        create: true,
        follow,
        non_recursive: false,
    }))
}

/// Options of one kind, of which one alone can be meant.
fn contradiction(options: &str) -> Option<(&str, &str)> {
    const KINDS: [&[&str]; 4] = [
        &["ro", "rw"],
        &["z", "Z"],
        &["cached", "delegated", "consistent"],
        &[
            "private", "rprivate", "slave", "rslave", "shared", "rshared",
        ],
    ];
    KINDS.into_iter().find_map(|kind| {
        let mut of_kind = options.split(',').filter(|option| kind.contains(option));
        Some((of_kind.next()?, of_kind.next()?))
    })
}

/// Where something can be mounted in a container, written down clean.
pub(crate) fn mount_point(target: &str) -> Result<String, String> {
    if !target.starts_with('/') {
        return Err(format!(
            "invalid mount path: '{target}' mount path must be absolute"
        ));
    }
    match clean_path(target) {
        root if root == "/" => Err("invalid specification: destination can't be '/'".to_owned()),
        clean => Ok(clean),
    }
}

fn bind_of_mount(mount: &Mount) -> Result<Option<Bind>> {
    let target = mount.target.clone().unwrap_or_default();
    let source = mount.source.clone().unwrap_or_default();
    let bad = |why: String| {
        EngineError::BadRequest(format!("invalid mount config for type \"bind\": {why}"))
    };
    match mount.typ {
        Some(MountType::BIND) => {
            let target = mount_point(&target).map_err(bad)?;
            if !source.starts_with('/') {
                return Err(bad(format!(
                    "invalid mount path: '{source}' mount path must be absolute"
                )));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            let read_only = mount.read_only.unwrap_or(false);
            if read_only && options.read_only_non_recursive.unwrap_or(false) {
                return Err(EngineError::NotBuilt(
                    "a read-only bind mount with writable ones below it (ReadOnlyNonRecursive, \
                     bind-recursive=writable)"
                        .to_owned(),
                ));
            }
            Ok(Some(Bind {
                source,
                target,
                read_only,
                create: options.create_mountpoint.unwrap_or(false),
                follow: follows(options.propagation)?,
                non_recursive: options.non_recursive.unwrap_or(false),
            }))
        }
        Some(MountType::TMPFS) => {
            let bad = |why: String| {
                EngineError::BadRequest(format!("invalid mount config for type \"tmpfs\": {why}"))
            };
            if !source.is_empty() {
                return Err(bad("field Source must not be specified".to_owned()));
            }
            tmpfs::asked(mount).map_err(bad)?;
            mount_point(&target).map_err(bad).map(|_| None)
        }
        // Read where they are looked for.
        Some(MountType::VOLUME | MountType::IMAGE) => Ok(None),
        other => Err(EngineError::NotBuilt(format!(
            "a mount of type {}",
            other.map(|typ| typ.to_string()).unwrap_or_default()
        ))),
    }
}

/// A mount of an image that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WantedImage {
    /// Name or id.
    pub(crate) reference: String,
    /// Absolute path in the container.
    pub(crate) target: String,
    /// The part of it that is wanted.
    pub(crate) subpath: Option<String>,
}

/// `--mount type=image`.
pub(crate) fn image_mounts(host: &HostConfig) -> Result<Vec<WantedImage>> {
    let bad = |why: String| {
        EngineError::BadRequest(format!("invalid mount config for type \"image\": {why}"))
    };
    let mounts = host.mounts.iter().flatten();
    let images = mounts.filter(|mount| mount.typ == Some(MountType::IMAGE));
    let read = |mount: &Mount| {
        let target = mount.target.clone().unwrap_or_default();
        let target = mount_point(&target).map_err(bad)?;
        let reference = mount.source.clone().unwrap_or_default();
        if reference.is_empty() {
            return Err(bad("field Source must not be empty".to_owned()));
        }
        let options = mount.image_options.clone().unwrap_or_default();
        let subpath = options.subpath.filter(|path| !path.is_empty());
        if let Some(path) = subpath.as_ref().filter(|path| leads_out(path)) {
            return Err(bad(format!(
                "subpath must be a relative path within the image: {path:?}"
            )));
        }
        Ok(WantedImage {
            reference,
            target,
            subpath,
        })
    };
    images.map(read).collect()
}

/// Whether a path that has to lie within something names what may not.
pub(crate) fn leads_out(path: &str) -> bool {
    path.starts_with('/') || path.split('/').any(|part| part == "..")
}

fn follows(propagation: Option<MountBindOptionsPropagationEnum>) -> Result<bool> {
    use MountBindOptionsPropagationEnum as Kind;
    match propagation {
        Some(Kind::SLAVE | Kind::RSLAVE) => Ok(true),
        Some(Kind::SHARED | Kind::RSHARED) => Err(not_shared()),
        _ => Ok(false),
    }
}

fn not_shared() -> EngineError {
    EngineError::BadRequest(
        "shared propagation is not possible: what a container mounts stays in its VM; use rslave \
         to see the host's mounts"
            .to_owned(),
    )
}

/// The `mounts` array.
pub(super) fn mounts(record: &Record, host: Host<'_>) -> Result<Vec<Value>> {
    let mut mounts = default_mounts(record, host.joined.is_some());
    let access = match record.host.readonly_rootfs {
        Some(true) => "ro",
        _ => "rw",
    };
    for file in files::ALL {
        mounts.push(json!({
            "destination": file.target,
            "type": "bind",
            "source": host.bundle.join(file.name),
            "options": ["rbind", "rprivate", access, INLINE_OPTION],
        }));
    }
    let bind = |target: &str, source: &str, kind: &str, propagation: &str, read_only: bool| {
        json!({
            "destination": target,
            "type": "bind",
            "source": source,
            "options": [kind, propagation, if read_only { "ro" } else { "rw" }],
        })
    };
    let mut own: Vec<Value> = binds_of(record)?
        .iter()
        .map(|it| {
            let kind = if it.non_recursive { "bind" } else { "rbind" };
            let propagation = if it.follow { "rslave" } else { "rprivate" };
            bind(&it.target, &it.source, kind, propagation, it.read_only)
        })
        .collect();
    for volume in &record.volumes {
        let Some(there) = host.volumes.iter().find(|there| there.name == volume.name) else {
            continue;
        };
        if let Some(options) = &there.tmpfs {
            let options = options.split(',').filter(|option| !option.is_empty());
            // As the volume says, and no more: docker's usual ones are those of --tmpfs.
            let options: Vec<_> = options.chain(volume.read_only.then_some("ro")).collect();
            own.push(json!({
                "destination": volume.target, "type": "tmpfs", "source": "tmpfs", "options": options,
            }));
            continue;
        }
        let data = there.data.to_string_lossy();
        let of_volume = there.flags.iter().any(|flag| flag == "ro");
        let read_only = volume.read_only || of_volume;
        let mut mount = bind(&volume.target, &data, "rbind", "rprivate", read_only);
        if there.disk {
            mount["type"] = json!("ext4");
        }
        // A disk that nobody writes to can be shared, so it is not filled either.
        let never_written = of_volume || (there.disk && volume.read_only);
        let stays_empty = volume.no_copy || never_written;
        if let Some(options) = mount["options"].as_array_mut() {
            let flags = there.flags.iter().filter(|flag| *flag != "ro");
            options.extend(flags.map(|flag| json!(flag)));
            let empty = match &volume.subpath {
                Some(part) => there.empty_parts.contains(part),
                None => there.empty,
            };
            if let Some(part) = &volume.subpath {
                options.push(json!(format!("{WITHIN_OPTION}{part}")));
            }
            if empty && !stays_empty {
                options.push(json!(COPY_UP_OPTION));
            }
        }
        own.push(mount);
    }
    own.extend(record.image_mounts.iter().map(image_mount));
    own.extend(tmpfs::mounts(record)?);
    let target = |mount: &Value| mount["destination"].as_str().unwrap_or_default().to_owned();
    // Parents before children.
    own.sort_by_key(|mount| (target(mount).matches('/').count(), target(mount)));
    // A user's mount replaces a default one at the same place.
    let taken: HashSet<String> = own.iter().map(target).collect();
    mounts.retain(|mount| !taken.contains(&target(mount)));
    mounts.extend(own);
    Ok(mounts)
}

fn image_mount(mount: &ImageMount) -> Value {
    let layers = mount.image.layers.iter();
    let layers = layers.map(|path| format!("{LAYER_OPTION}{}", path.display()));
    let within = mount.subpath.iter();
    let within = within.map(|path| format!("{WITHIN_OPTION}{path}"));
    let options = ["rbind", "rprivate", "ro"].map(str::to_owned);
    let options: Vec<String> = options.into_iter().chain(layers).chain(within).collect();
    json!({
        "destination": mount.target,
        "type": "erofs",
        "source": mount.image.rootfs,
        "options": options,
    })
}

/// Whether a container runs systemd, as podman tells. It makes groups of its own for what it starts, in
/// the container's part of its guest's, which nobody else has.
fn is_systemd(config: &ContainerConfig) -> bool {
    let argv = config::argv_of(config).unwrap_or_default();
    argv.first().is_some_and(|program| {
        let names = [
            "/sbin/init",
            "/usr/sbin/init",
            "/usr/local/sbin/init",
            "systemd",
        ];
        names.contains(&program.as_str()) || program.ends_with("/systemd")
    })
}

fn default_mounts(record: &Record, joined: bool) -> Vec<Value> {
    let privileged = record.host.privileged.unwrap_or(false);
    let access = |writable: bool| if writable { "rw" } else { "ro" };
    let cgroups = privileged
        || process::security_option(&record.host, "writable-cgroups")
        || is_systemd(&record.config);
    let shm = record
        .host
        .shm_size
        .filter(|bytes| 0 < *bytes)
        .unwrap_or(DEFAULT_SHM_BYTES);
    let mount = |destination: &str, typ: &str, options: &[&str]| json!({ "destination": destination, "type": typ, "source": typ, "options": options });
    let mut shm_mount = mount(
        "/dev/shm",
        "tmpfs",
        &[
            "nosuid",
            "noexec",
            "nodev",
            "mode=1777",
            &format!("size={shm}"),
        ],
    );
    shm_mount["source"] = json!("shm");
    let ipc = record.host.ipc_mode.as_deref().unwrap_or_default();
    if let Some(other) = ipc.strip_prefix(PREFIX).filter(|_| joined) {
        shm_mount = json!({
            "destination": "/dev/shm",
            "type": "bind",
            "source": format!("{MEMBER_ROOT}/{other}/root/dev/shm"),
            "options": ["rbind", "rprivate"],
        });
    }
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            &["nosuid", "noexec", "nodev", access(privileged)],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", access(cgroups)],
        ),
    ];
    if ipc != "none" {
        mounts.push(mount(
            "/dev/mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ));
        mounts.push(shm_mount);
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_has_groups_of_its_own() {
        for (argv, is) in [
            (&["/sbin/init"][..], true),
            (&["/lib/systemd/systemd", "--user"], true),
            (&["sh", "-c", "/sbin/init"], false),
            (&[], false),
        ] {
            let config = ContainerConfig {
                cmd: Some(argv.iter().map(|word| (*word).to_owned()).collect()),
                ..ContainerConfig::default()
            };
            assert_eq!(is_systemd(&config), is, "{argv:?}");
        }
    }

    #[test]
    fn an_image_is_mounted_from_its_files() {
        let host = |mount: Value| HostConfig {
            mounts: Some(vec![serde_json::from_value(mount).unwrap()]),
            ..HostConfig::default()
        };
        let wanted = json!({ "Type": "image", "Source": "tools", "Target": "/x/",
            "ImageOptions": { "Subpath": "usr/bin" } });
        let wanted = host(wanted);
        let read = image_mounts(&wanted).unwrap();
        assert_eq!(
            (&*read[0].reference, read[0].subpath.as_deref()),
            ("tools", Some("usr/bin"))
        );
        assert_eq!(bind_targets(&wanted).unwrap(), ["/x"]);
        for bad in [
            json!({ "Type": "image", "Target": "/x" }),
            json!({ "Type": "image", "Source": "a", "Target": "x" }),
            json!({ "Type": "image", "Source": "a", "Target": "/x",
                "ImageOptions": { "Subpath": "a/../../b" } }),
        ] {
            assert!(image_mounts(&host(bad)).is_err());
        }
        let mounted = ImageMount {
            image: crate::record::tests::record().image,
            target: "/x".to_owned(),
            subpath: Some("usr".to_owned()),
        };
        assert_eq!(
            image_mount(&mounted)["options"],
            json!(["rbind", "rprivate", "ro", "hull.within=usr"])
        );
    }

    #[test]
    fn binds_are_read_and_bad_ones_refused() {
        let Parsed::Bind(bind) = parse_bind("/a:/b:ro").unwrap() else {
            panic!("a path is no volume");
        };
        assert_eq!((bind.source.as_str(), bind.target.as_str()), ("/a", "/b"));
        assert!(bind.read_only);
        let Parsed::Bind(bind) = parse_bind("/a:/b/./../c//d/").unwrap() else {
            panic!("a path is no volume");
        };
        assert_eq!(bind.target, "/c/d");
        for bad in [
            "/a",
            "/a:",
            ":/b",
            "/a:b",
            "/a:/",
            "/a:/b/..",
            "/a:/b:nope",
            "/a:/b:ro:x",
            "/a:/b:rshared",
        ] {
            assert!(
                matches!(parse_bind(bad), Err(EngineError::BadRequest(_))),
                "{bad} has to be refused"
            );
        }
        assert!(matches!(parse_bind("data:/b").unwrap(), Parsed::Volume(_)));
    }
}
