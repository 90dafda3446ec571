//! The set-up of a process before its command runs: logging, the limit of open files and the TLS
//! provider.

use std::io::IsTerminal as _;

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

use super::CliCommand;

/// Starts logging on stderr, as JSON when `LOG_FORMAT` is `json`. The level is that of `RUST_LOG`,
/// else of `LOG_LEVEL`, else info for long-running commands and warn for the others.
pub(super) fn init_logging(command: &CliCommand) {
    let level = match command {
        CliCommand::Serve(_) | CliCommand::Worker(_) | CliCommand::Runner(_) => "info",
        CliCommand::Demo(_)
        | CliCommand::Health(_)
        | CliCommand::Metrics(_)
        | CliCommand::Rollout(_)
        | CliCommand::Task(_)
        | CliCommand::Bus(_)
        | CliCommand::Config(_) => "warn",
    };
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let log_level = || variable("LOG_LEVEL").map(|level| level.to_lowercase());
    let directives = variable("RUST_LOG").or_else(log_level).unwrap_or_else(|| level.to_owned());
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new(level));
    let has_colours = std::io::stderr().is_terminal() && variable("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(has_colours)
        .with_writer(std::io::stderr);
    if variable("LOG_FORMAT").is_some_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.init();
    }
}

/// Raises the limit of open files to the system's maximum, since each client connection needs one,
/// and installs the TLS provider.
pub(super) fn prepare_process() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        tracing::debug!(%error, "the limit of open files cannot be raised");
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("another TLS provider is installed already");
    }
}
