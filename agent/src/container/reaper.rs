//! `docker-init`: PID 1 of a container that is run with `--init`. It starts the program as its
//! child, passes signals on to it, reaps what is left to it, and ends as the program does.
//!
//! It is this same program, executed as the container's user in the place of the container's own:
//! `/sbin/docker-init -- PROGRAM ARG...`, as with dockerd.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::lookup;
use super::process::inspect;
use crate::sys::{self, Forked};

/// Its first argument, by which `main` knows what is wanted.
pub(crate) const NAME: &str = "/sbin/docker-init";

/// The arguments that run `program`.
pub(super) fn arguments(program: &[CString]) -> Vec<CString> {
    let own = [c"/sbin/docker-init", c"--"].map(CString::from);
    own.into_iter().chain(program.iter().cloned()).collect()
}

/// `args` are those behind its own name.
pub(crate) fn main(args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let mut args: Vec<CString> = args
        .filter_map(|arg| CString::new(arg.as_bytes()).ok())
        .collect();
    if args.first().is_some_and(|first| first.as_c_str() == c"--") {
        args.remove(0);
    }
    if args.is_empty() {
        eprintln!("docker-init: no program is named");
        return ExitCode::from(2);
    }
    let _ = rustix::thread::set_name(c"docker-init");
    match run(&args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("docker-init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[CString]) -> io::Result<u8> {
    // Before the fork: no signal is lost meanwhile.
    sys::block_signals()?;
    let child = match sys::fork()? {
        Forked::Parent(child) => child,
        Forked::Child => become_program(args),
    };
    loop {
        match sys::next_signal()? {
            libc::SIGCHLD => {
                if let Some(status) = reap(child)? {
                    return Ok(status);
                }
            }
            // It may have ended meanwhile, which is the next signal.
            signal => drop(sys::kill(
                child.cast_signed(),
                u32::try_from(signal).unwrap_or(0),
            )),
        }
    }
}

/// Reaps all that have ended; the program's exit status if it is among them.
fn reap(child: u32) -> io::Result<Option<u8>> {
    let mut ended = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if Pid::as_raw(Some(pid)).cast_unsigned() == child {
                    ended = exit_status(status).or(ended);
                }
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(ended),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As a shell says it: 128+n for signal n.
fn exit_status(status: WaitStatus) -> Option<u8> {
    let number = match status.exit_status() {
        Some(code) => code,
        None => 128 + status.terminating_signal()?,
    };
    Some(number as u8)
}

/// In the child: its own process group, in the foreground where there is a terminal.
fn become_program(args: &[CString]) -> ! {
    let _ = rustix::process::setpgid(None, None);
    // Signals are blocked still, SIGTTOU among them.
    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
    sys::reset_signals();
    let env: Vec<String> = std::env::vars_os()
        .map(|(key, value)| format!("{}={}", key.to_string_lossy(), value.to_string_lossy()))
        .collect();
    let all: Vec<CString> = std::env::vars_os()
        .filter_map(|(key, value)| {
            let pair = [key.as_bytes(), b"=", value.as_bytes()].concat();
            CString::new(pair).ok()
        })
        .collect();
    let name = args[0].to_string_lossy();
    let error = match lookup::executable(&name, &env, inspect) {
        Err(error) => error,
        Ok(program) => match CString::new(program.as_os_str().as_bytes()) {
            Err(_) => lookup::exec_failure(&program, &io::ErrorKind::InvalidInput.into()),
            Ok(path) => lookup::exec_failure(&program, &sys::execve(&path, args, &all)),
        },
    };
    eprintln!("docker-init: {}", error.text());
    std::process::exit(lookup::exec_failure_status(&error))
}
