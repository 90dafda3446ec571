//! Housekeeping: leases that nobody renews are taken back, parked entries kept, old index entries dropped.
//!
//! When that may be done is `watch.rs`'s to say. One round takes a part of the store's timeout at most and goes on
//! where it was cut short, so that many dead leases never look like a dead store; and what is wrong with one queue
//! or entry is said and left for the next round, so that it holds up no other.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::message::{End, seconds};
use super::partition::Partition;
use super::row::Row;
use super::script::{FORGET, HOLDERS, OVERDUE, TRIM};
use super::settle::Park;
use super::{keys, millis, now};
use crate::store::{Buried, Queue, Settled, StoreError, lease_time, may_rerun};
use crate::task::{Failure, FailureKind};

/// How long a consumer must have been silent to be forgotten.
const GONE: Duration = Duration::from_mins(10);
const PAGE: usize = 100;

/// A consumer of ours that holds entries, by its queue's position.
type Holder = (usize, String);

/// What one round works with.
struct Round<'a> {
    process: &'a str,
    ttl: Duration,
    until: Instant,
    dead: Vec<Buried>,
}

impl Partition {
    /// One round; heartbeats are in `home`.
    pub(super) async fn tend_queues(
        &self,
        home: &Self,
        process: &str,
        queues: &[Queue],
        ttl: Duration,
    ) -> Result<Vec<Buried>, StoreError> {
        let horizon = seconds(now()) - ttl.as_secs_f64();
        let mut drop_old = redis::cmd("ZREMRANGEBYSCORE");
        self.link.call::<u64>(drop_old.arg(self.keys.results()).arg("-inf").arg(horizon)).await?;
        self.live.forget_older_than(lease_time() * 2);
        let start = Instant::now();
        let may = self.watch.round(start);
        self.flush_events(may.sweep).await?;
        let mut round = Round { process, ttl, until: start + self.timeout / 3, dead: Vec::new() };
        let first = may.number % queues.len().max(1);
        for queue in queues[first..].iter().chain(&queues[..first]) {
            if may.sweep {
                passable(queue, self.forget_consumers(queue).await)?;
                passable(queue, self.trim_done(queue).await)?;
                passable(queue, self.register(queue).await)?;
            }
            if may.take_back {
                passable(queue, self.take_back_overdue(&mut round, queue).await)?;
            }
        }
        // whoever renews has done so since the last outage
        if may.take_back && self.missing.is_due(start) {
            round.dead.extend(self.find_missing(&self.missing, queues, ttl, round.until).await?);
        }
        for (index, consumer) in self.holders_gone(home, process, queues).await? {
            passable(&queues[index], self.take_back_from(&mut round, &queues[index], &consumer).await)?;
        }
        Ok(round.dead)
    }

    async fn forget_consumers(&self, queue: &Queue) -> Result<(), StoreError> {
        let call = FORGET.keys(&[self.keys.stream(&queue.topic)]).arg(&[&keys::group(queue), keys::OURS]);
        call.arg(millis(GONE)).run::<u64>(&self.link).await.map(|_| ())
    }

    /// Takes off a stream what all of its groups are done with, and says which group keeps the rest alone.
    async fn trim_done(&self, queue: &Queue) -> Result<(), StoreError> {
        let stream = self.keys.stream(&queue.topic);
        let (_, group, kept): (u64, String, String) =
            TRIM.keys(&[&stream]).arg(keys::group(queue)).run(&self.link).await?;
        if self.watch.is_stuck(&stream, &group, kept) {
            tracing::warn!(
                stream,
                group,
                "a group that does not read keeps what all others are done with, and the stream grows: run its \
                 consumers, or XGROUP DESTROY it"
            );
        }
        Ok(())
    }

    /// The holders of entries whose processes are gone.
    async fn holders_gone(&self, home: &Self, process: &str, queues: &[Queue]) -> Result<Vec<Holder>, StoreError> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let streams: Vec<String> = queues.iter().map(|queue| self.keys.stream(&queue.topic)).collect();
        let groups: Vec<String> = queues.iter().map(keys::group).collect();
        let found: Vec<Vec<String>> = HOLDERS.keys(&streams).arg(keys::OURS).arg(groups).run(&self.link).await?;
        let holders = found.into_iter().enumerate().flat_map(|(n, names)| names.into_iter().map(move |name| (n, name)));
        let process_of = |(n, name): &Holder| keys::process_of(&queues[*n], name).map(str::to_owned);
        let of_others = |holder: &Holder| process_of(holder).is_some_and(|holder| holder != process);
        let holders: Vec<Holder> = holders.filter(of_others).collect();
        let mut silent: HashSet<String> = holders.iter().filter_map(process_of).collect();
        if !silent.is_empty() {
            for beat in home.read_heartbeats().await? {
                silent.remove(&beat.process);
            }
        }
        let gone = self.watch.gone(Instant::now(), silent);
        Ok(holders.into_iter().filter(|holder| process_of(holder).is_some_and(|name| gone.contains(&name))).collect())
    }

    /// Looks through all that is overdue, so that an old head never hides what is behind it.
    async fn take_back_overdue(&self, round: &mut Round<'_>, queue: &Queue) -> Result<(), StoreError> {
        let group = keys::group(queue);
        let mut page = self.watch.page(&group);
        loop {
            page = self.take_back_page(round, queue, lease_time(), &page, None).await?;
            if page.is_empty() || Instant::now() >= round.until {
                break;
            }
        }
        self.watch.turn_to(&group, page);
        Ok(())
    }

    /// Takes back what a consumer holds whose process is gone.
    async fn take_back_from(&self, round: &mut Round<'_>, queue: &Queue, consumer: &str) -> Result<(), StoreError> {
        // even without a heartbeat: a live holder has renewed three times meanwhile
        let idle = lease_time() / 3;
        let mut page = "-".to_owned();
        while !page.is_empty() && Instant::now() < round.until {
            page = self.take_back_page(round, queue, idle, &page, Some(consumer)).await?;
        }
        Ok(())
    }

    /// Takes back one page of what nobody has touched for `idle`; where the look goes on, or empty.
    async fn take_back_page(
        &self,
        round: &mut Round<'_>,
        queue: &Queue,
        idle: Duration,
        start: &str,
        consumer: Option<&str>,
    ) -> Result<String, StoreError> {
        let group = keys::group(queue);
        let (next, rows): (String, Vec<(u64, Row)>) = OVERDUE
            .keys(&[self.keys.stream(&queue.topic), self.keys.delayed(&group)])
            .arg(&[&self.keys.record_prefix(), &self.keys.result_prefix(), queue.topic.as_str(), &queue.agent, &group])
            .arg(&[millis(idle), millis(queue.reclaim_idle)])
            .arg(&[&self.keys.tally_prefix(), start, "+"])
            .arg(PAGE)
            .arg(consumer)
            .run(&self.link)
            .await?;
        for (idle, row) in rows {
            let taken = self.take_back(round.process, queue, &row, Duration::from_millis(idle), round.ttl).await;
            round.dead.extend(passable(queue, taken)?.flatten());
            if Instant::now() >= round.until {
                return Ok(start.to_owned());
            }
        }
        Ok(next)
    }

    /// Gives the task if it may not run again, and is dead now.
    async fn take_back(
        &self,
        process: &str,
        queue: &Queue,
        row: &Row,
        idle: Duration,
        ttl: Duration,
    ) -> Result<Option<Buried>, StoreError> {
        // whole where it can be read: its end may have to be told
        let whole = row.open(queue).ok().map(|(lease, _)| lease);
        let Some(lease) = whole.or_else(|| row.bare(queue)) else {
            self.reject(queue, row, row.open(queue).err().unwrap_or_default()).await?;
            return Ok(None);
        };
        let failure = Failure::new(FailureKind::Crash, format!("the worker died in attempt {}", lease.attempt));
        let again = may_rerun(lease.attempt, lease.task.retries);
        let settled = if again {
            let (attempt, failure) = (lease.attempt, Some(&failure));
            self.park(&lease, Park { attempt, turns: 2, due: None, failure, idle: Some(idle) }).await?
        } else {
            self.finish(&lease, &End::Failed(&failure), ttl, Some(idle)).await?
        };
        if settled == Settled::Applied {
            tracing::warn!(process, task = %lease.task.id, attempt = lease.attempt, "a lease expired: its worker is gone");
            self.live.release(&lease);
        }
        let dead = settled == Settled::Applied && !again;
        Ok(dead.then_some(Buried { topic: lease.task.topic, route: lease.task.route, trimmed: false }))
    }
}

/// What came out, where anything did. An outage ends the round; another error is said, and the round goes on.
fn passable<T>(queue: &Queue, result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_outage() => Err(error),
        Err(error) => {
            tracing::error!(topic = %queue.topic, %error, "housekeeping met an error: it is tried again");
            Ok(None)
        }
    }
}
