//! A task's life, composed of what is written anyway: the record, its stream entry, the result.

use redis::streams::{StreamPendingCountReply, StreamRangeReply};

use super::keys;
use super::message::{EntryMessage, ParsedResult, RunDetails};
use super::partition::Partition;
use super::read::{RecordFields, field_number, field_text};
use crate::store::wire::run_history;
use crate::store::{Lease, StoreError};
use crate::task::{AttemptSummary, TaskDetails, TaskFailure, TaskId, UnixMs};

impl Partition {
    pub(super) async fn read_task_history(
        &self,
        id: &TaskId,
    ) -> Result<Option<TaskDetails>, StoreError> {
        let (fields, result, held) = self.read_stored_task(id).await?;
        let mut told = result.as_ref().map(ParsedResult::run_details).unwrap_or_default();
        let Some(record) = Self::build_task_record(id, &fields, result, held)? else {
            return Ok(None);
        };
        let mut parked = None;
        if !record.status.is_final() {
            told = self.read_entry_details(&fields).await?;
            parked = field_number(&fields, "due").filter(|_| !held).map(UnixMs);
        }
        let history = field_text(&fields, "history").map(str::to_owned).or(told.failed_runs);
        let mut life = TaskDetails::new(
            record,
            run_history::parse_runs(history.as_deref()),
            told.worker_process,
            told.began_at,
        );
        life.correlation_id = told.correlation_id;
        life.trace_id = told.trace_id;
        life.route = field_text(&fields, "route").map(str::to_owned);
        life.next_attempt_at = parked;
        Ok(Some(life))
    }

    /// What an unfinished task's entry says, and who holds it.
    async fn read_entry_details(&self, fields: &RecordFields) -> Result<RunDetails, StoreError> {
        let (Some(queue), Some(entry)) = (field_text(fields, "queue"), field_text(fields, "entry"))
        else {
            return Ok(RunDetails::default());
        };
        let topic = queue.split(':').next().unwrap_or_default();
        let (stream, group) = (
            format!("{}{topic}", self.keys.stream_prefix()),
            format!("{}{queue}", keys::GROUP_PREFIX),
        );
        let mut range = redis::cmd("XRANGE");
        let found: StreamRangeReply =
            self.link.send_command(range.arg(&stream).arg(entry).arg(entry)).await?;
        let data =
            found.ids.first().and_then(|entry| entry.get::<Vec<u8>>("data")).unwrap_or_default();
        let mut told = EntryMessage::parse(&data).map(RunDetails::from_message).unwrap_or_default();
        let mut pending = redis::cmd("XPENDING");
        pending.arg(&stream).arg(&group).arg(entry).arg(entry).arg(1);
        // A group that is not there yet has nothing pending.
        let pending =
            self.link.send_command::<StreamPendingCountReply>(&pending).await.unwrap_or_default();
        let consumer = pending.ids.into_iter().next().map(|pending| pending.consumer);
        told.worker_process = consumer.and_then(|consumer| keys::holder_name(&consumer));
        Ok(told)
    }

    /// A failed attempt, as a line of the record's history.
    pub(super) fn format_failed_run(
        &self,
        lease: &Lease,
        failure: &TaskFailure,
        ended: UnixMs,
    ) -> String {
        let (worker, began) = self.local_leases.process_and_start(lease).unzip();
        let failure = Some((failure.kind, failure.message.clone()));
        run_history::encode_run(&AttemptSummary {
            number: lease.attempt,
            worker,
            started: began,
            ended: Some(ended),
            failure,
        })
    }
}
