//! The command line: docker's verbs, and what only a microVM can do.
//!
//! **Invariant:** it talks to the engine by the Docker API alone; every rule of containers lives
//! in the engine.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod attach;
mod client;
mod commands;
mod contexts;
mod docker_config;
mod endpoint;
mod error;
mod flags;
mod progress;
mod signals;
mod table;
mod template;
mod terminal;
mod transport;
mod units;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use commands::Command;
use endpoint::EngineArgs;
use error::CliError;

/// Exit status of Hull's own errors.
const OWN_ERROR: u8 = 125;

/// Runs each container in a microVM of its own.
#[derive(Debug, Parser)]
#[command(
    name = "hull",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(subcommand)]
    command: Command,
}

/// The command line's description.
fn command_line() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

/// Reads the command line.
fn arguments() -> Result<Args, clap::Error> {
    let read = flags::lenient(command_line()).try_get_matches();
    match read.and_then(|matches| <Args as clap::FromArgMatches>::from_arg_matches(&matches)) {
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => {
            // In the form that has no values of switches, if it reads the same there.
            let plain = command_line().try_get_matches();
            Err(plain
                .err()
                .filter(|plain| plain.kind() == error.kind())
                .unwrap_or(error))
        }
        read => read,
    }
}

fn main() -> ExitCode {
    let args = match arguments() {
        Ok(args) => args,
        Err(error) => {
            match commands::absent::explain(&error) {
                Some(text) => eprintln!("hull: {text}"),
                None => drop(error.print()),
            }
            return if error.use_stderr() {
                ExitCode::from(OWN_ERROR)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hull: cannot start the event loop: {error}");
            return ExitCode::from(OWN_ERROR);
        }
    };
    let mut out = std::io::stdout();
    let result = runtime.block_on(commands::run(args.command, &args.engine, &mut out));
    let code = match result {
        Ok(code) => code,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hull: {}", one_line(&error));
            ExitCode::from(error.exit_status())
        }
    };
    let _ = out.flush();
    // A read of stdin may still be under way: it must not hold the end up.
    runtime.shutdown_background();
    code
}

fn one_line(error: &CliError) -> String {
    error.to_string().trim().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn host_name_and_help_do_not_collide() {
        let args = Args::try_parse_from(["hull", "run", "-h", "web", "-it", "x", "-h"]);
        assert!(args.is_ok(), "{args:?}");
    }
}
