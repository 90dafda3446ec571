//! The contract, kept by the embedded store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use omnidaemon::store::{
    BuriedTask, SqliteClock, SqliteStore, StoreService as _, TaskLeasing as _, TaskStore,
};
use omnidaemon::task::UnixMs;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{RESULT_TTL, StoreFixture, TEST_PROCESS, contract, within_deadline};

contract!(Embedded);

/// A database in a directory of its own, under a clock that can be advanced.
struct Embedded {
    store: Arc<SqliteStore>,
    clock: SqliteClock,
    running: DropGuard,
    directory: TempDir,
}

impl Embedded {
    fn open(directory: TempDir, clock: SqliteClock) -> Self {
        let path = directory.path().join("data/tasks.db");
        let store = Arc::new(SqliteStore::open_with_clock(&path, clock.clone()).expect("opens"));
        let (shutdown, runs) = (CancellationToken::new(), Arc::clone(&store));
        tokio::spawn({
            let shutdown = shutdown.clone();
            async move { runs.run_background(shutdown).await }
        });
        Self { store, clock, running: shutdown.drop_guard(), directory }
    }
}

#[async_trait]
impl StoreFixture for Embedded {
    async fn new_empty() -> Self {
        Self::open(tempfile::tempdir().expect("a directory"), SqliteClock::default())
    }

    fn store(&self) -> Arc<dyn TaskStore> {
        self.store.clone()
    }

    async fn reopen(self) -> Self {
        drop(self.running);
        let let_go = async {
            while Arc::strong_count(&self.store) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within_deadline(let_go).await; // else a test still holds it
        drop(self.store);
        Self::open(self.directory, self.clock)
    }

    async fn advance_time(&self, by: Duration) -> Vec<BuriedTask> {
        // In steps that are tended, as in a process that runs.
        let step = Duration::from_secs(1);
        let (mut left, mut buried) = (by, Vec::new());
        while !left.is_zero() {
            self.clock.advance(left.min(step));
            left = left.saturating_sub(step);
            buried.extend(
                self.store.reap_expired(TEST_PROCESS, &[], RESULT_TTL).await.expect("tended"),
            );
        }
        buried
    }

    fn store_now(&self) -> UnixMs {
        self.clock.system_time()
    }

    async fn contains_text(&self, text: &str) -> bool {
        let path = self.directory.path().join("data/tasks.db");
        // What the write-ahead log still has of older pages goes with the next checkpoint.
        let connection = rusqlite::Connection::open(&path).expect("opens");
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .expect("checkpointed");
        let bytes = std::fs::read(&path).expect("readable");
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}
