//! `hull-vmm --fd NAME=NUMBER...`: runs one microVM from the descriptors it was started with.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use hull_vm_config::control::{ExitReason, CONFIG_FD, CONTROL_FD};
use hull_vmm::control::Control;
use hull_vmm::devices::TakeFd;
use hull_vmm::event_loop::{self, Ended};
use hull_vmm::fds::{presize_fd_table, FdTable};
use hull_vmm::trace::BootTrace;
use hull_vmm::vm::Vm;
use hull_vmm::{config, exit, jail};

/// For mistakes of whoever started the VMM: there is no control socket to report them on.
const USAGE: i32 = 2;

fn main() {
    let trace = Arc::new(BootTrace::start());
    StderrLog::install();
    let (fds, control) = match take_control() {
        Ok(taken) => taken,
        Err(error) => {
            complain(format_args!("{error:#}"));
            std::process::exit(USAGE);
        }
    };
    let ended = match build(fds, trace) {
        Ok((vm, jail)) => event_loop::run(vm, control, jail),
        Err(error) => {
            let message = format!("{error:#}");
            Ended::early(ExitReason::Error { message }, control)
        }
    };
    let status = exit::status(ended.reason());
    if let Err(error) = ended.report() {
        complain(format_args!("{error}"));
    }
    if status != 0 {
        complain(format_args!("{}", ended.reason()));
    }
    // Without dropping the VM: the kernel takes everything back at once.
    std::process::exit(i32::from(status));
}

/// A line on stderr. `eprintln!` would panic where nobody reads it any more.
fn complain(what: std::fmt::Arguments<'_>) {
    // There is nowhere left to report a failure of this.
    let _ = writeln!(std::io::stderr(), "hull-vmm: {what}");
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

/// Warnings of the devices, one line each, on stderr.
struct StderrLog;

impl StderrLog {
    fn install() {
        if log::set_logger(&Self).is_ok() {
            log::set_max_level(log::LevelFilter::Warn);
        }
    }
}

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            complain(*record.args());
        }
    }

    fn flush(&self) {}
}
