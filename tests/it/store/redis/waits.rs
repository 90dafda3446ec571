//! Who waits is told of ends that happen elsewhere.

use omnidaemon::store::CancelResult;
use omnidaemon::task::{TaskAnswer, TaskStatus};
use redis::AsyncCommands as _;
use serde_json::json;

use super::{
    RESULT_TTL, RunningStore, WAIT_DEADLINE, complete_lease, lease_one, new_task, qa_queue,
    wait_until,
};
use crate::support::redis::server::RedisServer;

#[tokio::test]
async fn the_end_in_another_process_is_told_with_its_record() {
    let server = RedisServer::start().await;
    let (proxy, worker) = (RunningStore::start(&server), RunningStore::start(&server));
    for cancelled in [false, true] {
        let task = new_task();
        let waiter = proxy.end_waiters().register_waiter(&task.id);
        proxy.enqueue(&task, &qa_queue()).await.expect("enqueued");
        let lease = lease_one(&worker).await;
        if cancelled {
            assert_eq!(worker.cancel(&task.id, RESULT_TTL).await, Ok(CancelResult::WasRunning));
        } else {
            complete_lease(&worker, &lease).await;
        }
        let told = tokio::time::timeout(WAIT_DEADLINE, waiter).await.expect("told").expect("known");
        assert_eq!(Some((*told).clone()), proxy.get_task(&task.id).await.expect("answers"));
        assert_eq!(
            told.status,
            if cancelled { TaskStatus::Cancelled } else { TaskStatus::Completed }
        );
    }
}

#[tokio::test]
async fn the_message_comes_before_any_poll() {
    let server = RedisServer::start().await;
    let (proxy, worker) = (RunningStore::start(&server), RunningStore::start(&server));
    let mut redis = server.connect().await;
    wait_until("both listen", async || {
        let channels: Vec<String> = redis::cmd("PUBSUB")
            .arg("CHANNELS")
            .arg("omni:done:*")
            .query_async(&mut redis)
            .await
            .expect("answers");
        channels.len() == 2
    })
    .await;
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await.expect("reset");
    let task = new_task();
    let waiter = proxy.end_waiters().register_waiter(&task.id);
    proxy.enqueue(&task, &qa_queue()).await.expect("enqueued");
    complete_lease(&worker, &lease_one(&worker).await).await;
    assert!(tokio::time::timeout(WAIT_DEADLINE, waiter).await.expect("told").is_some());
    let info: String =
        redis::cmd("INFO").arg("commandstats").query_async(&mut redis).await.expect("answers");
    assert!(info.contains("cmdstat_publish:calls=1,"), "{info}");
}

#[tokio::test]
async fn a_result_that_only_python_wrote_is_found_by_the_poll() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = new_task();
    let waiter = store.end_waiters().register_waiter(&task.id);
    store.enqueue(&task, &qa_queue()).await.expect("enqueued");
    let r = json!({"task_id": task.id.as_str(), "result": {"status": "completed",
    "result": "text"}, "saved_at": 1.5});
    let _: () = redis.set(format!("omni:result:{}", task.id), r.to_string()).await.expect("saved");
    let told = tokio::time::timeout(WAIT_DEADLINE, waiter).await.expect("told").expect("known");
    assert_eq!(
        (told.status, told.answer.clone()),
        (TaskStatus::Completed, Some(TaskAnswer::from_json("\"text\"")))
    );
}

#[tokio::test]
async fn a_task_that_is_gone_is_told_as_unknown() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = new_task();
    let waiter = store.end_waiters().register_waiter(&task.id);
    store.enqueue(&task, &qa_queue()).await.expect("enqueued");
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
    assert_eq!(tokio::time::timeout(WAIT_DEADLINE, waiter).await.expect("told"), None);
}

#[tokio::test]
async fn a_message_lost_with_its_connection_is_caught_up_by_the_poll() {
    let server = RedisServer::start().await;
    let (proxy, worker) = (RunningStore::start(&server), RunningStore::start(&server));
    let mut redis = server.connect().await;
    let task = new_task();
    let waiter = proxy.end_waiters().register_waiter(&task.id);
    proxy.enqueue(&task, &qa_queue()).await.expect("enqueued");
    let lease = lease_one(&worker).await;
    let mut kill = redis::cmd("CLIENT");
    let _: i64 =
        kill.arg("KILL").arg("TYPE").arg("pubsub").query_async(&mut redis).await.expect("killed");
    complete_lease(&worker, &lease).await;
    assert!(tokio::time::timeout(WAIT_DEADLINE, waiter).await.expect("told").is_some());
    let listening = async || {
        let channels: Vec<String> = redis::cmd("PUBSUB")
            .arg("CHANNELS")
            .arg("omni:done:*")
            .query_async(&mut redis)
            .await
            .expect("answers");
        channels.len() == 2
    };
    wait_until("both listen again", listening).await;
}
