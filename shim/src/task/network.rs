//! The network of a sandbox: the engine's own taps, or the namespace that somebody prepares.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use containerd_shim_protos::ttrpc;
use hull_network::foreign::{ForeignError, Interface};

use super::errors;
use super::live_network::LiveNetwork;
use crate::annotations::Annotations;
use crate::holder::{Holder, Network};
use crate::network::{Attachment, Attachments, Neighbour, Route};
use crate::report::chain;
use crate::resolver;
use crate::spec::Bundle;

/// Largest `resolv.conf` that is looked into, in bytes.
const MAX_RESOLV_CONF: u64 = 64 << 10;

/// What a sandbox's network is made of.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// The interfaces.
    pub(super) attachments: Attachments,
    /// The descriptors of the tap of each, one for each pair of queues.
    pub(super) taps: Vec<Vec<OwnedFd>>,
    /// The namespace that they are in, unless they are the engine's.
    pub(super) live: Option<LiveNetwork>,
}

/// Where a sandbox's network comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// The engine that started this program made taps.
    Engine(Attachments),
    /// Somebody prepares a namespace.
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The container's `resolv.conf` on the host, if it has one.
        resolv_conf: Option<PathBuf>,
    },
}

impl Source {
    /// What a container's configuration means. `holder` is the process in its namespace.
    pub(super) fn of(bundle: &Bundle, holder: Option<&Holder>) -> ttrpc::Result<Self> {
        let annotations = Annotations::parse(bundle.spec.annotations().as_ref())
            .map_err(|error| errors::invalid(chain(&error)))?;
        if let Some(attachments) = annotations.network {
            return Ok(Self::Engine(attachments));
        }
        let path = match (Network::of(&bundle.spec), holder) {
            (Network::Inherit, _) => return Err(hosts_network()),
            (_, Some(holder)) => holder.netns(),
            (Network::Join(path), None) => path,
            (Network::New, None) => return Ok(Self::Engine(Attachments::default())),
        };
        Ok(Self::Namespace {
            path,
            resolv_conf: resolv_conf(bundle),
        })
    }

    /// What there is now. `pairs`: of queues that each interface is to have.
    pub(super) async fn prepare(&self, pairs: usize) -> ttrpc::Result<Prepared> {
        match self {
            Self::Engine(attachments) => engines_own(attachments.clone(), pairs),
            Self::Namespace { path, resolv_conf } => {
                let (path, resolv_conf) = (path.clone(), resolv_conf.clone());
                let taken =
                    tokio::task::spawn_blocking(move || take(&path, resolv_conf.as_ref(), pairs));
                taken.await.map_err(|error| errors::failed(&error))?
            }
        }
    }
}

/// Whether somebody may look for the container's network namespace by its PID, as CNI's callers
/// do: then it must be a process in it.
pub(super) fn wants_pid(bundle: &Bundle) -> bool {
    let annotations = bundle.spec.annotations().as_ref();
    let own = annotations.is_some_and(|all| all.contains_key(crate::annotations::NETWORK));
    !own && Network::of(&bundle.spec) != Network::Inherit
}

fn hosts_network() -> ttrpc::Error {
    errors::invalid(
        "the host's network is not supported: a microVM has a network stack of its own; use a \
         bridge network and publish ports, or no network",
    )
}

fn engines_own(attachments: Attachments, pairs: usize) -> ttrpc::Result<Prepared> {
    let taps = attachments.interfaces.iter().map(|interface| {
        hull_network::tap::open(&interface.tap, pairs).map_err(|error| errors::failed(&error))
    });
    Ok(Prepared {
        taps: taps.collect::<ttrpc::Result<_>>()?,
        attachments,
        live: None,
    })
}

fn take(path: &Path, resolv_conf: Option<&PathBuf>, pairs: usize) -> ttrpc::Result<Prepared> {
    let (live, first) =
        LiveNetwork::take(path, resolv_conf, pairs).map_err(|error| match error {
            ForeignError::Hosts { .. } => hosts_network(),
            error => errors::failed(&error),
        })?;
    Ok(Prepared {
        attachments: Attachments {
            interfaces: first.interfaces.iter().map(attachment).collect(),
            resolvers: first.servers.iter().map(Ipv4Addr::to_string).collect(),
        },
        taps: first.taps,
        live: Some(live),
    })
}

/// Name servers on loopback addresses that a `resolv.conf` of the host names.
pub(super) fn name_servers(resolv_conf: Option<&PathBuf>) -> Vec<Ipv4Addr> {
    let text = resolv_conf.and_then(read_small);
    text.map(|text| resolver::on_loopback(&text))
        .unwrap_or_default()
}

pub(super) fn attachment(interface: &Interface) -> Attachment {
    let route = |route: &hull_network::netlink::Route| Route {
        destination: route.destination.map(|to| to.to_string()),
        gateway: route.gateway.map(|by| by.to_string()),
        source: route.source.map(|from| from.to_string()),
        metric: route.metric.unwrap_or_default(),
        onlink: route.onlink,
    };
    let neighbour = |neighbour: &hull_network::netlink::Neighbour| Neighbour {
        address: neighbour.address.to_string(),
        mac: mac(neighbour.hardware_address),
    };
    Attachment {
        name: interface.name.clone(),
        tap: String::from("none"),
        mac: mac(interface.hardware_address),
        mtu: u16::try_from(interface.mtu).unwrap_or(u16::MAX),
        addresses: interface
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect(),
        gateways: Vec::new(),
        static_v6: false,
        without_arp: false,
        routes: interface.routes.iter().map(route).collect(),
        neighbours: interface.neighbours.iter().map(neighbour).collect(),
        sysctls: std::collections::BTreeMap::new(),
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The host's file that is the container's `resolv.conf`.
fn resolv_conf(bundle: &Bundle) -> Option<PathBuf> {
    let mounts = bundle.spec.mounts().as_deref().unwrap_or_default();
    let mount = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new("/etc/resolv.conf"))?;
    mount
        .source()
        .as_ref()
        .map(|path| bundle.directory.join(path))
}

fn read_small(path: &PathBuf) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    let small = metadata.is_file() && metadata.len() <= MAX_RESOLV_CONF;
    small.then(|| std::fs::read_to_string(path).ok()).flatten()
}
