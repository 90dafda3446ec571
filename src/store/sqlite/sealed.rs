//! What goes to the writer and comes from it: tasks and settlements as their columns hold them.
//!
//! Sealed and opened by the caller, so that the one writer thread spends its time on the tables.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::schema::{self, unix_ms};
use crate::store::envelope::{StoredAnswer, StoredFailure, StoredRequest};
use crate::store::rollout::Ended;
use crate::store::{Lease, Queue, Settlement, StoreError, runs};
use crate::task::{Answer, Failure, FailureKind, Owner, Task, TaskId, Topic, UnixMs};

/// A task to be inserted.
pub(super) struct NewTask {
    pub(super) id: TaskId,
    pub(super) topic: Topic,
    pub(super) payload: Bytes,
    pub(super) request: Option<String>,
    pub(super) credentials: Option<String>,
    pub(super) correlation: Option<String>,
    pub(super) trace: Option<String>,
    pub(super) route: Option<String>,
    pub(super) epoch: Option<u64>,
    pub(super) clients: Option<u8>,
    pub(super) owner: Option<Owner>,
    pub(super) retries: u32,
    pub(super) created: UnixMs,
    pub(super) due: Option<UnixMs>,
    pub(super) webhook: Option<String>,
    pub(super) reply_to: Option<Topic>,
    pub(super) causation: Option<String>,
}

/// A leased task, as it was read.
pub(super) struct Leased {
    pub(super) seq: i64,
    pub(super) topic: Topic,
    id: String,
    attempt: u32,
    number: i64,
    retries: u32,
    created: UnixMs,
    owner: Option<String>,
    payload: Option<Vec<u8>>,
    request: Option<String>,
    credentials: Option<String>,
    correlation: Option<String>,
    route: Option<String>,
    webhook: Option<String>,
    reply_to: Option<String>,
    causation: Option<String>,
    epoch: Option<i64>,
    clients: Option<u8>,
}

/// A settlement.
pub(super) enum Sealed {
    Complete { answer: String, result: String, counted: Ended, ttl: Duration },
    Retry { failure: String, kind: &'static str, message: String, at: UnixMs },
    Bury { failure: String, message: String, counted: Ended, ttl: Duration },
    Release,
}

// === impl NewTask ===

impl NewTask {
    pub(super) fn seal(task: &Task) -> Result<Self, StoreError> {
        let (request, credentials) = match &task.request {
            Some(request) => {
                let (request, credentials) = StoredRequest::seal(request, &task.payload);
                (Some(write(&request)?), credentials.as_ref().map(write).transpose()?)
            }
            None => (None, None),
        };
        Ok(Self {
            id: task.id.clone(),
            topic: task.topic.clone(),
            payload: task.payload.clone(),
            request,
            credentials,
            correlation: task.correlation_id.clone(),
            trace: runs::trace_of(task),
            route: task.route.clone(),
            epoch: task.epoch.filter(|_| task.route.is_some()),
            clients: task.clients,
            owner: task.owner.clone(),
            retries: task.retries,
            created: task.created,
            due: task.due,
            webhook: task.webhook.clone(),
            reply_to: task.reply_to.clone(),
            causation: task.causation_id.clone(),
        })
    }
}

// === impl Leased ===

impl Leased {
    /// Reads a row of the lease query.
    pub(super) fn read(row: &Row<'_>, topic: &Topic) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            topic: topic.clone(),
            id: row.get(1)?,
            attempt: row.get(2)?,
            number: row.get(3)?,
            retries: row.get(4)?,
            created: unix_ms(row.get(5)?),
            owner: row.get(6)?,
            payload: row.get(7)?,
            request: row.get(8)?,
            credentials: row.get(9)?,
            correlation: row.get(10)?,
            route: row.get(11)?,
            webhook: row.get(12)?,
            reply_to: row.get(13)?,
            causation: row.get(14)?,
            epoch: row.get(15)?,
            clients: row.get(16)?,
        })
    }

    /// The task's id and the lease's number.
    pub(super) fn token(&self) -> Result<(TaskId, i64), StoreError> {
        Ok((task_id(&self.id)?, self.number))
    }

    /// The lease of a task of `queue`.
    pub(super) fn open(self, queue: &Queue) -> Result<Lease, StoreError> {
        let (id, number) = self.token()?;
        let payload =
            Bytes::from(self.payload.ok_or_else(|| StoreError::Malformed(format!("{id} has lost its payload")))?);
        let credentials = self.credentials.as_deref().map(read).transpose()?;
        let request = match &self.request {
            Some(request) => Some(read::<StoredRequest>(request)?.open(credentials, &payload)?),
            None => None,
        };
        let task = Task {
            request,
            correlation_id: self.correlation,
            route: self.route,
            epoch: self.epoch.map(schema::number),
            clients: self.clients,
            webhook: self.webhook,
            reply_to: self.reply_to.as_deref().map(Topic::parse).transpose().map_err(malformed)?,
            causation_id: self.causation,
            owner: self.owner.as_deref().map(Owner::from_digest),
            retries: self.retries,
            ..Task::new(id, self.topic, payload, self.created)
        };
        Ok(Lease { task, attempt: self.attempt, queue: queue.clone(), entry: number.to_string() })
    }
}

// === impl Sealed ===

impl Sealed {
    /// What `settled` says after a retry.
    pub(super) const RETRY: i64 = 2;

    pub(super) fn seal(settlement: &Settlement) -> Result<Self, StoreError> {
        Ok(match settlement {
            Settlement::Complete { answer, ttl } => {
                let counted = Ended::of(answer);
                let (answer, result) = StoredAnswer::seal(answer);
                Self::Complete { answer: write(&answer)?, result: result.get().to_owned(), counted, ttl: *ttl }
            }
            Settlement::Retry { failure, at } => {
                let (kind, message) = (failure.kind.as_str(), runs::short(&failure.message));
                Self::Retry { failure: write(&StoredFailure::seal(failure))?, kind, message, at: *at }
            }
            Settlement::Bury { failure, ttl } => Self::Bury {
                failure: write(&StoredFailure::seal(failure))?,
                message: failure.message.clone(),
                counted: Ended::of_failure(failure),
                ttl: *ttl,
            },
            Settlement::Release => Self::Release,
        })
    }

    /// What `settled` says after it: how a repeat is known.
    pub(super) fn number(&self) -> i64 {
        match self {
            Self::Complete { .. } => 1,
            Self::Retry { .. } => Self::RETRY,
            Self::Bury { .. } => 3,
            Self::Release => 4,
        }
    }
}

/// A lease's number, from its entry; one that is none of ours matches no lease.
pub(super) fn number(lease: &Lease) -> i64 {
    number_of(&lease.entry)
}

/// The number in a [`Lease::entry`].
pub(super) fn number_of(entry: &str) -> i64 {
    entry.parse().unwrap_or(-1)
}

/// The failure of a task whose workers died, as it is stored.
pub(super) fn crash(message: &str) -> rusqlite::Result<String> {
    write(&StoredFailure::seal(&Failure::new(FailureKind::Crash, message)))
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// An answer with its body, as it is stored.
pub(super) fn answer(answer: &Answer) -> Result<String, StoreError> {
    write(&StoredAnswer::whole(answer))
}

/// A stored id.
pub(super) fn task_id(text: &str) -> Result<TaskId, StoreError> {
    TaskId::parse(text).map_err(malformed)
}

/// A column's JSON, read.
pub(super) fn read<T: DeserializeOwned>(json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(malformed)
}

fn write(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(malformed)
}

pub(super) fn malformed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Malformed(error.to_string())
}
