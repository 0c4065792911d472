//! Users and groups by the container's own /etc/passwd and /etc/group: what Docker's `--user`
//! string means. Pure: the files' contents come in as text.

use crate::error::{AgentError, Result};

/// Largest user or group number that is accepted (as elsewhere: 2^31 - 1).
const MAX_ID: u32 = i32::MAX as u32;

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, each once, in order of appearance.
    pub(crate) groups: Vec<u32>,
    /// From passwd; `/` for a user who is not in it.
    pub(crate) home: String,
}

/// What the configuration asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// `name`, `uid`, `name:group`, ...; empty: the numbers below.
    pub(crate) user: &'a str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: &'a [u32],
    /// Names or numbers.
    pub(crate) additional_groups: &'a [String],
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _gecos = fields.next();
        let home = fields.next().unwrap_or_default();
        Some(PasswdEntry {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        Some(GroupEntry { name, gid, members })
    })
}

/// Resolves a user.
///
/// Supplementary groups are, as docker has them, the first group and, only when `user` is given
/// without a group, those of the group file.
pub(crate) fn resolve(wanted: Wanted<'_>, passwd: &str, group: &str) -> Result<Identity> {
    let mut identity = if wanted.user.is_empty() {
        let home = passwd_entries(passwd).find(|entry| entry.uid == wanted.uid);
        Identity {
            uid: wanted.uid,
            gid: wanted.gid,
            groups: wanted.additional_gids.to_vec(),
            home: home.map_or("/", |entry| entry.home).to_string(),
        }
    } else {
        by_string(wanted.user, passwd, group)?
    };
    if !wanted.user.is_empty() {
        // As docker: a group's file permissions hold for its own members too.
        identity.groups.insert(0, identity.gid);
        identity.groups.extend_from_slice(wanted.additional_gids);
    }
    for name in wanted.additional_groups {
        identity.groups.push(group_id(name, group)?);
    }
    if identity.home.is_empty() {
        identity.home = "/".to_string();
    }
    let mut seen = std::collections::HashSet::new();
    identity.groups.retain(|gid| seen.insert(*gid));
    Ok(identity)
}

fn by_string(user: &str, passwd: &str, group: &str) -> Result<Identity> {
    // As runc: what comes behind a second colon says nothing.
    let mut parts = user.split(':');
    let user = parts.next().unwrap_or_default();
    let group_name = parts.next().filter(|group| !group.is_empty());
    let number = user.parse::<u64>().ok();
    let entry = if user.is_empty() {
        passwd_entries(passwd).find(|entry| entry.uid == 0)
    } else {
        passwd_entries(passwd)
            .find(|entry| entry.name == user)
            .or_else(|| passwd_entries(passwd).find(|entry| Some(entry.uid.into()) == number))
    };
    let mut identity = match (&entry, number) {
        (Some(entry), _) => Identity {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: entry.home.to_string(),
        },
        (None, Some(number)) => Identity {
            uid: in_range(number)?,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_string(),
        },
        (None, None) if user.is_empty() => Identity {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_string(),
        },
        (None, None) => {
            return Err(AgentError::invalid(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )))
        }
    };
    match group_name {
        Some(name) => identity.gid = group_id(name, group)?,
        None => {
            if let Some(entry) = entry {
                identity.groups = group_entries(group)
                    .filter(|group| {
                        group
                            .members
                            .split(',')
                            .any(|name| name.trim() == entry.name)
                    })
                    .map(|group| group.gid)
                    .collect();
            }
        }
    }
    Ok(identity)
}

fn group_id(name: &str, group: &str) -> Result<u32> {
    if let Some(entry) = group_entries(group).find(|entry| entry.name == name) {
        return Ok(entry.gid);
    }
    match name.parse::<u64>() {
        Ok(gid) => in_range(gid),
        Err(_) => Err(AgentError::invalid(format!(
            "unable to find group {name}: no matching entries in group file"
        ))),
    }
}

fn in_range(number: u64) -> Result<u32> {
    let id = u32::try_from(number).ok().filter(|id| *id <= MAX_ID);
    id.ok_or_else(|| {
        AgentError::invalid(format!(
            "uids and gids must be in range 0-{MAX_ID}, {number} is not"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n\
                          broken line\n4242:x:5:6::/n:/bin/sh\n";
    const GROUP: &str = "root:x:0:\ndock:x:999:app\napp:x:1000:\nmany:x:7:root, app\n";

    fn user(user: &str) -> Result<Identity> {
        with_groups(user, &[])
    }

    fn with_groups(user: &str, groups: &[&str]) -> Result<Identity> {
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let wanted = Wanted {
            user,
            uid: 0,
            gid: 0,
            additional_gids: &[],
            additional_groups: &groups,
        };
        resolve(wanted, PASSWD, GROUP)
    }

    #[test]
    fn name_alone_has_its_supplementary_groups() {
        let app = user("app").unwrap();
        assert_eq!(
            (app.uid, app.gid, app.home.as_str()),
            (1000, 1000, "/home/app")
        );
        assert_eq!(app.groups, [1000, 999, 7]);
        assert_eq!(user("1000").unwrap(), app);
    }

    #[test]
    fn named_group_replaces_supplementary_groups() {
        let app = user("app:app").unwrap();
        assert_eq!((app.gid, app.groups), (1000, vec![1000]));
        assert_eq!(user("app:dock").unwrap().gid, 999);
        assert_eq!(user("7777:8888").unwrap().gid, 8888);
        assert_eq!(user("app:dock:x").unwrap().gid, 999);
    }

    #[test]
    fn unknown_number_is_taken_with_group_root_and_home_slash() {
        let unknown = user("7777").unwrap();
        assert_eq!(
            (unknown.uid, unknown.gid, unknown.home.as_str()),
            (7777, 0, "/")
        );
    }

    #[test]
    fn name_that_looks_like_a_number_wins_over_the_number() {
        assert_eq!(user("4242").unwrap().uid, 5);
    }

    #[test]
    fn unknown_names_are_errors_with_the_known_text() {
        assert_eq!(
            user("nobody").unwrap_err().text(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            user("app:wheel").unwrap_err().text(),
            "unable to find group wheel: no matching entries in group file"
        );
        for number in ["4294967295", "99999999999", "0:2147483648"] {
            let text = user(number).unwrap_err().text();
            assert!(text.contains("must be in range 0-2147483647"), "{text}");
        }
    }

    #[test]
    fn additional_groups_are_added_once() {
        assert_eq!(
            with_groups("app", &["4242", "dock"]).unwrap().groups,
            [1000, 999, 7, 4242]
        );
    }

    #[test]
    fn final_numbers_take_only_the_home_from_passwd() {
        let wanted = Wanted {
            user: "",
            uid: 1000,
            gid: 5,
            additional_gids: &[6, 6],
            additional_groups: &[],
        };
        let identity = resolve(wanted, PASSWD, GROUP).unwrap();
        assert_eq!((identity.gid, identity.home.as_str()), (5, "/home/app"));
        assert_eq!(identity.groups, [6]);
    }
}
