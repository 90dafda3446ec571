//! A delayed task is in no stream before it is due, and is found again when its index is lost.

use std::time::Duration;

use omnidaemon::store::{Queue, TaskStore as _};
use omnidaemon::task::{Status, Task, Topic, UnixMs};
use redis::AsyncCommands as _;

use super::{Running, STREAM, data_of, eventually, leasable_now, lease, queue, task};
use crate::contract::{is_about, wall};
use crate::harness::redis::RedisServer;

const SCHEDULED: &str = "omni:scheduled:group:genesis.qa:omnidaemon";
const DUE: &str = "omni:due:group:genesis.qa:omnidaemon";

fn due(at: UnixMs) -> Task {
    Task { due: Some(at), ..task() }
}

#[tokio::test]
async fn no_consumer_of_any_make_sees_a_delayed_task_before_it_is_due() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    let later = due(wall().plus(Duration::from_secs(2)));
    store.enqueue(&later, &queue()).await.expect("enqueued");
    assert!(data_of(&mut redis, STREAM).await.is_empty());
    store.promote(&[queue()]).await.expect("promoted");
    assert!(wall() >= later.due.expect("set") || data_of(&mut redis, STREAM).await.is_empty());
    eventually("it is due", async || {
        store.promote(&[queue()]).await.expect("promoted");
        !data_of(&mut redis, STREAM).await.is_empty()
    })
    .await;
    assert!(wall() >= later.due.expect("set"));
    let seen = data_of(&mut redis, STREAM).await;
    assert_eq!((seen.len(), seen[0]["task_id"].as_str()), (1, Some(later.id.as_str())));
    let left: usize = redis.exists(&[SCHEDULED, DUE]).await.expect("answers");
    assert_eq!(left, 0, "nothing is left beside the stream");
    assert_eq!(lease(&store).await.task.id, later.id);
}

#[tokio::test]
async fn a_delayed_task_is_found_again_when_the_index_is_lost() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    let (soon, later) = (due(wall().plus(Duration::from_secs(1))), due(wall().plus(Duration::from_hours(1))));
    for task in [&soon, &later] {
        store.enqueue(task, &queue()).await.expect("enqueued");
    }
    let _: () = redis.del(DUE).await.expect("answers");
    eventually("the one that is due runs", async || {
        store.promote(&[queue()]).await.expect("promoted");
        leasable_now(&store).await.iter().any(|lease| lease.task.id == soon.id)
    })
    .await;
    let found = store.get(&later.id).await.expect("answers").expect("known");
    assert_eq!(found.status, Status::Queued);
    assert!(is_about(found.due, later.due.expect("set")), "{found:?}");
    let indexed: Option<f64> = redis.zscore(DUE, later.id.as_str()).await.expect("answers");
    assert!(indexed.is_some(), "and the other waits for its own time");
}

#[tokio::test]
async fn a_queue_whose_keys_are_broken_delays_no_other() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    let broken = Queue::with_defaults(Topic::parse("broken").expect("a topic"), "omnidaemon");
    let soon = wall().plus(Duration::from_secs(1));
    let (lost, task) = (Task { topic: broken.topic.clone(), ..due(soon) }, due(soon));
    store.enqueue(&lost, &broken).await.expect("enqueued");
    store.enqueue(&task, &queue()).await.expect("enqueued");
    let _: () = redis.set("omni-stream:broken", "no stream").await.expect("answers");
    let queues = [broken, queue()];
    eventually("the other one runs", async || {
        let promoted = store.promote(&queues).await;
        let error = promoted.err().map(|error| error.to_string());
        assert!(error.as_ref().is_none_or(|error| error.contains("WRONGTYPE")), "{error:?}");
        error.is_some() && leasable_now(&store).await.iter().any(|lease| lease.task.id == task.id)
    })
    .await;
}
