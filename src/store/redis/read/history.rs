//! The details of one task, composed of what is stored anyway: the record, its stream entry and the
//! result.

use redis::streams::StreamPendingCountReply;

use crate::store::StoreError;
use crate::store::redis::core::PartitionCore;
use crate::store::redis::read::get::{RecordFields, build_task_record, field_number, field_text};
use crate::store::redis::wire::entry::EntryMessage;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::result::{ParsedResult, RunDetails};
use crate::store::wire::run_history;
use crate::task::{TaskDetails, TaskId, UnixMs};

impl PartitionCore {
    /// A task with its attempts and its origin; none where the store does not know it.
    pub(crate) async fn read_task_history(
        &self,
        id: &TaskId,
    ) -> Result<Option<TaskDetails>, StoreError> {
        let stored = self.read_stored_task(id).await?;
        let (fields, is_held) = (stored.fields, stored.is_held);
        let mut run = stored.result.as_ref().map(ParsedResult::run_details).unwrap_or_default();
        let Some(record) = build_task_record(id, &fields, stored.result, is_held)? else {
            return Ok(None);
        };
        let mut next_attempt_at = None;
        if !record.status.is_final() {
            run = self.read_entry_details(&fields).await?;
            next_attempt_at = field_number(&fields, "due").filter(|_| !is_held).map(UnixMs);
        }
        let history = field_text(&fields, "history").map(str::to_owned).or(run.failed_runs);
        let failed_runs = run_history::parse_runs(history.as_deref());
        let mut details = TaskDetails::new(record, failed_runs, run.worker_process, run.began_at);
        details.correlation_id = run.correlation_id;
        details.trace_id = run.trace_id;
        details.route = field_text(&fields, "route").map(str::to_owned);
        details.next_attempt_at = next_attempt_at;
        Ok(Some(details))
    }

    /// The facts in an unfinished task's entry, and the entry's holder.
    async fn read_entry_details(&self, fields: &RecordFields) -> Result<RunDetails, StoreError> {
        let (Some(queue), Some(entry_id)) =
            (field_text(fields, "queue"), field_text(fields, "entry"))
        else {
            return Ok(RunDetails::default());
        };
        let topic = queue.split(':').next().unwrap_or_default();
        let stream = format!("{}{topic}", self.keys.stream_prefix());
        let group = format!("{}{queue}", keys::GROUP_PREFIX);
        let data = self.read_entry_data(&stream, entry_id).await?.unwrap_or_default();
        let mut run = EntryMessage::parse(&data).map(RunDetails::from_message).unwrap_or_default();
        let mut pending = redis::cmd("XPENDING");
        pending.arg(&stream).arg(&group).arg(entry_id).arg(entry_id).arg(1);
        // a group that does not exist yet has nothing pending
        let pending =
            self.link.send_command::<StreamPendingCountReply>(&pending).await.unwrap_or_default();
        let consumer = pending.ids.into_iter().next().map(|pending| pending.consumer);
        run.worker_process = consumer.and_then(|consumer| keys::holder_name(&consumer));
        Ok(run)
    }
}
