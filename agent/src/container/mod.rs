//! The OCI executor: plans made in the agent, carried out by a fresh process of the same program
//! (`container-init`), which has one thread and so may fork and change its namespaces.

pub(crate) mod capability;
pub(crate) mod channel;
mod copy_up;
mod devices;
pub(crate) mod hooks;
pub(crate) mod init;
mod interpreter;
mod lookup;
mod mount_options;
mod mounts;
mod over_proc;
pub(crate) mod plan;
mod process;
pub(crate) mod reaper;
mod resolve;
mod rlimit;
mod schedule;
mod seccomp;
mod user;

pub(crate) use process::identity_of;
