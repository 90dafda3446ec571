//! The list of tasks, without an index of its own: the unfinished ones are in their streams, newest
//! first; then come the ended ones from the index of results, the last end first. A cancelled task
//! leaves neither behind.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use super::keys;
use super::message::{ParsedResult, from_unix_seconds, to_json};
use super::partition::Partition;
use super::script::{LIST_UNFINISHED_TASKS, READ_RESULT_TAILS};
use crate::store::error::invalid_cursor;
use crate::store::{StoreError, TaskListEntry, TaskListPage, TaskListRequest, TopicQueue};
use crate::task::{TaskId, TaskStatus, Topic, UnixMs};

/// Bytes of a result's end that are read; a small result is there whole.
const RESULT_TAIL_BYTES: usize = 4096;
/// Entries, and results, that one page looks at.
const MAX_SCANNED_PER_PAGE: usize = 1000;

/// Where a page ended.
#[derive(Serialize, Deserialize)]
enum TaskListCursor {
    /// At this entry of these streams.
    #[serde(rename = "Going")]
    Unfinished { entry: String, topic: String },
    /// At this result; before the first where there is none.
    Ended(Option<(f64, String)>),
}

/// What a result of ours says of itself at its very end.
#[derive(Serialize, Deserialize)]
pub(super) struct ResultSummary {
    /// The topic.
    pub(super) topic: String,
    /// How it ended.
    pub(super) status: String,
    /// Attempts made.
    pub(super) attempts: u32,
    /// ms
    pub(super) created: u64,
}

/// What `page.lua` answers of one task.
type TaskPageRow = (String, String, f64, Option<u32>, bool);

impl Partition {
    pub(super) async fn list_tasks(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        let cursor = listing.after_cursor.as_deref().map(decode_list_cursor).transpose()?;
        let mut page = TaskListPage {
            unlistable_statuses: &[TaskStatus::Cancelled],
            ..TaskListPage::default()
        };
        let (going, ended) = match listing.status {
            None => (true, true),
            Some(status) => (!status.is_final(), status.is_final()),
        };
        if going && !matches!(cursor, Some(TaskListCursor::Ended(_))) {
            page.next_cursor =
                self.list_unfinished(queues, listing, cursor.as_ref(), &mut page.tasks).await?;
            if page.next_cursor.is_some() || page.tasks.len() >= listing.limit {
                let rest = || {
                    if ended {
                        encode_list_cursor(&TaskListCursor::Ended(None)).map(Some)
                    } else {
                        Ok(None)
                    }
                };
                page.next_cursor =
                    page.next_cursor.take().map_or_else(rest, |next| Ok(Some(next)))?;
                return Ok(page);
            }
        }
        if ended {
            page.next_cursor = self.list_ended(listing, cursor.as_ref(), &mut page.tasks).await?;
        }
        Ok(page)
    }

    /// Adds unfinished tasks of all streams by their entries' ids; gives where to go on, none at
    /// the end.
    async fn list_unfinished(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
        after: Option<&TaskListCursor>,
        tasks: &mut Vec<TaskListEntry>,
    ) -> Result<Option<String>, StoreError> {
        let mut found: Vec<(StreamEntryId, &Topic, TaskPageRow)> = Vec::new();
        // How far down every stream was looked at: what lies beyond waits for the next page.
        let mut horizon: Option<StreamEntryId> = None;
        for queue in queues
            .iter()
            .filter(|queue| listing.topic.as_ref().is_none_or(|topic| *topic == queue.topic))
        {
            let from = match after {
                // The streams' ids can be equal: those up to the cursor's topic are over.
                Some(TaskListCursor::Unfinished { entry, topic })
                    if queue.topic.as_str() <= topic.as_str() =>
                {
                    format!("({entry}")
                }
                Some(TaskListCursor::Unfinished { entry, .. }) => entry.clone(),
                _ => "+".to_owned(),
            };
            let (rows, last): (Vec<TaskPageRow>, String) = LIST_UNFINISHED_TASKS
                .call_with_keys(&[self.keys.stream_key(&queue.topic)])
                .arg(&[self.keys.record_prefix(), self.keys.result_prefix()])
                .arg(&[queue.topic.as_str(), &keys::group_name(queue), &from])
                .arg(listing.limit)
                .arg(MAX_SCANNED_PER_PAGE)
                .run(&self.link)
                .await?;
            if !last.is_empty() {
                horizon = horizon.max(Some(parse_entry_id(&last)));
            }
            found.extend(rows.into_iter().map(|row| (parse_entry_id(&row.0), &queue.topic, row)));
        }
        found.sort_by(|(a, at, _), (b, bt, _)| b.cmp(a).then_with(|| at.as_str().cmp(bt.as_str())));
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
        let beyond = horizon.map(|(ms, seq)| TaskListCursor::Unfinished {
            entry: format!("{ms}-{seq}"),
            topic: "~".into(),
        });
        beyond.as_ref().map(encode_list_cursor).transpose()
    }

    /// Adds ended tasks by the time of their results; gives where to go on, none at the end.
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
        let (mut looked, mut skip) = (0, 0);
        while tasks.len() < listing.limit {
            let mut range = redis::cmd("ZRANGE");
            let highest =
                at.as_ref().map_or_else(|| "+inf".to_owned(), |(score, _)| score.to_string());
            range
                .arg(self.keys.results_index_key())
                .arg(highest)
                .arg("-inf")
                .arg("BYSCORE")
                .arg("REV");
            range.arg("LIMIT").arg(skip).arg(RESULTS_PER_CALL).arg("WITHSCORES");
            let found: Vec<(String, f64)> = self.link.send_command(&range).await?;
            let full = found.len() == RESULTS_PER_CALL;
            // Of equal scores the greater name comes first; up to the cursor's it was listed
            // before.
            let is_new = |(name, score): &(String, f64)| {
                at.as_ref().is_none_or(|(last, id)| score < last || name < id)
            };
            let new: Vec<(String, f64)> = found.into_iter().filter(is_new).collect();
            if new.is_empty() && full {
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
                (at, looked) = (Some((score, name)), looked + 1);
            }
            if !full {
                return Ok(None);
            }
            if looked >= MAX_SCANNED_PER_PAGE {
                break;
            }
        }
        encode_list_cursor(&TaskListCursor::Ended(at)).map(Some)
    }

    async fn read_result_tails(
        &self,
        found: Vec<(String, f64)>,
    ) -> Result<Vec<(String, f64, Vec<u8>)>, StoreError> {
        let prefix = self.keys.result_prefix();
        let result_keys: Vec<String> =
            found.iter().map(|(name, _)| format!("{prefix}{name}")).collect();
        if result_keys.is_empty() {
            return Ok(Vec::new());
        }
        let tails: Vec<Vec<u8>> = READ_RESULT_TAILS
            .call_with_keys(&result_keys)
            .arg(RESULT_TAIL_BYTES)
            .run(&self.link)
            .await?;
        Ok(found.into_iter().zip(tails).map(|((name, at), tail)| (name, at, tail)).collect())
    }
}

/// Results asked for in one call.
const RESULTS_PER_CALL: usize = 100;

type StreamEntryId = (u64, u64);

fn parse_entry_id(text: &str) -> StreamEntryId {
    let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
    (ms.parse().unwrap_or_default(), seq.parse().unwrap_or_default())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // milliseconds since 1970
fn parse_unfinished_task(
    topic: &Topic,
    (_, id, created, attempts, held): TaskPageRow,
) -> Option<TaskListEntry> {
    Some(TaskListEntry {
        id: TaskId::parse(&id).ok()?,
        topic: Some(topic.clone()),
        status: if held { TaskStatus::Processing } else { TaskStatus::Queued },
        attempts: Some(attempts.unwrap_or(u32::from(held))),
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
    // Of another make, which knows no failures: read whole where it is small.
    let whole = ParsedResult::parse(tail).ok().map(|read| read.result);
    Some(TaskListEntry {
        id,
        topic: whole.as_ref().and_then(|r| Topic::parse(r.topic.as_deref()?).ok()),
        status: TaskStatus::Completed,
        attempts: None,
        created_at: whole.and_then(|r| r.created_time()),
        finished_at: finished,
    })
}

fn parse_result_summary(tail: &str) -> Option<ResultSummary> {
    let (_, rest) = tail.rsplit_once(",\"summary\":")?;
    serde_json::from_str(rest.strip_suffix('}')?).ok()
}

fn matches_listing(task: &TaskListEntry, listing: &TaskListRequest) -> bool {
    listing.topic.as_ref().is_none_or(|topic| task.topic.as_ref() == Some(topic))
        && listing.status.is_none_or(|status| task.status == status)
}

fn encode_list_cursor(cursor: &TaskListCursor) -> Result<String, StoreError> {
    to_json(cursor).map(|json| BASE64.encode(json))
}

fn decode_list_cursor(text: &str) -> Result<TaskListCursor, StoreError> {
    let json = BASE64.decode(text).ok().and_then(|json| serde_json::from_slice(&json).ok());
    json.ok_or_else(|| invalid_cursor("after"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_from_the_end_and_nowhere_else() {
        let ours = "…\",\"saved_at\":1.5,\"summary\":{\"topic\":\"t\",\"status\":\"failed\",\"attempts\":3,\"created\":7}}";
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
