//! What changes a task that is there: the ends of a lease, renewal, cancellation.

use std::sync::Arc;
use std::time::Duration;

use super::finish::{Ending, To};
use super::message::{End, to_json, write_dead_letter, write_result};
use super::outbox::letters;
use super::partition::Partition;
use super::row::{Handle, Row};
use super::script::{CANCEL, PARK, REJECT, RENEW};
use super::{keys, millis, now, ttl_ms, until};
use crate::store::envelope::StoredFailure;
use crate::store::{Cancelled, Lease, Queue, Settled, Settlement, StoreError, runs};
use crate::task::{Failure, FailureKind, Status, TaskId, TaskRecord, UnixMs};

/// How long a task that could not be read is known as failed.
const UNREADABLE_TTL: Duration = Duration::from_hours(24);

/// How long a task that is not there yet is cancelled ahead.
const AHEAD: Duration = Duration::from_mins(1);

impl Partition {
    pub(super) async fn settle_lease(&self, lease: &Lease, settlement: &Settlement) -> Result<Settled, StoreError> {
        let settled = match settlement {
            Settlement::Complete { answer, ttl } => self.finish(lease, &End::Completed(answer), *ttl, None).await?,
            Settlement::Bury { failure, ttl } => self.finish(lease, &End::Failed(failure), *ttl, None).await?,
            Settlement::Retry { failure, at } => {
                self.park(
                    lease,
                    Park { attempt: lease.attempt, turns: 1, due: Some(*at), failure: Some(failure), idle: None },
                )
                .await?
            }
            Settlement::Release => {
                let attempt = lease.attempt.saturating_sub(1);
                self.park(lease, Park { attempt, turns: 1, due: None, failure: None, idle: None }).await?
            }
        };
        if settled == Settled::Applied {
            self.note_end(lease, settlement);
        }
        self.live.release(lease);
        Ok(settled)
    }

    /// Ends a task. With `idle`, only if nobody has touched its entry for so long.
    pub(super) async fn finish(
        &self,
        lease: &Lease,
        end: &End<'_>,
        ttl: Duration,
        idle: Option<Duration>,
    ) -> Result<Settled, StoreError> {
        let (task, handle, at) = (&lease.task, Handle::of(lease), now());
        let group = keys::group(&lease.queue);
        let (rest, runner) = self.live.details(lease);
        let began = self.live.holder(lease).map(|(_, began)| began);
        let stream = self.keys.stream(&task.topic);
        let letter = match end {
            End::Completed(_) | End::GivenUp(_) => (String::new(), String::new()),
            End::Failed(failure) => letter_of(lease, &stream, &handle.entry, failure, at)?,
        };
        let ending = Ending {
            queue: [stream, self.keys.dead_letters(&group), self.keys.retry_counts(&group)],
            group,
            record: self.keys.record(&task.id),
            result_key: self.keys.result(&task.id),
            lease: (lease.attempt, handle.turn),
            state: end.status().as_str(),
            result: write_result(lease, &handle, &rest, &runner, end, began, at)?,
            entry: handle.entry,
            ttl: ttl_ms(ttl),
            id: task.id.as_str().to_owned(),
            idle: idle.map_or(0, millis),
            letter,
            sound: !end.is_malformed(),
            at: at.0,
            told: letters(task, end)?,
            tally: self.tally_of(task),
            outcome: end.counted_as().as_str(),
        };
        let (results, outbox, tallies) = (self.keys.results(), self.keys.outbox(), self.keys.tally_prefix());
        let to = To { link: &self.link, results: &results, outbox: &outbox, name: &self.name, tallies: &tallies };
        let applied = self.finishing.run(ending, &to).await?;
        if applied {
            self.tell(lease, end, at);
        }
        Ok(if applied { Settled::Applied } else { Settled::Fenced })
    }

    /// Tells those who wait in this process.
    fn tell(&self, lease: &Lease, end: &End<'_>, at: UnixMs) {
        let task = &lease.task;
        if !self.waiters.waits_for(&task.id) {
            return;
        }
        let (answer, failure) = match end {
            End::Completed(answer) => (Some((*answer).clone()), None),
            End::Failed(failure) | End::GivenUp(failure) => (None, Some((*failure).clone())),
        };
        let record = TaskRecord {
            id: task.id.clone(),
            topic: task.topic.clone(),
            status: end.status(),
            attempts: lease.attempt,
            owner: task.owner.clone(),
            created: task.created,
            due: None,
            finished: Some(at),
            answer,
            failure,
            progress: None,
        };
        self.waiters.resolve(&task.id, Some(&Arc::new(record)));
    }

    /// Ends a lease so that another may begin.
    pub(super) async fn park(&self, lease: &Lease, park: Park<'_>) -> Result<Settled, StoreError> {
        let (handle, group) = (Handle::of(lease), keys::group(&lease.queue));
        let run = park.failure.map(|failure| self.run_of(lease, failure, now())).unwrap_or_default();
        let failure = park.failure.map(|failure| to_json(&StoredFailure::seal(failure))).transpose()?;
        let applied: bool = PARK
            .keys(&[self.keys.record(&lease.task.id), self.keys.stream(&lease.task.topic), self.keys.delayed(&group)])
            .arg(&[&group, &handle.entry])
            .arg(lease.attempt)
            .arg(handle.turn)
            .arg(park.attempt)
            .arg(handle.turn + park.turns)
            .arg(park.due.map_or(0, until))
            .arg(failure.unwrap_or_default())
            .arg(park.idle.map_or(0, millis))
            .arg(run)
            .arg(runs::MOST)
            .run(&self.link)
            .await?;
        Ok(if applied { Settled::Applied } else { Settled::Fenced })
    }

    /// Makes a dead letter of an entry that is no task.
    pub(super) async fn reject(&self, queue: &Queue, row: &Row, why: String) -> Result<(), StoreError> {
        tracing::warn!(topic = %queue.topic, entry = row.entry, reason = why, "an entry that is no task becomes a dead letter");
        let failure = Failure::new(FailureKind::Malformed, why);
        if let Some(lease) = row.bare(queue) {
            return self.finish(&lease, &End::Failed(&failure), UNREADABLE_TTL, None).await.map(|_| ());
        }
        let (stream, group) = (self.keys.stream(&queue.topic), keys::group(queue));
        let (head, tail) =
            write_dead_letter(queue.topic.as_str(), &stream, &row.entry, None, &failure, row.attempt, now())?;
        REJECT
            .keys(&[stream, self.keys.dead_letters(&group), self.keys.retry_counts(&group)])
            .arg(&[&group, &row.entry, &head, &tail])
            .run::<bool>(&self.link)
            .await
            .map(|_| ())
    }

    pub(super) async fn renew_leases(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let record_keys: Vec<String> = leases
            .iter()
            .flat_map(|lease| [self.keys.record(&lease.task.id), self.keys.stream(&lease.task.topic)])
            .collect();
        let mut call = RENEW.keys(&record_keys);
        for lease in leases {
            let handle = Handle::of(lease);
            call = call
                .arg(&[keys::group(&lease.queue), keys::consumer(&lease.queue, process), handle.entry])
                .arg(lease.attempt)
                .arg(handle.turn);
        }
        let lost: Vec<usize> = call.run(&self.link).await?;
        let is_lost = |index: usize| lost.contains(&(index + 1));
        self.live.renew(leases.iter().enumerate().filter(|(index, _)| !is_lost(*index)).map(|(_, lease)| lease));
        let lost = leases.iter().enumerate().filter(|(index, _)| is_lost(*index)).map(|(_, lease)| lease);
        Ok(lost.inspect(|lease| self.live.release(lease)).map(|lease| lease.task.id.clone()).collect())
    }

    pub(super) async fn cancel_task(&self, id: &TaskId, ttl: Duration) -> Result<Cancelled, StoreError> {
        let found: Option<String> = CANCEL
            .keys(&[self.keys.record(id), self.keys.result(id), self.keys.outbox()])
            .arg(ttl_ms(ttl))
            .arg(&[
                id.as_str(),
                &self.name,
                &self.keys.stream_prefix(),
                keys::GROUP,
                &self.keys.delayed_prefix(),
                keys::CHANNEL,
            ])
            .arg(millis(AHEAD))
            .arg(&[self.keys.scheduled_prefix(), self.keys.due_prefix(), self.keys.tally_prefix()])
            .run(&self.link)
            .await?;
        let Some(found) = found else { return Ok(Cancelled::Unknown) };
        if matches!(found.as_str(), "done" | "running") && self.waiters.waits_for(id) {
            self.resolve(id).await?;
        }
        Ok(match found.as_str() {
            "done" => Cancelled::Done,
            "running" => Cancelled::Running,
            "failed" => Cancelled::Ended(Status::Failed),
            _ => Cancelled::Ended(Status::Completed),
        })
    }
}

/// The JSON around the failed message of a task's dead letter.
fn letter_of(
    lease: &Lease,
    stream: &str,
    entry: &str,
    failure: &Failure,
    at: UnixMs,
) -> Result<(String, String), StoreError> {
    let task = &lease.task;
    write_dead_letter(task.topic.as_str(), stream, entry, Some(task), failure, lease.attempt, at)
}

/// How a lease makes way for another.
pub(super) struct Park<'a> {
    /// Attempts that count as begun afterwards.
    pub(super) attempt: u32,
    /// How far the turn goes on: 1 when its holder ends it, 2 when it is taken from it.
    pub(super) turns: u64,
    /// When the next may begin; now if none.
    pub(super) due: Option<UnixMs>,
    /// Why the attempt failed.
    pub(super) failure: Option<&'a Failure>,
    /// For how long nobody must have touched the entry.
    pub(super) idle: Option<Duration>,
}
