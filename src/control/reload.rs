//! Hot reload: the file changed, or SIGHUP asked for it → read → checked → handed to the controller.
//!
//! A reload that fails changes nothing and says why: in the log, in
//! `omnidaemon_config_last_reload_successful` and in the admin API.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Configs;
use crate::config::{self, Config, Env, Problems};
use crate::metrics::Metrics;

/// How the last reload went.
#[derive(Default)]
pub struct ReloadStatus {
    last_error: Mutex<Option<String>>,
}

/// The file and what is done with it, not yet running.
pub struct Reloader {
    /// The file.
    pub path: PathBuf,
    /// The environment that its values are expanded from.
    pub env: Env,
    /// The configuration in force.
    pub current: Arc<Config>,
    /// The digest of its text.
    pub digest: String,
    /// Where a new one goes.
    pub configs: Configs,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// Where it is told.
    pub status: Arc<ReloadStatus>,
}

/// Why a new configuration is not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Invalid(#[from] Problems),
    #[error("{0} cannot change while running: change it back, or restart")]
    RestartOnly(String),
}

// === impl ReloadStatus ===

impl ReloadStatus {
    /// Why the last reload was refused; none when it was applied, or there was none.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, error: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

// === impl Reloader ===

impl Reloader {
    /// Reloads when the file changes, and at each message of `hangups`, until `shutdown`.
    pub async fn run(mut self, mut hangups: mpsc::Receiver<()>, shutdown: CancellationToken) {
        let (sender, mut edits) = mpsc::channel(1);
        let watch = config::changes(self.path.clone(), self.digest.clone(), sender, shutdown.clone());
        let follow = async {
            loop {
                tokio::select! {
                    Some(()) = edits.recv() => {}
                    Some(()) = hangups.recv() => {}
                    () = shutdown.cancelled() => return,
                    else => return,
                }
                self.reload().await;
            }
        };
        tokio::join!(watch, follow);
    }

    async fn reload(&mut self) {
        match self.read() {
            Ok(config) => {
                self.current = config.clone();
                let (published, is_published) = oneshot::channel();
                if self.configs.send((config, published)).await.is_ok() && is_published.await.is_ok() {
                    tracing::info!(path = %self.path.display(), "config applied");
                    self.metrics.config_reload_ok.set(1);
                    self.status.set(None);
                }
            }
            Err(refused) => {
                tracing::error!(path = %self.path.display(), error = %refused, "config refused, the running one stays");
                self.metrics.config_reload_ok.set(0);
                self.status.set(Some(refused.to_string()));
            }
        }
    }

    fn read(&self) -> Result<Arc<Config>, Refused> {
        let loaded = config::load(&self.path, &self.env)?;
        let fixed = config::restart_only_changes(&self.current, &loaded.config);
        if !fixed.is_empty() {
            return Err(Refused::RestartOnly(fixed.join(", ")));
        }
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.in_file(&self.path.display().to_string()));
        }
        Ok(Arc::new(loaded.config))
    }
}
