//! The `omnidaemon` program: parses its arguments and ends with an exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    omnidaemon::cli::main()
}
