//! How tasks that run come along: what their attempts say, and one look at many of them.

use redis::{FromRedisValue, ParsingError, Value, from_redis_value};
use serde::{Deserialize, Serialize};

use super::keys;
use super::message::to_json;
use super::partition::Partition;
use super::row::Handle;
use super::script::{GLANCE, PROGRESS};
use crate::store::{Glance, Holder, SharedSecret, Standing, StoreError};
use crate::task::{Progress, Status, TaskId};

/// The record's `progress`: good for the lease that it was said in.
#[derive(Serialize, Deserialize)]
struct Stored {
    turn: u64,
    fraction: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What `glance.lua` answers of one task.
struct Row {
    known: u8,
    held: bool,
    attempt: Option<u32>,
    turn: Option<u64>,
    progress: Option<String>,
}

impl FromRedisValue for Row {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut fields = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || fields.next().unwrap_or(Value::Nil);
        Ok(Self {
            known: from_redis_value(next())?,
            held: from_redis_value::<Option<bool>>(next())?.unwrap_or_default(),
            attempt: from_redis_value(next())?,
            turn: from_redis_value(next())?,
            progress: from_redis_value(next())?,
        })
    }
}

impl Partition {
    pub(super) async fn note_progress(
        &self,
        id: &TaskId,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<bool, StoreError> {
        let turn = Handle::read(&holder.entry).turn;
        let note = progress.note().map(str::to_owned);
        let stored = to_json(&Stored { turn, fraction: progress.fraction(), note })?;
        let call = PROGRESS.keys(&[self.keys.record(id)]).arg(holder.attempt).arg(turn).arg(stored);
        call.run(&self.link).await
    }

    /// The secret in Redis, which the first process that asks puts there.
    pub(super) async fn read_secret(&self) -> Result<SharedSecret, StoreError> {
        let mine = SharedSecret::random();
        let mut set = redis::cmd("SET");
        set.arg(self.keys.secret()).arg(mine.write()).arg("NX").arg("GET");
        match self.link.call::<Option<Vec<u8>>>(&set).await? {
            None => Ok(mine),
            Some(theirs) => SharedSecret::read(&theirs)
                .ok_or_else(|| StoreError::Malformed(format!("{} is no secret of ours", self.keys.secret()))),
        }
    }

    pub(super) async fn glance_at(&self, ids: &[TaskId]) -> Result<Vec<Glance>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let task_keys: Vec<String> = ids.iter().flat_map(|id| [self.keys.record(id), self.keys.result(id)]).collect();
        let call = GLANCE.keys(&task_keys).arg(self.keys.stream_prefix()).arg(keys::GROUP);
        let rows: Vec<Row> = call.run(&self.link).await?;
        Ok(rows.into_iter().map(glance).collect())
    }
}

fn glance(row: Row) -> Glance {
    match row.known {
        0 => Glance::Unknown,
        1 => Glance::Ended,
        _ => Glance::Going(Standing {
            status: if row.held { Status::Processing } else { Status::Queued },
            attempts: row.attempt.unwrap_or(u32::from(row.held)),
            progress: row.progress.filter(|_| row.held).and_then(|stored| current(&stored, row.turn)),
        }),
    }
}

/// A record's progress, where it is of the lease with this turn; the first lease has none written.
pub(super) fn current(stored: &str, turn: Option<u64>) -> Option<Progress> {
    let stored: Stored = serde_json::from_str(stored).ok()?;
    let same = stored.turn == turn.unwrap_or(1);
    Progress::new(stored.fraction, stored.note.as_deref()).filter(|_| same)
}
