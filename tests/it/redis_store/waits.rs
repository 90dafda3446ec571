//! Who waits is told of ends that happen elsewhere.

use omnidaemon::store::{Cancelled, TaskStore as _};
use omnidaemon::task::{Answer, Status};
use redis::AsyncCommands as _;
use serde_json::json;

use super::{Running, SOON, TTL, complete, eventually, lease, queue, task};
use crate::harness::redis::RedisServer;

#[tokio::test]
async fn the_end_in_another_process_is_told_with_its_record() {
    let server = RedisServer::start().await;
    let (proxy, worker) = (Running::on(&server), Running::on(&server));
    for cancelled in [false, true] {
        let task = task();
        let waiter = proxy.waiters().register(&task.id);
        proxy.enqueue(&task, &queue()).await.expect("enqueued");
        let lease = lease(&worker).await;
        if cancelled {
            assert_eq!(worker.cancel(&task.id, TTL).await, Ok(Cancelled::Running));
        } else {
            complete(&worker, &lease).await;
        }
        let told = tokio::time::timeout(SOON, waiter).await.expect("told").expect("known");
        assert_eq!(Some((*told).clone()), proxy.get(&task.id).await.expect("answers"));
        assert_eq!(told.status, if cancelled { Status::Cancelled } else { Status::Completed });
    }
}

#[tokio::test]
async fn the_message_comes_before_any_poll() {
    let server = RedisServer::start().await;
    let (proxy, worker) = (Running::on(&server), Running::on(&server));
    let mut redis = server.connection().await;
    eventually("both listen", async || {
        let channels: Vec<String> =
            redis::cmd("PUBSUB").arg("CHANNELS").arg("omni:done:*").query_async(&mut redis).await.expect("answers");
        channels.len() == 2
    })
    .await;
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await.expect("reset");
    let task = task();
    let waiter = proxy.waiters().register(&task.id);
    proxy.enqueue(&task, &queue()).await.expect("enqueued");
    complete(&worker, &lease(&worker).await).await;
    assert!(tokio::time::timeout(SOON, waiter).await.expect("told").is_some());
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut redis).await.expect("answers");
    assert!(info.contains("cmdstat_publish:calls=1,"), "{info}");
}

#[tokio::test]
async fn a_result_that_only_python_wrote_is_found_by_the_poll() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    let task = task();
    let waiter = store.waiters().register(&task.id);
    store.enqueue(&task, &queue()).await.expect("enqueued");
    let r = json!({"task_id": task.id.as_str(), "result": {"status": "completed", "result": "text"}, "saved_at": 1.5});
    let _: () = redis.set(format!("omni:result:{}", task.id), r.to_string()).await.expect("saved");
    let told = tokio::time::timeout(SOON, waiter).await.expect("told").expect("known");
    assert_eq!((told.status, told.answer.clone()), (Status::Completed, Some(Answer::json("\"text\""))));
}

#[tokio::test]
async fn a_task_that_is_gone_is_told_as_unknown() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    let task = task();
    let waiter = store.waiters().register(&task.id);
    store.enqueue(&task, &queue()).await.expect("enqueued");
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
    assert_eq!(tokio::time::timeout(SOON, waiter).await.expect("told"), None);
}

#[tokio::test]
async fn a_message_lost_with_its_connection_is_caught_up_by_the_poll() {
    let server = RedisServer::start().await;
    let (proxy, worker) = (Running::on(&server), Running::on(&server));
    let mut redis = server.connection().await;
    let task = task();
    let waiter = proxy.waiters().register(&task.id);
    proxy.enqueue(&task, &queue()).await.expect("enqueued");
    let lease = lease(&worker).await;
    let mut kill = redis::cmd("CLIENT");
    let _: i64 = kill.arg("KILL").arg("TYPE").arg("pubsub").query_async(&mut redis).await.expect("killed");
    complete(&worker, &lease).await;
    assert!(tokio::time::timeout(SOON, waiter).await.expect("told").is_some());
    let listening = async || {
        let channels: Vec<String> =
            redis::cmd("PUBSUB").arg("CHANNELS").arg("omni:done:*").query_async(&mut redis).await.expect("answers");
        channels.len() == 2
    };
    eventually("both listen again", listening).await;
}
