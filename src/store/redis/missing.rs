//! Tasks whose entries somebody else took off the stream: Python's publishers trim to about 10,000, others' tasks too.
//!
//! What such a publisher takes leaves no trace but the record, so the records are looked through: a stretch a minute,
//! and one after the other once a loss was found, until a whole pass finds no more. A task that runs meanwhile is left
//! alone, since its end needs no entry: its renewals stand in its record from then on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::message::End;
use super::partition::Partition;
use super::row::Row;
use super::script::MISSING;
use super::{keys, millis};
use crate::store::{Buried, Queue, Settled, StoreError, lease_time};
use crate::task::{Failure, FailureKind, Topic};

/// Keys that one call looks at.
const PAGE: usize = 500;
/// Calls in a stretch.
const STRETCH: usize = 50;
/// How often one begins.
const EVERY: Duration = Duration::from_mins(1);

/// Where the look through the records is.
#[derive(Default)]
pub(super) struct Search(Mutex<State>);

#[derive(Default)]
struct State {
    cursor: u64,
    /// When the last stretch began that was not urgent.
    began: Option<Instant>,
    /// Whether this pass found a loss, and whether the one before did.
    found: (bool, bool),
}

impl Search {
    /// Whether the next stretch is to begin.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut state = self.state();
        if state.began.is_none_or(|began| now - began >= EVERY) {
            state.began = Some(now);
            return true;
        }
        state.found.0 || state.found.1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where it goes on; whether the pass is over.
    fn turn_to(&self, cursor: u64, found: bool) -> bool {
        let mut state = self.state();
        state.cursor = cursor;
        state.found.0 |= found;
        if cursor == 0 {
            state.found = (false, state.found.0);
        }
        cursor == 0
    }
}

impl Partition {
    /// Looks through a stretch of the records. Gives the tasks that have failed by it.
    pub(super) async fn find_missing(
        &self,
        search: &Search,
        queues: &[Queue],
        ttl: Duration,
        until: Instant,
    ) -> Result<Vec<Buried>, StoreError> {
        let mut dead = Vec::new();
        for _ in 0..STRETCH {
            let (cursor, ids) = self.next_records(search).await?;
            let mut found = false;
            for row in self.missing_of(queues, &ids).await? {
                found = true;
                if let Some(queue) = queues.get(row.queue.wrapping_sub(1)) {
                    dead.extend(self.end_missing(queue, &row, ttl).await?);
                }
            }
            if search.turn_to(cursor, found) || Instant::now() >= until {
                break;
            }
        }
        warn(&dead);
        Ok(dead)
    }

    /// The ids of the next records, and where to go on.
    async fn next_records(&self, search: &Search) -> Result<(u64, Vec<String>), StoreError> {
        let (prefix, cursor) = (self.keys.record_prefix(), search.state().cursor);
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(PAGE);
        let (cursor, found): (u64, Vec<Vec<u8>>) = self.link.call(&scan).await?;
        let id = |key: Vec<u8>| String::from_utf8(key).ok()?.strip_prefix(&prefix).map(str::to_owned);
        Ok((cursor, found.into_iter().filter_map(id).collect()))
    }

    async fn missing_of(&self, queues: &[Queue], ids: &[String]) -> Result<Vec<Row>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (records, results) = (self.keys.record_prefix(), self.keys.result_prefix());
        let all: Vec<String> = ids.iter().flat_map(|id| [format!("{records}{id}"), format!("{results}{id}")]).collect();
        let names: Vec<String> = queues.iter().map(|queue| format!("{}:{}", queue.topic, queue.agent)).collect();
        MISSING
            .keys(&all)
            .arg(&[&self.keys.stream_prefix(), keys::GROUP, &self.keys.tally_prefix()])
            .arg(millis(lease_time()))
            .arg(names.len())
            .arg(names)
            .arg(ids)
            .run(&self.link)
            .await
    }

    async fn end_missing(&self, queue: &Queue, row: &Row, ttl: Duration) -> Result<Option<Buried>, StoreError> {
        let Some(lease) = row.bare(queue) else { return Ok(None) };
        let failure = Failure::new(FailureKind::Lost, "trimmed by a foreign publisher");
        let settled = self.finish(&lease, &End::Failed(&failure), ttl, None).await?;
        let buried = Buried { topic: lease.task.topic, route: lease.task.route, trimmed: true };
        Ok((settled == Settled::Applied).then_some(buried))
    }
}

fn warn(dead: &[Buried]) {
    let mut counts: HashMap<&Topic, usize> = HashMap::new();
    for buried in dead {
        *counts.entry(&buried.topic).or_default() += 1;
    }
    for (topic, tasks) in counts {
        tracing::warn!(
            %topic,
            tasks,
            "tasks were trimmed by a foreign publisher and have failed: publish through the proxy, or keep the backlog \
             below what that publisher trims to"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_loss_the_search_goes_on_until_a_whole_pass_finds_none() {
        let (search, now) = (Search::default(), Instant::now());
        assert!(search.is_due(now) && !search.is_due(now) && search.is_due(now + EVERY));
        let urgent = |cursor, found| {
            search.turn_to(cursor, found);
            search.is_due(now + EVERY)
        };
        assert_eq!([urgent(5, false), urgent(9, true), urgent(0, false)], [false, true, true]);
        assert_eq!([urgent(5, false), urgent(0, false), urgent(5, false)], [true, false, false]);
    }
}
