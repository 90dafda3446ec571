//! The store as a service.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::store::error::StoreError;
use crate::store::lease_token::SharedSecret;
use crate::store::service::{ServerAdvice, StoreService};
use crate::store::sqlite::SqliteStore;

#[async_trait]
impl StoreService for SqliteStore {
    /// Has nothing to do: the threads resolve the end waiters themselves.
    async fn run_background(&self, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.submit_change(|_| Ok(())).await
    }

    async fn check_server_settings(&self) -> Result<Vec<ServerAdvice>, StoreError> {
        Ok(Vec::new()) // there is no server, and the settings of the file are set when it is opened
    }

    async fn load_shared_secret(&self) -> Result<SharedSecret, StoreError> {
        Ok(self.shared_secret.clone())
    }
}
