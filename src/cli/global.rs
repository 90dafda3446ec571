//! The arguments that every command takes, and how its output looks.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

const GLOBAL_HEADING: &str = "Options of every command";

/// What every command takes.
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
    /// The admin plane to ask; by default the address in the configuration file
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, value_name = "URL",
    env = "OMNIDAEMON_ADMIN_URL")]
    pub(super) admin: Option<String>,
    /// The admin plane's token, where it has one; better set in the environment, which others
    /// cannot read
    #[arg(long, global = true, help_heading = GLOBAL_HEADING, value_name = "TOKEN",
    env = "OMNIDAEMON_ADMIN_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// How stdout is written: for people, or for programs
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

/// Whether stdout may be coloured: it is a terminal, and `NO_COLOR` (<https://no-color.org>) is not
/// set.
pub(super) fn stdout_allows_colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
