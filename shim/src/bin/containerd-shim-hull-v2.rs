//! containerd's shim v2: one process per sandbox, serving the Task API.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::process::ExitCode;

use hull_shim::holder;
use hull_shim::task::{self, Invocation};
use hull_shim::user_namespace;

fn main() -> ExitCode {
    if let Ok(setup) = std::env::var(holder::VARIABLE) {
        return holder::main(&setup);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, program @ ..] = arguments.as_slice() {
        if first == user_namespace::ARGUMENT {
            return user_namespace::main(program);
        }
    }
    let run = Invocation::parse(arguments).and_then(|parsed| task::main(&parsed));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "containerd-shim-hull-v2: {}",
                hull_shim::report::chain(error.as_ref())
            );
            ExitCode::FAILURE
        }
    }
}
