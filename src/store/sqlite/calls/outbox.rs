//! The outbox.

use std::time::Duration;

use async_trait::async_trait;

use crate::store::error::StoreError;
use crate::store::outbox::{Delivery, DeliveryOutbox, DeliveryOutcome, DeliveryRecord};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::sql::outbox;
use crate::task::TaskId;

#[async_trait]
impl DeliveryOutbox for SqliteStore {
    async fn claim_due_deliveries(
        &self,
        max: usize,
        hide_for: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        if self.count_pending_deliveries().await? == 0 {
            return Ok(Vec::new()); // spares the writer a transaction each second
        }
        let claimed = self
            .writer
            .submit_change(move |db| outbox::claim_due_deliveries(db, max, hide_for))
            .await?;
        claimed.into_iter().map(|row| row.into_delivery(&self.clock)).collect()
    }

    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError> {
        let (delivery, outcome) = (delivery.clone(), outcome.clone());
        self.writer.submit_change(move |db| outbox::settle_delivery(db, &delivery, &outcome)).await
    }

    async fn list_deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        let id = id.clone();
        self.reader.run_query(move |connection| outbox::list_deliveries(connection, &id)).await
    }

    async fn count_pending_deliveries(&self) -> Result<u64, StoreError> {
        self.reader.run_query(outbox::count_pending_deliveries).await
    }
}
