//! The arguments that every command takes, and whether its output has colours.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

const GLOBAL_HEADING: &str = "Options of every command";

/// The arguments of every command.
#[derive(Args, Clone, Debug)]
pub(super) struct GlobalArgs {
    /// The configuration file
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL_HEADING,
        value_name = "FILE",
        env = "OMNIDAEMON_CONFIG",
        default_value = "config/omnidaemon.yaml"
    )]
    pub(super) config: PathBuf,
    /// The URL of the server's admin API; by default its address in the configuration file
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, value_name = "URL",
    env = "OMNIDAEMON_ADMIN_URL")]
    pub(super) admin: Option<String>,
    /// The token of the admin API, if it has one; set it in the environment rather than here,
    /// since other users can read the arguments of a process
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, value_name = "TOKEN",
    env = "OMNIDAEMON_ADMIN_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// The form of the output: tables for people, JSON for programs
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, value_enum,
    default_value_t = OutputFormat::Table)]
    pub(super) format: OutputFormat,
}

/// `--format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    Table,
    Json,
}

/// Whether output on stdout may have colours: stdout is a terminal, and `NO_COLOR`
/// (<https://no-color.org>) is not set.
pub(super) fn stdout_allows_colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
