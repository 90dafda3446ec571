//! The tasks that consumers of another make run: what they gave up has failed, and so has what is past its limit; what
//! they ended is counted, where it is a canaried one.
//!
//! Such a consumer says nothing to us: it writes a result, or after its own retries a dead letter, or it dies. One
//! script looks over all queues; only what it finds costs more. Dead letters are read on from the last one that was
//! seen, each process for itself and from the first one on, so that none is missed. Whether there are results is asked
//! for a stretch of the unended tasks in each look, and for the next one in the next, round and round.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use redis::streams::StreamRangeReply;
use serde::Deserialize;
use tokio::time::Instant;

use super::keys;
use super::message::End;
use super::partition::Partition;
use super::row::Row;
use super::script::{ATTEND, UNENDED};
use crate::store::{Buried, Queue, Settled, StoreError};
use crate::task::{Failure, FailureKind};

/// Dead letters of a queue in one look, which may end sooner: they carry whole messages.
const PAGE: usize = 20;

/// Tasks of a queue that are asked in one look whether they have ended.
const STRETCH: usize = 500;

/// How long one call goes on where there is more: many dead letters from before this process.
const BUDGET: Duration = Duration::from_millis(200);

/// What one look finds in a queue.
type Found = (String, Vec<Bytes>, Vec<String>, Vec<String>, usize);

/// Where the next look at a queue goes on.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The last of its dead letters that was seen.
    letter: String,
    /// How many of its unended tasks were asked in this round.
    asked: usize,
}

/// The tasks that may have an end: those with a result, those past their limit, and those that were given up.
struct Candidates {
    with_result: Vec<String>,
    late: Vec<String>,
    given_up: Vec<Letter>,
}

/// A dead letter of a consumer of another make.
#[derive(Deserialize)]
struct Letter {
    original_id: String,
    failed_message: Named,
    error: Option<String>,
    /// Only ours say which.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    task_id: Option<String>,
}

impl Partition {
    pub(super) async fn attend_queues(&self, queues: &[Queue], ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        let (mut dead, mut more, start) = (Vec::new(), !queues.is_empty(), Instant::now());
        while more && start.elapsed() < BUDGET {
            let found: Vec<Found>;
            (more, found) = self.look_over(queues).await?;
            for (queue, (letter, letters, late, with_result, asked)) in queues.iter().zip(found) {
                let given_up = letters.iter().filter_map(|data| foreign(data)).collect();
                let candidates = Candidates { with_result, late, given_up };
                if !candidates.is_empty() {
                    dead.extend(self.end_for_others(queue, &candidates, ttl).await?);
                }
                self.seen().insert(keys::group(queue), Seen { letter, asked });
            }
        }
        let external = |queue: &&Queue| queue.limit.is_some();
        let elsewhere: Vec<Queue> = queues.iter().filter(external).cloned().collect();
        if !elsewhere.is_empty() && self.missing_elsewhere.is_due(start) {
            dead.extend(self.find_missing(&self.missing_elsewhere, &elsewhere, ttl, start + BUDGET).await?);
        }
        Ok(dead)
    }

    /// One look, and whether there may be more dead letters.
    async fn look_over(&self, queues: &[Queue]) -> Result<(bool, Vec<Found>), StoreError> {
        let groups: Vec<String> = queues.iter().map(keys::group).collect();
        let all: Vec<String> =
            groups.iter().flat_map(|group| [self.keys.dead_letters(group), self.keys.limits(group)]).collect();
        let mut call = ATTEND.keys(&all).arg(PAGE).arg(self.keys.result_prefix()).arg(STRETCH);
        for group in &groups {
            let Seen { letter, asked } = self.seen().get(group).cloned().unwrap_or_default();
            call = call.arg(letter).arg(asked);
        }
        call.run(&self.link).await
    }

    async fn end_for_others(
        &self,
        queue: &Queue,
        candidates: &Candidates,
        ttl: Duration,
    ) -> Result<Vec<Buried>, StoreError> {
        let Candidates { with_result, late, given_up } = candidates;
        let group = keys::group(queue);
        let mut call = UNENDED
            .keys(&[self.keys.stream(&queue.topic), self.keys.limits(&group)])
            .arg(&[&self.keys.record_prefix(), &self.keys.result_prefix(), &self.keys.tally_prefix()])
            .arg(&[queue.topic.as_str(), &queue.agent, &group])
            .arg(queue.limit.is_some())
            .arg(with_result.len())
            .arg(with_result)
            .arg(late.len())
            .arg(late);
        let mut errors = HashMap::new();
        for letter in given_up {
            let Some(id) = &letter.failed_message.task_id else { continue };
            call = call.arg(id).arg(&letter.original_id);
            errors.insert(id.as_str(), letter.error.as_deref().unwrap_or("no reason given"));
        }
        let (late, given_up): (Vec<Row>, Vec<Row>) = call.run(&self.link).await?;
        let mut dead = Vec::new();
        for row in given_up {
            let why = errors.get(row.id.as_str()).copied().unwrap_or_default();
            let failure = Failure::new(FailureKind::Handler, format!("agent {} gave up: {why}", queue.agent));
            dead.extend(self.end_for_other(queue, row, &End::GivenUp(&failure), ttl).await?);
        }
        for row in late {
            let limit = humantime::format_duration(queue.limit.unwrap_or_default());
            let failure =
                Failure::new(FailureKind::Deadline, format!("agent {} did not end it within {limit}", queue.agent));
            dead.extend(self.end_for_other(queue, row, &End::Failed(&failure), ttl).await?);
        }
        Ok(dead)
    }

    async fn end_for_other(
        &self,
        queue: &Queue,
        mut row: Row,
        end: &End<'_>,
        ttl: Duration,
    ) -> Result<Option<Buried>, StoreError> {
        // one at a time, since it may be large; whole where it can be read: its end may have to be told
        row.data = self.read_entry(queue, &row.entry).await?;
        let whole = row.open(queue).ok().map(|(lease, _)| lease);
        let Some(lease) = whole.or_else(|| row.bare(queue)) else { return Ok(None) };
        let settled = self.finish(&lease, end, ttl, None).await?;
        Ok((settled == Settled::Applied).then_some(Buried {
            topic: lease.task.topic,
            route: lease.task.route,
            trimmed: false,
        }))
    }

    /// The data of an entry, while it is there.
    async fn read_entry(&self, queue: &Queue, entry: &str) -> Result<Option<Bytes>, StoreError> {
        let mut range = redis::cmd("XRANGE");
        range.arg(self.keys.stream(&queue.topic)).arg(entry).arg(entry);
        let found: StreamRangeReply = self.link.call(&range).await?;
        Ok(found.ids.first().and_then(|entry| entry.get::<Vec<u8>>("data")).map(Bytes::from))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Candidates ===

impl Candidates {
    fn is_empty(&self) -> bool {
        self.with_result.is_empty() && self.late.is_empty() && self.given_up.is_empty()
    }
}

// === impl Seen ===

impl Default for Seen {
    fn default() -> Self {
        Self { letter: "0".into(), asked: 0 }
    }
}

/// A dead letter that is not ours.
fn foreign(data: &[u8]) -> Option<Letter> {
    serde_json::from_slice::<Letter>(data).ok().filter(|letter| letter.kind.is_none())
}
