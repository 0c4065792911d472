//! Networks of containers: what is the same on the host and in a guest ([`netlink`], [`sockets`]),
//! and, with the feature `host`, what only a host has: taps, address pools, packet rules and published ports.
//!
//! **Invariant:** no program is run for any of it: interfaces and packet rules are made by netlink
//! and ioctl.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

#[cfg(feature = "host")]
pub mod egress;
#[cfg(feature = "host")]
pub mod foreign;
#[cfg(feature = "host")]
pub mod ipvtap;
#[cfg(feature = "host")]
pub mod macvtap;
pub mod netlink;
#[cfg(feature = "host")]
pub mod nft;
#[cfg(feature = "host")]
pub mod pool;
#[cfg(feature = "host")]
pub mod ports;
mod prefix;
#[cfg(feature = "host")]
pub mod rules;
pub mod sockets;
#[cfg(feature = "host")]
mod sys;
#[cfg(feature = "host")]
pub mod tap;

pub use prefix::{BadPrefix, Prefix};
#[cfg(feature = "host")]
pub use sys::async_fd;
