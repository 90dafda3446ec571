//! Leasing, settling and maintenance.

use std::time::Duration;

use async_trait::async_trait;

use crate::store::error::StoreError;
use crate::store::lease::{
    BuriedTask, Lease, LeaseDemand, LeaseHolder, QueueDemand, SettleResult, Settlement, TaskLeasing,
};
use crate::store::queue::TopicQueue;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{
    EncodedSettlement, LeasedTaskRow, lease_number_of, parse_lease_number,
};
use crate::store::sqlite::sql::{claims, evidence, lease, outbox, reap};
use crate::task::{FailureKind, TaskFailure, TaskId, TaskProgress};

/// How long the record of a task that could not be decoded is kept; its dead letter stays.
const MALFORMED_TTL: Duration = Duration::from_hours(24);

/// The most deletions of expired records in one call of `reap_expired`, each a change of its own,
/// so that other changes run in between.
const MAX_PURGE_ROUNDS: usize = 50;

#[async_trait]
impl TaskLeasing for SqliteStore {
    async fn lease_demand(&self, demand: &LeaseDemand<'_>) -> Result<Vec<Lease>, StoreError> {
        let rows = self.writer.request_leases(demand).await?;
        Ok(self.decode_leases(rows, demand.queues).await)
    }

    async fn renew(
        &self,
        _process_name: &str,
        leases: &[Lease],
    ) -> Result<Vec<TaskId>, StoreError> {
        let leases: Vec<_> =
            leases.iter().map(|lease| (lease.task.id.clone(), lease_number_of(lease))).collect();
        self.writer.submit_change(move |db| lease::renew_leases(db, &leases)).await
    }

    async fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError> {
        let (id, lease_number, encoded) = (
            lease.task.id.clone(),
            lease_number_of(lease),
            EncodedSettlement::from_settlement(settlement)?
                .with_times(|at| self.clock.to_store_time(at)),
        );
        let settled = self
            .writer
            .submit_change(move |db| lease::settle_lease(db, &id, lease_number, &encoded))
            .await;
        if settled.is_ok() {
            self.running_attempts.end_attempt(&lease.task.id, lease_number);
        }
        settled
    }

    async fn report_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError> {
        Ok(self.running_attempts.record_progress(
            id,
            parse_lease_number(&holder.store_handle),
            progress,
        ))
    }

    async fn reap_expired(
        &self,
        _process_name: &str,
        _queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let maintain = move |db: &mut WriterDatabase| {
            db.refresh_clock_mark()?;
            outbox::purge_settled_deliveries(db)?;
            claims::purge_claims(db)?;
            evidence::purge_epochs(db)?;
            reap::reap_expired(db, ttl)
        };
        let buried = self.writer.submit_change(maintain).await?;
        for _ in 0..MAX_PURGE_ROUNDS {
            if self.writer.submit_change(reap::purge_ended_tasks).await? < reap::PURGE_BATCH_SIZE {
                break;
            }
        }
        Ok(buried)
    }

    /// Has nothing to do: no other program can have the file open.
    async fn reconcile_external(
        &self,
        _queues: &[TopicQueue],
        _ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        Ok(Vec::new())
    }
}

impl SqliteStore {
    /// Decodes leased rows. A task that cannot be decoded becomes a dead letter, and does not stop
    /// the others.
    async fn decode_leases(&self, rows: Vec<LeasedTaskRow>, queues: &[QueueDemand]) -> Vec<Lease> {
        let mut leases = Vec::with_capacity(rows.len());
        for row in rows {
            let token = row.lease_token();
            let mut queues = queues.iter().map(|demand| &demand.queue);
            let Some(queue) = queues.find(|queue| queue.topic == row.topic) else {
                continue;
            };
            match row.into_lease(queue) {
                Ok(mut lease) => {
                    lease.task.created = self.clock.to_system_time(lease.task.created);
                    self.running_attempts.begin_attempt(&lease.task.id, lease_number_of(&lease));
                    leases.push(lease);
                }
                Err(error) => {
                    tracing::error!(
                        ?token,
                        %error,
                        "a task cannot be read back and becomes a dead letter"
                    );
                    if let Err(error) = self.bury_malformed(token, &error).await {
                        tracing::error!(
                            %error,
                            "the dead letter could not be written; it is when the lease expires"
                        );
                    }
                }
            }
        }
        leases
    }

    /// Makes a leased task that cannot be decoded a dead letter.
    async fn bury_malformed(
        &self,
        token: Result<(TaskId, i64), StoreError>,
        error: &StoreError,
    ) -> Result<(), StoreError> {
        let (id, lease_number) = token?;
        let failure = TaskFailure::new(FailureKind::Malformed, error.to_string());
        let bury =
            EncodedSettlement::from_settlement(&Settlement::Bury { failure, ttl: MALFORMED_TTL })?;
        self.writer
            .submit_change(move |db| lease::settle_lease(db, &id, lease_number, &bury))
            .await?;
        Ok(())
    }
}
