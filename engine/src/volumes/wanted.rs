//! The volumes that a container asks for, and those that it gets.

use bollard_stubs::models::{ContainerConfig, HostConfig, Mount, MountType};
use serde::{Deserialize, Serialize};

use super::CreateVolume;
use crate::container::clean_path;
use crate::error::{EngineError, Result};
use crate::record::{ImageMount, Record};
use crate::spec::{leads_out, mount_point, parse_bind, tmpfs_of, Bind, Parsed};

/// A volume of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VolumeUse {
    pub(crate) name: String,
    /// Absolute path in the container.
    pub(crate) target: String,
    #[serde(default)]
    pub(crate) read_only: bool,
    /// An empty volume does not get what the image has at the target.
    #[serde(default)]
    pub(crate) no_copy: bool,
    /// The part of the volume that is shown, relative to its top.
    #[serde(default)]
    pub(crate) subpath: Option<String>,
    /// Made for this container, and removed with it by `rm -v` and `--rm`.
    #[serde(default)]
    pub(crate) own: bool,
}

/// What a container is to get.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// Volumes of the containers named by `--volumes-from`.
    pub(crate) volumes: Vec<VolumeUse>,
    /// Their bind mounts.
    pub(crate) inherited: Vec<Bind>,
    /// Their mounts of images.
    pub(crate) images: Vec<ImageMount>,
    /// Their memory file systems, which this one has anew.
    pub(crate) tmpfs: Vec<Mount>,
    /// What is still to be found or made.
    pub(crate) asked: Vec<Asked>,
}

/// A volume that is asked for: its name (empty: a new one) and what is to be made.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) create: CreateVolume,
    pub(crate) place: VolumeUse,
}

/// The volumes that a container asks for. `find` gives the record of a container that
/// `--volumes-from` names. A later claim to a place that is taken is an error, but for those of the
/// image, which give way.
pub(crate) fn wanted(
    config: &ContainerConfig,
    host: &HostConfig,
    find: impl Fn(&str) -> Result<Record>,
) -> Result<Origin> {
    let mut origin = Origin::default();
    let asked = asked(host)?;
    let mut taken: Vec<String> = crate::spec::bind_targets(host)?;
    taken.extend(asked.iter().map(|asked| clean_path(&asked.place.target)));
    if let Some(twice) = first_twice(&taken) {
        return Err(EngineError::BadRequest(format!(
            "Duplicate mount point: {twice}"
        )));
    }
    for from in host.volumes_from.iter().flatten() {
        inherit(&mut origin, &taken, from, &find)?;
    }
    taken.extend(origin.targets());
    let mut all = asked;
    for target in config.volumes.iter().flatten() {
        let target = mount_point(target).map_err(EngineError::BadRequest)?;
        if taken.contains(&target) {
            continue;
        }
        taken.push(target.clone());
        all.push(Asked {
            create: CreateVolume {
                driver: host.volume_driver.clone().unwrap_or_default(),
                ..CreateVolume::default()
            },
            place: place(&target),
        });
    }
    origin.asked = all;
    Ok(origin)
}

fn place(target: &str) -> VolumeUse {
    VolumeUse {
        name: String::new(),
        target: target.to_owned(),
        read_only: false,
        no_copy: false,
        subpath: None,
        own: false,
    }
}

fn first_twice(targets: &[String]) -> Option<&String> {
    let mut each = targets.iter().enumerate();
    each.find(|(index, target)| targets[..*index].contains(target))
        .map(|(_, target)| target)
}

/// `-v NAME:TARGET` and `--mount type=volume`.
fn asked(host: &HostConfig) -> Result<Vec<Asked>> {
    let mut all = Vec::new();
    for text in host.binds.iter().flatten() {
        if let Parsed::Volume(volume) = parse_bind(text)? {
            all.push(Asked {
                create: CreateVolume {
                    name: volume.name.clone(),
                    driver: host.volume_driver.clone().unwrap_or_default(),
                    ..CreateVolume::default()
                },
                place: volume,
            });
        }
    }
    for mount in host.mounts.iter().flatten() {
        if mount.typ == Some(MountType::VOLUME) {
            all.push(of_mount(mount)?);
        }
    }
    Ok(all)
}

fn of_mount(mount: &Mount) -> Result<Asked> {
    let target = mount.target.clone().unwrap_or_default();
    let target = mount_point(&target).map_err(|why| {
        EngineError::BadRequest(format!("invalid mount config for type \"volume\": {why}"))
    })?;
    let options = mount.volume_options.clone().unwrap_or_default();
    let subpath = options.subpath.filter(|path| !path.is_empty());
    if let Some(path) = subpath.as_ref().filter(|path| leads_out(path)) {
        return Err(EngineError::BadRequest(format!(
            "invalid mount config for type \"volume\": subpath must be a relative path within the \
             volume: {path:?}"
        )));
    }
    let driver = options.driver_config.unwrap_or_default();
    Ok(Asked {
        create: CreateVolume {
            name: mount.source.clone().unwrap_or_default(),
            driver: driver.name.unwrap_or_default(),
            labels: options.labels.unwrap_or_default(),
            options: driver.options.unwrap_or_default(),
        },
        place: VolumeUse {
            read_only: mount.read_only.unwrap_or(false),
            no_copy: options.no_copy.unwrap_or(false),
            subpath,
            ..place(&target)
        },
    })
}

/// A mode of `--volumes-from`. Labels of SELinux and hints of consistency have nothing to act on in a VM;
/// how mounts propagate, and what is copied, is the other container's.
fn is_read_only(mode: &str) -> Result<bool> {
    const KINDS: [&[&str]; 3] = [
        &["ro", "rw"],
        &["z", "Z"],
        &["consistent", "cached", "delegated"],
    ];
    let words: Vec<&str> = mode.split(',').filter(|_| !mode.is_empty()).collect();
    let known = words.iter().all(|word| KINDS.concat().contains(word));
    let once = KINDS.iter().all(|kind| {
        let of_kind = words.iter().filter(|word| kind.contains(word));
        of_kind.count() < 2
    });
    match known && once {
        true => Ok(words.contains(&"ro")),
        false => Err(EngineError::BadRequest(format!("invalid mode: {mode}"))),
    }
}

/// `--volumes-from CONTAINER[:MODE]`: what has not been asked for by itself.
fn inherit(
    origin: &mut Origin,
    taken: &[String],
    from: &str,
    find: &impl Fn(&str) -> Result<Record>,
) -> Result<()> {
    if from.is_empty() {
        return Err(EngineError::BadRequest(
            "volumes-from specification cannot be an empty string".to_owned(),
        ));
    }
    let (name, mode) = from.split_once(':').unwrap_or((from, ""));
    let read_only = is_read_only(mode)?;
    let record = find(name)?;
    let free = |target: &str| !taken.contains(&clean_path(target));
    let volumes = record.volumes.iter().filter(|it| free(&it.target));
    for volume in volumes {
        origin.give_way(&volume.target);
        origin.volumes.push(VolumeUse {
            read_only: read_only || volume.read_only,
            own: false,
            ..volume.clone()
        });
    }
    for bind in crate::spec::binds_of(&record)? {
        if free(&bind.target) {
            origin.give_way(&bind.target);
            origin.inherited.push(Bind {
                read_only: read_only || bind.read_only,
                ..bind
            });
        }
    }
    for mount in record.image_mounts.iter().filter(|it| free(&it.target)) {
        origin.give_way(&mount.target);
        origin.images.push(mount.clone());
    }
    for mount in tmpfs_of(&record) {
        let target = mount.target.as_deref().unwrap_or_default();
        if free(target) {
            origin.give_way(target);
            origin.tmpfs.push(Mount {
                read_only: Some(read_only || mount.read_only.unwrap_or(false)),
                ..mount.clone()
            });
        }
    }
    Ok(())
}

impl Origin {
    /// Where something has been inherited.
    fn targets(&self) -> Vec<String> {
        let volumes = self.volumes.iter().map(|volume| clean_path(&volume.target));
        let binds = self.inherited.iter().map(|bind| clean_path(&bind.target));
        let images = self.images.iter().map(|mount| clean_path(&mount.target));
        let tmpfs = self.tmpfs.iter().map(tmpfs_target);
        volumes.chain(binds).chain(images).chain(tmpfs).collect()
    }

    /// Of several containers that have something at a place, the last one that is named counts.
    fn give_way(&mut self, target: &str) {
        let stays = |other: &str| clean_path(other) != clean_path(target);
        self.volumes.retain(|volume| stays(&volume.target));
        self.inherited.retain(|bind| stays(&bind.target));
        self.images.retain(|mount| stays(&mount.target));
        self.tmpfs.retain(|mount| stays(&tmpfs_target(mount)));
    }
}

fn tmpfs_target(mount: &Mount) -> String {
    clean_path(mount.target.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_by(config: ContainerConfig, host: HostConfig) -> Result<Vec<Asked>> {
        let none = |name: &str| Err(EngineError::NoSuchContainer(name.to_owned()));
        wanted(&config, &host, none).map(|origin| origin.asked)
    }

    fn binds(texts: &[&str]) -> HostConfig {
        HostConfig {
            binds: Some(texts.iter().map(|text| (*text).to_owned()).collect()),
            ..HostConfig::default()
        }
    }

    #[test]
    fn modes_of_inherited_volumes_are_dockers() {
        for (mode, read_only) in [
            ("", false),
            ("rw", false),
            ("ro", true),
            ("z", false),
            ("Z", false),
            ("ro,z", true),
            ("cached,ro", true),
        ] {
            assert_eq!(is_read_only(mode).unwrap(), read_only, "{mode}");
        }
        for bad in ["x", "ro,rw", "z,Z", "ro,", "rslave", "nocopy"] {
            let error = is_read_only(bad).unwrap_err().to_string();
            assert_eq!(error, format!("invalid mode: {bad}"));
        }
    }

    #[test]
    fn the_images_volumes_give_way_to_those_that_are_asked_for() {
        let config = ContainerConfig {
            volumes: Some(vec!["/data/".into(), "/other".into(), "/host".into()]),
            ..ContainerConfig::default()
        };
        let host = HostConfig {
            volume_driver: Some("far".into()),
            ..binds(&["db:/data:ro,nocopy", "/h:/host"])
        };
        let asked = asked_by(config, host).unwrap();
        assert_eq!(asked.len(), 2);
        let [named, nameless] = [&asked[0], &asked[1]];
        assert_eq!((&*named.create.name, &*named.create.driver), ("db", "far"));
        assert!(named.place.read_only && named.place.no_copy);
        assert_eq!(nameless.place.target, "/other");
        assert_eq!(
            (&*nameless.create.name, &*nameless.create.driver),
            ("", "far")
        );
    }

    #[test]
    fn all_kinds_of_mounts_come_from_other_containers_and_the_last_one_counts() {
        let mut first = crate::record::tests::record();
        first.host = binds(&["/h:/host", "/h:/both"]);
        first.host.mounts = Some(vec![Mount {
            typ: Some(MountType::TMPFS),
            target: Some("/mem".into()),
            ..Mount::default()
        }]);
        first.image_mounts = vec![ImageMount {
            image: first.image.clone(),
            target: "/tools".into(),
            subpath: None,
        }];
        let mut second = crate::record::tests::record();
        second.volumes = vec![VolumeUse {
            name: "data".into(),
            ..place("/both/")
        }];
        let find = |name: &str| match name {
            "first" => Ok(first.clone()),
            _ => Ok(second.clone()),
        };
        let host = HostConfig {
            volumes_from: Some(vec!["first:ro".into(), "second".into()]),
            ..binds(&["/other:/host"])
        };
        let origin = wanted(&ContainerConfig::default(), &host, find).unwrap();
        assert_eq!(origin.targets(), ["/both", "/tools", "/mem"]);
        assert!(origin.inherited.is_empty() && !origin.volumes[0].read_only);
        assert_eq!(origin.tmpfs[0].read_only, Some(true));
    }

    #[test]
    fn one_place_is_for_one_mount() {
        let none = ContainerConfig::default;
        assert!(asked_by(none(), binds(&["aa:/x", "bb:/x/"])).is_err());
        assert!(asked_by(none(), binds(&["aa:/x", "/bb:/x"])).is_err());
        assert!(asked_by(none(), binds(&["aa:/"])).is_err());
        let from = HostConfig {
            volumes_from: Some(vec!["gone".into()]),
            ..HostConfig::default()
        };
        assert!(matches!(
            asked_by(none(), from),
            Err(EngineError::NoSuchContainer(_))
        ));
    }
}
