//! What is done to the store or to a runner under running processes: the system works on, and no
//! loop has ended.

use futures_util::StreamExt as _;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::scenes::FaultStage;
use crate::support::workers::runner_pids;
use crate::support::{TEST_DEADLINE, wait_until};

const SERVICE_STREAM: &str = "omni-stream:service";
const SERVICE_GROUP: &str = "group:service:omnidaemon";

#[tokio::test]
async fn a_store_that_is_flushed_under_running_processes_serves_what_comes_after() {
    let stage = FaultStage::start().await;
    let _runners = [stage.spawn_runner("worker-1"), stage.spawn_runner("worker-2")];
    for _ in 0..3 {
        let before = stage.submit_task("service", 0).await;
        assert_eq!(stage.wait_for_end(&before).await["status"], "completed");
        let running = stage.submit_task("service", 500).await;
        wait_until(TEST_DEADLINE, "it is known", async || {
            stage.fetch_task(&running).await["status"] == "processing"
        })
        .await;
        stage.redis.run_command(&["FLUSHALL"]).await;
        stage.redis.run_command(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(stage.omni.data_client().get(&running).await.status, 404);
        for sleep_ms in [0, 10, 100] {
            let poll = stage.submit_task("service", sleep_ms).await;
            assert_eq!(stage.wait_for_end(&poll).await["status"], "completed");
        }
    }
    wait_until(TEST_DEADLINE, "the heartbeats are back", async || {
        stage.omni.admin_client().get("/admin/v1/status").await.json()["active_workers"] == 2
    })
    .await;
}

#[tokio::test]
async fn a_group_that_is_destroyed_under_running_processes_is_made_anew_and_every_task_ends() {
    let stage = FaultStage::start().await;
    let _runners = [stage.spawn_runner("worker-1"), stage.spawn_runner("worker-2")];
    let mut polls = Vec::new();
    for _ in 0..3 {
        for sleep_ms in [300, 0, 100, 0, 0] {
            polls.push(stage.submit_task("service", sleep_ms).await);
        }
        stage.redis.run_command(&["XGROUP", "DESTROY", SERVICE_STREAM, SERVICE_GROUP]).await;
        polls.push(stage.submit_task("service", 0).await);
    }
    for poll in &polls {
        assert_eq!(stage.wait_for_end(poll).await["status"], "completed");
    }
    let mut redis = stage.redis.connect().await;
    wait_until(TEST_DEADLINE, "the stream is empty", async || {
        redis::cmd("XLEN").arg(SERVICE_STREAM).query_async::<u64>(&mut redis).await == Ok(0)
    })
    .await;
}

#[tokio::test]
async fn a_thousand_tasks_that_fail_at_once_are_all_retried_and_all_end() {
    const TASKS: u64 = 1000;
    let stage = FaultStage::start().await;
    let submitting = futures_util::stream::iter(0..TASKS)
        .map(|_| stage.submit_task("storm", 0))
        .buffer_unordered(16);
    let polls: Vec<String> = submitting.collect().await;
    let _runners = [stage.spawn_runner("worker-1"), stage.spawn_runner("worker-2")];
    let mut redis = stage.redis.connect().await;
    wait_until(TEST_DEADLINE * 4, "all have failed for good", async || {
        let mut dead = redis::cmd("XLEN");
        dead.arg("omni-dlq:group:storm:omnidaemon").query_async::<u64>(&mut redis).await
            == Ok(TASKS)
    })
    .await;
    for poll in polls.iter().step_by(100) {
        let task = stage.fetch_task(poll).await;
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
    let stage = FaultStage::start().await;
    let worker = stage
        .omni
        .spawn_command("workers", &["worker", "--count", "1", "--admin-listen", "127.0.0.1:0"]);
    let poll = stage.submit_task("service", 1500).await;
    wait_until(TEST_DEADLINE, "it begins", async || stage.begun_attempts() == [1]).await;
    kill_process(runner_pids(&worker, "worker-1").remove(0), Signal::KILL).expect("killed");
    let task = stage.wait_for_end(&poll).await;
    assert_eq!((&task["status"], &task["attempts"]), (&json!("completed"), &json!(2)), "{task}");
    assert_eq!(stage.begun_attempts(), [1, 2]);
    assert_eq!(runner_pids(&worker, "worker-1").len(), 2, "it was replaced");
}
