//! What the store on Redis promises beyond the contract: the wire it shares with the Python `OmniDaemon`, and how
//! it lives through faults.

mod delay;
mod ends;
mod faults;
mod foreign;
mod housekeeping;
mod tallies;
mod trimmed;
mod waits;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use omnidaemon::config::Store;
use omnidaemon::store::{Lease, Queue, RedisStore, Settled, Settlement, TaskStore};
use omnidaemon::task::{Answer, Task, TaskId, Topic};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamPendingCountReply, StreamRangeReply};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::contract::wall;
use crate::harness::redis::RedisServer;

const PROCESS: &str = "testhost.1.boot";
const SOON: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_hours(1);
const STREAM: &str = "omni-stream:genesis.qa";
const GROUP: &str = "group:genesis.qa:omnidaemon";
const DEAD: &str = "omni-dlq:group:genesis.qa:omnidaemon";

/// A store whose `run` runs.
struct Running {
    store: Arc<RedisStore>,
    _running: DropGuard,
}

impl Running {
    fn on(server: &RedisServer) -> Self {
        Self::with(&server.config())
    }

    fn with(config: &Store) -> Self {
        let store = Arc::new(RedisStore::new(config).expect("a store"));
        let (shutdown, runs) = (CancellationToken::new(), Arc::clone(&store));
        tokio::spawn({
            let shutdown = shutdown.clone();
            async move { runs.run(shutdown).await }
        });
        Self { store, _running: shutdown.drop_guard() }
    }
}

impl std::ops::Deref for Running {
    type Target = RedisStore;

    fn deref(&self) -> &RedisStore {
        &self.store
    }
}

fn queue() -> Queue {
    let topic = Topic::parse("genesis.qa").expect("a topic");
    Queue::with_defaults(topic, "omnidaemon")
}

fn task() -> Task {
    let id = TaskId::new(wall(), rand::random());
    Task { retries: 3, ..Task::new(id, queue().topic, "{\"n\":  1.0}", wall()) }
}

async fn enqueue(store: &RedisStore) -> Task {
    let task = task();
    store.enqueue(&task, &queue()).await.expect("enqueued");
    task
}

/// One lease, which must come soon.
async fn lease(store: &RedisStore) -> Lease {
    let mut leases = store.lease(PROCESS, &[queue()], 1, SOON).await.expect("the store answers");
    assert_eq!(leases.len(), 1, "one task should be leasable");
    leases.remove(0)
}

async fn leasable_now(store: &RedisStore) -> Vec<Lease> {
    store.lease(PROCESS, &[queue()], 10, Duration::ZERO).await.expect("the store answers")
}

async fn tend(store: &RedisStore) {
    store.tend(PROCESS, &[queue()], TTL).await.expect("tended");
}

fn completed() -> Settlement {
    Settlement::Complete { answer: Answer::json("{\"ok\":true}"), ttl: TTL }
}

async fn complete(store: &RedisStore, lease: &Lease) {
    assert_eq!(store.settle(lease, &completed()).await, Ok(Settled::Applied));
}

/// Polls until `holds` says true.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, polling).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// `XADD` as any publisher may write it.
async fn publish(redis: &mut MultiplexedConnection, field: &str, value: &[u8]) -> String {
    redis::cmd("XADD").arg(STREAM).arg("*").arg(field).arg(value).query_async(redis).await.expect("added")
}

/// The JSON of the `data` of a stream's entries.
async fn data_of(redis: &mut MultiplexedConnection, stream: &str) -> Vec<Value> {
    let range: StreamRangeReply =
        redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query_async(redis).await.expect("answers");
    let json = |entry: &redis::streams::StreamId| {
        assert_eq!(entry.map.len(), 1, "`data` and nothing else: {:?}", entry.map.keys());
        serde_json::from_str(&entry.get::<String>("data").expect("data")).expect("JSON")
    };
    range.ids.iter().map(json).collect()
}

/// Entry ids and consumers of the group's pending list.
async fn pending(redis: &mut MultiplexedConnection) -> Vec<(String, String)> {
    let mut command = redis::cmd("XPENDING");
    command.arg(STREAM).arg(GROUP).arg("-").arg("+").arg(1000);
    let reply: StreamPendingCountReply = command.query_async(redis).await.expect("answers");
    reply.ids.into_iter().map(|entry| (entry.id, entry.consumer)).collect()
}

/// Looks after the queue for longer than one lease, without a break; `meanwhile` runs before each round.
async fn tend_steadily(store: &RedisStore, mut meanwhile: impl AsyncFnMut()) {
    for _ in 0..10 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(4)).await;
        tokio::time::resume();
        meanwhile().await;
        tend(store).await;
    }
}

/// Makes all that is pending look untouched for `idle`.
async fn age(redis: &mut MultiplexedConnection, idle: Duration) {
    for (entry, consumer) in pending(redis).await {
        let mut claim = redis::cmd("XCLAIM");
        claim.arg(STREAM).arg(GROUP).arg(consumer).arg(0).arg(entry).arg("IDLE").arg(idle.as_secs() * 1000);
        let _: redis::Value = claim.arg("JUSTID").query_async(redis).await.expect("answers");
    }
}
