//! Housekeeping: leases that nobody renews are taken back, parked entries kept, old index entries dropped.
//!
//! An entry's idle time is its lease's clock. It runs on while Redis is away or this process is stopped, so
//! nothing is taken back until the store has been looked after without a break for one lease: by then every live
//! holder has renewed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::message::{End, seconds};
use super::partition::Partition;
use super::row::Row;
use super::script::{FORGET, OVERDUE};
use super::settle::Park;
use super::{keys, millis, now};
use crate::store::{Buried, Queue, Settled, StoreError, lease_time, may_rerun};
use crate::task::{Failure, FailureKind};

/// How often consumers are swept, and how long one must have been silent.
const SWEEP: Duration = Duration::from_mins(1);
const GONE: Duration = Duration::from_mins(10);
const PAGE: usize = 100;

/// When the queues were last looked after, and what may be done since when.
#[derive(Default)]
pub(super) struct Watch(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<Instant>,
    /// Before this, leases are not taken back.
    calm: Option<Instant>,
    /// When consumers were last swept.
    swept: Option<Instant>,
}

/// What a round may do.
struct Round {
    take_back: bool,
    sweep: bool,
}

impl Watch {
    /// Notes a round.
    fn round(&self, now: Instant) -> Round {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now - last > lease_time() / 2) {
            state.calm = Some(now + lease_time());
        }
        state.last = Some(now);
        let sweep = state.swept.is_none_or(|swept| now - swept >= SWEEP);
        if sweep {
            state.swept = Some(now);
        }
        Round { take_back: state.calm.is_none_or(|from| now >= from), sweep }
    }
}

impl Partition {
    pub(super) async fn tend_queues(
        &self,
        process: &str,
        queues: &[Queue],
        ttl: Duration,
    ) -> Result<Vec<Buried>, StoreError> {
        let horizon = seconds(now()) - ttl.as_secs_f64();
        let mut drop_old = redis::cmd("ZREMRANGEBYSCORE");
        self.link.call::<u64>(drop_old.arg(self.keys.results()).arg("-inf").arg(horizon)).await?;
        self.live.forget_older_than(lease_time() * 2);
        let round = self.watch.round(Instant::now());
        self.flush_events(round.sweep).await?;
        let mut dead = Vec::new();
        for queue in queues {
            if round.sweep {
                let call = FORGET.keys(&[self.keys.stream(&queue.topic)]).arg(&[&keys::group(queue), keys::OURS]);
                call.arg(millis(GONE)).run::<u64>(&self.link).await?;
                self.register(queue).await?;
            }
            if round.take_back {
                self.take_back_overdue(process, queue, ttl, &mut dead).await?;
            }
        }
        Ok(dead)
    }

    /// Pages through all that is overdue, so that an old head never hides what is behind it.
    async fn take_back_overdue(
        &self,
        process: &str,
        queue: &Queue,
        ttl: Duration,
        dead: &mut Vec<Buried>,
    ) -> Result<(), StoreError> {
        let group = keys::group(queue);
        let mut start = "-".to_owned();
        while !start.is_empty() {
            let (next, rows): (String, Vec<(u64, Row)>) = OVERDUE
                .keys(&[self.keys.stream(&queue.topic), self.keys.delayed(&group)])
                .arg(&[
                    &self.keys.record_prefix(),
                    &self.keys.result_prefix(),
                    queue.topic.as_str(),
                    &queue.agent,
                    &group,
                ])
                .arg(&[millis(lease_time()), millis(queue.reclaim_idle)])
                .arg(&start)
                .arg(PAGE)
                .run(&self.link)
                .await?;
            for (idle, row) in rows {
                dead.extend(self.take_back(process, queue, &row, Duration::from_millis(idle), ttl).await?);
            }
            start = next;
        }
        Ok(())
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
        let Some(lease) = row.bare(queue) else {
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
        Ok(dead.then_some(Buried { topic: lease.task.topic, route: lease.task.route }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_break_nothing_is_taken_back_for_one_lease() {
        let (watch, start) = (Watch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(watch.round(at(0)).take_back, "a process that has just started sees no break");
        assert!(watch.round(at(10)).take_back);
        assert!(!watch.round(at(40)).take_back, "leases could not be renewed meanwhile");
        assert!((41..70).step_by(10).all(|second| !watch.round(at(second)).take_back));
        assert!(watch.round(at(71)).take_back);
    }
}
