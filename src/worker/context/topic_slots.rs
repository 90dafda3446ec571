//! How many tasks of each topic this process runs, and how many more it may start.
//!
//! A topic has `concurrency` slots for each worker of the process; `workers.concurrency` limits the
//! tasks of all topics together. A slot is occupied from the lease of a task to the settlement of
//! that lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::run_window::RunWindow;
use crate::store::{QueueDemand, TopicLoad, TopicQueue};
use crate::task::Topic;

/// The slots of this process.
pub(crate) struct TopicSlots {
    state: Mutex<SlotState>,
    started_at: Instant,
    /// See [`Self::slot_freed`].
    slot_freed: Notify,
}

/// How many tasks may run at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotLimits {
    /// The limit of all topics together; none if there is only the limit of each topic.
    pub(crate) total: Option<usize>,
    /// The limit of each served topic.
    pub(crate) by_topic: BTreeMap<Topic, usize>,
}

#[derive(Default)]
struct SlotState {
    limits: SlotLimits,
    running: BTreeMap<Topic, usize>,
    running_total: usize,
    runs: BTreeMap<Topic, RunWindow>,
}

/// An occupied slot; dropping it frees the slot.
pub(crate) struct OccupiedSlot {
    slots: Arc<TopicSlots>,
    topic: Topic,
}

// === impl TopicSlots ===

impl TopicSlots {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), started_at: Instant::now(), slot_freed: Notify::new() }
    }

    /// Sets the limits of the current configuration. Slots that are occupied beyond a lower limit
    /// stay occupied until their tasks have ended.
    pub(crate) fn set_limits(&self, limits: SlotLimits) {
        self.lock_state().limits = limits;
    }

    /// The queues that have a free slot, each with its number of free slots; and the number of
    /// tasks that may be leased from all of them together.
    pub(crate) fn find_free(&self, queues: Vec<TopicQueue>) -> (Vec<QueueDemand>, usize) {
        let state = self.lock_state();
        let free = state.free_in_total();
        let demand = |queue: TopicQueue| {
            let max = state.free_of_topic(&queue.topic).min(free);
            (max > 0).then_some(QueueDemand { queue, max })
        };
        let demands: Vec<_> = queues.into_iter().filter_map(demand).collect();
        let max = demands.iter().fold(0usize, |sum, demand| sum.saturating_add(demand.max));
        (demands, max.min(free))
    }

    /// Occupies a slot of `topic` for a leased task, if necessary beyond the limit.
    pub(crate) fn occupy(self: &Arc<Self>, topic: &Topic) -> OccupiedSlot {
        let mut state = self.lock_state();
        *state.running.entry(topic.clone()).or_default() += 1;
        state.running_total += 1;
        OccupiedSlot { slots: Arc::clone(self), topic: topic.clone() }
    }

    /// Records that an attempt of `topic` ended after `took`.
    pub(crate) fn record_run(&self, topic: &Topic, took: Duration) {
        let uptime = self.started_at.elapsed();
        self.lock_state().runs.entry(topic.clone()).or_default().add_run(uptime, took);
    }

    /// Notifies when a slot is freed while its topic, or the whole process, had no free slot: a
    /// lease call that is under way does not ask for that slot.
    pub(crate) fn slot_freed(&self) -> &Notify {
        &self.slot_freed
    }

    /// The number of occupied slots.
    pub(crate) fn running_count(&self) -> usize {
        self.lock_state().running_total
    }

    /// The load of each topic that has slots. Slots of the common limit that tasks of other topics
    /// occupy are not counted as slots of the topic.
    pub(crate) fn topic_loads(&self) -> Vec<TopicLoad> {
        let (state, uptime) = (self.lock_state(), self.started_at.elapsed());
        let load = |(topic, limit): (&Topic, &usize)| {
            let running = state.running_of_topic(topic);
            let of_others = state.running_total.saturating_sub(running);
            let total = state.limits.total.unwrap_or(usize::MAX).saturating_sub(of_others);
            let (recent_runs, recent_run_time) =
                state.runs.get(topic).map(|runs| runs.totals(uptime)).unwrap_or_default();
            TopicLoad {
                topic: topic.clone(),
                slots: u32::try_from((*limit).min(total)).unwrap_or(u32::MAX),
                running: u32::try_from(running).unwrap_or(u32::MAX),
                recent_runs,
                recent_run_time,
            }
        };
        state.limits.by_topic.iter().map(load).collect()
    }

    fn free_slot(&self, topic: &Topic) {
        let mut state = self.lock_state();
        let was_full = state.free_in_total() == 0 || state.free_of_topic(topic) == 0;
        if let Some(running) = state.running.get_mut(topic) {
            *running = running.saturating_sub(1);
        }
        state.running_total = state.running_total.saturating_sub(1);
        drop(state);
        if was_full {
            self.slot_freed.notify_one();
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SlotState ===

impl SlotState {
    fn running_of_topic(&self, topic: &Topic) -> usize {
        self.running.get(topic).copied().unwrap_or_default()
    }

    fn free_of_topic(&self, topic: &Topic) -> usize {
        let limit = self.limits.by_topic.get(topic).copied().unwrap_or_default();
        limit.saturating_sub(self.running_of_topic(topic))
    }

    fn free_in_total(&self) -> usize {
        self.limits.total.unwrap_or(usize::MAX).saturating_sub(self.running_total)
    }
}

// === impl OccupiedSlot ===

impl Drop for OccupiedSlot {
    fn drop(&mut self) {
        self.slots.free_slot(&self.topic);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::worker::testing::{test_queue, test_topic};

    fn slots(total: Option<usize>, topics: &[(&str, usize)]) -> Arc<TopicSlots> {
        let slots = Arc::new(TopicSlots::new());
        let by_topic = topics.iter().map(|(name, limit)| (test_topic(name), *limit)).collect();
        slots.set_limits(SlotLimits { total, by_topic });
        slots
    }

    fn free(slots: &TopicSlots) -> (Vec<(String, usize)>, usize) {
        let (demands, max) = slots.find_free(vec![test_queue("a"), test_queue("b")]);
        let named = |demand: QueueDemand| (demand.queue.topic.to_string(), demand.max);
        (demands.into_iter().map(named).collect(), max)
    }

    #[test]
    fn a_topic_without_a_free_slot_is_not_leased_from() {
        let slots = slots(None, &[("a", 1), ("b", 2)]);
        assert_eq!(free(&slots), (vec![("a".into(), 1), ("b".into(), 2)], 3));
        let occupied = slots.occupy(&test_topic("a"));
        assert_eq!(free(&slots), (vec![("b".into(), 2)], 2));
        drop(occupied);
        assert_eq!(free(&slots).1, 3);
    }

    #[test]
    fn the_common_limit_counts_the_tasks_of_all_topics() {
        let slots = slots(Some(2), &[("a", 2), ("b", 2)]);
        let _of_a = slots.occupy(&test_topic("a"));
        assert_eq!(free(&slots), (vec![("a".into(), 1), ("b".into(), 1)], 1));
        let loads = slots.topic_loads();
        assert_eq!((loads[0].slots, loads[0].running, loads[1].slots), (2, 1, 1));
        let _of_b = slots.occupy(&test_topic("b"));
        assert_eq!(free(&slots), (vec![], 0));
    }

    #[test]
    fn only_a_slot_of_a_full_topic_interrupts_a_lease_call() {
        let slots = slots(None, &[("a", 1), ("b", 2)]);
        drop(slots.occupy(&test_topic("b")));
        assert!(slots.slot_freed().notified().now_or_never().is_none());
        drop(slots.occupy(&test_topic("a")));
        assert!(slots.slot_freed().notified().now_or_never().is_some());
    }
}
