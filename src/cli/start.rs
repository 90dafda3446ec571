//! What a process sets up before it does anything: logs, file descriptors, the TLS provider.

use std::io::IsTerminal as _;

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

use super::CliCommand;

/// Starts logging on stderr: at `RUST_LOG`, else at `LOG_LEVEL`, else at info for servers and warn
/// for the rest; as JSON where `LOG_FORMAT` is `json`.
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
    let named = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let wanted = named("RUST_LOG").or_else(|| named("LOG_LEVEL").map(|level| level.to_lowercase()));
    let wanted = wanted.unwrap_or_else(|| level.to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new(level));
    let coloured = std::io::stderr().is_terminal() && named("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(coloured)
        .with_writer(std::io::stderr);
    if named("LOG_FORMAT").is_some_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.init();
    }
}

/// Raises the limit of open files to what the system allows, since each client takes one, and
/// chooses the TLS provider.
pub(super) fn prepare_process() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("another TLS provider is installed already");
    }
}
