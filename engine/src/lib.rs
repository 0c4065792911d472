//! The engine behind the Docker API: container records, their life cycle, logs, and the HTTP server
//! `hulld`.
//!
//! **Invariant:** the engine never parses image content and never touches KVM. A container is made
//! by its shim, which the engine talks to over containerd's Task API.
//!
//! **Invariant:** a container's [`record::Record`] on disk is changed only under its operation lock,
//! so what the store says and what the shim does can differ by at most one interrupted step, which
//! [`engine::Engine::restore`] repairs.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
mod commit;
mod connections;
pub mod container;
pub mod daemon;
pub mod default_bridge;
mod dockerfile;
pub mod engine;
pub mod error;
pub mod events;
mod exec;
mod files;
mod filters;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod glob;
pub mod health;
mod ids;
pub mod images;
mod json;
pub mod lifecycle;
pub mod listen;
pub mod logs;
mod names;
pub(crate) mod network;
pub mod paths;
mod plugins;
pub mod record;
pub mod resolving;
mod scratch;
pub mod settings;
mod shim;
pub mod spec;
mod stats;
pub mod store;
mod streams;
mod unpacker;
mod volumes;

/// Newest Docker Engine API version that the server speaks.
pub const API_VERSION: &str = "1.51";
/// Oldest Docker Engine API version that the server speaks.
pub const MIN_API_VERSION: &str = "1.24";
