//! The VMM that makes an attempt: `vmm/src/main.rs` with another log.

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use hull_vm_config::control::{CONFIG_FD, CONTROL_FD};
use hull_vmm::control::Control;
use hull_vmm::devices::TakeFd as _;
use hull_vmm::fds::FdTable;
use hull_vmm::trace::BootTrace;
use hull_vmm::vm::Vm;
use hull_vmm::{config, event_loop, jail};

use crate::attempts::{Target, ATTEMPTS};
use crate::own::{Fds, OWN};
use crate::{ATTEMPT, BROKEN, FREE, OTHER_TAP, TARGET, WORKED};

/// What is to be done, and where.
struct Plan {
    thread: String,
    name: String,
    target: Target,
    other_tap: String,
    fds: Fds,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

impl Plan {
    fn carry_out(&self) -> io::Result<()> {
        if let Some(own) = OWN.iter().find(|own| own.name == self.name) {
            return (own.run)(&self.fds, &self.target, &self.other_tap);
        }
        match ATTEMPTS.iter().find(|attempt| attempt.name == self.name) {
            Some(attempt) => (attempt.run)(&self.target),
            None => crate::own::read_the_clock(),
        }
    }

    /// Makes the attempt and ends the process with what became of it.
    fn end(&self) -> ! {
        let status = match self.carry_out() {
            Ok(()) => WORKED,
            Err(error) => error.raw_os_error().unwrap_or(BROKEN),
        };
        std::process::exit(status)
    }
}

/// Its lines are what a guest can lead a thread to.
struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        let here = std::thread::current();
        if let Some(plan) = PLAN.get() {
            if here.name() == Some(plan.thread.as_str()) {
                plan.end();
            }
        }
    }

    fn flush(&self) {}
}

pub(crate) fn main(thread: &str) -> ExitCode {
    match run(thread) {
        Ok(()) => ExitCode::from(0),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(u8::try_from(BROKEN).unwrap_or(u8::MAX))
        }
    }
}

fn run(thread: &str) -> anyhow::Result<()> {
    let mut table = FdTable::from_args(std::env::args().skip(1))?;
    table.close_others()?;
    let control = Control::new(table.take(&CONTROL_FD.into())?)?;
    let config = config::read(table.take(&CONFIG_FD.into())?)?;
    let vm = Vm::build(&config, &mut table, Arc::new(BootTrace::start()))?;
    drop(table);
    let variable = |name| std::env::var(name).unwrap_or_default();
    let plan = Plan {
        thread: thread.to_owned(),
        name: variable(ATTEMPT),
        target: Target::from_text(&variable(TARGET)).ok_or_else(|| anyhow::anyhow!("no target"))?,
        other_tap: variable(OTHER_TAP),
        fds: Fds::find()?,
    };
    if thread == FREE {
        plan.end();
    }
    let report = jail::enter(&config.jail)?;
    if PLAN.set(plan).is_ok() && log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
    // It ends by the attempt; otherwise with a status that is none of an attempt's.
    drop(event_loop::run(vm, control, report));
    Ok(())
}
