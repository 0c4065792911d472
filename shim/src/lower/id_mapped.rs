//! Id-mapped mounts (config.md, "Mounts"): whose ids are mapped how.

use oci_spec::runtime::Mount;

use super::LowerError;
use crate::user_namespace::IdMaps;

/// How a mount maps the ids of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMapped {
    /// From ids on disk to those that the mount shows.
    pub maps: IdMaps,
    /// The mounts below it too.
    pub recursive: bool,
}

/// Takes the mappings out of a mount; `container` are those of its user namespace, which hold where
/// the mount has none of its own.
pub(super) fn take(
    mount: &mut Mount,
    container: Option<&IdMaps>,
) -> Result<Option<IdMapped>, LowerError> {
    let options = mount.options().clone().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option == name);
    let (plain, recursive) = (has("idmap"), has("ridmap"));
    let users = mount.uid_mappings().clone().unwrap_or_default();
    let groups = mount.gid_mappings().clone().unwrap_or_default();
    mount.set_uid_mappings(None).set_gid_mappings(None);
    if plain || recursive {
        let rest = options.into_iter();
        let rest = rest.filter(|option| option != "idmap" && option != "ridmap");
        mount.set_options(Some(rest.collect()));
    }
    let maps = match (users.is_empty(), groups.is_empty()) {
        (false, false) => IdMaps { users, groups },
        (true, true) if !plain && !recursive => return Ok(None),
        (true, true) => container.cloned().ok_or(LowerError::IdMaps {
            reason: "an id-mapped mount has no mappings, and its container has no user namespace",
        })?,
        _ => {
            return Err(LowerError::IdMaps {
                reason: "an id-mapped mount needs both uidMappings and gidMappings",
            })
        }
    };
    Ok(Some(IdMapped { maps, recursive }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(
        more: serde_json::Value,
        container: Option<&IdMaps>,
    ) -> Result<(Option<IdMapped>, Vec<String>), LowerError> {
        let mut mount = json!({"destination": "/d", "source": "/s", "options": ["bind", "idmap"]});
        for (key, value) in more.as_object().unwrap() {
            mount[key] = value.clone();
        }
        let mut mount: Mount = serde_json::from_value(mount).unwrap();
        let taken = take(&mut mount, container)?;
        assert!(mount.uid_mappings().is_none() && mount.gid_mappings().is_none());
        Ok((taken, mount.options().clone().unwrap_or_default()))
    }

    fn maps() -> IdMaps {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        IdMaps {
            users: serde_json::from_value(map.clone()).unwrap(),
            groups: serde_json::from_value(map).unwrap(),
        }
    }

    #[test]
    fn a_mounts_own_mappings_go_before_the_containers() {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let own = json!({"uidMappings": map, "gidMappings": map, "options": ["bind"]});
        let other = IdMaps::default();
        let (taken_own, _) = taken(own, Some(&other)).unwrap();
        assert_eq!(taken_own.unwrap().maps, maps());
        let (taken_other, options) =
            taken(json!({"options": ["rbind", "ridmap"]}), Some(&maps())).unwrap();
        let want = IdMapped {
            maps: maps(),
            recursive: true,
        };
        assert_eq!(
            (taken_other, options),
            (Some(want), vec!["rbind".to_owned()])
        );
    }

    #[test]
    fn without_any_mapping_there_is_nothing_to_map_by() {
        assert!(taken(json!({}), None).is_err());
        let half = json!({"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]});
        assert!(taken(half, None).is_err());
        assert_eq!(
            taken(json!({"options": ["bind"]}), Some(&maps()))
                .unwrap()
                .0,
            None
        );
    }
}
