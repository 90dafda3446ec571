//! Housekeeping: leases that nobody renews are taken back, parked entries kept, old index entries dropped.
//!
//! An entry's idle time is its lease's clock. It runs on while Redis is away or this process is stopped, so
//! nothing is taken back until the store has been looked after without a break for one lease: by then every live
//! holder has renewed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::message::{End, seconds};
use super::row::Row;
use super::script::OVERDUE;
use super::settle::Park;
use super::{RedisStore, keys, millis, now};
use crate::store::{LEASE, Queue, StoreError, may_rerun};
use crate::task::{Failure, FailureKind, UnixMs};

/// Before this, an entry is a Python consumer's own (`reclaim_idle_ms`).
const FOREIGN_LEASE: Duration = Duration::from_mins(3);
/// A pause between two rounds that counts as a break.
const BREAK: Duration = Duration::from_secs(15);
const PAGE: usize = 100;

/// When the queues were last looked after, and from when on leases may be taken back.
#[derive(Default)]
pub(super) struct Watch(Mutex<(Option<Instant>, Option<Instant>)>);

impl Watch {
    /// Notes a round; whether it may take leases back.
    fn round(&self) -> bool {
        let mut watch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if watch.0.is_some_and(|last| now - last > BREAK) {
            watch.1 = Some(now + LEASE);
        }
        watch.0 = Some(now);
        watch.1.is_none_or(|from| now >= from)
    }
}

impl RedisStore {
    pub(super) async fn tend_queues(&self, process: &str, queues: &[Queue], ttl: Duration) -> Result<(), StoreError> {
        let horizon = seconds(now()) - ttl.as_secs_f64();
        let mut drop_old = redis::cmd("ZREMRANGEBYSCORE");
        self.link.call::<u64>(drop_old.arg(keys::RESULTS).arg("-inf").arg(horizon)).await?;
        self.live.forget_older_than(LEASE * 2);
        if !self.watch.round() {
            return Ok(());
        }
        for queue in queues {
            self.take_back_overdue(process, queue, ttl).await?;
        }
        Ok(())
    }

    /// Pages through all that is overdue, so that an old head never hides what is behind it.
    async fn take_back_overdue(&self, process: &str, queue: &Queue, ttl: Duration) -> Result<(), StoreError> {
        let group = keys::group(queue);
        let mut start = "-".to_owned();
        while !start.is_empty() {
            let (next, rows): (String, Vec<(u64, Row)>) = OVERDUE
                .keys(&[keys::stream(&queue.topic), keys::delayed(&group)])
                .arg(&[keys::RECORD, keys::RESULT, queue.topic.as_str(), &queue.agent, &group])
                .arg(&[millis(LEASE), millis(FOREIGN_LEASE)])
                .arg(&start)
                .arg(PAGE)
                .arg(keys::OURS)
                .run(&self.link)
                .await?;
            for (idle, row) in rows {
                self.take_back(process, queue, &row, Duration::from_millis(idle), ttl).await?;
            }
            start = next;
        }
        Ok(())
    }

    async fn take_back(
        &self,
        process: &str,
        queue: &Queue,
        row: &Row,
        idle: Duration,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let Some(lease) = row.bare(queue) else {
            return self.reject(queue, row, row.open(queue).err().unwrap_or_default()).await;
        };
        tracing::warn!(process, task = %lease.task.id, attempt = lease.attempt, "a lease expired: its worker is gone");
        let failure = Failure::new(FailureKind::Crash, format!("the worker died in attempt {}", lease.attempt));
        if may_rerun(lease.attempt, lease.task.retries) {
            let (attempt, failure) = (lease.attempt, Some(&failure));
            self.park(&lease, Park { attempt, turns: 2, due: None::<UnixMs>, failure, idle: Some(idle) }).await?;
        } else {
            self.finish(&lease, &End::Failed(&failure), ttl, Some(idle)).await?;
        }
        self.live.release(&lease);
        Ok(())
    }
}
