//! The topics that this process serves, each with the last snapshot that named it.
//!
//! A topic that a reload removed refuses new tasks, but those it has are run as they were configured; it is
//! forgotten when its queue is empty. A topic that became `external` is left to others at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::handler::Handlers;
use crate::snapshot::Snapshot;
use crate::store::{Depth, Queue};
use crate::task::Topic;

/// The served topics.
#[derive(Default)]
pub(super) struct Served {
    generation: Option<u64>,
    known: BTreeMap<Topic, (Queue, Arc<Snapshot>)>,
}

// === impl Served ===

impl Served {
    /// Takes over what `snapshot` says.
    pub(super) fn refresh(&mut self, snapshot: &Arc<Snapshot>, handlers: &Handlers) {
        if self.generation.replace(snapshot.generation) == Some(snapshot.generation) {
            return;
        }
        for (topic, config) in &snapshot.config.topics {
            if handlers.runs(topic, &config.handler) {
                self.known.insert(topic.clone(), (Queue::new(topic, config), Arc::clone(snapshot)));
            } else {
                self.known.remove(topic);
            }
        }
    }

    /// The queues to pull from.
    pub(super) fn queues(&self) -> Vec<Queue> {
        self.known.values().map(|(queue, _)| queue.clone()).collect()
    }

    /// The snapshot that a topic's next attempt runs by.
    pub(super) fn snapshot(&self, topic: &Topic) -> Option<Arc<Snapshot>> {
        self.known.get(topic).map(|(_, snapshot)| Arc::clone(snapshot))
    }

    /// The queues of topics that the configuration does not name any more.
    pub(super) fn removed(&self) -> Vec<Queue> {
        let current = |snapshot: &Snapshot| Some(snapshot.generation) == self.generation;
        let removed = self.known.values().filter(|(_, snapshot)| !current(snapshot));
        removed.map(|(queue, _)| queue.clone()).collect()
    }

    /// Forgets a removed topic that has drained.
    pub(super) fn drained(&mut self, queue: &Queue, depth: &Depth) {
        let still_removed = self.removed().contains(queue);
        if still_removed && depth.queued == 0 && depth.processing == 0 {
            tracing::info!(topic = %queue.topic, "removed topic has drained");
            self.known.remove(&queue.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, HandlerConfig};
    use crate::worker::testing;

    fn snapshot(generation: u64, config: Config) -> Arc<Snapshot> {
        Arc::new(testing::snapshot(generation, config))
    }

    fn names(queues: &[Queue]) -> Vec<&str> {
        queues.iter().map(|queue| queue.topic.as_str()).collect()
    }

    #[test]
    fn a_removed_topic_is_served_by_its_last_configuration_until_it_has_drained() {
        let handlers = Handlers::new();
        let mut served = Served::default();
        let both = snapshot(1, testing::config(&[("a", HandlerConfig::Upstream), ("b", HandlerConfig::Upstream)]));
        served.refresh(&both, &handlers);
        assert!(served.removed().is_empty());
        served.refresh(&snapshot(2, testing::config(&[("a", HandlerConfig::Upstream)])), &handlers);
        assert_eq!((names(&served.queues()), names(&served.removed())), (vec!["a", "b"], vec!["b"]));
        let b = served.removed().remove(0);
        assert_eq!(served.snapshot(&b.topic).map(|snapshot| snapshot.generation), Some(1));
        served.drained(&b, &Depth { processing: 1, ..Depth::default() });
        assert_eq!(names(&served.queues()), ["a", "b"]);
        served.drained(&b, &Depth::default());
        assert_eq!(names(&served.queues()), ["a"]);
    }

    #[test]
    fn a_topic_that_becomes_external_is_left_to_others_unless_the_library_runs_it() {
        let config = || testing::config(&[("a", HandlerConfig::External)]);
        let mut served = Served::default();
        served.refresh(&snapshot(1, testing::config(&[("a", HandlerConfig::Upstream)])), &Handlers::new());
        served.refresh(&snapshot(2, config()), &Handlers::new());
        assert!(served.queues().is_empty());
        served.refresh(&snapshot(3, config()), &Handlers::new().with(testing::topic("a"), testing::Echo));
        assert_eq!(names(&served.queues()), ["a"]);
    }
}
