//! The callers in this process that watch a task's state until it ends.
//!
//! All watched tasks are read in one call, twice a second, however many watchers there are, and
//! none is read while there is no watcher. [`TaskEndWaiters`](super::TaskEndWaiters) learn of a
//! task's end sooner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::store::error::StoreError;
use crate::store::read::TaskLookup;
use crate::task::TaskId;

/// How often the watched tasks are read.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The most tasks read in one call.
const MAX_TASKS_PER_POLL: usize = 256;
/// The most watchers of one process; each of them also has an open connection.
const MAX_WATCHERS: usize = 10_000;

/// A change that a watcher receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchUpdate {
    /// The task's new state.
    Task(TaskLookup),
    /// The state is unknown because the store does not answer.
    StoreOutage,
}

/// The registry of watched tasks.
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

/// A watcher of one task; dropping it ends the watch.
pub struct TaskWatcher {
    task_id: TaskId,
    updates: watch::Receiver<Option<WatchUpdate>>,
    registry: Arc<TaskWatchers>,
}

// === impl TaskWatchers ===

impl TaskWatchers {
    /// Starts to watch task `id`; none when the process has too many watchers. Call it before
    /// reading the task, so that no change is missed.
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
        let updates = sender.subscribe();
        drop(state);
        self.first_watcher.notify_one();
        Some(TaskWatcher { task_id: id.clone(), updates, registry: Arc::clone(self) })
    }

    /// Reads the watched tasks with `look_up` and publishes what changed; runs forever. `look_up`
    /// returns the state of each task, in the order of its argument.
    pub(crate) async fn poll_watched_tasks<F>(&self, look_up: impl Fn(Vec<TaskId>) -> F)
    where
        F: Future<Output = Result<Vec<TaskLookup>, StoreError>>,
    {
        loop {
            while self.lock_state().watcher_count == 0 {
                self.first_watcher.notified().await;
            }
            sleep(POLL_INTERVAL).await;
            let ids: Vec<TaskId> = self.lock_state().watched_tasks.keys().cloned().collect();
            for batch in ids.chunks(MAX_TASKS_PER_POLL) {
                let updates = match look_up(batch.to_vec()).await {
                    Ok(states) => states.into_iter().map(WatchUpdate::Task).collect(),
                    Err(error) => {
                        tracing::debug!(
                            %error,
                            tasks = batch.len(),
                            "the state of watched tasks could not be read"
                        );
                        vec![WatchUpdate::StoreOutage; batch.len()]
                    }
                };
                for (id, update) in batch.iter().zip(updates) {
                    self.publish_update(id, update);
                }
            }
        }
    }

    /// Sends an update to the watchers of a task, unless it equals the one before.
    fn publish_update(&self, id: &TaskId, update: WatchUpdate) {
        if let Some((_, sender)) = self.lock_state().watched_tasks.get(id) {
            sender.send_if_modified(|previous| {
                let changed = previous.as_ref() != Some(&update);
                *previous = Some(update);
                changed
            });
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, TaskWatchersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl TaskWatcher ===

impl TaskWatcher {
    /// Waits for the next change; of several changes since the last call only the latest.
    pub async fn next_update(&mut self) -> WatchUpdate {
        loop {
            if self.updates.changed().await.is_err() {
                // Unreachable: the registry keeps the sender as long as the task has a watcher.
                return WatchUpdate::StoreOutage;
            }
            if let Some(update) = self.updates.borrow_and_update().clone() {
                return update;
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
    async fn each_watcher_receives_each_change_once_and_dropped_watchers_are_removed() {
        let (watchers, id) = (Arc::new(TaskWatchers::default()), TaskId::new(UnixMs(1), 1));
        let (mut one, two) =
            (watchers.watch_task(&id).expect("room"), watchers.watch_task(&id).expect("room"));
        for update in [
            WatchUpdate::Task(TaskLookup::NotFound),
            WatchUpdate::Task(TaskLookup::NotFound),
            WatchUpdate::StoreOutage,
        ] {
            watchers.publish_update(&id, update);
        }
        assert_eq!(one.next_update().await, WatchUpdate::StoreOutage, "the latest unread change");
        watchers.publish_update(&id, WatchUpdate::StoreOutage);
        assert!(!one.updates.has_changed().expect("watched"), "no change");
        drop((one, two));
        let state = watchers.lock_state();
        assert!(state.watcher_count == 0 && state.watched_tasks.is_empty());
    }
}
