//! A task's life, composed of what is written anyway: the record, its stream entry, the result.

use redis::streams::{StreamPendingCountReply, StreamRangeReply};

use super::keys;
use super::message::{Message, ReadResult, Told};
use super::partition::Partition;
use super::read::{Fields, number, text};
use crate::store::{Lease, StoreError, runs};
use crate::task::{Failure, Life, Run, TaskId, UnixMs};

impl Partition {
    pub(super) async fn read_life(&self, id: &TaskId) -> Result<Option<Life>, StoreError> {
        let (fields, result, held) = self.look_up(id).await?;
        let mut told = result.as_ref().map(ReadResult::told).unwrap_or_default();
        let Some(record) = Self::record_of(id, &fields, result, held)? else { return Ok(None) };
        let mut parked = None;
        if !record.status.is_final() {
            told = self.ask_stream(&fields).await?;
            parked = number(&fields, "due").filter(|_| !held).map(UnixMs);
        }
        let history = text(&fields, "history").map(str::to_owned).or(told.history);
        let mut life = Life::new(record, runs::read(history.as_deref()), told.worker, told.began);
        life.correlation_id = told.correlation_id;
        life.trace_id = told.trace_id;
        life.route = text(&fields, "route").map(str::to_owned);
        life.due = parked;
        Ok(Some(life))
    }

    /// What an unfinished task's entry says, and who holds it.
    async fn ask_stream(&self, fields: &Fields) -> Result<Told, StoreError> {
        let (Some(queue), Some(entry)) = (text(fields, "queue"), text(fields, "entry")) else {
            return Ok(Told::default());
        };
        let topic = queue.split(':').next().unwrap_or_default();
        let (stream, group) = (format!("{}{topic}", self.keys.stream_prefix()), format!("{}{queue}", keys::GROUP));
        let mut range = redis::cmd("XRANGE");
        let found: StreamRangeReply = self.link.call(range.arg(&stream).arg(entry).arg(entry)).await?;
        let data = found.ids.first().and_then(|entry| entry.get::<Vec<u8>>("data")).unwrap_or_default();
        let mut told = Message::read(&data).map(Told::of).unwrap_or_default();
        let mut pending = redis::cmd("XPENDING");
        pending.arg(&stream).arg(&group).arg(entry).arg(entry).arg(1);
        // A group that is not there yet has nothing pending.
        let pending = self.link.call::<StreamPendingCountReply>(&pending).await.unwrap_or_default();
        let consumer = pending.ids.into_iter().next().map(|pending| pending.consumer);
        told.worker = consumer.and_then(|consumer| keys::holder_of(&consumer));
        Ok(told)
    }

    /// A failed attempt, as a line of the record's history.
    pub(super) fn run_of(&self, lease: &Lease, failure: &Failure, ended: UnixMs) -> String {
        let (worker, began) = self.live.holder(lease).unzip();
        let failure = Some((failure.kind, failure.message.clone()));
        runs::write(&Run { number: lease.attempt, worker, began, ended: Some(ended), failure })
    }
}
