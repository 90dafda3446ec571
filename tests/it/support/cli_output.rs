//! The binary as a command, and what a command printed.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const OMNIDAEMON_BINARY: &str = env!("CARGO_BIN_EXE_omnidaemon");

/// A command of the binary in `dir`, without anything of the caller's environment but what finds
/// programs.
pub fn cli_command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(OMNIDAEMON_BINARY);
    command.current_dir(dir).env_clear().env("NO_COLOR", "1").args(args);
    let inherited = ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"];
    command.envs(inherited.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// What a command printed for programs.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// What a command printed for people.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command printed as JSON.
pub fn json_output(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"))
}
