//! Who in this process watches which task on its way.
//!
//! All watched tasks are looked at in one call, twice a second, however many watch; while nobody
//! does, nothing is asked. Ends are told sooner, by [`TaskEndWaiters`](super::Waiters).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::Circuit;
use crate::task::{TaskId, TaskProgress, TaskStatus};

/// How often watched tasks are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Tasks in one call.
const MAX_TASKS_PER_POLL: usize = 256;
/// Watchers that one process has at most; each is an open connection besides.
const MAX_WATCHERS: usize = 10_000;

/// A task as it stands, without what it was given and what it gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskLookup {
    /// No such task, or it has expired.
    NotFound,
    /// It has ended.
    Ended,
    /// It has not.
    Active(TaskState),
}

/// How a task that has not ended stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskState {
    /// Queued or processing.
    pub status: TaskStatus,
    /// Attempts begun so far.
    pub attempts: u32,
    /// How far the running attempt has come, where it says so.
    pub progress: Option<TaskProgress>,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchUpdate {
    /// How the task stands now.
    Task(TaskLookup),
    /// That nobody can tell at the moment.
    StoreOutage,
}

/// The watched tasks.
#[derive(Default)]
pub struct TaskWatchers {
    state: Mutex<TaskWatchersState>,
    first_watcher: Notify,
}

#[derive(Default)]
struct TaskWatchersState {
    watcher_count: usize,
    watched_tasks: HashMap<TaskId, (usize, watch::Sender<Option<WatchUpdate>>)>,
}

/// One who watches a task; dropping it ends that.
pub struct TaskWatcher {
    task_id: TaskId,
    updates: watch::Receiver<Option<WatchUpdate>>,
    registry: Arc<TaskWatchers>,
}

// === impl Watchers ===

impl TaskWatchers {
    /// Starts to watch; none when too many do. Call it before looking at the task, so that no
    /// change is missed.
    #[must_use]
    pub fn watch_task(self: &Arc<Self>, id: &TaskId) -> Option<TaskWatcher> {
        let mut state = self.lock_state();
        if state.watcher_count >= MAX_WATCHERS {
            return None;
        }
        state.watcher_count += 1;
        let (watchers, sender) =
            state.watched_tasks.entry(id.clone()).or_insert_with(|| (0, watch::Sender::new(None)));
        *watchers += 1;
        let seen = sender.subscribe();
        drop(state);
        self.first_watcher.notify_one();
        Some(TaskWatcher { task_id: id.clone(), updates: seen, registry: Arc::clone(self) })
    }

    /// Looks at the watched tasks, for ever.
    pub(super) async fn poll_watched_tasks(&self, circuit: &Circuit) {
        loop {
            while self.lock_state().watcher_count == 0 {
                self.first_watcher.notified().await;
            }
            sleep(POLL_INTERVAL).await;
            let ids: Vec<TaskId> = self.lock_state().watched_tasks.keys().cloned().collect();
            for batch in ids.chunks(MAX_TASKS_PER_POLL) {
                let seen = match circuit.call(circuit.store().statuses(batch)).await {
                    Ok(found) => found.into_iter().map(WatchUpdate::Task).collect(),
                    Err(error) => {
                        tracing::debug!(%error, tasks = batch.len(), "watched tasks could not be looked at");
                        vec![WatchUpdate::StoreOutage; batch.len()]
                    }
                };
                for (id, seen) in batch.iter().zip(seen) {
                    self.publish_update(id, seen);
                }
            }
        }
    }

    fn publish_update(&self, id: &TaskId, now: WatchUpdate) {
        if let Some((_, sender)) = self.lock_state().watched_tasks.get(id) {
            sender.send_if_modified(|before| {
                let changed = before.as_ref() != Some(&now);
                *before = Some(now);
                changed
            });
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, TaskWatchersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Watch ===

impl TaskWatcher {
    /// Waits until the task stands otherwise than before.
    pub async fn next_update(&mut self) -> WatchUpdate {
        loop {
            if self.updates.changed().await.is_err() {
                return WatchUpdate::StoreOutage; // never: the sender is kept as long as this watches
            }
            if let Some(seen) = self.updates.borrow_and_update().clone() {
                return seen;
            }
        }
    }
}

impl Drop for TaskWatcher {
    fn drop(&mut self) {
        let mut state = self.registry.lock_state();
        state.watcher_count -= 1;
        if let Some((watchers, _)) = state.watched_tasks.get_mut(&self.task_id) {
            *watchers -= 1;
            if *watchers == 0 {
                state.watched_tasks.remove(&self.task_id);
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
        let (watchers, id) = (Arc::new(TaskWatchers::default()), TaskId::new(UnixMs(1), 1));
        let (mut one, two) =
            (watchers.watch_task(&id).expect("room"), watchers.watch_task(&id).expect("room"));
        for seen in [
            WatchUpdate::Task(TaskLookup::NotFound),
            WatchUpdate::Task(TaskLookup::NotFound),
            WatchUpdate::StoreOutage,
        ] {
            watchers.publish_update(&id, seen);
        }
        assert_eq!(
            one.next_update().await,
            WatchUpdate::StoreOutage,
            "the last that it has not seen"
        );
        watchers.publish_update(&id, WatchUpdate::StoreOutage);
        assert!(!one.updates.has_changed().expect("watched"), "no change");
        drop((one, two));
        let state = watchers.lock_state();
        assert!(state.watcher_count == 0 && state.watched_tasks.is_empty());
    }
}
