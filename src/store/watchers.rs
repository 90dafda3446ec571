//! Who in this process watches which task on its way.
//!
//! All watched tasks are looked at in one call, twice a second, however many watch; while nobody does, nothing is
//! asked. Ends are told sooner, by [`Waiters`](super::Waiters).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::Circuit;
use crate::task::{Progress, Status, TaskId};

/// How often watched tasks are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Tasks in one call.
const BATCH: usize = 256;
/// Watchers that one process has at most; each is an open connection besides.
const MOST: usize = 10_000;

/// A task as it stands, without what it was given and what it gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glance {
    /// No such task, or it has expired.
    Unknown,
    /// It has ended.
    Ended,
    /// It has not.
    Going(Standing),
}

/// How a task that has not ended stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Queued or processing.
    pub status: Status,
    /// Attempts begun so far.
    pub attempts: u32,
    /// How far the running attempt has come, where it says so.
    pub progress: Option<Progress>,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// How the task stands now.
    Task(Glance),
    /// That nobody can tell at the moment.
    Outage,
}

/// The watched tasks.
#[derive(Default)]
pub struct Watchers {
    state: Mutex<State>,
    first: Notify,
}

#[derive(Default)]
struct State {
    watchers: usize,
    watched: HashMap<TaskId, (usize, watch::Sender<Option<Seen>>)>,
}

/// One who watches a task; dropping it ends that.
pub struct Watch {
    id: TaskId,
    seen: watch::Receiver<Option<Seen>>,
    watchers: Arc<Watchers>,
}

// === impl Watchers ===

impl Watchers {
    /// Starts to watch; none when too many do. Call it before looking at the task, so that no change is missed.
    #[must_use]
    pub fn watch(self: &Arc<Self>, id: &TaskId) -> Option<Watch> {
        let mut state = self.state();
        if state.watchers >= MOST {
            return None;
        }
        state.watchers += 1;
        let (watchers, sender) = state.watched.entry(id.clone()).or_insert_with(|| (0, watch::Sender::new(None)));
        *watchers += 1;
        let seen = sender.subscribe();
        drop(state);
        self.first.notify_one();
        Some(Watch { id: id.clone(), seen, watchers: Arc::clone(self) })
    }

    /// Looks at the watched tasks, for ever.
    pub(super) async fn run(&self, circuit: &Circuit) {
        loop {
            while self.state().watchers == 0 {
                self.first.notified().await;
            }
            sleep(LOOK).await;
            let ids: Vec<TaskId> = self.state().watched.keys().cloned().collect();
            for batch in ids.chunks(BATCH) {
                let seen = match circuit.call(circuit.store().glance(batch)).await {
                    Ok(found) => found.into_iter().map(Seen::Task).collect(),
                    Err(error) => {
                        tracing::debug!(%error, tasks = batch.len(), "watched tasks could not be looked at");
                        vec![Seen::Outage; batch.len()]
                    }
                };
                for (id, seen) in batch.iter().zip(seen) {
                    self.tell(id, seen);
                }
            }
        }
    }

    fn tell(&self, id: &TaskId, now: Seen) {
        if let Some((_, sender)) = self.state().watched.get(id) {
            sender.send_if_modified(|before| {
                let changed = before.as_ref() != Some(&now);
                *before = Some(now);
                changed
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Watch ===

impl Watch {
    /// Waits until the task stands otherwise than before.
    pub async fn next(&mut self) -> Seen {
        loop {
            if self.seen.changed().await.is_err() {
                return Seen::Outage; // never: the sender is kept as long as this watches
            }
            if let Some(seen) = self.seen.borrow_and_update().clone() {
                return seen;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.watchers.state();
        state.watchers -= 1;
        if let Some((watchers, _)) = state.watched.get_mut(&self.id) {
            *watchers -= 1;
            if *watchers == 0 {
                state.watched.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::UnixMs;

    #[tokio::test]
    async fn each_watcher_is_told_each_change_once_and_those_who_left_are_forgotten() {
        let (watchers, id) = (Arc::new(Watchers::default()), TaskId::new(UnixMs(1), 1));
        let (mut one, two) = (watchers.watch(&id).expect("room"), watchers.watch(&id).expect("room"));
        for seen in [Seen::Task(Glance::Unknown), Seen::Task(Glance::Unknown), Seen::Outage] {
            watchers.tell(&id, seen);
        }
        assert_eq!(one.next().await, Seen::Outage, "the last that it has not seen");
        watchers.tell(&id, Seen::Outage);
        assert!(!one.seen.has_changed().expect("watched"), "no change");
        drop((one, two));
        let state = watchers.state();
        assert!(state.watchers == 0 && state.watched.is_empty());
    }
}
