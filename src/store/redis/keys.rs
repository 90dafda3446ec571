//! Every key, channel and consumer name on Redis, built here and nowhere else.
//!
//! Those of the `OmniDaemon` contract are fixed; ours stand beside them under the same prefix. All keys that one
//! script touches follow from a topic or a task id, so that a partition's hash tag has one place to go.

use crate::store::Queue;
use crate::task::{TaskId, Topic};

/// Before a topic.
pub(super) const STREAM: &str = "omni-stream:";
/// Before `<topic>:<agent>`.
pub(super) const GROUP: &str = "group:";
/// Before a group: the index of parked entries by due time.
pub(super) const DELAYED: &str = "omni:delayed:";
/// Before a task id.
pub(super) const RECORD: &str = "omni:task:";
/// Before a task id.
pub(super) const RESULT: &str = "omni:result:";
/// The results by the time they were saved.
pub(super) const RESULTS: &str = "omni:results:index";
/// The worker processes by the time of their last heartbeat.
pub(super) const WORKERS: &str = "omni:workers";
/// In the name of a consumer of ours, and of no other.
pub(super) const OURS: &str = "-rs.";

/// A topic's stream.
pub(super) fn stream(topic: &Topic) -> String {
    format!("{STREAM}{topic}")
}

/// A queue's consumer group.
pub(super) fn group(queue: &Queue) -> String {
    format!("{GROUP}{}:{}", queue.topic, queue.agent)
}

/// The consumer of a process in a queue's group.
pub(super) fn consumer(queue: &Queue, process: &str) -> String {
    format!("consumer:{}{OURS}{process}-1", queue.agent)
}

/// A group's index of parked entries.
pub(super) fn delayed(group: &str) -> String {
    format!("{DELAYED}{group}")
}

/// A group's dead letters.
pub(super) fn dead_letters(group: &str) -> String {
    format!("omni-dlq:{group}")
}

/// Python's count of reclaims by entry.
pub(super) fn retry_counts(group: &str) -> String {
    format!("retry_counts:{group}")
}

/// A task's record.
pub(super) fn record(id: &TaskId) -> String {
    format!("{RECORD}{id}")
}

/// A task's result.
pub(super) fn result(id: &TaskId) -> String {
    format!("{RESULT}{id}")
}

/// Where a process hears which of its tasks have ended.
pub(super) fn channel(process: &str) -> String {
    format!("omni:done:{process}")
}

/// A worker process's heartbeat.
pub(super) fn worker(process: &str) -> String {
    format!("omni:worker:{process}")
}

/// A route's rollout state.
pub(super) fn rollout(route: &str) -> String {
    format!("omni:rollout:{route}")
}
