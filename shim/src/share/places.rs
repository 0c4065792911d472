//! What is shown where: a source has one place in the served directory, however many mounts show it.
//!
//! virtiofsd takes what two mounts show for two files, even if it is one. In the guest each of them has a
//! page cache of its own, and what is written to one is not seen in the other at once.

use std::collections::HashMap;

use crate::lower::IdMapped;

/// By what a source is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Flags of the mount that it is found by, as `statvfs` tells them.
    pub(super) flags: u64,
    /// That mount is read-only, for whomever it is shared.
    pub(super) is_read_only: bool,
    /// Mounts that the host makes later are seen too.
    pub(super) follow: bool,
    pub(super) id_mapped: Option<IdMapped>,
    /// What is mounted below it and shown too.
    pub(super) below: Vec<String>,
}

/// Where a source is shown, by something that stands for its mount.
#[derive(Debug)]
pub(super) struct Place<M> {
    pub(super) mount: M,
    /// `None`: it is made for one share.
    identity: Option<Identity>,
    /// The guest may write.
    writable: bool,
    /// Names by which it is known, and whether who uses the name may write.
    users: HashMap<String, bool>,
}

/// What has to be done to a place when a name of it goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Released<M> {
    /// Somebody who uses it may still do all that was possible.
    Kept,
    /// Nobody writes any more.
    ReadOnly,
    /// Nobody uses it.
    Gone(M),
}

/// Places, by the names that they have in the served directory.
#[derive(Debug)]
pub(super) struct Places<M>(HashMap<String, Place<M>>);

impl<M> Default for Places<M> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<M> Places<M> {
    /// A new place, which is its user's.
    pub(super) fn add(&mut self, name: &str, mount: M, identity: Option<Identity>, writes: bool) {
        let users = HashMap::from([(name.to_owned(), writes)]);
        let place = Place {
            mount,
            identity,
            writable: writes,
            users,
        };
        self.0.insert(name.to_owned(), place);
    }

    /// Where the same is shown already; best where its users may write.
    pub(super) fn find(&self, wanted: &Identity) -> Option<(&str, &Place<M>)> {
        let same = |place: &Place<M>| place.identity.as_ref() == Some(wanted);
        let found = self.0.iter().filter(|(_, place)| same(place));
        let best = found.max_by_key(|(_, place)| place.writable);
        best.map(|(name, place)| (name.as_str(), place))
    }

    /// A place has a further user, who can do there what he may.
    pub(super) fn join(&mut self, place: &str, name: &str, writes: bool) {
        if let Some(place) = self.0.get_mut(place) {
            place.writable |= writes;
            place.users.insert(name.to_owned(), writes);
        }
    }

    /// A name goes. What is to be done, and to which place; `None`: no place has it.
    pub(super) fn release(&mut self, name: &str) -> Option<(String, Released<M>)> {
        let known = self.0.iter_mut();
        let (key, place) = known
            .filter(|(_, place)| place.users.contains_key(name))
            .map(|(key, place)| (key.clone(), place))
            .next()?;
        let wrote = place.users.remove(name).unwrap_or_default();
        if place.users.is_empty() {
            let gone = self.0.remove(&key)?;
            return Some((key, Released::Gone(gone.mount)));
        }
        let writes = place.users.values().any(|writes| *writes);
        let released = match wrote && !writes {
            true => Released::ReadOnly,
            false => Released::Kept,
        };
        Some((key, released))
    }

    /// Nobody may write there any more.
    pub(super) fn set_read_only(&mut self, name: &str) {
        if let Some(place) = self.0.get_mut(name) {
            place.writable = false;
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Place<M>> {
        self.0.get(name)
    }
}

impl<M> Place<M> {
    /// Whether the mount has to be made writable for somebody who may write.
    pub(super) fn is_held(&self) -> bool {
        let by_itself = self.identity.as_ref().is_some_and(|it| it.is_read_only);
        !self.writable && !by_itself
    }

    /// Whether that it is read-only can be taken back: what is mounted below a source may have been
    /// read-only by itself.
    pub(super) fn can_change(&self) -> bool {
        let identity = self.identity.as_ref();
        identity.is_some_and(|identity| identity.below.is_empty())
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64) -> Identity {
        Identity {
            device: 1,
            inode,
            flags: 0,
            is_read_only: false,
            follow: false,
            id_mapped: None,
            below: Vec::new(),
        }
    }

    #[test]
    fn a_source_has_one_place_as_long_as_somebody_uses_it() {
        let mut places = Places::default();
        places.add("a-0", 7, Some(identity(1)), true);
        assert_eq!(places.find(&identity(1)).map(|(name, _)| name), Some("a-0"));
        places.join("a-0", "b-0", false);
        places.join("a-0", "c-0", true);
        // The name of the place outlives who brought it.
        let kept = |key: &str| Some((key.to_owned(), Released::Kept));
        assert_eq!(places.release("a-0"), kept("a-0"));
        assert_eq!(
            places.release("c-0"),
            Some(("a-0".to_owned(), Released::ReadOnly))
        );
        assert_eq!(
            places.release("b-0"),
            Some(("a-0".to_owned(), Released::Gone(7)))
        );
        assert_eq!(places.release("b-0"), None);
        assert!(places.find(&identity(1)).is_none());
    }

    #[test]
    fn only_what_is_the_same_in_all_is_one() {
        let mut places = Places::default();
        places.add("a", (), Some(identity(1)), false);
        places.add("made", (), None, true);
        let others = [
            identity(2),
            Identity {
                device: 2,
                ..identity(1)
            },
            Identity {
                flags: 1,
                ..identity(1)
            },
            Identity {
                follow: true,
                ..identity(1)
            },
            Identity {
                below: vec!["/x".into()],
                ..identity(1)
            },
        ];
        for other in others {
            assert!(places.find(&other).is_none(), "{other:?}");
        }
        assert!(places.find(&identity(1)).is_some());
    }

    #[test]
    fn who_may_write_finds_a_place_that_can_be_written_or_has_it_made_so() {
        let mut places = Places::default();
        places.add("reads", (), Some(identity(1)), false);
        let (_, place) = places.find(&identity(1)).unwrap();
        assert!(place.is_held() && place.can_change());
        places.join("reads", "writes", true);
        assert!(!places.get("reads").unwrap().is_held());
        assert_eq!(
            places.release("writes"),
            Some(("reads".to_owned(), Released::ReadOnly))
        );
        places.set_read_only("reads");
        assert!(places.get("reads").unwrap().is_held());
        // Where it could not be made so there are two.
        places.add("own", (), Some(identity(1)), true);
        assert_eq!(places.find(&identity(1)).unwrap().0, "own");
    }

    #[test]
    fn what_the_host_holds_read_only_stays_so() {
        let mut places = Places::default();
        let by_itself = Identity {
            is_read_only: true,
            ..identity(1)
        };
        let with_mounts = Identity {
            below: vec!["/x".into()],
            ..identity(2)
        };
        places.add("a", (), Some(by_itself.clone()), false);
        places.add("b", (), Some(with_mounts.clone()), false);
        assert!(!places.find(&by_itself).unwrap().1.is_held());
        assert!(!places.find(&with_mounts).unwrap().1.can_change());
    }
}
