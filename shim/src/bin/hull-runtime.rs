//! runc's command line, each container in a microVM.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::process::ExitCode;

use hull_shim::holder;

fn main() -> ExitCode {
    if let Ok(setup) = std::env::var(holder::VARIABLE) {
        return holder::main(&setup);
    }
    let arguments: Vec<String> = std::env::args().collect();
    hull_shim::runtime::main(arguments)
}
