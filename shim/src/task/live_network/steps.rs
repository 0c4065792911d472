//! What differs between a namespace and the guest that has its interfaces; nothing is touched here.

use std::collections::{BTreeMap, BTreeSet};

use hull_network::foreign::{Interface, Surveyed};
use hull_vm_config::Slot;

/// What a guest has, by the number of its slot.
pub(super) type Plugged = BTreeMap<usize, Interface>;

/// What the guest has to be given to have what its namespace has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// Slots whose interface is gone, or is another one.
    pub(super) unplug: Vec<usize>,
    /// New interfaces, and slots for them.
    pub(super) plug: Vec<(usize, Interface)>,
    /// Those that have other addresses, routes or neighbours, as they are now.
    pub(super) change: Vec<(usize, Interface)>,
    /// Names of those that there is no slot for.
    pub(super) beyond: Vec<String>,
}

impl Steps {
    /// Whether what is in a slot comes to one again, as another one.
    pub(super) fn is_plugged_again(&self, plugged: &Plugged, slot: usize) -> bool {
        let index = plugged.get(&slot).map(|it| it.index);
        self.plug.iter().any(|(_, it)| Some(it.index) == index)
    }
}

/// Whether an interface is the one that was there before, with whatever addresses and routes.
fn is_same(before: &Interface, now: &Interface) -> bool {
    now.index == before.index
        && now.name == before.name
        && now.hardware_address == before.hardware_address
        && now.mtu == before.mtu
}

/// What is there now, with the addresses that routers gave: the namespace does not hear them any more, so
/// they run out there, while the guest's own stack has them renewed.
pub(super) fn with_advertised(plugged: &Plugged, surveyed: Surveyed) -> Vec<Interface> {
    let mut now = surveyed.interfaces;
    for before in plugged.values().filter(|it| !it.advertised.is_empty()) {
        let bare = surveyed.bare.iter().find(|bare| is_same(before, bare));
        now.extend(bare.cloned());
        if let Some(now) = now.iter_mut().find(|now| is_same(before, now)) {
            for address in &before.advertised {
                if !now.addresses.contains(address) {
                    now.addresses.push(*address);
                }
                if !now.advertised.contains(address) {
                    now.advertised.push(*address);
                }
            }
        }
    }
    now
}

/// `left`: interfaces that left the namespace, whatever is there under their index now.
pub(super) fn steps(plugged: &Plugged, now: Vec<Interface>, left: &BTreeSet<u32>) -> Steps {
    let mut steps = Steps::default();
    let is_kept = |before: &Interface| {
        !left.contains(&before.index) && now.iter().any(|now| is_same(before, now))
    };
    let mut kept: BTreeMap<u32, usize> = BTreeMap::new();
    for (slot, before) in plugged {
        match is_kept(before) {
            true => drop(kept.insert(before.index, *slot)),
            false => steps.unplug.push(*slot),
        }
    }
    let taken: BTreeSet<usize> = kept.values().copied().collect();
    let mut free = (0..Slot::NETS.len()).filter(|slot| !taken.contains(slot));
    for interface in now {
        match kept.get(&interface.index) {
            Some(slot) if plugged.get(slot) == Some(&interface) => {}
            Some(slot) => steps.change.push((*slot, interface)),
            None => match free.next() {
                Some(slot) => steps.plug.push((slot, interface)),
                None => steps.beyond.push(interface.name),
            },
        }
    }
    steps
}

/// What an interface has no longer, and what it has got. Where an IPv4 address is gone all of IPv4 is given
/// anew: the guest's kernel takes its routes and neighbours away with the last address, and with the
/// first one of a subnet the others of that, whatever the namespace's does.
pub(super) fn difference(before: &Interface, now: &Interface) -> (Interface, Interface) {
    let gone = beyond(before, now);
    if gone.addresses.iter().all(|it| it.address.is_ipv6()) {
        return (gone, beyond(now, before));
    }
    (
        beyond(before, &without_v4(now)),
        beyond(now, &without_v4(before)),
    )
}

fn without_v4(interface: &Interface) -> Interface {
    let mut rest = interface.clone();
    rest.addresses.retain(|it| it.address.is_ipv6());
    rest.routes.retain(|route| {
        let to = route.destination.map(|prefix| prefix.address);
        to.or(route.gateway).is_some_and(|to| to.is_ipv6())
    });
    rest.neighbours.retain(|it| it.address.is_ipv6());
    rest
}

/// What one has that the other has not.
fn beyond(one: &Interface, other: &Interface) -> Interface {
    fn rest<T: Clone + PartialEq>(one: &[T], other: &[T]) -> Vec<T> {
        let beyond = one.iter().filter(|it| !other.contains(it));
        beyond.cloned().collect()
    }
    Interface {
        addresses: rest(&one.addresses, &other.addresses),
        routes: rest(&one.routes, &other.routes),
        neighbours: rest(&one.neighbours, &other.neighbours),
        ..one.clone()
    }
}

#[cfg(test)]
mod tests {
    use hull_network::netlink::{Neighbour, Route};
    use hull_network::Prefix;

    use super::*;

    fn interface(index: u32) -> Interface {
        Interface {
            index,
            name: format!("eth{index}"),
            hardware_address: [2, 0, 0, 0, 0, index.try_into().unwrap()],
            mtu: 1500,
            addresses: vec![format!("10.0.{index}.2/24").parse().unwrap()],
            advertised: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
        }
    }

    fn plugged(all: &[u32]) -> Plugged {
        all.iter()
            .map(|index| interface(*index))
            .enumerate()
            .collect()
    }

    #[test]
    fn what_comes_and_goes_is_plugged_and_unplugged() {
        let none = BTreeSet::new();
        let now = || vec![interface(1), interface(2)];
        assert_eq!(steps(&plugged(&[1, 2]), now(), &none), Steps::default());
        let came = steps(&plugged(&[1]), now(), &none);
        assert_eq!(came.plug, [(1, interface(2))]);
        let went = steps(&plugged(&[7, 2]), now(), &none);
        assert_eq!((went.unplug, went.plug), (vec![0], vec![(0, interface(1))]));
        assert_eq!(went.change, []);
    }

    #[test]
    fn another_interface_in_an_old_ones_place_is_plugged_anew() {
        let left = BTreeSet::from([2]);
        let anew = steps(&plugged(&[1, 2]), vec![interface(1), interface(2)], &left);
        assert_eq!((anew.unplug, anew.plug), (vec![1], vec![(1, interface(2))]));
        let changes: [fn(&mut Interface); 3] = [
            |it| it.name = "x".into(),
            |it| it.hardware_address = [9; 6],
            |it| it.mtu = 1400,
        ];
        for change in changes {
            let mut other = interface(1);
            change(&mut other);
            let anew = steps(&plugged(&[1]), vec![other.clone()], &BTreeSet::new());
            assert_eq!((anew.unplug, anew.plug), (vec![0], vec![(0, other)]));
        }
    }

    #[test]
    fn more_interfaces_than_slots_are_told_of() {
        let all = [1, 2, 3, 4, 5];
        let now = all.map(interface).to_vec();
        let full = steps(&plugged(&all[..4]), now.clone(), &BTreeSet::new());
        let expected = Steps {
            beyond: vec!["eth5".into()],
            ..Steps::default()
        };
        assert_eq!(full, expected);
        // One that leaves makes room.
        let freed = steps(&plugged(&all[..4]), now[1..].to_vec(), &BTreeSet::new());
        assert_eq!(
            (freed.unplug, freed.plug),
            (vec![0], vec![(0, interface(5))])
        );
    }

    #[test]
    fn addresses_and_routes_of_known_interfaces_are_followed() {
        let mut now = interface(1);
        now.addresses.push("10.9.0.2/24".parse().unwrap());
        let before = interface(1);
        let changed = steps(&plugged(&[1]), vec![now.clone()], &BTreeSet::new());
        assert_eq!(changed.change, [(0, now.clone())]);
        assert!(changed.plug.is_empty() && changed.unplug.is_empty());
        assert_eq!(beyond(&now, &before).addresses, now.addresses[1..]);
        assert!(beyond(&before, &now).addresses.is_empty());
    }

    #[test]
    fn with_an_ipv4_address_that_is_gone_all_of_ipv4_is_given_anew() {
        let route = |to: &str| Route {
            destination: to.parse().ok(),
            ..Route::default()
        };
        let neighbour = |address: &str| Neighbour {
            address: address.parse().unwrap(),
            hardware_address: [2; 6],
        };
        let mut before = interface(1);
        before.addresses.push("2001:db8::2/64".parse().unwrap());
        before.routes = vec![route("0.0.0.0/0"), route("2001:db8:1::/48")];
        before.neighbours = vec![neighbour("10.0.1.1"), neighbour("2001:db8::1")];
        let mut now = before.clone();
        now.addresses[0] = "10.0.1.9/24".parse().unwrap();
        let (gone, came) = difference(&before, &now);
        assert_eq!(gone.addresses, before.addresses[..1]);
        assert_eq!(came.addresses, now.addresses[..1]);
        for half in [&gone, &came] {
            assert_eq!(half.routes, before.routes[..1]);
            assert_eq!(half.neighbours, before.neighbours[..1]);
        }
        // Of IPv6, and where nothing is gone, only the difference.
        let more = |address: &str| {
            let mut more = before.clone();
            more.addresses.push(address.parse().unwrap());
            more
        };
        let (other, third) = (more("2001:db8::3/64"), more("10.0.1.3/24"));
        let (gone, came) = difference(&other, &before);
        assert_eq!(gone.addresses, other.addresses[2..]);
        assert!(gone.routes.is_empty() && came.addresses.is_empty());
        let (gone, came) = difference(&before, &third);
        assert!(gone.addresses.is_empty() && came.routes.is_empty());
        assert_eq!(came.addresses, third.addresses[2..]);
    }

    #[test]
    fn what_routers_gave_stays_when_it_runs_out_in_the_namespace() {
        let given: Prefix = "2001:db8::7/64".parse().unwrap();
        let mut before = interface(1);
        before.addresses.push(given);
        before.advertised.push(given);
        let plugged = Plugged::from([(0, before.clone())]);
        let others = |interfaces, bare| Surveyed {
            interfaces,
            bare,
            ..Surveyed::default()
        };
        let now = with_advertised(&plugged, others(vec![interface(1)], vec![interface(9)]));
        assert_eq!(now, [before]);
        // Also where it was the only one.
        let mut bare = interface(1);
        bare.addresses.clear();
        let mut only = bare.clone();
        (only.addresses, only.advertised) = (vec![given], vec![given]);
        let plugged = Plugged::from([(0, only.clone())]);
        let now = with_advertised(&plugged, others(Vec::new(), vec![bare.clone()]));
        assert_eq!(now, [only]);
        // One without any at all is unplugged, as is one that has changed.
        bare.mtu = 1400;
        let now = with_advertised(&plugged, others(Vec::new(), vec![bare]));
        assert_eq!(now, []);
    }

    #[test]
    fn one_that_comes_again_at_once_is_not_given_back() {
        let mut other = interface(1);
        other.mtu = 1400;
        let before = plugged(&[1, 2]);
        let steps = steps(&before, vec![other], &BTreeSet::new());
        assert_eq!(steps.unplug, [0, 1]);
        assert!(steps.is_plugged_again(&before, 0));
        assert!(!steps.is_plugged_again(&before, 1));
    }
}
