//! `hull-runtime`: runc's command line over Hull's shim.
//!
//! Each container has a shim of its own, started by `create`; every other command finds it by the
//! address in the container's record below `--root`. This program keeps nothing running itself.

mod capabilities;
mod cgroup;
mod cli;
mod client;
mod control;
mod create;
mod error;
mod exec;
mod foreground;
mod inherited;
mod inspect;
mod log;
mod notify;
mod ps;
mod signals;
mod spec;
mod store;
mod streams;
mod update;

use std::cell::Cell;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser as _};

use cli::{Cli, Command};
use error::{system, Result};
use inherited::Inherited;
use log::Log;
use store::Store;

pub use error::RuntimeError;
pub(crate) use spec::features_document;

/// Exit status for a command that is none.
const UNKNOWN_COMMAND: u8 = 3;

/// What all commands need.
struct Context {
    store: Store,
    exec_root: PathBuf,
    log: Log,
    debug: bool,
    systemd_cgroup: bool,
    /// For the one process that the command makes.
    inherited: Cell<Inherited>,
}

/// The whole program; `arguments` begin with its name.
pub fn main(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    // The caller's own pipes: a shim that had them would keep them open for ever.
    if let Err(error) = crate::sys::keep_inherited_fds_to_itself() {
        eprintln!("hull-runtime: failed to mark the inherited descriptors: {error}");
        return ExitCode::FAILURE;
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage_exit(&error),
    };
    let inherited = Inherited::take(cli.command.as_ref());
    let log = match Log::open(&cli.global) {
        Ok(log) => log,
        Err(error) => {
            Log::to_stderr(&cli.global).error(&crate::report::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    if cli.version {
        println!("hull-runtime version {}", env!("CARGO_PKG_VERSION"));
        println!("spec: {}", spec::SPEC_MAX);
        return ExitCode::SUCCESS;
    }
    let Some(command) = cli.command else {
        // As runc: no command is a question for help.
        let _ = Cli::command().print_help();
        return ExitCode::SUCCESS;
    };
    let store = match Store::new(cli.global.root.as_deref()) {
        Ok(store) => store,
        Err(error) => {
            log.error(&crate::report::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let context = Context {
        store,
        exec_root: crate::runtime_dir::exec_root(),
        log,
        debug: cli.global.debug,
        systemd_cgroup: cli.global.systemd_cgroup,
        inherited: Cell::new(inherited),
    };
    match run(&context, &command, &mut std::io::stdout()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            context.log.error(&crate::report::chain(&error));
            ExitCode::from(error.exit_status())
        }
    }
}

fn usage_exit(error: &clap::Error) -> ExitCode {
    if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(name))) =
        (error.kind(), error.get(ContextKind::InvalidSubcommand))
    {
        // In runc's words and with its status.
        eprintln!("No help topic for '{name}'");
        return ExitCode::from(UNKNOWN_COMMAND);
    }
    // Help goes to stdout.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run(context: &Context, command: &Command, out: &mut impl Write) -> Result<u8> {
    context.log.debug(&format!("hull-runtime {command:?}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the event loop"))?;
    let done = runtime.block_on(dispatch(context, command, out));
    runtime.shutdown_background();
    done
}

async fn dispatch(context: &Context, command: &Command, out: &mut impl Write) -> Result<u8> {
    match command {
        Command::Create(args) => create::create(context, args).await,
        Command::Run(args) => create::run(context, args).await,
        Command::Start(args) => control::start(context, args).await,
        Command::State(args) => inspect::state(context, args, out).await,
        Command::Kill(args) => control::kill(context, args).await,
        Command::Delete(args) => control::delete(context, args).await,
        Command::Exec(args) => exec::exec(context, args).await,
        Command::Ps(args) => ps::ps(context, args, out).await,
        Command::List(args) => inspect::list(context, args, out).await,
        Command::Pause(args) => control::pause(context, args).await,
        Command::Resume(args) => control::resume(context, args).await,
        Command::Update(args) => update::update(context, args).await,
        Command::Events(args) => inspect::events(context, args, out).await,
        Command::Spec(args) => spec::spec(args),
        Command::Features => spec::features(out),
        Command::Checkpoint(_) | Command::Restore(_) => Err(RuntimeError::Usage(
            "checkpoints of a container's processes are not supported".into(),
        )),
    }
}

/// The one argument of a command that takes an id.
fn only_id(ids: &[String]) -> Result<&str> {
    match ids {
        [id] => Ok(id),
        _ => Err(usage_error("requires exactly 1 argument(s)")),
    }
}

fn usage_error(what: &str) -> RuntimeError {
    let command = std::env::args().skip(1).find(|argument| {
        Cli::command()
            .get_subcommands()
            .any(|known| known.get_name() == argument)
    });
    let command = command.unwrap_or_default();
    RuntimeError::Usage(format!("hull-runtime: {command:?} {what}"))
}
