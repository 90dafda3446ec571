//! Hot reload of the configuration: when the file changes, or on SIGHUP, the file is read and
//! checked, and the new configuration is sent to the controller.
//!
//! A reload that fails changes nothing, and is reported in the log, in
//! `omnidaemon_config_last_reload_successful` and in the admin API.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, ConfigProblems, EnvVars};
use crate::metrics::Metrics;

/// Takes new configurations, each with a channel that is answered once requests see it.
pub type ConfigSender = mpsc::Sender<(Arc<Config>, oneshot::Sender<()>)>;

/// The outcome of the last reload, for the admin API.
#[derive(Default)]
pub struct ReloadStatus {
    last_error: Mutex<Option<String>>,
}

/// The reloader, before [`ConfigReloader::run`] starts it.
pub struct ConfigReloader {
    /// The configuration file.
    pub config_path: PathBuf,
    /// The environment variables that its values are expanded with.
    pub env: EnvVars,
    /// The configuration in force.
    pub current_config: Arc<Config>,
    /// The digest of the file's content that `current_config` was read from.
    pub current_digest: String,
    /// Where a new configuration is sent.
    pub config_sender: ConfigSender,
    /// Has the gauge of the last reload.
    pub metrics: Arc<Metrics>,
    /// Shows the outcome in the admin API.
    pub reload_status: Arc<ReloadStatus>,
}

/// Why a new configuration is refused.
#[derive(Debug, thiserror::Error)]
enum ReloadRefusal {
    #[error(transparent)]
    Invalid(#[from] ConfigProblems),
    #[error("{0} cannot change while running: change it back, or restart")]
    RestartOnly(String),
}

// === impl ReloadStatus ===

impl ReloadStatus {
    /// Why the last reload was refused; none if it was applied, or there was no reload.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_last_error(&self, error: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

// === impl ConfigReloader ===

impl ConfigReloader {
    /// Reloads when the file changes, and at each message of `requests`, until `shutdown`.
    pub async fn run(mut self, mut requests: mpsc::Receiver<()>, shutdown: CancellationToken) {
        let (sender, mut edits) = mpsc::channel(1);
        let watch = config::watch_for_changes(
            self.config_path.clone(),
            self.current_digest.clone(),
            sender,
            shutdown.clone(),
        );
        let follow = async {
            loop {
                tokio::select! {
                    Some(()) = edits.recv() => {}
                    Some(()) = requests.recv() => {}
                    () = shutdown.cancelled() => return,
                    else => return,
                }
                self.reload_config().await;
            }
        };
        tokio::join!(watch, follow);
    }

    async fn reload_config(&mut self) {
        match self.load_config() {
            Ok(config) => {
                self.current_config = config.clone();
                let (published, is_published) = oneshot::channel();
                if self.config_sender.send((config, published)).await.is_ok()
                    && is_published.await.is_ok()
                {
                    tracing::info!(path = %self.config_path.display(), "config applied");
                    self.metrics.config_reload_ok.set(1);
                    self.reload_status.set_last_error(None);
                }
            }
            Err(refused) => {
                tracing::error!(
                    path = %self.config_path.display(), error = %refused,
                    "config refused, the running one stays"
                );
                self.metrics.config_reload_ok.set(0);
                self.reload_status.set_last_error(Some(refused.to_string()));
            }
        }
    }

    fn load_config(&self) -> Result<Arc<Config>, ReloadRefusal> {
        let loaded = config::load_file(&self.config_path, &self.env)?;
        let restart_only = config::find_restart_only_changes(&self.current_config, &loaded.config);
        if !restart_only.is_empty() {
            return Err(ReloadRefusal::RestartOnly(restart_only.join(", ")));
        }
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.render_line(&self.config_path.display().to_string()));
        }
        Ok(Arc::new(loaded.config))
    }
}
