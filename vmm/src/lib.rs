//! Virtual machine monitor: one microVM per process.
//!
//! [`vm::Vm`] is built from a [`hull_vm_config::VmConfig`] and open descriptors ([`fds`]), enters
//! its [`jail`], and runs: one thread per vCPU ([`vcpu`]), and the main thread for the devices and
//! the control socket ([`event_loop`]).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod arch;
pub mod cmdline;
pub mod config;
pub mod control;
pub mod devices;
pub mod event_loop;
pub mod exit;
pub mod fds;
pub mod jail;
pub mod memory;
pub mod pio;
pub mod seccomp;
mod sys;
pub mod trace;
pub mod vcpu;
pub mod vm;
