//! What is done to the store or to a runner under running processes: the system works on, and no loop has ended.

use futures_util::StreamExt as _;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::scenes::Stage;
use crate::harness::{PATIENCE, eventually};
use crate::worker_processes::pids;

const STREAM: &str = "omni-stream:service";
const GROUP: &str = "group:service:omnidaemon";

#[tokio::test]
async fn a_store_that_is_flushed_under_running_processes_serves_what_comes_after() {
    let stage = Stage::set().await;
    let _runners = [stage.runner("worker-1"), stage.runner("worker-2")];
    for _ in 0..3 {
        let before = stage.submit("service", 0).await;
        assert_eq!(stage.ended(&before).await["status"], "completed");
        let running = stage.submit("service", 500).await;
        eventually(PATIENCE, "it is known", async || stage.task(&running).await["status"] == "processing").await;
        stage.redis.command(&["FLUSHALL"]).await;
        stage.redis.command(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(stage.omni.client().get(&running).await.status, 404);
        for sleep_ms in [0, 10, 100] {
            let poll = stage.submit("service", sleep_ms).await;
            assert_eq!(stage.ended(&poll).await["status"], "completed");
        }
    }
    eventually(PATIENCE, "the heartbeats are back", async || {
        stage.omni.admin_client().get("/admin/v1/status").await.json()["active_workers"] == 2
    })
    .await;
}

#[tokio::test]
async fn a_group_that_is_destroyed_under_running_processes_is_made_anew_and_every_task_ends() {
    let stage = Stage::set().await;
    let _runners = [stage.runner("worker-1"), stage.runner("worker-2")];
    let mut polls = Vec::new();
    for _ in 0..3 {
        for sleep_ms in [300, 0, 100, 0, 0] {
            polls.push(stage.submit("service", sleep_ms).await);
        }
        stage.redis.command(&["XGROUP", "DESTROY", STREAM, GROUP]).await;
        polls.push(stage.submit("service", 0).await);
    }
    for poll in &polls {
        assert_eq!(stage.ended(poll).await["status"], "completed");
    }
    let mut redis = stage.redis.connection().await;
    eventually(PATIENCE, "the stream is empty", async || {
        redis::cmd("XLEN").arg(STREAM).query_async::<u64>(&mut redis).await == Ok(0)
    })
    .await;
}

#[tokio::test]
async fn a_thousand_tasks_that_fail_at_once_are_all_retried_and_all_end() {
    const TASKS: u64 = 1000;
    let stage = Stage::set().await;
    let submitting = futures_util::stream::iter(0..TASKS).map(|_| stage.submit("storm", 0)).buffer_unordered(16);
    let polls: Vec<String> = submitting.collect().await;
    let _runners = [stage.runner("worker-1"), stage.runner("worker-2")];
    let mut redis = stage.redis.connection().await;
    eventually(PATIENCE * 4, "all have failed for good", async || {
        let mut dead = redis::cmd("XLEN");
        dead.arg("omni-dlq:group:storm:omnidaemon").query_async::<u64>(&mut redis).await == Ok(TASKS)
    })
    .await;
    for poll in polls.iter().step_by(100) {
        let task = stage.task(poll).await;
        assert_eq!((&task["status"], &task["attempts"]), (&json!("failed"), &json!(3)), "{task}");
    }
    let left: (u64, u64) = redis::pipe()
        .cmd("XLEN")
        .arg("omni-stream:storm")
        .cmd("ZCARD")
        .arg("omni:delayed:group:storm:omnidaemon")
        .query_async(&mut redis)
        .await
        .expect("answers");
    assert_eq!(left, (0, 0));
}

#[tokio::test]
async fn a_killed_runners_task_runs_again_in_its_replacement_and_completes() {
    let stage = Stage::set().await;
    let worker = stage.omni.beside("workers", &["worker", "--count", "1", "--admin-listen", "127.0.0.1:0"]);
    let poll = stage.submit("service", 1500).await;
    eventually(PATIENCE, "it begins", async || stage.begun() == [1]).await;
    kill_process(pids(&worker, "worker-1").remove(0), Signal::KILL).expect("killed");
    let task = stage.ended(&poll).await;
    assert_eq!((&task["status"], &task["attempts"]), (&json!("completed"), &json!(2)), "{task}");
    assert_eq!(stage.begun(), [1, 2]);
    assert_eq!(pids(&worker, "worker-1").len(), 2, "it was replaced");
}
