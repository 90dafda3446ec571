//! The statuses of many tasks in one call, and whether tasks that callers wait for have ended.

use std::collections::HashMap;
use std::sync::Arc;

use redis::{FromRedisValue, ParsingError, Value};

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::{CHECK_ENDED, READ_STATUSES};
use crate::store::redis::wire::keys;
use crate::store::redis::wire::progress::parse_current_progress;
use crate::store::redis::wire::reply_fields::ReplyFields;
use crate::store::{StoreError, TaskLookup, TaskState};
use crate::task::{TaskId, TaskStatus};

/// One task in the reply of the statuses script.
struct ScriptStateRow {
    /// 0 for an unknown task, 1 for an ended one, else unfinished.
    state_code: u8,
    is_held: bool,
    attempt: Option<u32>,
    lease_number: Option<u64>,
    progress: Option<String>,
}

impl FromRedisValue for ScriptStateRow {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut fields = ReplyFields::parse(value)?;
        Ok(Self {
            state_code: fields.read_next()?,
            is_held: fields.read_next::<Option<bool>>()?.unwrap_or_default(),
            attempt: fields.read_next()?,
            lease_number: fields.read_next()?,
            progress: fields.read_next()?,
        })
    }
}

impl PartitionCore {
    /// The states of tasks, in the order of `ids`.
    pub(crate) async fn read_statuses(
        &self,
        ids: &[TaskId],
    ) -> Result<Vec<TaskLookup>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let task_keys: Vec<(&str, String)> = ids
            .iter()
            .flat_map(|id| {
                [("record_key", self.keys.record_key(id)), ("result_key", self.keys.result_key(id))]
            })
            .collect();
        let call = READ_STATUSES
            .call_with_keys(&task_keys)
            .arg("stream_prefix", self.keys.stream_prefix())
            .arg("group_prefix", keys::GROUP_PREFIX);
        let rows: Vec<ScriptStateRow> = call.run(&self.link).await?;
        Ok(rows.into_iter().map(parse_state_row).collect())
    }

    /// Resolves the waiters of those tasks of `batch` that have ended. Counts in `miss_counts` how
    /// often in a row a task was not found; after `max_misses` its waiters are resolved as unknown.
    pub(crate) async fn check_awaited_tasks(
        &self,
        batch: &[TaskId],
        miss_counts: &mut HashMap<TaskId, u32>,
        max_misses: u32,
    ) -> Result<(), StoreError> {
        let task_keys: Vec<(&str, String)> = batch
            .iter()
            .flat_map(|id| {
                [("record_key", self.keys.record_key(id)), ("result_key", self.keys.result_key(id))]
            })
            .collect();
        // 1: ended, 2: not found, else unfinished
        let codes: Vec<u8> = CHECK_ENDED
            .call_with_keys(&task_keys)
            .run::<Vec<i64>>(&self.link)
            .await?
            .into_iter()
            .map(|code| u8::try_from(code).unwrap_or(0))
            .collect();
        for (id, code) in batch.iter().zip(codes) {
            let misses = miss_counts.entry(id.clone()).or_default();
            match code {
                1 => self.resolve_ended(id).await?,
                2 => *misses += 1,
                _ => *misses = 0,
            }
            if *misses >= max_misses {
                self.waiters.resolve_task(id, None);
            }
        }
        Ok(())
    }

    /// [`Self::resolve_if_ended`] for a task that is known to have ended: where its record cannot
    /// be read, its waiters are resolved without one, so that none waits for ever.
    async fn resolve_ended(&self, id: &TaskId) -> Result<(), StoreError> {
        match self.resolve_if_ended(id).await {
            Err(error) if !error.is_outage() => {
                tracing::warn!(task = %id, %error, "an ended task cannot be read");
                self.waiters.resolve_task(id, None);
                Ok(())
            }
            resolved => resolved,
        }
    }

    /// Reads a task that callers wait for, and resolves their waiters if it has ended.
    pub(crate) async fn resolve_if_ended(&self, id: &TaskId) -> Result<(), StoreError> {
        if self.waiters.has_waiter_for(id)
            && let Some(record) = self.read_record(id).await?
            && record.status.is_final()
        {
            self.waiters.resolve_task(id, Some(&Arc::new(record)));
        }
        Ok(())
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
