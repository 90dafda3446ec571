//! Rollouts and replicas.

use async_trait::async_trait;

use crate::store::error::StoreError;
use crate::store::evidence::StoredEvidence;
use crate::store::rollout::{
    ReplicaReport, ReplicaSync, RolloutCommit, RolloutHistoryEntry, RolloutRecord, RolloutStore,
};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::map_query_error;
use crate::store::sqlite::sql::{evidence, lead, replicas, rollout};
use crate::store::timing::replica_ttl;

#[async_trait]
impl RolloutStore for SqliteStore {
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        let route = route.to_owned();
        self.reader
            .run_query(move |connection| {
                rollout::load_rollout(connection, &route).map_err(map_query_error)
            })
            .await
    }

    async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        commit: &RolloutCommit,
    ) -> Result<bool, StoreError> {
        let (route, record, commit) = (route.to_owned(), record.clone(), commit.clone());
        self.writer
            .submit_change(move |db| rollout::save_rollout(db, &route, &record, &commit))
            .await
    }

    async fn load_rollout_history(
        &self,
        route: &str,
        before_cursor: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
        let (route, before_cursor) = (route.to_owned(), before_cursor.map(str::to_owned));
        self.reader
            .run_query(move |connection| {
                rollout::load_rollout_history(connection, &route, before_cursor.as_deref(), limit)
            })
            .await
    }

    async fn load_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        let (route, epochs, now) = (route.to_owned(), epochs.to_vec(), self.clock.store_time());
        self.reader
            .run_query(move |connection| {
                evidence::load_evidence(connection, &route, &epochs, now).map_err(map_query_error)
            })
            .await
    }

    async fn sync_replica(
        &self,
        report: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError> {
        let expires = self.clock.steady_time() + replica_ttl();
        self.replicas.insert(&report.process, report.description_json.clone(), expires);
        let (report, routes) = (report.clone(), routes.to_vec());
        let mut sync = self
            .writer
            .submit_change(move |db| replicas::sync_replica(db, &report, &routes))
            .await?;
        sync.replicas = self.replicas.live_entries(self.clock.steady_time());
        Ok(sync)
    }

    async fn remove_replica(&self, process_name: &str) -> Result<(), StoreError> {
        self.replicas.remove(process_name);
        let process_name = process_name.to_owned();
        self.writer
            .submit_change(move |db| {
                lead::release_lead(db, &process_name);
                Ok(())
            })
            .await
    }
}
