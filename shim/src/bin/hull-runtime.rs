//! runc's command line, each container in a microVM.

use std::process::ExitCode;

fn main() -> ExitCode {
    hull_shim::runtime::main(std::env::args())
}
