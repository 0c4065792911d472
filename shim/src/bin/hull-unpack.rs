//! Unpacks image layers into one EROFS image, inside a one-off microVM.
//!
//! Reads a job ([`hull_shim::unpack::Job`], JSON) from stdin to its end. Writes lines of JSON to
//! stdout: progress while it works, last either what came out or `{"error": "..."}`. The exit
//! status is 0 or 1. It ends when the thread that started it does.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::io::{self, Read as _, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use hull_shim::assets::Assets;
use hull_shim::confine::{self, Programs};
use hull_shim::runtime_dir::{exec_root, sweep};
use hull_shim::unpack::{unpack, Done, Job};
use rustix::process::{set_parent_process_death_signal, Signal};
use serde::Serialize;

/// Largest job, in bytes.
const MAX_JOB_BYTES: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut out = io::stdout();
    let (line, status) = match run(&mut out) {
        Ok(done) => (serde_json::to_string(&done), ExitCode::SUCCESS),
        Err(error) => {
            let error = serde_json::json!({ "error": hull_shim::report::chain(error.as_ref()) });
            (serde_json::to_string(&error), ExitCode::FAILURE)
        }
    };
    // With stdout closed nobody is left to tell.
    let _ = line.map(|line| writeln!(out, "{line}"));
    status
}

fn run(out: &mut impl Write) -> anyhow::Result<Done> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("set the parent death signal")?;
    confine::enter(Programs::Own)?;
    let mut text = String::new();
    io::stdin()
        .take(MAX_JOB_BYTES)
        .read_to_string(&mut text)
        .context("read the job from stdin")?;
    let job: Job = serde_json::from_str(&text).context("read the job from stdin")?;
    sweep(&exec_root());
    let assets = Assets::find()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    let done = runtime.block_on(unpack(&job, &assets, &exec_root(), |progress| {
        print(out, &progress);
    }))?;
    Ok(done)
}

fn print(out: &mut impl Write, line: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(line) {
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
