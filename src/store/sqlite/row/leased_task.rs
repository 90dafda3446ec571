//! A leased task, as it is read from its columns.

use bytes::Bytes;
use rusqlite::Row;

use super::values::{malformed_record, parse_json, parse_task_id, time_from_sql, u64_from_sql};
use crate::store::error::StoreError;
use crate::store::lease::Lease;
use crate::store::queue::TopicQueue;
use crate::store::wire::envelope::StoredRequest;
use crate::task::{Task, TaskId, TaskOwner, Topic, UnixMs};

/// A leased task whose JSON columns are not decoded yet.
pub(crate) struct LeasedTaskRow {
    pub(crate) seq: i64,
    pub(crate) topic: Topic,
    id: String,
    attempt: u32,
    lease_number: i64,
    retries: u32,
    created: UnixMs,
    owner: Option<String>,
    payload: Option<Vec<u8>>,
    request: Option<String>,
    credentials: Option<String>,
    correlation_id: Option<String>,
    route: Option<String>,
    webhook: Option<String>,
    reply_to: Option<String>,
    causation_id: Option<String>,
    epoch: Option<i64>,
    client_group: Option<u8>,
}

impl LeasedTaskRow {
    /// Reads a row of the lease query (`sql/lease.rs`).
    pub(crate) fn from_row(row: &Row<'_>, topic: &Topic) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            topic: topic.clone(),
            id: row.get(1)?,
            attempt: row.get(2)?,
            lease_number: row.get(3)?,
            retries: row.get(4)?,
            created: time_from_sql(row.get(5)?),
            owner: row.get(6)?,
            payload: row.get(7)?,
            request: row.get(8)?,
            credentials: row.get(9)?,
            correlation_id: row.get(10)?,
            route: row.get(11)?,
            webhook: row.get(12)?,
            reply_to: row.get(13)?,
            causation_id: row.get(14)?,
            epoch: row.get(15)?,
            client_group: row.get(16)?,
        })
    }

    /// The task's id and the number of the lease: the fencing token.
    pub(crate) fn lease_token(&self) -> Result<(TaskId, i64), StoreError> {
        Ok((parse_task_id(&self.id)?, self.lease_number))
    }

    /// Decodes the row of a task of `queue` into a lease.
    pub(crate) fn into_lease(self, queue: &TopicQueue) -> Result<Lease, StoreError> {
        let (id, number) = self.lease_token()?;
        let payload = Bytes::from(
            self.payload
                .ok_or_else(|| StoreError::Malformed(format!("{id} has lost its payload")))?,
        );
        let credentials = self.credentials.as_deref().map(parse_json).transpose()?;
        let request = match &self.request {
            Some(request) => {
                Some(parse_json::<StoredRequest>(request)?.into_request(credentials, &payload)?)
            }
            None => None,
        };
        let task = Task {
            request,
            correlation_id: self.correlation_id,
            route: self.route,
            epoch: self.epoch.map(u64_from_sql),
            client_group: self.client_group,
            webhook: self.webhook,
            reply_to: self
                .reply_to
                .as_deref()
                .map(Topic::parse)
                .transpose()
                .map_err(malformed_record)?,
            causation_id: self.causation_id,
            owner: self.owner.as_deref().map(TaskOwner::from_digest),
            retries: self.retries,
            ..Task::new(id, self.topic, payload, self.created)
        };
        Ok(Lease {
            task,
            attempt: self.attempt,
            queue: queue.clone(),
            store_handle: number.to_string(),
        })
    }
}
