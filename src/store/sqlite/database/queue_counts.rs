//! How many tasks of each topic are in which state, in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::sqlite::row::TaskRowState;

/// The counts of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueCounts {
    pub(crate) ready: u64,
    pub(crate) leased: u64,
    pub(crate) delayed: u64,
    pub(crate) dead_letters: u64,
}

impl QueueCounts {
    /// All waiting tasks, retries included.
    pub(crate) fn waiting_count(&self) -> u64 {
        self.ready + self.delayed
    }

    /// The count of the tasks in `state`, if that state is counted.
    pub(crate) fn count_mut(&mut self, state: TaskRowState) -> Option<&mut u64> {
        match state {
            TaskRowState::Ready => Some(&mut self.ready),
            TaskRowState::Leased => Some(&mut self.leased),
            TaskRowState::Delayed => Some(&mut self.delayed),
            TaskRowState::Failed => Some(&mut self.dead_letters),
            TaskRowState::Completed | TaskRowState::Cancelled => None,
        }
    }
}

/// The counts by topic. The writer changes them; readers share them.
#[derive(Clone, Default)]
pub(crate) struct QueueCountsByTopic(Arc<Mutex<HashMap<Box<str>, QueueCounts>>>);

impl QueueCountsByTopic {
    /// Replaces all counts.
    pub(crate) fn replace_all(&self, counts: HashMap<Box<str>, QueueCounts>) {
        *self.lock_counts() = counts;
    }

    fn lock_counts(&self) -> MutexGuard<'_, HashMap<Box<str>, QueueCounts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of a topic.
    pub(crate) fn counts_of_topic(&self, topic: &str) -> QueueCounts {
        self.lock_counts().get(topic).copied().unwrap_or_default()
    }

    /// Whether any task can be leased.
    pub(crate) fn has_ready_tasks(&self) -> bool {
        self.lock_counts().values().any(|counts| counts.ready > 0)
    }

    /// Moves `tasks` tasks of a topic from one state (none: the tasks are new) to another.
    /// Completed and cancelled tasks are not counted.
    pub(crate) fn move_tasks(
        &self,
        topic: &str,
        from: Option<TaskRowState>,
        to: TaskRowState,
        tasks: u64,
    ) {
        let mut by_topic = self.lock_counts();
        if !by_topic.contains_key(topic) {
            by_topic.insert(topic.into(), QueueCounts::default());
        }
        let Some(counts) = by_topic.get_mut(topic) else { return };
        if let Some(count) = from.and_then(|state| counts.count_mut(state)) {
            *count = count.saturating_sub(tasks);
        }
        if let Some(count) = counts.count_mut(to) {
            *count += tasks;
        }
    }
}
