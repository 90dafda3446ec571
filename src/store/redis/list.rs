//! The list of tasks, without an index of its own: the unfinished ones are in their streams, newest first; then come
//! the ended ones from the index of results, the last end first. A cancelled task leaves neither behind.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use super::keys;
use super::message::{ReadResult, from_seconds, to_json};
use super::partition::Partition;
use super::script::{PAGE, TAILS};
use crate::store::list::no_cursor;
use crate::store::{Listed, Listing, Page, Queue, StoreError};
use crate::task::{Status, TaskId, Topic, UnixMs};

/// Bytes of a result's end that are read; a small result is there whole.
const TAIL: usize = 4096;
/// Entries, and results, that one page looks at.
const LOOK: usize = 1000;

/// Where a page ended.
#[derive(Serialize, Deserialize)]
enum Cursor {
    /// At this entry of these streams.
    Going { entry: String, topic: String },
    /// At this result; before the first where there is none.
    Ended(Option<(f64, String)>),
}

/// What a result of ours says of itself at its very end.
#[derive(Serialize, Deserialize)]
pub(super) struct Summary {
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
type Row = (String, String, f64, Option<u32>, bool);

impl Partition {
    pub(super) async fn list_tasks(&self, queues: &[Queue], listing: &Listing) -> Result<Page, StoreError> {
        let cursor = listing.after.as_deref().map(read_cursor).transpose()?;
        let mut page = Page { unlisted: &[Status::Cancelled], ..Page::default() };
        let (going, ended) = match listing.status {
            None => (true, true),
            Some(status) => (!status.is_final(), status.is_final()),
        };
        if going && !matches!(cursor, Some(Cursor::Ended(_))) {
            page.next = self.list_going(queues, listing, cursor.as_ref(), &mut page.tasks).await?;
            if page.next.is_some() || page.tasks.len() >= listing.limit {
                let rest = || if ended { write_cursor(&Cursor::Ended(None)).map(Some) } else { Ok(None) };
                page.next = page.next.take().map_or_else(rest, |next| Ok(Some(next)))?;
                return Ok(page);
            }
        }
        if ended {
            page.next = self.list_ended(listing, cursor.as_ref(), &mut page.tasks).await?;
        }
        Ok(page)
    }

    /// Adds unfinished tasks of all streams by their entries' ids; gives where to go on, none at the end.
    async fn list_going(
        &self,
        queues: &[Queue],
        listing: &Listing,
        after: Option<&Cursor>,
        tasks: &mut Vec<Listed>,
    ) -> Result<Option<String>, StoreError> {
        let mut found: Vec<(EntryId, &Topic, Row)> = Vec::new();
        // How far down every stream was looked at: what lies beyond waits for the next page.
        let mut horizon: Option<EntryId> = None;
        for queue in queues.iter().filter(|queue| listing.topic.as_ref().is_none_or(|topic| *topic == queue.topic)) {
            let from = match after {
                // The streams' ids can be equal: those up to the cursor's topic are over.
                Some(Cursor::Going { entry, topic }) if queue.topic.as_str() <= topic.as_str() => format!("({entry}"),
                Some(Cursor::Going { entry, .. }) => entry.clone(),
                _ => "+".to_owned(),
            };
            let (rows, last): (Vec<Row>, String) = PAGE
                .keys(&[self.keys.stream(&queue.topic)])
                .arg(&[self.keys.record_prefix(), self.keys.result_prefix()])
                .arg(&[queue.topic.as_str(), &keys::group(queue), &from])
                .arg(listing.limit)
                .arg(LOOK)
                .run(&self.link)
                .await?;
            if !last.is_empty() {
                horizon = horizon.max(Some(entry_id(&last)));
            }
            found.extend(rows.into_iter().map(|row| (entry_id(&row.0), &queue.topic, row)));
        }
        found.sort_by(|(a, at, _), (b, bt, _)| b.cmp(a).then_with(|| at.as_str().cmp(bt.as_str())));
        let mut last: Option<Cursor> = None;
        for (entry, topic, row) in found {
            if horizon.is_some_and(|horizon| entry < horizon) {
                break;
            }
            if tasks.len() >= listing.limit {
                return last.as_ref().map(write_cursor).transpose();
            }
            last = Some(Cursor::Going { entry: row.0.clone(), topic: topic.as_str().to_owned() });
            tasks.extend(going(topic, row).filter(|task| listing.status.is_none_or(|status| task.status == status)));
        }
        let beyond = horizon.map(|(ms, seq)| Cursor::Going { entry: format!("{ms}-{seq}"), topic: "~".into() });
        beyond.as_ref().map(write_cursor).transpose()
    }

    /// Adds ended tasks by the time of their results; gives where to go on, none at the end.
    async fn list_ended(
        &self,
        listing: &Listing,
        after: Option<&Cursor>,
        tasks: &mut Vec<Listed>,
    ) -> Result<Option<String>, StoreError> {
        let mut at = match after {
            Some(Cursor::Ended(at)) => at.clone(),
            _ => None,
        };
        let (mut looked, mut skip) = (0, 0);
        while tasks.len() < listing.limit {
            let mut range = redis::cmd("ZRANGE");
            let highest = at.as_ref().map_or_else(|| "+inf".to_owned(), |(score, _)| score.to_string());
            range.arg(self.keys.results()).arg(highest).arg("-inf").arg("BYSCORE").arg("REV");
            range.arg("LIMIT").arg(skip).arg(BATCH).arg("WITHSCORES");
            let found: Vec<(String, f64)> = self.link.call(&range).await?;
            let full = found.len() == BATCH;
            // Of equal scores the greater name comes first; up to the cursor's it was listed before.
            let is_new = |(name, score): &(String, f64)| at.as_ref().is_none_or(|(last, id)| score < last || name < id);
            let new: Vec<(String, f64)> = found.into_iter().filter(is_new).collect();
            if new.is_empty() && full {
                skip += BATCH;
                continue;
            }
            skip = 0;
            for (name, score, tail) in self.tails(new).await? {
                if tasks.len() >= listing.limit {
                    return write_cursor(&Cursor::Ended(at)).map(Some);
                }
                tasks.extend(ended(&name, score, &tail).filter(|task| fits(task, listing)));
                (at, looked) = (Some((score, name)), looked + 1);
            }
            if !full {
                return Ok(None);
            }
            if looked >= LOOK {
                break;
            }
        }
        write_cursor(&Cursor::Ended(at)).map(Some)
    }

    async fn tails(&self, found: Vec<(String, f64)>) -> Result<Vec<(String, f64, Vec<u8>)>, StoreError> {
        let prefix = self.keys.result_prefix();
        let result_keys: Vec<String> = found.iter().map(|(name, _)| format!("{prefix}{name}")).collect();
        if result_keys.is_empty() {
            return Ok(Vec::new());
        }
        let tails: Vec<Vec<u8>> = TAILS.keys(&result_keys).arg(TAIL).run(&self.link).await?;
        Ok(found.into_iter().zip(tails).map(|((name, at), tail)| (name, at, tail)).collect())
    }
}

/// Results asked for in one call.
const BATCH: usize = 100;

type EntryId = (u64, u64);

fn entry_id(text: &str) -> EntryId {
    let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
    (ms.parse().unwrap_or_default(), seq.parse().unwrap_or_default())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // milliseconds since 1970
fn going(topic: &Topic, (_, id, created, attempts, held): Row) -> Option<Listed> {
    Some(Listed {
        id: TaskId::parse(&id).ok()?,
        topic: Some(topic.clone()),
        status: if held { Status::Processing } else { Status::Queued },
        attempts: Some(attempts.unwrap_or(u32::from(held))),
        created: Some(UnixMs(created as u64)),
        finished: None,
    })
}

fn ended(name: &str, at: f64, tail: &[u8]) -> Option<Listed> {
    if tail.is_empty() {
        return None; // expired
    }
    let (id, finished) = (TaskId::parse(name).ok()?, Some(from_seconds(at)));
    let text = String::from_utf8_lossy(tail);
    if let Some(summary) = summary(&text) {
        return Some(Listed {
            id,
            topic: Topic::parse(&summary.topic).ok(),
            status: if summary.status == "failed" { Status::Failed } else { Status::Completed },
            attempts: Some(summary.attempts),
            created: Some(UnixMs(summary.created)),
            finished,
        });
    }
    // Of another make, which knows no failures: read whole where it is small.
    let whole = ReadResult::read(tail).ok().map(|read| read.result);
    Some(Listed {
        id,
        topic: whole.as_ref().and_then(|r| Topic::parse(r.topic.as_deref()?).ok()),
        status: Status::Completed,
        attempts: None,
        created: whole.and_then(|r| r.created()),
        finished,
    })
}

fn summary(tail: &str) -> Option<Summary> {
    let (_, rest) = tail.rsplit_once(",\"summary\":")?;
    serde_json::from_str(rest.strip_suffix('}')?).ok()
}

fn fits(task: &Listed, listing: &Listing) -> bool {
    listing.topic.as_ref().is_none_or(|topic| task.topic.as_ref() == Some(topic))
        && listing.status.is_none_or(|status| task.status == status)
}

fn write_cursor(cursor: &Cursor) -> Result<String, StoreError> {
    to_json(cursor).map(|json| BASE64.encode(json))
}

fn read_cursor(text: &str) -> Result<Cursor, StoreError> {
    let json = BASE64.decode(text).ok().and_then(|json| serde_json::from_slice(&json).ok());
    json.ok_or_else(|| no_cursor("after"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_from_the_end_and_nowhere_else() {
        let ours =
            "…\",\"saved_at\":1.5,\"summary\":{\"topic\":\"t\",\"status\":\"failed\",\"attempts\":3,\"created\":7}}";
        let task = ended("task_1", 9.0, ours.as_bytes()).expect("read");
        assert_eq!((task.status, task.attempts, task.finished), (Status::Failed, Some(3), Some(UnixMs(9000))));
        let forged = format!("{{\"result\":{{\"result\":\"{}\"}},\"saved_at\":1.5}}", ours.replace('"', "\\\""));
        assert_eq!(ended("task_1", 9.0, forged.as_bytes()).expect("read").attempts, None);
    }
}
