//! The interfaces of a namespace that somebody else prepares, as long as a VM has them: what changes
//! there changes in the guest.
//!
//! Engines plug interfaces in between `create` and `start`, or while the container runs
//! (`docker network connect`). What a VM can't have is told of in the log then, and the container
//! goes on.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use hull_network::foreign::{Foreign, ForeignError, Interface, Namespace, Surveyed, Watch};
use hull_vm_config::Slot;
use tokio::sync::Mutex;

use super::network::{attachment, name_servers};
use crate::network::Attachments;
use crate::report::chain;
use crate::sandbox::{Sandbox, SandboxError};

/// Between two attempts at what did not work.
const RETRY: Duration = Duration::from_secs(1);
/// Most attempts in a row.
const MAX_ATTEMPTS: u32 = 5;

/// Why the guest has not all that the namespace has.
#[derive(Debug, thiserror::Error)]
pub(super) enum LiveError {
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    #[error("failed to change the guest's interface {name:?}")]
    Guest { name: String, source: SandboxError },
    #[error("failed to have the guest ask for names")]
    Names(#[source] SandboxError),
    #[error("failed to read what left the namespace")]
    Watch(#[source] io::Error),
    #[error("the namespace is lost")]
    Lost(#[from] tokio::task::JoinError),
}

/// The interfaces.
#[derive(Debug)]
pub(super) struct LiveNetwork {
    namespace: Arc<Namespace>,
    watch: Watch,
    state: Mutex<State>,
}

/// What a VM is booted with.
pub(super) struct First {
    pub(super) interfaces: Vec<Interface>,
    /// Descriptors of the tap of each.
    pub(super) taps: Vec<Vec<std::os::fd::OwnedFd>>,
    /// Name servers on loopback addresses.
    pub(super) servers: Vec<std::net::Ipv4Addr>,
}

#[derive(Debug)]
struct State {
    foreign: Arc<std::sync::Mutex<Foreign>>,
    /// The container's `resolv.conf` on the host, if it has one.
    resolv_conf: Option<PathBuf>,
    /// The guest asks the host for names.
    asks_names: bool,
    /// What the guest has, by the number of its slot.
    plugged: Plugged,
    /// Why, and names of the interfaces that this was told of.
    told: HashSet<(&'static str, String)>,
}

type Plugged = BTreeMap<usize, Interface>;

impl LiveNetwork {
    /// Takes what is there now. Blocks.
    pub(super) fn take(
        path: &Path,
        resolv_conf: Option<&PathBuf>,
        pairs: usize,
    ) -> Result<(Self, First), ForeignError> {
        let servers = name_servers(resolv_conf);
        let mut foreign = Foreign::new(Namespace::open(path)?, pairs, !servers.is_empty())?;
        let namespace = foreign.namespace();
        let watch = Watch::open(&namespace)?;
        let surveyed = foreign.survey()?;
        refuse(&foreign, &surveyed)?;
        let mut taps = Vec::new();
        for interface in &surveyed.interfaces {
            taps.push(foreign.take(interface)?);
            tracing::info!(?path, ?interface, "an interface goes into the guest");
        }
        // What was done here is no change. Whatever else came meanwhile is found before the container
        // starts.
        let left = watch
            .take_left()
            .map_err(|source| foreign.unwatched(source))?;
        watch.put_back(left);
        let state = State {
            foreign: Arc::new(std::sync::Mutex::new(foreign)),
            resolv_conf: resolv_conf.cloned(),
            asks_names: !servers.is_empty(),
            plugged: surveyed.interfaces.iter().cloned().enumerate().collect(),
            told: HashSet::new(),
        };
        let live = Self {
            namespace,
            watch,
            state: Mutex::new(state),
        };
        let first = First {
            interfaces: surveyed.interfaces,
            taps,
            servers,
        };
        Ok((live, first))
    }

    /// The namespace.
    pub(super) fn namespace(&self) -> Arc<Namespace> {
        Arc::clone(&self.namespace)
    }

    /// Gives the guest what the namespace has now, before its container starts: what a VM can't have
    /// is an error.
    pub(super) async fn complete(&self, sandbox: &Sandbox) -> Result<(), LiveError> {
        let mut state = self.state.lock().await;
        let (surveyed, left) = self.survey(&state, refuse).await?;
        let problems = state.apply(sandbox, surveyed, &left).await;
        problems.into_iter().next().map_or(Ok(()), Err)
    }

    /// Follows the namespace until the VM ends.
    pub(super) fn follow(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let (live, vm) = (Arc::clone(self), sandbox.vm().clone());
        // The VM is to end with its containers, whoever follows.
        let sandbox = Arc::downgrade(sandbox);
        tokio::spawn(async move {
            tokio::select! {
                () = live.follow_changes(sandbox) => {}
                _ = vm.ended() => {}
            }
        });
    }

    async fn follow_changes(&self, sandbox: Weak<Sandbox>) {
        let mut attempts = 0;
        loop {
            let changed = match attempts {
                0 => self.watch.changed().await,
                _ => tokio::time::timeout(RETRY, self.watch.changed())
                    .await
                    .unwrap_or(Ok(())),
            };
            if let Err(error) = changed {
                let error = chain(&error);
                return tracing::warn!(error, "changes of the network are not followed");
            }
            let Some(sandbox) = sandbox.upgrade() else {
                return;
            };
            let done = self.look(&sandbox).await;
            attempts = match done {
                true => 0,
                false => (attempts + 1) % MAX_ATTEMPTS,
            };
        }
    }

    /// Gives the guest what the namespace has now, as far as it can have it. `false`: something may
    /// work the next time.
    async fn look(&self, sandbox: &Sandbox) -> bool {
        let mut state = self.state.lock().await;
        let problems = match self.survey(&state, |_, _| Ok(())).await {
            Ok((surveyed, left)) => {
                state.tell(&surveyed.strange, "it is no Ethernet interface");
                state.apply(sandbox, surveyed, &left).await
            }
            Err(error) => vec![error],
        };
        for error in &problems {
            let error = chain(error);
            tracing::warn!(
                error,
                "the guest's network is not all that its namespace has"
            );
        }
        problems.is_empty()
    }

    /// What the namespace has, and what left it since the last time. Where it is not known or refused
    /// by `may`, the next time knows of it, too.
    async fn survey(
        &self,
        state: &State,
        may: fn(&Foreign, &Surveyed) -> Result<(), ForeignError>,
    ) -> Result<(Surveyed, BTreeSet<u32>), LiveError> {
        // First: what leaves after it is read the next time.
        let left = self.watch.take_left().map_err(LiveError::Watch)?;
        let surveyed = state.in_kernel(move |foreign| {
            let surveyed = foreign.survey()?;
            may(foreign, &surveyed)?;
            Ok(surveyed)
        });
        match surveyed.await {
            Ok(surveyed) => Ok((surveyed, left)),
            Err(error) => {
                self.watch.put_back(left);
                Err(error)
            }
        }
    }
}

/// What a VM can't have.
fn refuse(foreign: &Foreign, surveyed: &Surveyed) -> Result<(), ForeignError> {
    if let Some(name) = surveyed.strange.first() {
        return Err(foreign.not_ethernet(name));
    }
    let (count, most) = (surveyed.interfaces.len(), Slot::NETS.len());
    match count <= most {
        true => Ok(()),
        false => Err(foreign.too_many(count, most)),
    }
}

impl State {
    /// Works in the namespace, where the kernel may let others go first.
    async fn in_kernel<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Foreign) -> Result<T, ForeignError> + Send + 'static,
    ) -> Result<T, LiveError> {
        let foreign = Arc::clone(&self.foreign);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut foreign.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Ok(done.await??)
    }

    /// Says once of each interface why the guest has not got it.
    fn tell(&mut self, names: &[String], why: &'static str) {
        // One that comes again is told of again.
        self.told
            .retain(|(of, name)| *of != why || names.contains(name));
        for name in names {
            if self.told.insert((why, name.clone())) {
                tracing::warn!(name, "an interface is not given to the guest: {why}");
            }
        }
    }

    /// Gives the guest what there is `now`. What did not work.
    async fn apply(
        &mut self,
        sandbox: &Sandbox,
        surveyed: Surveyed,
        left: &BTreeSet<u32>,
    ) -> Vec<LiveError> {
        let now = with_advertised(&self.plugged, surveyed);
        let steps = steps(&self.plugged, now, left);
        let mut problems = Vec::new();
        for slot in &steps.unplug {
            let again = steps.is_plugged_again(&self.plugged, *slot);
            problems.extend(self.unplug(sandbox, *slot, again).await.err());
        }
        problems.extend(self.ask_names(sandbox).await.err());
        for (slot, interface) in steps.plug {
            problems.extend(self.plug(sandbox, slot, interface).await.err());
        }
        problems.extend(self.change(sandbox, steps.change).await.err());
        self.tell(&steps.beyond, "a VM has no room for more of them");
        problems
    }

    /// `again`: it is plugged in again at once.
    async fn unplug(
        &mut self,
        sandbox: &Sandbox,
        slot: usize,
        again: bool,
    ) -> Result<(), LiveError> {
        let Some(interface) = self.plugged.remove(&slot) else {
            return Ok(());
        };
        let (name, index) = (interface.name, interface.index);
        tracing::info!(name, slot, "an interface is taken from the guest");
        // As long as it is redirected the namespace's own stack hears nothing: it would refuse what
        // comes for the guest's connections.
        let detached = sandbox.detach_network(slot).await;
        let given_back = match again {
            true => Ok(()),
            false => {
                self.in_kernel(move |foreign| foreign.give_back(index))
                    .await
            }
        };
        detached.map_err(|source| LiveError::Guest { name, source })?;
        given_back
    }

    async fn plug(
        &mut self,
        sandbox: &Sandbox,
        slot: usize,
        interface: Interface,
    ) -> Result<(), LiveError> {
        let taken = interface.clone();
        let taps = self.in_kernel(move |foreign| foreign.take(&taken)).await?;
        tracing::info!(?interface, slot, "an interface is plugged into the guest");
        let attachments = Attachments {
            interfaces: vec![attachment(&interface)],
            resolvers: Vec::new(),
        };
        let attached = sandbox.attach_network(slot, &attachments, vec![taps]).await;
        let name = interface.name.clone();
        self.plugged.insert(slot, interface);
        if let Err(source) = attached {
            // What is half done is undone, so that it can be tried again.
            if let Err(error) = self.unplug(sandbox, slot, false).await {
                tracing::debug!(error = chain(&error), "an interface that was not taken");
            }
            return Err(LiveError::Guest { name, source });
        }
        Ok(())
    }

    /// Changes interfaces that the guest has. What it refuses is not tried again: it would refuse
    /// what it has done already.
    async fn change(
        &mut self,
        sandbox: &Sandbox,
        changed: Vec<(usize, Interface)>,
    ) -> Result<(), LiveError> {
        let (mut lost, mut got) = (Attachments::default(), Attachments::default());
        let mut names = Vec::new();
        for (slot, now) in changed {
            let Some(before) = self.plugged.insert(slot, now.clone()) else {
                continue;
            };
            tracing::info!(?before, ?now, slot, "an interface of the guest is changed");
            let (gone, came) = difference(&before, &now);
            lost.interfaces.push(attachment(&gone));
            got.interfaces.push(attachment(&came));
            names.push(now.name);
        }
        if names.is_empty() {
            return Ok(());
        }
        let changed = sandbox.change_network(&lost, &got).await;
        changed.map_err(|source| LiveError::Guest {
            name: names.join(", "),
            source,
        })
    }

    /// An engine may have a resolver in the namespace only from an interface on.
    async fn ask_names(&mut self, sandbox: &Sandbox) -> Result<(), LiveError> {
        let servers = match self.asks_names {
            true => Vec::new(),
            false => name_servers(self.resolv_conf.as_ref()),
        };
        if servers.is_empty() {
            return Ok(());
        }
        self.in_kernel(Foreign::serve_host_side).await?;
        let attachments = Attachments {
            interfaces: Vec::new(),
            resolvers: servers.iter().map(ToString::to_string).collect(),
        };
        let told = sandbox.extend_network(&attachments).await;
        told.map_err(LiveError::Names)?;
        self.asks_names = true;
        Ok(())
    }
}

/// What the guest has to be given to have what its namespace has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Steps {
    /// Slots whose interface is gone, or is another one.
    unplug: Vec<usize>,
    /// New interfaces, and slots for them.
    plug: Vec<(usize, Interface)>,
    /// Those that have other addresses, routes or neighbours, as they are now.
    change: Vec<(usize, Interface)>,
    /// Names of those that there is no slot for.
    beyond: Vec<String>,
}

impl Steps {
    /// Whether what is in a slot comes to one again, as another one.
    fn is_plugged_again(&self, plugged: &Plugged, slot: usize) -> bool {
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
fn with_advertised(plugged: &Plugged, surveyed: Surveyed) -> Vec<Interface> {
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
fn steps(plugged: &Plugged, now: Vec<Interface>, left: &BTreeSet<u32>) -> Steps {
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
fn difference(before: &Interface, now: &Interface) -> (Interface, Interface) {
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
