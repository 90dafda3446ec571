//! The topics that this process serves, each with the last snapshot that named it.
//!
//! A topic that a reload removed accepts no new tasks. Its remaining tasks run by the last
//! configuration that named it, and it is dropped when its queue is empty. A topic that a reload
//! made `external` is dropped at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::snapshot::Snapshot;
use crate::store::{QueueDepth, TopicQueue};
use crate::task::Topic;
use crate::worker::handler::HandlerRegistry;

/// The served topics of this process.
#[derive(Default)]
pub(crate) struct ServedTopics {
    generation: Option<u64>,
    topics: BTreeMap<Topic, (TopicQueue, Arc<Snapshot>)>,
}

// === impl ServedTopics ===

impl ServedTopics {
    /// Adopts the topics of `snapshot`, unless its generation is already adopted.
    pub(crate) fn apply_snapshot(&mut self, snapshot: &Arc<Snapshot>, handlers: &HandlerRegistry) {
        if self.generation.replace(snapshot.generation) == Some(snapshot.generation) {
            return;
        }
        for (topic, config) in &snapshot.config.topics {
            if handlers.runs_topic(topic, &config.handler) {
                self.topics
                    .insert(topic.clone(), (TopicQueue::new(topic, config), Arc::clone(snapshot)));
            } else {
                self.topics.remove(topic);
            }
        }
    }

    /// The queues that this process leases tasks from.
    pub(crate) fn served_queues(&self) -> Vec<TopicQueue> {
        self.topics.values().map(|(queue, _)| queue.clone()).collect()
    }

    /// The slots of each served topic in a process with `workers` workers.
    pub(crate) fn topic_concurrency(&self, workers: usize) -> BTreeMap<Topic, usize> {
        let slots = |(topic, (_, snapshot)): (&Topic, &(TopicQueue, Arc<Snapshot>))| {
            let config = snapshot.config.topics.get(topic)?;
            Some((topic.clone(), config.concurrency.saturating_mul(workers)))
        };
        self.topics.iter().filter_map(slots).collect()
    }

    /// The snapshot by which the next attempt of `topic` runs; `None` for a topic that is not
    /// served.
    pub(crate) fn topic_snapshot(&self, topic: &Topic) -> Option<Arc<Snapshot>> {
        self.topics.get(topic).map(|(_, snapshot)| Arc::clone(snapshot))
    }

    /// The queues of topics that the current configuration no longer names.
    pub(crate) fn removed_queues(&self) -> Vec<TopicQueue> {
        let current = |snapshot: &Snapshot| Some(snapshot.generation) == self.generation;
        let removed = self.topics.values().filter(|(_, snapshot)| !current(snapshot));
        removed.map(|(queue, _)| queue.clone()).collect()
    }

    /// Drops a removed topic whose queue is empty by `depth`.
    pub(crate) fn remove_if_drained(&mut self, queue: &TopicQueue, depth: &QueueDepth) {
        let still_removed = self.removed_queues().contains(queue);
        if still_removed && depth.queued == 0 && depth.processing == 0 {
            tracing::info!(topic = %queue.topic, "removed topic has drained");
            self.topics.remove(&queue.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, HandlerConfig};
    use crate::worker::testing;

    fn test_generation(generation: u64, config: Config) -> Arc<Snapshot> {
        Arc::new(testing::test_snapshot(generation, config))
    }

    fn topic_names(queues: &[TopicQueue]) -> Vec<&str> {
        queues.iter().map(|queue| queue.topic.as_str()).collect()
    }

    #[test]
    fn a_removed_topic_is_served_by_its_last_configuration_until_it_has_drained() {
        let handlers = HandlerRegistry::new();
        let mut served = ServedTopics::default();
        let both = test_generation(
            1,
            testing::test_config(&[("a", HandlerConfig::Upstream), ("b", HandlerConfig::Upstream)]),
        );
        served.apply_snapshot(&both, &handlers);
        assert!(served.removed_queues().is_empty());
        served.apply_snapshot(
            &test_generation(2, testing::test_config(&[("a", HandlerConfig::Upstream)])),
            &handlers,
        );
        assert_eq!(
            (topic_names(&served.served_queues()), topic_names(&served.removed_queues())),
            (vec!["a", "b"], vec!["b"])
        );
        let b = served.removed_queues().remove(0);
        assert_eq!(served.topic_snapshot(&b.topic).map(|snapshot| snapshot.generation), Some(1));
        served.remove_if_drained(&b, &QueueDepth { processing: 1, ..QueueDepth::default() });
        assert_eq!(topic_names(&served.served_queues()), ["a", "b"]);
        served.remove_if_drained(&b, &QueueDepth::default());
        assert_eq!(topic_names(&served.served_queues()), ["a"]);
    }

    #[test]
    fn a_topic_that_becomes_external_is_dropped_unless_the_library_runs_it() {
        let config = || testing::test_config(&[("a", HandlerConfig::External)]);
        let mut served = ServedTopics::default();
        served.apply_snapshot(
            &test_generation(1, testing::test_config(&[("a", HandlerConfig::Upstream)])),
            &HandlerRegistry::new(),
        );
        served.apply_snapshot(&test_generation(2, config()), &HandlerRegistry::new());
        assert!(served.served_queues().is_empty());
        served.apply_snapshot(
            &test_generation(3, config()),
            &HandlerRegistry::new().with_handler(testing::test_topic("a"), testing::EchoHandler),
        );
        assert_eq!(topic_names(&served.served_queues()), ["a"]);
    }
}
