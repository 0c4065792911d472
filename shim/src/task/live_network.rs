//! The interfaces of a namespace that somebody else prepares, as long as a VM has them: what changes
//! there changes in the guest.
//!
//! Engines plug interfaces in between `create` and `start`, or while the container runs
//! (`docker network connect`). What a VM can't have is told of in the log then, and the container
//! goes on.

mod steps;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use hull_network::foreign::{Foreign, ForeignError, Interface, Namespace, Surveyed, Watch};
use hull_vm_config::Slot;
use tokio::sync::Mutex;

use self::steps::{difference, steps, with_advertised, Plugged};
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
