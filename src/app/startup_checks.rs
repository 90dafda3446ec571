//! Checks at start-up that need this machine or the upstream, beyond what the configuration's own
//! checks can find.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::AppError;
use crate::config::{self, Config, ConfigProblems, EnvVars, StoreUrl};
use crate::store::StoreError;

/// Refuses upstreams that resolve to this process's own listeners.
pub(super) async fn refuse_self_upstreams(
    config: &Config,
    config_source: Option<&(PathBuf, EnvVars)>,
) -> Result<(), ConfigProblems> {
    let problems = config::find_self_upstreams(config).await;
    if problems.is_empty() {
        return Ok(());
    }
    let file = config_source
        .map_or_else(|| "arguments".to_owned(), |(path, _)| path.display().to_string());
    Err(ConfigProblems { file, problems })
}

/// Refuses the embedded store for workers of their own: it belongs to one process, and they need a
/// store that `serve` can reach too.
pub(super) fn require_shared_store(config: &Config) -> Result<(), StoreError> {
    match &config.store.url {
        StoreUrl::Sqlite(path) => Err(StoreError::InvalidSetup(format!(
            "workers of their own need a store that processes share, and sqlite:{} is one \
             process's: set REDIS_URL (or store.url), or let `omnidaemon serve` run the workers \
             (workers.count)",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Refuses an admin plane that the network can reach without a token.
pub(super) fn require_protected_admin(
    config: &Config,
    address: SocketAddr,
) -> Result<(), AppError> {
    let is_protected = address.ip().to_canonical().is_loopback() || config.admin.token.is_some();
    if is_protected { Ok(()) } else { Err(AppError::UnprotectedAdmin { address }) }
}

/// The error of a port that cannot be bound, with what to do about it.
pub(super) fn bind_error(key: &'static str, address: SocketAddr, error: io::Error) -> AppError {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another process has the port; stop it, or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            ": ports below 1024 need a privilege; choose a higher one"
        }
        io::ErrorKind::AddrNotAvailable => ": this machine does not have the address",
        _ => "",
    };
    AppError::Bind { address, key, error, hint }
}

/// Warns where a path that this proxy serves itself hides a path of the upstream.
pub(super) async fn warn_hidden_paths(config: Arc<Config>, shutdown: CancellationToken) {
    let mut own_paths = vec![config.proxy.task_path.clone()];
    own_paths.extend(
        config
            .routes
            .iter()
            .filter(|route| !route.path.source_text.contains('{'))
            .map(|route| format!("{}/async", route.path.source_text)),
    );
    if config.proxy.expose_metrics {
        own_paths.push("/metrics".into());
    }
    for path in own_paths {
        let probe = crate::worker::probe_upstream(&config.upstream, &path);
        let Some(Some(status)) = shutdown.run_until_cancelled(probe).await else { continue };
        if status != http::StatusCode::NOT_FOUND && !status.is_server_error() {
            tracing::warn!(
                path, %status,
                "the upstream serves this path too, and clients no longer reach it there"
            );
        }
    }
}
