//! The `omnidaemon` program: arguments in, exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    omnidaemon::cli::main()
}
