//! A delayed task is in no stream before it is due, and is found again when its index is lost.

use std::time::Duration;

use omnidaemon::store::TopicQueue;
use omnidaemon::task::{Task, TaskStatus, Topic, UnixMs};
use redis::AsyncCommands as _;

use super::{
    QA_STREAM, RunningStore, lease_available, lease_one, new_task, qa_queue, stream_payloads,
    wait_until,
};
use crate::store::contract::is_close_to;
use crate::support::redis::server::RedisServer;
use crate::support::wall_clock::wall_clock_now;

const SCHEDULED: &str = "omni:scheduled:group:genesis.qa:omnidaemon";
const DUE: &str = "omni:due:group:genesis.qa:omnidaemon";

fn due(at: UnixMs) -> Task {
    Task { due: Some(at), ..new_task() }
}

#[tokio::test]
async fn no_consumer_of_any_make_sees_a_delayed_task_before_it_is_due() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let later = due(wall_clock_now().plus(Duration::from_secs(2)));
    store.enqueue(&later, &qa_queue()).await.expect("enqueued");
    assert!(stream_payloads(&mut redis, QA_STREAM).await.is_empty());
    store.enqueue_due_tasks(&[qa_queue()]).await.expect("promoted");
    assert!(
        wall_clock_now() >= later.due.expect("set")
            || stream_payloads(&mut redis, QA_STREAM).await.is_empty()
    );
    wait_until("it is due", async || {
        store.enqueue_due_tasks(&[qa_queue()]).await.expect("promoted");
        !stream_payloads(&mut redis, QA_STREAM).await.is_empty()
    })
    .await;
    assert!(wall_clock_now() >= later.due.expect("set"));
    let seen = stream_payloads(&mut redis, QA_STREAM).await;
    assert_eq!((seen.len(), seen[0]["task_id"].as_str()), (1, Some(later.id.as_str())));
    let left: usize = redis.exists(&[SCHEDULED, DUE]).await.expect("answers");
    assert_eq!(left, 0, "nothing is left beside the stream");
    assert_eq!(lease_one(&store).await.task.id, later.id);
}

#[tokio::test]
async fn a_delayed_task_is_found_again_when_the_index_is_lost() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let (soon, later) = (
        due(wall_clock_now().plus(Duration::from_secs(1))),
        due(wall_clock_now().plus(Duration::from_hours(1))),
    );
    for task in [&soon, &later] {
        store.enqueue(task, &qa_queue()).await.expect("enqueued");
    }
    let _: () = redis.del(DUE).await.expect("answers");
    wait_until("the one that is due runs", async || {
        store.enqueue_due_tasks(&[qa_queue()]).await.expect("promoted");
        lease_available(&store).await.iter().any(|lease| lease.task.id == soon.id)
    })
    .await;
    let found = store.get_task(&later.id).await.expect("answers").expect("known");
    assert_eq!(found.status, TaskStatus::Queued);
    assert!(is_close_to(found.due, later.due.expect("set")), "{found:?}");
    let indexed: Option<f64> = redis.zscore(DUE, later.id.as_str()).await.expect("answers");
    assert!(indexed.is_some(), "and the other waits for its own time");
}

#[tokio::test]
async fn a_queue_whose_keys_are_broken_delays_no_other() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let broken =
        TopicQueue::with_default_settings(Topic::parse("broken").expect("a topic"), "omnidaemon");
    let soon = wall_clock_now().plus(Duration::from_secs(1));
    let (lost, task) = (Task { topic: broken.topic.clone(), ..due(soon) }, due(soon));
    store.enqueue(&lost, &broken).await.expect("enqueued");
    store.enqueue(&task, &qa_queue()).await.expect("enqueued");
    let _: () = redis.set("omni-stream:broken", "no stream").await.expect("answers");
    let queues = [broken, qa_queue()];
    wait_until("the other one runs", async || {
        let promoted = store.enqueue_due_tasks(&queues).await;
        let error = promoted.err().map(|error| error.to_string());
        assert!(error.as_ref().is_none_or(|error| error.contains("WRONGTYPE")), "{error:?}");
        error.is_some()
            && lease_available(&store).await.iter().any(|lease| lease.task.id == task.id)
    })
    .await;
}
