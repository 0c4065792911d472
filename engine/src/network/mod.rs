//! The engine's networks: bridges, and the ends of containers on them.
//!
//! An end ([`Endpoint`]) is made when its container starts and goes when it ends. It is written
//! into the container's record, so that an engine that starts anew knows what live containers have;
//! interfaces of this engine that belong to no live container are removed then.

mod addresses;
mod attach;
mod bridge;
mod default;
mod denied;
mod dns;
mod endpoint_options;
mod enforce;
mod host;
mod interface;
mod kept;
mod known;
mod learned;
mod live;
mod manage;
mod names;
mod options;
mod owner;
mod parent;
mod pools;
mod ports;
mod records;
mod routes;
mod uplink;

pub(crate) use attach::check_count;
pub(crate) use bridge::check_mtu;
pub(crate) use denied::Denial;
pub(crate) use endpoint_options::KNOWN as KNOWN_ENDPOINT_OPTIONS;
pub(crate) use host::{check_conflicts, sort as sort_open, HostPort, Refusal, STAYS};
pub(crate) use interface::{annotation, default_route, interface};
pub(crate) use manage::{CreateNetwork, Families, Networks};
pub(crate) use options::warnings as option_warnings;
pub(crate) use owner::Owner;
pub(crate) use pools::{Pool, PoolRequest};
pub(crate) use ports::{add_exposed, exposed_keys, parse_bindings, port_map, BoundAddress};
pub(crate) use records::{egress_of, Endpoint, Link, NetworkRecord, Wanted, EGRESS_ANNOTATION};
pub(crate) use routes::choose_routes;

/// Name of the network that containers have unless they say otherwise.
pub(crate) const DEFAULT: &str = "bridge";
/// Name of the network without interfaces, and its id: the same in every engine.
pub(crate) const NONE: &str = "none";
pub(crate) const NONE_ID: &str = "6e6f6e6500000000000000000000000000000000000000000000000000000000";
/// Name of the network whose containers have the host's ports, and its id: the same in every engine.
pub(crate) const HOST: &str = "host";
pub(crate) const HOST_ID: &str = "686f737400000000000000000000000000000000000000000000000000000000";

/// Whether a `NetworkMode` means the default network.
pub(crate) fn is_default_mode(mode: &str) -> bool {
    matches!(mode, "" | "default" | DEFAULT)
}

/// Whether a reference means the network without interfaces.
pub(crate) fn is_none(reference: &str) -> bool {
    reference == NONE || 3 < reference.len() && NONE_ID.starts_with(reference)
}

/// Whether a container has the host's ports.
pub(crate) fn is_host_mode(host: &bollard_stubs::models::HostConfig) -> bool {
    host.network_mode.as_deref() == Some(HOST)
}

#[cfg(feature = "fuzz")]
pub(crate) use dns::answer_for_fuzzing;
