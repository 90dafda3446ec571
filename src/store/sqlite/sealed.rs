//! What goes to the writer and comes from it: tasks and settlements as their columns hold them.
//!
//! Sealed and opened by the caller, so that the one writer thread spends its time on the tables.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::schema::{self, time_from_sql};
use crate::store::envelope::{StoredAnswer, StoredFailure, StoredRequest};
use crate::store::rollout::TallyOutcome;
use crate::store::{Lease, Settlement, StoreError, TopicQueue, runs};
use crate::task::{FailureKind, Task, TaskAnswer, TaskFailure, TaskId, TaskOwner, Topic, UnixMs};

/// A task to be inserted.
pub(super) struct NewTaskRow {
    pub(super) id: TaskId,
    pub(super) topic: Topic,
    pub(super) payload: Bytes,
    pub(super) request: Option<String>,
    pub(super) credentials: Option<String>,
    pub(super) correlation_id: Option<String>,
    pub(super) trace_id: Option<String>,
    pub(super) route: Option<String>,
    pub(super) epoch: Option<u64>,
    pub(super) client_group: Option<u8>,
    pub(super) owner: Option<TaskOwner>,
    pub(super) retries: u32,
    pub(super) created: UnixMs,
    pub(super) due: Option<UnixMs>,
    pub(super) webhook: Option<String>,
    pub(super) reply_to: Option<Topic>,
    pub(super) causation_id: Option<String>,
}

/// A leased task, as it was read.
pub(super) struct LeasedTaskRow {
    pub(super) seq: i64,
    pub(super) topic: Topic,
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

/// A settlement.
pub(super) enum EncodedSettlement {
    Complete { answer: String, result: String, tally_outcome: TallyOutcome, ttl: Duration },
    Retry { failure: String, kind: &'static str, message: String, retry_at: UnixMs },
    Bury { failure: String, message: String, tally_outcome: TallyOutcome, ttl: Duration },
    Release,
}

// === impl NewTask ===

impl NewTaskRow {
    pub(super) fn from_task(task: &Task) -> Result<Self, StoreError> {
        let (request, credentials) = match &task.request {
            Some(request) => {
                let (request, credentials) = StoredRequest::encode_request(request, &task.payload);
                (Some(encode_json(&request)?), credentials.as_ref().map(encode_json).transpose()?)
            }
            None => (None, None),
        };
        Ok(Self {
            id: task.id.clone(),
            topic: task.topic.clone(),
            payload: task.payload.clone(),
            request,
            credentials,
            correlation_id: task.correlation_id.clone(),
            trace_id: runs::find_trace_id(task),
            route: task.route.clone(),
            epoch: task.epoch.filter(|_| task.route.is_some()),
            client_group: task.client_group,
            owner: task.owner.clone(),
            retries: task.retries,
            created: task.created,
            due: task.due,
            webhook: task.webhook.clone(),
            reply_to: task.reply_to.clone(),
            causation_id: task.causation_id.clone(),
        })
    }
}

// === impl Leased ===

impl LeasedTaskRow {
    /// Reads a row of the lease query.
    pub(super) fn from_row(row: &Row<'_>, topic: &Topic) -> rusqlite::Result<Self> {
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

    /// The task's id and the lease's number.
    pub(super) fn lease_token(&self) -> Result<(TaskId, i64), StoreError> {
        Ok((parse_task_id(&self.id)?, self.lease_number))
    }

    /// The lease of a task of `queue`.
    pub(super) fn into_lease(self, queue: &TopicQueue) -> Result<Lease, StoreError> {
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
            epoch: self.epoch.map(schema::u64_from_sql),
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

// === impl Sealed ===

impl EncodedSettlement {
    /// What `settled` says after a retry.
    pub(super) const RETRY_CODE: i64 = 2;

    pub(super) fn from_settlement(settlement: &Settlement) -> Result<Self, StoreError> {
        Ok(match settlement {
            Settlement::Complete { answer, ttl } => {
                let counted = TallyOutcome::from_answer(answer);
                let (answer, result) = StoredAnswer::encode_answer(answer);
                Self::Complete {
                    answer: encode_json(&answer)?,
                    result: result.get().to_owned(),
                    tally_outcome: counted,
                    ttl: *ttl,
                }
            }
            Settlement::Retry { failure, retry_at: at } => {
                let (kind, message) =
                    (failure.kind.as_str(), runs::truncate_error(&failure.message));
                Self::Retry {
                    failure: encode_json(&StoredFailure::from_failure(failure))?,
                    kind,
                    message,
                    retry_at: *at,
                }
            }
            Settlement::Bury { failure, ttl } => Self::Bury {
                failure: encode_json(&StoredFailure::from_failure(failure))?,
                message: failure.message.clone(),
                tally_outcome: TallyOutcome::from_failure(failure),
                ttl: *ttl,
            },
            Settlement::Release => Self::Release,
        })
    }

    /// What `settled` says after it: how a repeat is known.
    pub(super) fn settle_code(&self) -> i64 {
        match self {
            Self::Complete { .. } => 1,
            Self::Retry { .. } => Self::RETRY_CODE,
            Self::Bury { .. } => 3,
            Self::Release => 4,
        }
    }
}

/// A lease's number, from its entry; one that is none of ours matches no lease.
pub(super) fn lease_number_of(lease: &Lease) -> i64 {
    parse_lease_number(&lease.store_handle)
}

/// The number in a [`Lease::entry`].
pub(super) fn parse_lease_number(entry: &str) -> i64 {
    entry.parse().unwrap_or(-1)
}

/// The failure of a task whose workers died, as it is stored.
pub(super) fn encode_crash_failure(message: &str) -> rusqlite::Result<String> {
    encode_json(&StoredFailure::from_failure(&TaskFailure::new(FailureKind::WorkerCrash, message)))
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// An answer with its body, as it is stored.
pub(super) fn encode_answer_json(answer: &TaskAnswer) -> Result<String, StoreError> {
    encode_json(&StoredAnswer::from_whole_answer(answer))
}

/// A stored id.
pub(super) fn parse_task_id(text: &str) -> Result<TaskId, StoreError> {
    TaskId::parse(text).map_err(malformed_record)
}

/// A column's JSON, read.
pub(super) fn parse_json<T: DeserializeOwned>(json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(malformed_record)
}

fn encode_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(malformed_record)
}

pub(super) fn malformed_record(error: impl std::fmt::Display) -> StoreError {
    StoreError::Malformed(error.to_string())
}
