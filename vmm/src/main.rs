//! `hull-vmm --fd NAME=NUMBER...`: runs one microVM from the descriptors it was started with.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use hull_vm_config::control::{Event, ExitReason, CONFIG_FD, CONTROL_FD};
use hull_vmm::control::Control;
use hull_vmm::devices::TakeFd;
use hull_vmm::event_loop::{self, Ended};
use hull_vmm::fds::{presize_fd_table, FdTable};
use hull_vmm::trace::BootTrace;
use hull_vmm::vm::Vm;
use hull_vmm::{config, exit, jail};

/// For mistakes of whoever started the VMM: there is no control socket to report them on.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let trace = Arc::new(BootTrace::start());
    let (fds, control) = match take_control() {
        Ok(taken) => taken,
        Err(error) => {
            eprintln!("hull-vmm: {error:#}");
            return ExitCode::from(USAGE);
        }
    };
    let ended = build_and_run(fds, control, trace);
    if let Some(control) = &ended.control {
        let event = Event::Exited {
            reason: ended.reason.clone(),
        };
        if let Err(error) = control.send(&event) {
            eprintln!("hull-vmm: {error}");
        }
    }
    if exit::status(&ended.reason) != 0 {
        eprintln!("hull-vmm: {}", ended.reason);
    }
    ExitCode::from(exit::status(&ended.reason))
}

/// The descriptors, and the socket to report everything else on.
fn take_control() -> anyhow::Result<(FdTable, Control)> {
    let mut fds = FdTable::from_args(std::env::args().skip(1))?;
    fds.close_others()
        .context("failed to close inherited descriptors")?;
    let socket = fds.take(&CONTROL_FD.into())?;
    presize_fd_table(&socket);
    Ok((fds, Control::new(socket)?))
}

fn build_and_run(fds: FdTable, control: Control, trace: Arc<BootTrace>) -> Ended {
    match build(fds, trace) {
        Ok((vm, jail)) => event_loop::run(vm, control, jail),
        Err(error) => Ended {
            reason: ExitReason::Error {
                message: format!("{error:#}"),
            },
            control: Some(control),
        },
    }
}

/// Builds the VM and enters the jail. What is not taken from the table by then is closed.
fn build(mut fds: FdTable, trace: Arc<BootTrace>) -> anyhow::Result<(Vm, jail::JailReport)> {
    let config = config::read(fds.take(&CONFIG_FD.into())?)?;
    trace.mark("config-read");
    let vm = Vm::build(&config, &mut fds, Arc::clone(&trace))?;
    drop(fds);
    let report = jail::enter(&config.jail).context("failed to enter the jail")?;
    trace.mark("jailed");
    Ok((vm, report))
}
