//! What housekeeping finds: dead workers, foreign trims, streams that only grow.

use std::time::Duration;

use omnidaemon::store::{Heartbeat, Lease, TaskStore as _};
use omnidaemon::task::UnixMs;
use redis::AsyncCommands as _;

use super::{Running, age, complete, enqueue, leasable_now, lease, pending, queue, tend, tend_steadily};
use crate::harness::redis::RedisServer;

/// Another process than the one that looks after the queue.
const OTHER: &str = "testhost.2.boot";

async fn leased_by(store: &Running, process: &str) -> Lease {
    store.lease(process, &[queue()], 1, super::SOON).await.expect("answers").remove(0)
}

async fn beat(store: &Running, process: &str) {
    let beat = Heartbeat { process: process.into(), active: 1, busy: 1, started: UnixMs(1) };
    store.beat(&beat).await.expect("beats");
}

#[tokio::test]
async fn a_dead_workers_task_runs_again_before_its_lease_is_over() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    let task = enqueue(&store).await;
    let lost = leased_by(&store, OTHER).await;
    tend_steadily(&store, async || beat(&store, OTHER).await).await;
    age(&mut redis, Duration::from_secs(12)).await;
    tend(&store).await;
    assert_eq!(leasable_now(&store).await, vec![], "its heart beats");
    let _: i64 = redis.del(format!("omni:worker:{OTHER}")).await.expect("as if it had expired");
    tend(&store).await;
    assert_eq!(leasable_now(&store).await, vec![], "missed once");
    tend_steadily(&store, async || {}).await;
    let again = lease(&store).await;
    assert_eq!((again.task.id.clone(), again.attempt), (task.id, 2));
    assert_eq!(store.settle(&lost, &super::completed()).await, Ok(omnidaemon::store::Settled::Fenced));
    complete(&store, &again).await;
}

#[tokio::test]
async fn a_worker_that_renews_keeps_its_task_without_a_heartbeat() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    enqueue(&store).await;
    let held = leased_by(&store, OTHER).await;
    tend_steadily(&store, async || {
        assert_eq!(store.renew(OTHER, std::slice::from_ref(&held)).await, Ok(vec![]));
    })
    .await;
    assert_eq!(leasable_now(&store).await, vec![], "it has only just started, say");
    let consumer = format!("consumer:omnidaemon-rs.{OTHER}-1");
    assert_eq!(pending(&mut redis).await[0].1, consumer);
    complete(&store, &held).await;
}

#[tokio::test]
async fn who_has_not_watched_for_a_lease_waits_for_the_lease() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    enqueue(&store).await;
    let held = leased_by(&store, OTHER).await;
    age(&mut redis, Duration::from_secs(20)).await;
    for _ in 0..3 {
        tend(&store).await;
        assert_eq!(leasable_now(&store).await, vec![], "after an outage no heartbeat is there at first");
    }
    complete(&store, &held).await;
}

#[tokio::test]
async fn a_python_consumer_has_no_heartbeat_and_keeps_its_task() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    enqueue(&store).await;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(super::GROUP).arg("consumer:omnidaemon-1").arg("STREAMS").arg(super::STREAM).arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    age(&mut redis, Duration::from_secs(100)).await;
    tend_steadily(&store, async || {}).await;
    assert_eq!(leasable_now(&store).await, vec![]);
    assert_eq!(pending(&mut redis).await[0].1, "consumer:omnidaemon-1");
}
