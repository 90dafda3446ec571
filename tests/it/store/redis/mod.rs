//! What the store on Redis promises beyond the contract: the wire it shares with the Python
//! `OmniDaemon`, and how it lives through faults.

mod checks;
mod clocks;
mod cluster;
mod delay;
mod durable;
mod ends;
mod faults;
mod foreign;
mod housekeeping;
mod secure;
mod sentinel;
mod tallies;
mod trimmed;
mod waits;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use omnidaemon::config::StoreConfig;
use omnidaemon::store::{Lease, RedisStore, SettleResult, Settlement, TaskStore, TopicQueue};
use omnidaemon::task::{Task, TaskAnswer, TaskId, Topic};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamPendingCountReply, StreamRangeReply};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::redis::server::RedisServer;
use crate::support::wall_clock::wall_clock_now;

const TEST_PROCESS: &str = "testhost.1.boot";
const WAIT_DEADLINE: Duration = Duration::from_secs(20);
const RESULT_TTL: Duration = Duration::from_hours(1);
const QA_STREAM: &str = "omni-stream:genesis.qa";
const QA_GROUP: &str = "group:genesis.qa:omnidaemon";
const QA_DEAD_LETTERS: &str = "omni-dlq:group:genesis.qa:omnidaemon";

/// A store whose `run` runs.
struct RunningStore {
    store: Arc<dyn TaskStore>,
    _shutdown_guard: DropGuard,
}

impl RunningStore {
    fn start(server: &RedisServer) -> Self {
        Self::start_with_config(&server.store_config())
    }

    fn start_with_config(config: &StoreConfig) -> Self {
        let store: Arc<dyn TaskStore> = Arc::new(RedisStore::new(config).expect("a store"));
        let (shutdown, runs) = (CancellationToken::new(), Arc::clone(&store));
        tokio::spawn({
            let shutdown = shutdown.clone();
            async move { runs.run_background(shutdown).await }
        });
        Self { store, _shutdown_guard: shutdown.drop_guard() }
    }
}

impl std::ops::Deref for RunningStore {
    type Target = dyn TaskStore;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

fn qa_queue() -> TopicQueue {
    let topic = Topic::parse("genesis.qa").expect("a topic");
    TopicQueue::with_default_settings(topic, "omnidaemon")
}

fn new_task() -> Task {
    let id = TaskId::new(wall_clock_now(), rand::random());
    Task { retries: 3, ..Task::new(id, qa_queue().topic, "{\"n\":  1.0}", wall_clock_now()) }
}

async fn enqueue_task(store: &RunningStore) -> Task {
    let task = new_task();
    store.enqueue(&task, &qa_queue()).await.expect("enqueued");
    task
}

/// One lease, which must come soon.
async fn lease_one(store: &RunningStore) -> Lease {
    let mut leases = store
        .lease(TEST_PROCESS, &[qa_queue()], 1, WAIT_DEADLINE)
        .await
        .expect("the store answers");
    assert_eq!(leases.len(), 1, "one task should be leasable");
    leases.remove(0)
}

async fn lease_available(store: &RunningStore) -> Vec<Lease> {
    store.lease(TEST_PROCESS, &[qa_queue()], 10, Duration::ZERO).await.expect("the store answers")
}

async fn reap_queue(store: &RunningStore) {
    store.reap_expired(TEST_PROCESS, &[qa_queue()], RESULT_TTL).await.expect("tended");
}

fn complete_settlement() -> Settlement {
    Settlement::Complete { answer: TaskAnswer::from_json("{\"ok\":true}"), ttl: RESULT_TTL }
}

async fn complete_lease(store: &RunningStore, lease: &Lease) {
    assert_eq!(store.settle(lease, &complete_settlement()).await, Ok(SettleResult::Applied));
}

/// Polls until `holds` says true.
async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT_DEADLINE, polling)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// `XADD` as any publisher may write it.
async fn add_stream_entry(redis: &mut MultiplexedConnection, field: &str, value: &[u8]) -> String {
    redis::cmd("XADD")
        .arg(QA_STREAM)
        .arg("*")
        .arg(field)
        .arg(value)
        .query_async(redis)
        .await
        .expect("added")
}

/// The JSON of the `data` of a stream's entries.
async fn stream_payloads(redis: &mut MultiplexedConnection, stream: &str) -> Vec<Value> {
    let range: StreamRangeReply = redis::cmd("XRANGE")
        .arg(stream)
        .arg("-")
        .arg("+")
        .query_async(redis)
        .await
        .expect("answers");
    let json = |entry: &redis::streams::StreamId| {
        assert_eq!(entry.map.len(), 1, "`data` and nothing else: {:?}", entry.map.keys());
        serde_json::from_str(&entry.get::<String>("data").expect("data")).expect("JSON")
    };
    range.ids.iter().map(json).collect()
}

/// Entry ids and consumers of the group's pending list.
async fn pending_entries(redis: &mut MultiplexedConnection) -> Vec<(String, String)> {
    let mut command = redis::cmd("XPENDING");
    command.arg(QA_STREAM).arg(QA_GROUP).arg("-").arg("+").arg(1000);
    let reply: StreamPendingCountReply = command.query_async(redis).await.expect("answers");
    reply.ids.into_iter().map(|entry| (entry.id, entry.consumer)).collect()
}

/// Looks after the queue for longer than one lease, without a break; `meanwhile` runs before each
/// round.
async fn reap_for_a_lease(store: &RunningStore, mut meanwhile: impl AsyncFnMut()) {
    for _ in 0..10 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(4)).await;
        tokio::time::resume();
        meanwhile().await;
        reap_queue(store).await;
    }
}

/// Makes all that is pending look untouched for `idle`.
async fn age_pending(redis: &mut MultiplexedConnection, idle: Duration) {
    for (entry, consumer) in pending_entries(redis).await {
        let mut claim = redis::cmd("XCLAIM");
        claim
            .arg(QA_STREAM)
            .arg(QA_GROUP)
            .arg(consumer)
            .arg(0)
            .arg(entry)
            .arg("IDLE")
            .arg(idle.as_secs() * 1000);
        let _: redis::Value = claim.arg("JUSTID").query_async(redis).await.expect("answers");
    }
}
