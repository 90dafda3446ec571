//! The store as a service: background duties, reachability, server settings, the shared secret.

use std::fmt;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::lease_token::SharedSecret;

/// A setting of a store's server that should be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAdvice {
    /// `host:port` of the server.
    pub server: String,
    /// The setting, as the server names it.
    pub setting: &'static str,
    /// What is wrong, and what it can cost.
    pub problem: String,
    /// Commands to type on the server, in this order; empty where no command changes the setting.
    pub commands: Vec<String>,
}

impl fmt::Display for ServerAdvice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.server, self.problem)?;
        if self.commands.is_empty() {
            Ok(())
        } else {
            write!(formatter, ": {}", self.commands.join(", then "))
        }
    }
}

/// What a store does as a whole, independent of tasks.
#[async_trait]
pub trait StoreService: Send + Sync + 'static {
    /// Background duties until `shutdown`: learning of task ends for
    /// [`end_waiters`](super::TaskReader::end_waiters), and reconnecting.
    async fn run_background(&self, shutdown: CancellationToken);

    /// Succeeds when the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Queries the store's servers for their settings and returns those that should be changed.
    async fn check_server_settings(&self) -> Result<Vec<ServerAdvice>, StoreError>;

    /// The secret that all processes of this store share; created by the first call.
    async fn load_shared_secret(&self) -> Result<SharedSecret, StoreError>;
}
