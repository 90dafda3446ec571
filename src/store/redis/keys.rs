//! Every key, channel and consumer name on Redis, built here and nowhere else.
//!
//! Those of the `OmniDaemon` contract are fixed; ours stand beside them under the same prefix. All
//! keys that one script touches come from one [`RedisKeys`], so that in a Redis Cluster they share
//! a hash tag, and with it a slot.

use crate::store::TopicQueue;
use crate::task::{TaskId, Topic};

/// In the name of a consumer of ours, and of no other.
pub(super) const OUR_CONSUMER_MARK: &str = "-rs.";
/// Before `<topic>:<agent>` in a group's name.
pub(super) const GROUP_PREFIX: &str = "group:";

/// Before a process's name in its channel's.
pub(super) const CHANNEL_PREFIX: &str = "omni:done:";

const STREAM_PREFIX: &str = "omni-stream:";
const DELAYED_PREFIX: &str = "omni:delayed:";
const RECORD_PREFIX: &str = "omni:task:";
const RESULT_PREFIX: &str = "omni:result:";
const SCHEDULED_PREFIX: &str = "omni:scheduled:";
const DUE_PREFIX: &str = "omni:due:";
const TALLY_PREFIX: &str = "omni:tally:";
const REPLICA_PREFIX: &str = "omni:replica:";

/// A queue's consumer group.
pub(super) fn group_name(queue: &TopicQueue) -> String {
    format!("{GROUP_PREFIX}{}:{}", queue.topic, queue.agent)
}

/// The consumer of a process in a queue's group.
pub(super) fn consumer_name(queue: &TopicQueue, process: &str) -> String {
    format!("consumer:{}{OUR_CONSUMER_MARK}{process}-1", queue.agent)
}

/// The process of a consumer of ours in a queue's group.
pub(super) fn process_of_consumer<'a>(queue: &TopicQueue, consumer: &'a str) -> Option<&'a str> {
    let process = consumer.strip_prefix("consumer:")?.strip_prefix(queue.agent.as_str())?;
    process.strip_prefix(OUR_CONSUMER_MARK)?.strip_suffix("-1")
}

/// The process of a consumer of ours; another one's whole name.
pub(super) fn holder_name(consumer: &str) -> Option<String> {
    let ours = consumer
        .split_once(OUR_CONSUMER_MARK)
        .map(|(_, process)| process.strip_suffix("-1").unwrap_or(process));
    Some(ours.unwrap_or(consumer).to_owned()).filter(|name| !name.is_empty() && name != "~delayed")
}

/// Where a process hears which of its tasks have ended.
pub(super) fn notification_channel(process: &str) -> String {
    format!("{CHANNEL_PREFIX}{process}")
}

/// The keys of one server; or those of one partition of a cluster, each behind the same hash tag.
#[derive(Clone, Debug, Default)]
pub(super) struct RedisKeys {
    hash_tag: String,
}

impl RedisKeys {
    /// Those of a cluster's partition.
    pub(super) fn for_partition(index: usize) -> Self {
        Self { hash_tag: format!("{{omni-{index}}}") }
    }

    /// Between braces, what decides the slot.
    pub(super) fn hash_tag_content(&self) -> &str {
        self.hash_tag.trim_matches(['{', '}'])
    }

    /// Whether they are a partition's.
    pub(super) fn has_hash_tag(&self) -> bool {
        !self.hash_tag.is_empty()
    }

    /// How many partitions there are.
    pub(super) fn partition_count_key(&self) -> String {
        self.build_key("omni:partitions", "")
    }

    /// Before a topic: [`Self::stream`].
    pub(super) fn stream_prefix(&self) -> String {
        self.build_key(STREAM_PREFIX, "")
    }

    /// Before a group: [`Self::delayed`].
    pub(super) fn delayed_index_prefix(&self) -> String {
        self.build_key(DELAYED_PREFIX, "")
    }

    /// Before a task id: [`Self::record`].
    pub(super) fn record_prefix(&self) -> String {
        self.build_key(RECORD_PREFIX, "")
    }

    /// Before a task id: [`Self::result`].
    pub(super) fn result_prefix(&self) -> String {
        self.build_key(RESULT_PREFIX, "")
    }

    /// A topic's stream.
    pub(super) fn stream_key(&self, topic: &Topic) -> String {
        self.build_key(STREAM_PREFIX, topic.as_str())
    }

    /// A group's index of parked entries by due time.
    pub(super) fn delayed_index_key(&self, group: &str) -> String {
        self.build_key(DELAYED_PREFIX, group)
    }

    /// Where a group began that left out what others had read.
    pub(super) fn group_start_key(&self, group: &str) -> String {
        self.build_key("omni:start:", group)
    }

    /// A group's dead letters.
    pub(super) fn dead_letters_key(&self, group: &str) -> String {
        self.build_key("omni-dlq:", group)
    }

    /// A group's tasks that others run, by the time they must have ended.
    pub(super) fn deadline_index_key(&self, group: &str) -> String {
        self.build_key("omni:limits:", group)
    }

    /// Python's count of reclaims by entry.
    pub(super) fn python_retry_counts_key(&self, group: &str) -> String {
        self.build_key("retry_counts:", group)
    }

    /// A task's record.
    pub(super) fn record_key(&self, id: &TaskId) -> String {
        self.build_key(RECORD_PREFIX, id.as_str())
    }

    /// A task's result.
    pub(super) fn result_key(&self, id: &TaskId) -> String {
        self.build_key(RESULT_PREFIX, id.as_str())
    }

    /// The results by the time they were saved.
    pub(super) fn results_index_key(&self) -> String {
        self.build_key("omni:results:index", "")
    }

    /// The worker processes by the time of their last heartbeat.
    pub(super) fn workers_index_key(&self) -> String {
        self.build_key("omni:workers", "")
    }

    /// A worker process's heartbeat.
    pub(super) fn heartbeat_key(&self, process: &str) -> String {
        self.build_key("omni:worker:", process)
    }

    /// What is written to when there is nothing else whose replication can be waited for.
    pub(super) fn durability_probe_key(&self) -> String {
        self.build_key("omni:durable", "")
    }

    /// What the processes sign with.
    pub(super) fn shared_secret_key(&self) -> String {
        self.build_key("omni:secret", "")
    }

    /// A route's rollout state.
    pub(super) fn rollout_state_key(&self, route: &str) -> String {
        self.build_key("omni:rollout:", route)
    }

    /// What became of the tasks that a route canaried in an epoch.
    pub(super) fn tally_key(&self, route: &str, epoch: u64) -> String {
        self.build_key(TALLY_PREFIX, &format!("{route}:{epoch}"))
    }

    /// Before a route, a colon and an epoch: [`Self::tally`].
    pub(super) fn tally_prefix(&self) -> String {
        self.build_key(TALLY_PREFIX, "")
    }

    /// What each process has counted on a route in an epoch.
    pub(super) fn replica_counts_key(&self, route: &str, epoch: u64) -> String {
        self.build_key("omni:counts:", &format!("{route}:{epoch}"))
    }

    /// What became of a route's rollout.
    pub(super) fn rollout_history_key(&self, route: &str) -> String {
        self.build_key("omni:history:", route)
    }

    /// The replicas by the time that they last met.
    pub(super) fn replicas_index_key(&self) -> String {
        self.build_key("omni:replicas", "")
    }

    /// What a replica says of itself.
    pub(super) fn replica_report_key(&self, process: &str) -> String {
        self.build_key(REPLICA_PREFIX, process)
    }

    /// Before a process: [`Self::replica`].
    pub(super) fn replica_report_prefix(&self) -> String {
        self.build_key(REPLICA_PREFIX, "")
    }

    /// Who leads.
    pub(super) fn leader_key(&self) -> String {
        self.build_key("omni:lead", "")
    }

    /// The last term of a lead.
    pub(super) fn leader_term_key(&self) -> String {
        self.build_key("omni:term", "")
    }

    /// How often a deprecated route was called, by caller.
    pub(super) fn caller_counts_key(&self, route: &str) -> String {
        self.build_key("omni:callers:", route)
    }

    /// When each of them last called.
    pub(super) fn caller_last_call_key(&self, route: &str) -> String {
        self.build_key("omni:called:", route)
    }

    /// A group's delayed new tasks, their messages by id.
    pub(super) fn scheduled_tasks_key(&self, group: &str) -> String {
        self.build_key(SCHEDULED_PREFIX, group)
    }

    /// Before a group: [`Self::scheduled_tasks_key`].
    pub(super) fn scheduled_tasks_prefix(&self) -> String {
        self.build_key(SCHEDULED_PREFIX, "")
    }

    /// A group's index of delayed new tasks by due time.
    pub(super) fn scheduled_index_key(&self, group: &str) -> String {
        self.build_key(DUE_PREFIX, group)
    }

    /// Before a group: [`Self::due`].
    pub(super) fn scheduled_index_prefix(&self) -> String {
        self.build_key(DUE_PREFIX, "")
    }

    /// The deliveries by due time; each is beside it, as [`Self::delivery`].
    pub(super) fn outbox_index_key(&self) -> String {
        self.build_key("omni:outbox", "")
    }

    /// A delivery: the scripts build it too, of [`Self::outbox`], a colon and its name.
    pub(super) fn delivery_key(&self, name: &str) -> String {
        self.build_key("omni:outbox:", name)
    }

    /// A claim on an idempotency key, by the digest of its scope.
    pub(super) fn claim_key(&self, scope: &str) -> String {
        self.build_key("omni:idem:", scope)
    }

    /// What Python's agent list says of an agent.
    pub(super) fn agent_key(&self, topic: &Topic, agent: &str) -> String {
        self.build_key("omni:agent:", &format!("{topic}:{agent}"))
    }

    /// The names of a topic's agents.
    pub(super) fn topic_agents_key(&self, topic: &Topic) -> String {
        self.build_key("omni:agents:topic:", topic.as_str())
    }

    /// The topics that have agents.
    pub(super) fn agent_topics_key(&self) -> String {
        self.build_key("omni:topics", "")
    }

    /// The events that Python's `metrics` counts.
    pub(super) fn agent_events_key(&self) -> String {
        self.build_key("omni:metrics:stream", "")
    }

    fn build_key(&self, prefix: &str, name: &str) -> String {
        let mut key = String::with_capacity(self.hash_tag.len() + prefix.len() + name.len());
        for part in [self.hash_tag.as_str(), prefix, name] {
            key.push_str(part);
        }
        key
    }
}
