//! Every key, channel and consumer name on Redis, built here and nowhere else.
//!
//! Those of the `OmniDaemon` contract are fixed; ours stand beside them under the same prefix. All keys that one
//! script touches come from one [`Keys`], so that in a Redis Cluster they share a hash tag, and with it a slot.

use crate::store::Queue;
use crate::task::{TaskId, Topic};

/// In the name of a consumer of ours, and of no other.
pub(super) const OURS: &str = "-rs.";
/// Before `<topic>:<agent>` in a group's name.
pub(super) const GROUP: &str = "group:";

/// Before a process's name in its channel's.
pub(super) const CHANNEL: &str = "omni:done:";

const STREAM: &str = "omni-stream:";
const DELAYED: &str = "omni:delayed:";
const RECORD: &str = "omni:task:";
const RESULT: &str = "omni:result:";
const SCHEDULED: &str = "omni:scheduled:";
const DUE: &str = "omni:due:";
const TALLY: &str = "omni:tally:";
const REPLICA: &str = "omni:replica:";

/// A queue's consumer group.
pub(super) fn group(queue: &Queue) -> String {
    format!("{GROUP}{}:{}", queue.topic, queue.agent)
}

/// The consumer of a process in a queue's group.
pub(super) fn consumer(queue: &Queue, process: &str) -> String {
    format!("consumer:{}{OURS}{process}-1", queue.agent)
}

/// The process of a consumer of ours in a queue's group.
pub(super) fn process_of<'a>(queue: &Queue, consumer: &'a str) -> Option<&'a str> {
    let process = consumer.strip_prefix("consumer:")?.strip_prefix(queue.agent.as_str())?;
    process.strip_prefix(OURS)?.strip_suffix("-1")
}

/// The process of a consumer of ours; another one's whole name.
pub(super) fn holder_of(consumer: &str) -> Option<String> {
    let ours = consumer.split_once(OURS).map(|(_, process)| process.strip_suffix("-1").unwrap_or(process));
    Some(ours.unwrap_or(consumer).to_owned()).filter(|name| !name.is_empty() && name != "~delayed")
}

/// Where a process hears which of its tasks have ended.
pub(super) fn channel(process: &str) -> String {
    format!("{CHANNEL}{process}")
}

/// The keys of one server; or those of one partition of a cluster, each behind the same hash tag.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    tag: String,
}

impl Keys {
    /// Those of a cluster's partition.
    pub(super) fn of_partition(index: usize) -> Self {
        Self { tag: format!("{{omni-{index}}}") }
    }

    /// Between braces, what decides the slot.
    pub(super) fn hashed(&self) -> &str {
        self.tag.trim_matches(['{', '}'])
    }

    /// Whether they are a partition's.
    pub(super) fn is_tagged(&self) -> bool {
        !self.tag.is_empty()
    }

    /// How many partitions there are.
    pub(super) fn partitions(&self) -> String {
        self.key("omni:partitions", "")
    }

    /// Before a topic: [`Self::stream`].
    pub(super) fn stream_prefix(&self) -> String {
        self.key(STREAM, "")
    }

    /// Before a group: [`Self::delayed`].
    pub(super) fn delayed_prefix(&self) -> String {
        self.key(DELAYED, "")
    }

    /// Before a task id: [`Self::record`].
    pub(super) fn record_prefix(&self) -> String {
        self.key(RECORD, "")
    }

    /// Before a task id: [`Self::result`].
    pub(super) fn result_prefix(&self) -> String {
        self.key(RESULT, "")
    }

    /// A topic's stream.
    pub(super) fn stream(&self, topic: &Topic) -> String {
        self.key(STREAM, topic.as_str())
    }

    /// A group's index of parked entries by due time.
    pub(super) fn delayed(&self, group: &str) -> String {
        self.key(DELAYED, group)
    }

    /// Where a group began that left out what others had read.
    pub(super) fn start(&self, group: &str) -> String {
        self.key("omni:start:", group)
    }

    /// A group's dead letters.
    pub(super) fn dead_letters(&self, group: &str) -> String {
        self.key("omni-dlq:", group)
    }

    /// A group's tasks that others run, by the time they must have ended.
    pub(super) fn limits(&self, group: &str) -> String {
        self.key("omni:limits:", group)
    }

    /// Python's count of reclaims by entry.
    pub(super) fn retry_counts(&self, group: &str) -> String {
        self.key("retry_counts:", group)
    }

    /// A task's record.
    pub(super) fn record(&self, id: &TaskId) -> String {
        self.key(RECORD, id.as_str())
    }

    /// A task's result.
    pub(super) fn result(&self, id: &TaskId) -> String {
        self.key(RESULT, id.as_str())
    }

    /// The results by the time they were saved.
    pub(super) fn results(&self) -> String {
        self.key("omni:results:index", "")
    }

    /// The worker processes by the time of their last heartbeat.
    pub(super) fn workers(&self) -> String {
        self.key("omni:workers", "")
    }

    /// A worker process's heartbeat.
    pub(super) fn worker(&self, process: &str) -> String {
        self.key("omni:worker:", process)
    }

    /// What is written to when there is nothing else whose replication can be waited for.
    pub(super) fn durable(&self) -> String {
        self.key("omni:durable", "")
    }

    /// What the processes sign with.
    pub(super) fn secret(&self) -> String {
        self.key("omni:secret", "")
    }

    /// A route's rollout state.
    pub(super) fn rollout(&self, route: &str) -> String {
        self.key("omni:rollout:", route)
    }

    /// What became of the tasks that a route canaried in an epoch.
    pub(super) fn tally(&self, route: &str, epoch: u64) -> String {
        self.key(TALLY, &format!("{route}:{epoch}"))
    }

    /// Before a route, a colon and an epoch: [`Self::tally`].
    pub(super) fn tally_prefix(&self) -> String {
        self.key(TALLY, "")
    }

    /// What each process has counted on a route in an epoch.
    pub(super) fn counts(&self, route: &str, epoch: u64) -> String {
        self.key("omni:counts:", &format!("{route}:{epoch}"))
    }

    /// What became of a route's rollout.
    pub(super) fn history(&self, route: &str) -> String {
        self.key("omni:history:", route)
    }

    /// The replicas by the time that they last met.
    pub(super) fn replicas(&self) -> String {
        self.key("omni:replicas", "")
    }

    /// What a replica says of itself.
    pub(super) fn replica(&self, process: &str) -> String {
        self.key(REPLICA, process)
    }

    /// Before a process: [`Self::replica`].
    pub(super) fn replica_prefix(&self) -> String {
        self.key(REPLICA, "")
    }

    /// Who leads.
    pub(super) fn lead(&self) -> String {
        self.key("omni:lead", "")
    }

    /// The last term of a lead.
    pub(super) fn term(&self) -> String {
        self.key("omni:term", "")
    }

    /// How often a deprecated route was called, by caller.
    pub(super) fn callers(&self, route: &str) -> String {
        self.key("omni:callers:", route)
    }

    /// When each of them last called.
    pub(super) fn called(&self, route: &str) -> String {
        self.key("omni:called:", route)
    }

    /// A group's delayed new tasks, their messages by id.
    pub(super) fn scheduled(&self, group: &str) -> String {
        self.key(SCHEDULED, group)
    }

    /// Before a group: [`Self::scheduled`].
    pub(super) fn scheduled_prefix(&self) -> String {
        self.key(SCHEDULED, "")
    }

    /// A group's index of delayed new tasks by due time.
    pub(super) fn due(&self, group: &str) -> String {
        self.key(DUE, group)
    }

    /// Before a group: [`Self::due`].
    pub(super) fn due_prefix(&self) -> String {
        self.key(DUE, "")
    }

    /// The deliveries by due time; each is beside it, as [`Self::delivery`].
    pub(super) fn outbox(&self) -> String {
        self.key("omni:outbox", "")
    }

    /// A delivery: the scripts build it too, of [`Self::outbox`], a colon and its name.
    pub(super) fn delivery(&self, name: &str) -> String {
        self.key("omni:outbox:", name)
    }

    /// A claim on an idempotency key, by the digest of its scope.
    pub(super) fn claim(&self, scope: &str) -> String {
        self.key("omni:idem:", scope)
    }

    /// What Python's agent list says of an agent.
    pub(super) fn agent(&self, topic: &Topic, agent: &str) -> String {
        self.key("omni:agent:", &format!("{topic}:{agent}"))
    }

    /// The names of a topic's agents.
    pub(super) fn agents(&self, topic: &Topic) -> String {
        self.key("omni:agents:topic:", topic.as_str())
    }

    /// The topics that have agents.
    pub(super) fn topics(&self) -> String {
        self.key("omni:topics", "")
    }

    /// The events that Python's `metrics` counts.
    pub(super) fn events(&self) -> String {
        self.key("omni:metrics:stream", "")
    }

    fn key(&self, prefix: &str, name: &str) -> String {
        let mut key = String::with_capacity(self.tag.len() + prefix.len() + name.len());
        for part in [self.tag.as_str(), prefix, name] {
            key.push_str(part);
        }
        key
    }
}
