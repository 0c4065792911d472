//! containerd's Task API (`containerd.task.v2.Task` and its renamed copy `containerd.task.v3.Task`)
//! over one sandbox.

pub(crate) mod address;
mod calls;
mod command;
mod container;
mod errors;
mod events;
mod host_side;
mod join;
mod limits;
mod live_network;
mod metrics;
#[cfg(feature = "fuzz")]
pub(crate) use metrics::pack as fuzz_metrics;
mod network;
mod process;
mod rootfs;
mod sandbox_service;
mod serve;
mod service;
mod state;
mod steps;
mod update;
mod vm_end;

pub use command::{main, Invocation};
