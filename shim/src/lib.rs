//! The host side of one sandbox: from an OCI bundle to a running microVM, and containerd's Task
//! API in front of it.
//!
//! `spec` reads a bundle, `lower` turns it into a plan without touching anything, `sandbox` carries
//! the plan out: it opens the files, starts the VMM (`vmm`) and talks to the agent (`agent`).
//! `task` serves containerd's Task API on top; `unpack` runs the one-off VM that turns image
//! layers into a file system image.
//!
//! **Invariant:** nothing here reads an image's or a container's content; only the guest does.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod agent;
pub mod annotations;
pub mod assets;
pub mod cgroup;
mod clock;
pub mod confine;
pub mod cpu_list;
mod fd_stream;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod handover;
pub mod holder;
pub mod hooks;
mod host_sockets;
mod in_memory;
mod loopback;
pub mod lower;
pub mod network;
mod oom_score;
mod pace;
pub mod pod;
pub mod preserved;
mod private;
pub mod ps;
pub mod report;
mod resolver;
pub mod runtime;
pub mod runtime_dir;
pub mod sandbox;
pub mod share;
mod shared_network;
mod space;
pub mod spec;
pub mod stdio;
mod sys;
pub mod task;
pub mod unpack;
pub mod user_namespace;
pub mod vmm;
mod watch;

pub use runtime_dir::{sweep, Swept};
