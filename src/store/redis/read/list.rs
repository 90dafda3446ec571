//! The list of tasks, without an index of its own: first the unfinished tasks in their streams, the
//! newest first, then the ended ones in the index of results, the last end first. A cancelled task
//! is in neither.

use crate::store::redis::core::PartitionCore;
use crate::store::redis::read::list_cursor::{
    StreamEntryId, TaskListCursor, decode_list_cursor, encode_list_cursor, parse_entry_id,
};
use crate::store::redis::script::runner::{LIST_UNFINISHED_TASKS, READ_RESULT_TAILS};
use crate::store::redis::time::from_unix_seconds;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::result::{ParsedResult, ParsedResultBody, parse_result_summary};
use crate::store::{StoreError, TaskListEntry, TaskListPage, TaskListRequest, TopicQueue};
use crate::task::{TaskId, TaskStatus, Topic, UnixMs};

/// Results that one call reads.
const RESULTS_PER_CALL: usize = 100;

/// How many bytes of the end of a result are read; a small result is read whole.
const RESULT_TAIL_BYTES: usize = 4096;
/// The most entries, and the most results, that one page examines.
const MAX_SCANNED_PER_PAGE: usize = 1000;

/// One task in the reply of the list script: entry id, task id, created (ms), attempts, whether a
/// consumer holds the entry.
type TaskPageRow = (String, String, f64, Option<u32>, bool);

impl PartitionCore {
    /// One page of the tasks of `queues`.
    pub(crate) async fn list_tasks(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        let cursor = listing.after_cursor.as_deref().map(decode_list_cursor).transpose()?;
        let mut page = TaskListPage {
            unlistable_statuses: &[TaskStatus::Cancelled],
            ..TaskListPage::default()
        };
        let (lists_unfinished, lists_ended) = match listing.status {
            None => (true, true),
            Some(status) => (!status.is_final(), status.is_final()),
        };
        if lists_unfinished && !matches!(cursor, Some(TaskListCursor::Ended(_))) {
            page.next_cursor =
                self.list_unfinished(queues, listing, cursor.as_ref(), &mut page.tasks).await?;
            if page.next_cursor.is_some() || page.tasks.len() >= listing.limit {
                let ended_cursor = || {
                    if lists_ended {
                        encode_list_cursor(&TaskListCursor::Ended(None)).map(Some)
                    } else {
                        Ok(None)
                    }
                };
                page.next_cursor =
                    page.next_cursor.take().map_or_else(ended_cursor, |next| Ok(Some(next)))?;
                return Ok(page);
            }
        }
        if lists_ended {
            page.next_cursor = self.list_ended(listing, cursor.as_ref(), &mut page.tasks).await?;
        }
        Ok(page)
    }

    /// Adds unfinished tasks of all streams, by the ids of their entries; returns the cursor of the
    /// next page, none at the end.
    async fn list_unfinished(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
        after: Option<&TaskListCursor>,
        tasks: &mut Vec<TaskListEntry>,
    ) -> Result<Option<String>, StoreError> {
        let mut found: Vec<(StreamEntryId, &Topic, TaskPageRow)> = Vec::new();
        // the newest of the last ids that the streams were read to: older entries are for the next
        // page
        let mut horizon: Option<StreamEntryId> = None;
        for queue in queues
            .iter()
            .filter(|queue| listing.topic.as_ref().is_none_or(|topic| *topic == queue.topic))
        {
            let start = first_entry_to_scan(&queue.topic, after);
            let (rows, last_scanned) = self.scan_unfinished(queue, &start, listing.limit).await?;
            if !last_scanned.is_empty() {
                horizon = horizon.max(Some(parse_entry_id(&last_scanned)));
            }
            found.extend(rows.into_iter().map(|row| (parse_entry_id(&row.0), &queue.topic, row)));
        }
        found.sort_by(|(entry, topic, _), (other_entry, other_topic, _)| {
            other_entry.cmp(entry).then_with(|| topic.as_str().cmp(other_topic.as_str()))
        });
        let mut last: Option<TaskListCursor> = None;
        for (entry, topic, row) in found {
            if horizon.is_some_and(|horizon| entry < horizon) {
                break;
            }
            if tasks.len() >= listing.limit {
                return last.as_ref().map(encode_list_cursor).transpose();
            }
            last = Some(TaskListCursor::Unfinished {
                entry: row.0.clone(),
                topic: topic.as_str().to_owned(),
            });
            tasks.extend(
                parse_unfinished_task(topic, row)
                    .filter(|task| listing.status.is_none_or(|status| task.status == status)),
            );
        }
        // "~" sorts after every topic: the next page begins below the horizon in all streams
        let next_page = horizon.map(|(ms, seq)| TaskListCursor::Unfinished {
            entry: format!("{ms}-{seq}"),
            topic: "~".into(),
        });
        next_page.as_ref().map(encode_list_cursor).transpose()
    }

    /// The unfinished tasks in a queue's stream from the entry `start` down, and the id of the last
    /// entry that was scanned, empty at the end of the stream.
    async fn scan_unfinished(
        &self,
        queue: &TopicQueue,
        start: &str,
        limit: usize,
    ) -> Result<(Vec<TaskPageRow>, String), StoreError> {
        LIST_UNFINISHED_TASKS
            .call_with_keys(&[("stream", self.keys.stream_key(&queue.topic))])
            .arg("record_prefix", self.keys.record_prefix())
            .arg("result_prefix", self.keys.result_prefix())
            .arg("topic", queue.topic.as_str())
            .arg("group", keys::group_name(queue))
            .arg("range_end", start)
            .arg("max_tasks", limit)
            .arg("max_entries", MAX_SCANNED_PER_PAGE)
            .run(&self.link)
            .await
    }

    /// Adds ended tasks, by the time of their results; returns the cursor of the next page, none at
    /// the end.
    async fn list_ended(
        &self,
        listing: &TaskListRequest,
        after: Option<&TaskListCursor>,
        tasks: &mut Vec<TaskListEntry>,
    ) -> Result<Option<String>, StoreError> {
        let mut at = match after {
            Some(TaskListCursor::Ended(at)) => at.clone(),
            _ => None,
        };
        let (mut examined, mut skip) = (0, 0);
        while tasks.len() < listing.limit {
            let highest = at.as_ref().map(|(score, _)| *score);
            let found = self.read_results_index(highest, skip).await?;
            let is_full = found.len() == RESULTS_PER_CALL;
            // results with equal scores come in descending order of task ids
            let is_new = |(name, score): &(String, f64)| {
                at.as_ref().is_none_or(|(last, last_id)| score < last || name < last_id)
            };
            let new: Vec<(String, f64)> = found.into_iter().filter(is_new).collect();
            if new.is_empty() && is_full {
                skip += RESULTS_PER_CALL;
                continue;
            }
            skip = 0;
            for (name, score, tail) in self.read_result_tails(new).await? {
                if tasks.len() >= listing.limit {
                    return encode_list_cursor(&TaskListCursor::Ended(at)).map(Some);
                }
                tasks.extend(
                    parse_ended_task(&name, score, &tail)
                        .filter(|task| matches_listing(task, listing)),
                );
                (at, examined) = (Some((score, name)), examined + 1);
            }
            if !is_full {
                return Ok(None);
            }
            if examined >= MAX_SCANNED_PER_PAGE {
                break;
            }
        }
        encode_list_cursor(&TaskListCursor::Ended(at)).map(Some)
    }

    /// The task ids and scores of [`RESULTS_PER_CALL`] results with a score of at most `highest`,
    /// the highest first, without the first `skip` of them.
    async fn read_results_index(
        &self,
        highest: Option<f64>,
        skip: usize,
    ) -> Result<Vec<(String, f64)>, StoreError> {
        let highest = highest.map_or_else(|| "+inf".to_owned(), |score| score.to_string());
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.keys.results_index_key()).arg(highest).arg("-inf").arg("BYSCORE").arg("REV");
        range.arg("LIMIT").arg(skip).arg(RESULTS_PER_CALL).arg("WITHSCORES");
        self.link.send_command(&range).await
    }

    /// The last bytes of each result, with its task id and score.
    async fn read_result_tails(
        &self,
        found: Vec<(String, f64)>,
    ) -> Result<Vec<(String, f64, Vec<u8>)>, StoreError> {
        let prefix = self.keys.result_prefix();
        let result_keys: Vec<(&str, String)> =
            found.iter().map(|(name, _)| ("result_key", format!("{prefix}{name}"))).collect();
        if result_keys.is_empty() {
            return Ok(Vec::new());
        }
        let tails: Vec<Vec<u8>> = READ_RESULT_TAILS
            .call_with_keys(&result_keys)
            .arg("tail_bytes", RESULT_TAIL_BYTES)
            .run(&self.link)
            .await?;
        Ok(found.into_iter().zip(tails).map(|((name, at), tail)| (name, at, tail)).collect())
    }
}

/// Where the scan of a topic's stream begins after the cursor. Entries of different streams can
/// have equal ids: those of topics up to the cursor's are listed already.
fn first_entry_to_scan(topic: &Topic, after: Option<&TaskListCursor>) -> String {
    match after {
        Some(TaskListCursor::Unfinished { entry, topic: listed })
            if topic.as_str() <= listed.as_str() =>
        {
            format!("({entry}")
        }
        Some(TaskListCursor::Unfinished { entry, .. }) => entry.clone(),
        _ => "+".to_owned(),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // milliseconds since 1970
fn parse_unfinished_task(
    topic: &Topic,
    (_, id, created, attempts, is_held): TaskPageRow,
) -> Option<TaskListEntry> {
    Some(TaskListEntry {
        id: TaskId::parse(&id).ok()?,
        topic: Some(topic.clone()),
        status: if is_held { TaskStatus::Processing } else { TaskStatus::Queued },
        attempts: Some(attempts.unwrap_or(u32::from(is_held))),
        created_at: Some(UnixMs(created as u64)),
        finished_at: None,
    })
}

fn parse_ended_task(name: &str, at: f64, tail: &[u8]) -> Option<TaskListEntry> {
    if tail.is_empty() {
        return None; // expired
    }
    let (id, finished) = (TaskId::parse(name).ok()?, Some(from_unix_seconds(at)));
    let text = String::from_utf8_lossy(tail);
    if let Some(summary) = parse_result_summary(&text) {
        return Some(TaskListEntry {
            id,
            topic: Topic::parse(&summary.topic).ok(),
            status: if summary.status == "failed" {
                TaskStatus::Failed
            } else {
                TaskStatus::Completed
            },
            attempts: Some(summary.attempts),
            created_at: Some(UnixMs(summary.created)),
            finished_at: finished,
        });
    }
    // an external consumer's result, which is a failure only where it cannot be read: it is read
    // where the tail is all of it
    let is_whole = tail.len() < RESULT_TAIL_BYTES;
    let whole = is_whole.then(|| ParsedResult::parse(tail).result);
    let has_failed = whole.as_ref().is_some_and(ParsedResultBody::is_failed);
    Some(TaskListEntry {
        id,
        topic: whole.as_ref().and_then(|body| Topic::parse(body.topic.as_deref()?).ok()),
        status: if has_failed { TaskStatus::Failed } else { TaskStatus::Completed },
        attempts: None,
        created_at: whole.and_then(|body| body.created_time()),
        finished_at: finished,
    })
}

fn matches_listing(task: &TaskListEntry, listing: &TaskListRequest) -> bool {
    listing.topic.as_ref().is_none_or(|topic| task.topic.as_ref() == Some(topic))
        && listing.status.is_none_or(|status| task.status == status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_only_read_from_the_end() {
        let ours = concat!(
            "…\",\"saved_at\":1.5,\"summary\":{\"topic\":\"t\",\"status\":\"failed\",",
            "\"attempts\":3,\"created\":7}}"
        );
        let task = parse_ended_task("task_1", 9.0, ours.as_bytes()).expect("read");
        assert_eq!(
            (task.status, task.attempts, task.finished_at),
            (TaskStatus::Failed, Some(3), Some(UnixMs(9000)))
        );
        let forged = format!(
            "{{\"result\":{{\"result\":\"{}\"}},\"saved_at\":1.5}}",
            ours.replace('"', "\\\"")
        );
        assert_eq!(
            parse_ended_task("task_1", 9.0, forged.as_bytes()).expect("read").attempts,
            None
        );
    }
}
