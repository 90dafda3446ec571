//! The metrics of tasks and queues: methods of [`Metrics`] labelled by topic, and deliveries.

use std::time::Duration;

use super::Metrics;
use super::label_values::TaskOutcome;

impl Metrics {
    /// Creates the series of a topic, at 0.
    pub fn declare_topic(&self, topic: &str) {
        let tasks = &self.tasks;
        for counter in [&tasks.received, &tasks.processed, &tasks.failed, &tasks.trimmed] {
            counter.with_label_values(&[topic]);
        }
        tasks.attempt_duration.with_label_values(&[topic]);
        tasks.queue_depth.with_label_values(&[topic]);
        tasks.queue_oldest.with_label_values(&[topic]);
        tasks.topic_slots.with_label_values(&[topic]);
    }

    /// Counts an accepted task.
    pub fn count_task_received(&self, topic: &str) {
        self.tasks.received.with_label_values(&[topic]).inc();
    }

    /// Counts a completed task.
    pub fn count_task_processed(&self, topic: &str) {
        self.tasks.processed.with_label_values(&[topic]).inc();
    }

    /// Counts a task that failed for good.
    pub fn count_task_failed(&self, topic: &str) {
        self.tasks.failed.with_label_values(&[topic]).inc();
    }

    /// Counts a task that became a dead letter outside of an attempt of this process: as failed,
    /// as an outcome of the `route` that it was canaried on, and as trimmed where a foreign
    /// publisher removed it from its queue.
    pub fn count_buried_task(&self, topic: &str, route: Option<&str>, trimmed: bool) {
        self.count_task_failed(topic);
        if trimmed {
            self.tasks.trimmed.with_label_values(&[topic]).inc();
        }
        if let Some(route) = route {
            self.count_task_outcome(route, TaskOutcome::Failed);
        }
    }

    /// Records the duration of an attempt.
    pub fn observe_attempt_duration(&self, topic: &str, took: Duration) {
        self.tasks.attempt_duration.with_label_values(&[topic]).observe(took.as_secs_f64());
    }

    /// Sets the queue gauges of a topic: the number of waiting tasks, and the age of the oldest.
    pub fn set_queue_gauges(&self, topic: &str, queued: u64, oldest: Duration) {
        let depth = i64::try_from(queued).unwrap_or(i64::MAX);
        self.tasks.queue_depth.with_label_values(&[topic]).set(depth);
        self.tasks.queue_oldest.with_label_values(&[topic]).set(oldest.as_secs_f64());
    }

    /// Sets how many tasks of a topic the live consumers can run at the same time.
    pub fn set_topic_slots(&self, topic: &str, slots: u64) {
        let slots = i64::try_from(slots).unwrap_or(i64::MAX);
        self.tasks.topic_slots.with_label_values(&[topic]).set(slots);
    }

    /// The queue gauges of a topic as last set: the number of waiting tasks, and the age of the
    /// oldest.
    #[must_use]
    pub fn read_queue_gauges(&self, topic: &str) -> (u64, Duration) {
        let depth = self.tasks.queue_depth.with_label_values(&[topic]).get();
        let oldest = self.tasks.queue_oldest.with_label_values(&[topic]).get();
        (
            u64::try_from(depth).unwrap_or_default(),
            Duration::try_from_secs_f64(oldest).unwrap_or_default(),
        )
    }

    /// The slots of a topic over all live consumers, as of the last refresh.
    #[must_use]
    pub fn read_topic_slots(&self, topic: &str) -> u64 {
        let slots = self.tasks.topic_slots.with_label_values(&[topic]).get();
        u64::try_from(slots).unwrap_or_default()
    }

    /// Counts a delivery try by its kind (`webhook` or `reply`) and its outcome (`delivered`,
    /// `retried` or `dropped`).
    pub fn count_delivery(&self, kind: &str, outcome: &str) {
        self.tasks.deliveries.with_label_values(&[kind, outcome]).inc();
    }
}
