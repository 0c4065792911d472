//! Virtual machine monitor: one microVM per process.

pub mod jail;
pub mod seccomp;
