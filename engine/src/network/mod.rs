//! The engine's networks: bridges, and the ends of containers on them.
//!
//! An end ([`Endpoint`]) is made when its container starts and goes when it ends. It is written
//! into the container's record, so that an engine that starts anew knows what live containers have;
//! interfaces of this engine that belong to no live container are removed then.

mod addresses;
mod attach;
mod bridge;
mod denied;
mod dns;
mod enforce;
mod known;
mod learned;
mod macvlan;
mod manage;
mod names;
mod pools;
mod ports;
mod records;

pub(crate) use attach::{annotation, choose_route, default_route, interface, Owner};
pub(crate) use denied::Denial;
pub(crate) use manage::{CreateNetwork, Networks};
pub(crate) use pools::{Pool, PoolRequest};
pub(crate) use ports::parse_bindings;
pub(crate) use records::{egress_of, Endpoint, Link, NetworkRecord, Wanted, EGRESS_ANNOTATION};

/// Name of the network that containers have unless they say otherwise.
pub(crate) const DEFAULT: &str = "bridge";
/// Name of the network without interfaces.
pub(crate) const NONE: &str = "none";

/// Whether a `NetworkMode` means the default network.
pub(crate) fn is_default_mode(mode: &str) -> bool {
    matches!(mode, "" | "default" | DEFAULT)
}

#[cfg(feature = "fuzz")]
pub(crate) use dns::answer_for_fuzzing;
