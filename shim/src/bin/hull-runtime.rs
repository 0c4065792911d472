//! runc's command line, each container in a microVM.

use std::process::ExitCode;

use hull_shim::holder;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, setup] = arguments.as_slice() {
        if first == holder::ARGUMENT {
            return holder::main(setup);
        }
    }
    hull_shim::runtime::main(arguments)
}
