//! How tasks that run come along: what their attempts say, and one look at many of them.

use redis::{FromRedisValue, ParsingError, Value, from_redis_value};
use serde::{Deserialize, Serialize};

use super::keys;
use super::message::to_json;
use super::partition::Partition;
use super::row::LeaseHandle;
use super::script::{READ_STATUSES, RECORD_PROGRESS};
use crate::store::{LeaseHolder, SharedSecret, StoreError, TaskLookup, TaskState};
use crate::task::{TaskId, TaskProgress, TaskStatus};

/// The record's `progress`: good for the lease that it was said in.
#[derive(Serialize, Deserialize)]
struct RecordProgress {
    turn: u64,
    fraction: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What `glance.lua` answers of one task.
struct ScriptStateRow {
    state_code: u8,
    is_held: bool,
    attempt: Option<u32>,
    lease_number: Option<u64>,
    progress: Option<String>,
}

impl FromRedisValue for ScriptStateRow {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut fields = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || fields.next().unwrap_or(Value::Nil);
        Ok(Self {
            state_code: from_redis_value(next())?,
            is_held: from_redis_value::<Option<bool>>(next())?.unwrap_or_default(),
            attempt: from_redis_value(next())?,
            lease_number: from_redis_value(next())?,
            progress: from_redis_value(next())?,
        })
    }
}

impl Partition {
    pub(super) async fn record_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError> {
        let turn = LeaseHandle::parse(&holder.store_handle).lease_number;
        let note = progress.note().map(str::to_owned);
        let stored = to_json(&RecordProgress { turn, fraction: progress.fraction(), note })?;
        let call = RECORD_PROGRESS
            .call_with_keys(&[self.keys.record_key(id)])
            .arg(holder.attempt)
            .arg(turn)
            .arg(stored);
        call.run(&self.link).await
    }

    /// The secret in Redis, which the first process that asks puts there.
    pub(super) async fn get_or_create_secret(&self) -> Result<SharedSecret, StoreError> {
        let mine = SharedSecret::random();
        let mut set = redis::cmd("SET");
        set.arg(self.keys.shared_secret_key()).arg(mine.to_text()).arg("NX").arg("GET");
        match self.link.send_command::<Option<Vec<u8>>>(&set).await? {
            None => Ok(mine),
            Some(theirs) => SharedSecret::from_text(&theirs).ok_or_else(|| {
                StoreError::Malformed(format!(
                    "{} is no secret of ours",
                    self.keys.shared_secret_key()
                ))
            }),
        }
    }

    pub(super) async fn read_statuses(
        &self,
        ids: &[TaskId],
    ) -> Result<Vec<TaskLookup>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let task_keys: Vec<String> = ids
            .iter()
            .flat_map(|id| [self.keys.record_key(id), self.keys.result_key(id)])
            .collect();
        let call = READ_STATUSES
            .call_with_keys(&task_keys)
            .arg(self.keys.stream_prefix())
            .arg(keys::GROUP_PREFIX);
        let rows: Vec<ScriptStateRow> = call.run(&self.link).await?;
        Ok(rows.into_iter().map(parse_state_row).collect())
    }
}

fn parse_state_row(row: ScriptStateRow) -> TaskLookup {
    match row.state_code {
        0 => TaskLookup::NotFound,
        1 => TaskLookup::Ended,
        _ => TaskLookup::Active(TaskState {
            status: if row.is_held { TaskStatus::Processing } else { TaskStatus::Queued },
            attempts: row.attempt.unwrap_or(u32::from(row.is_held)),
            progress: row
                .progress
                .filter(|_| row.is_held)
                .and_then(|stored| parse_current_progress(&stored, row.lease_number)),
        }),
    }
}

/// A record's progress, where it is of the lease with this turn; the first lease has none written.
pub(super) fn parse_current_progress(
    stored: &str,
    lease_number: Option<u64>,
) -> Option<TaskProgress> {
    let stored: RecordProgress = serde_json::from_str(stored).ok()?;
    let same = stored.turn == lease_number.unwrap_or(1);
    TaskProgress::new(stored.fraction, stored.note.as_deref()).filter(|_| same)
}
