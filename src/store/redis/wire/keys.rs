//! Every key, channel and consumer name on Redis, built here and nowhere else.
//!
//! The names of the `OmniDaemon` contract are fixed; ours stand beside them under the same prefix.
//! All keys of one script call come from one [`RedisKeys`], so that in a Redis Cluster they share a
//! hash tag, and with it a slot.

use crate::store::error::invalid_cursor;
use crate::store::{StoreError, TopicQueue};
use crate::task::{TaskId, Topic};

/// Part of the name of every consumer of ours, and of no other; the scripts spell it too.
pub(crate) const OUR_CONSUMER_MARK: &str = "-rs.";
/// What precedes `<topic>:<agent>` in the name of a consumer group.
pub(crate) const GROUP_PREFIX: &str = "group:";
/// What precedes the name of a process in the name of its channel.
pub(crate) const CHANNEL_PREFIX: &str = "omni:done:";

/// The consumer that entries waiting for a retry are pending to; the scripts spell it too.
const DELAYED_CONSUMER: &str = "~delayed";

const STREAM_PREFIX: &str = "omni-stream:";
const DELAYED_PREFIX: &str = "omni:delayed:";
const RECORD_PREFIX: &str = "omni:task:";
const RESULT_PREFIX: &str = "omni:result:";
const SCHEDULED_PREFIX: &str = "omni:scheduled:";
const DUE_PREFIX: &str = "omni:due:";
const TALLY_PREFIX: &str = "omni:tally:";
const REPLICA_PREFIX: &str = "omni:replica:";

/// The name of a queue, as task records have it: `<topic>:<agent>`.
pub(crate) fn queue_name(queue: &TopicQueue) -> String {
    format!("{}:{}", queue.topic, queue.agent)
}

/// The name of a queue's consumer group.
pub(crate) fn group_name(queue: &TopicQueue) -> String {
    format!("{GROUP_PREFIX}{}", queue_name(queue))
}

/// The name of a process's consumer in a queue's group.
pub(crate) fn consumer_name(queue: &TopicQueue, process: &str) -> String {
    format!("consumer:{}{OUR_CONSUMER_MARK}{process}-1", queue.agent)
}

/// The process of a consumer in a queue's group; none for a consumer that is not ours.
pub(crate) fn process_of_consumer<'a>(queue: &TopicQueue, consumer: &'a str) -> Option<&'a str> {
    let process = consumer.strip_prefix("consumer:")?.strip_prefix(queue.agent.as_str())?;
    process.strip_prefix(OUR_CONSUMER_MARK)?.strip_suffix("-1")
}

/// The holder of an entry by its consumer's name: the process of a consumer of ours, the whole name
/// of another, none for an entry that waits for a retry.
pub(crate) fn holder_name(consumer: &str) -> Option<String> {
    let ours = consumer
        .split_once(OUR_CONSUMER_MARK)
        .map(|(_, process)| process.strip_suffix("-1").unwrap_or(process));
    Some(ours.unwrap_or(consumer).to_owned())
        .filter(|name| !name.is_empty() && name != DELAYED_CONSUMER)
}

/// The first entry of a `XREVRANGE`: the newest, or with the cursor `before`, which is an entry id,
/// the newest of the older ones.
///
/// # Errors
/// [`invalid_cursor`] for a cursor that is no entry id.
pub(crate) fn reverse_range_start(before: Option<&str>) -> Result<String, StoreError> {
    let is_entry_id = |text: &str| {
        text.split_once('-')
            .is_some_and(|(ms, seq)| ms.parse::<u64>().is_ok() && seq.parse::<u64>().is_ok())
    };
    match before {
        None => Ok("+".to_owned()),
        Some(before) if is_entry_id(before) => Ok(format!("({before}")),
        Some(_) => Err(invalid_cursor("before")),
    }
}

/// The channel on which a process is notified that tasks have ended.
pub(crate) fn notification_channel(process: &str) -> String {
    format!("{CHANNEL_PREFIX}{process}")
}

/// The keys of one server, or of one partition of a cluster, which all begin with one hash tag.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedisKeys {
    hash_tag: String,
}

impl RedisKeys {
    /// The keys of a cluster's partition.
    pub(crate) fn for_partition(index: usize) -> Self {
        Self { hash_tag: format!("{{omni-{index}}}") }
    }

    /// The text between the braces of the hash tag, which decides the slot.
    pub(crate) fn hash_tag_content(&self) -> &str {
        self.hash_tag.trim_matches(['{', '}'])
    }

    /// Whether these are the keys of a cluster's partition.
    pub(crate) fn has_hash_tag(&self) -> bool {
        !self.hash_tag.is_empty()
    }

    /// Holds the number of partitions.
    pub(crate) fn partition_count_key(&self) -> String {
        self.build_key("omni:partitions", "")
    }

    /// What precedes the topic in [`Self::stream_key`].
    pub(crate) fn stream_prefix(&self) -> String {
        self.build_key(STREAM_PREFIX, "")
    }

    /// What precedes the group in [`Self::delayed_index_key`].
    pub(crate) fn delayed_index_prefix(&self) -> String {
        self.build_key(DELAYED_PREFIX, "")
    }

    /// What precedes the task id in [`Self::record_key`].
    pub(crate) fn record_prefix(&self) -> String {
        self.build_key(RECORD_PREFIX, "")
    }

    /// What precedes the task id in [`Self::result_key`].
    pub(crate) fn result_prefix(&self) -> String {
        self.build_key(RESULT_PREFIX, "")
    }

    /// The stream of a topic.
    pub(crate) fn stream_key(&self, topic: &Topic) -> String {
        self.build_key(STREAM_PREFIX, topic.as_str())
    }

    /// A group's index of the entries that wait for a retry, by due time.
    pub(crate) fn delayed_index_key(&self, group: &str) -> String {
        self.build_key(DELAYED_PREFIX, group)
    }

    /// Whether a Python agent is subscribed to a group, as that agent writes it.
    pub(crate) fn subscription_key(&self, group: &str) -> String {
        self.build_key("omni:config:_subscription_active:", group)
    }

    /// The id after which a group began to read, where it left out older entries.
    pub(crate) fn group_start_key(&self, group: &str) -> String {
        self.build_key("omni:start:", group)
    }

    /// A group's dead letters.
    pub(crate) fn dead_letters_key(&self, group: &str) -> String {
        self.build_key("omni-dlq:", group)
    }

    /// A group's index of the tasks that external consumers run, by the time they must have ended.
    pub(crate) fn deadline_index_key(&self, group: &str) -> String {
        self.build_key("omni:limits:", group)
    }

    /// Python's count of the times each entry was reclaimed.
    pub(crate) fn python_retry_counts_key(&self, group: &str) -> String {
        self.build_key("retry_counts:", group)
    }

    /// A task's record.
    pub(crate) fn record_key(&self, id: &TaskId) -> String {
        self.build_key(RECORD_PREFIX, id.as_str())
    }

    /// A task's result.
    pub(crate) fn result_key(&self, id: &TaskId) -> String {
        self.build_key(RESULT_PREFIX, id.as_str())
    }

    /// The index of all results, by the time they were saved.
    pub(crate) fn results_index_key(&self) -> String {
        self.build_key("omni:results:index", "")
    }

    /// The index of worker processes, by the time of their last heartbeat.
    pub(crate) fn workers_index_key(&self) -> String {
        self.build_key("omni:workers", "")
    }

    /// A worker process's heartbeat.
    pub(crate) fn heartbeat_key(&self, process: &str) -> String {
        self.build_key("omni:worker:", process)
    }

    /// Written when a replica must confirm earlier writes and no other write is to be made.
    pub(crate) fn durability_probe_key(&self) -> String {
        self.build_key("omni:durable", "")
    }

    /// The secret that all processes sign with.
    pub(crate) fn shared_secret_key(&self) -> String {
        self.build_key("omni:secret", "")
    }

    /// A route's rollout state.
    pub(crate) fn rollout_state_key(&self, route: &str) -> String {
        self.build_key("omni:rollout:", route)
    }

    /// The tally of a route's canaried tasks in an epoch: counts by outcome.
    pub(crate) fn tally_key(&self, route: &str, epoch: u64) -> String {
        self.build_key(TALLY_PREFIX, &format!("{route}:{epoch}"))
    }

    /// What precedes `<route>:<epoch>` in [`Self::tally_key`].
    pub(crate) fn tally_prefix(&self) -> String {
        self.build_key(TALLY_PREFIX, "")
    }

    /// What each replica has counted on a route in an epoch.
    pub(crate) fn replica_counts_key(&self, route: &str, epoch: u64) -> String {
        self.build_key("omni:counts:", &format!("{route}:{epoch}"))
    }

    /// The history of a route's rollout.
    pub(crate) fn rollout_history_key(&self, route: &str) -> String {
        self.build_key("omni:history:", route)
    }

    /// The index of replicas, by the time of their last report.
    pub(crate) fn replicas_index_key(&self) -> String {
        self.build_key("omni:replicas", "")
    }

    /// The report of a replica.
    pub(crate) fn replica_report_key(&self, process: &str) -> String {
        self.build_key(REPLICA_PREFIX, process)
    }

    /// What precedes the process in [`Self::replica_report_key`].
    pub(crate) fn replica_report_prefix(&self) -> String {
        self.build_key(REPLICA_PREFIX, "")
    }

    /// The replica that leads the rollouts.
    pub(crate) fn leader_key(&self) -> String {
        self.build_key("omni:lead", "")
    }

    /// The number of the last leadership.
    pub(crate) fn leader_term_key(&self) -> String {
        self.build_key("omni:term", "")
    }

    /// The number of calls of a deprecated route, by caller.
    pub(crate) fn caller_counts_key(&self, route: &str) -> String {
        self.build_key("omni:callers:", route)
    }

    /// The time of each caller's last call of a deprecated route.
    pub(crate) fn caller_last_call_key(&self, route: &str) -> String {
        self.build_key("omni:called:", route)
    }

    /// The messages of a group's scheduled tasks, by task id.
    pub(crate) fn scheduled_tasks_key(&self, group: &str) -> String {
        self.build_key(SCHEDULED_PREFIX, group)
    }

    /// What precedes the group in [`Self::scheduled_tasks_key`].
    pub(crate) fn scheduled_tasks_prefix(&self) -> String {
        self.build_key(SCHEDULED_PREFIX, "")
    }

    /// A group's index of scheduled tasks, by due time.
    pub(crate) fn scheduled_index_key(&self, group: &str) -> String {
        self.build_key(DUE_PREFIX, group)
    }

    /// What precedes the group in [`Self::scheduled_index_key`].
    pub(crate) fn scheduled_index_prefix(&self) -> String {
        self.build_key(DUE_PREFIX, "")
    }

    /// The outbox: an index of deliveries by due time; each has a [`Self::delivery_key`].
    pub(crate) fn outbox_index_key(&self) -> String {
        self.build_key("omni:outbox", "")
    }

    /// A delivery, by its name `<task id>/<kind>`. Scripts build this key too: the key of the
    /// outbox, a colon and the name.
    pub(crate) fn delivery_key(&self, name: &str) -> String {
        self.build_key("omni:outbox:", name)
    }

    /// A claim on an idempotency key, by the digest of its scope.
    pub(crate) fn claim_key(&self, scope: &str) -> String {
        self.build_key("omni:idem:", scope)
    }

    /// An agent's entry in Python's list of agents.
    pub(crate) fn agent_key(&self, topic: &Topic, agent: &str) -> String {
        self.build_key("omni:agent:", &format!("{topic}:{agent}"))
    }

    /// The names of a topic's agents.
    pub(crate) fn topic_agents_key(&self, topic: &Topic) -> String {
        self.build_key("omni:agents:topic:", topic.as_str())
    }

    /// The topics that have agents.
    pub(crate) fn agent_topics_key(&self) -> String {
        self.build_key("omni:topics", "")
    }

    /// The stream of events that Python's `metrics` command counts.
    pub(crate) fn agent_events_key(&self) -> String {
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
