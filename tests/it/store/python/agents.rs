//! Its agents run what the proxy queues.

use http::Method;
use redis::AsyncCommands as _;
use serde_json::json;

use super::start_server;
use crate::support::http::client::HttpResponse;
use crate::support::process::python::PythonOmnidaemon;
use crate::support::redis::server::RedisServer;
use crate::support::tasks::{submit_task, wait_for_task_end};
use crate::support::{TEST_DEADLINE, wait_until};

#[tokio::test]
async fn an_agent_answers_the_waiting_client_in_both_content_forms() {
    let server = RedisServer::start().await;
    let python = PythonOmnidaemon::with_redis(&server);
    let (strings, objects) = tokio::join!(
        python.build_agent("outside", "analyst").start(),
        python.build_agent("objects", "analyst").start()
    );
    let omni = start_server(&server).await;
    omni.wait_until_topic_has_slots("outside").await;
    omni.wait_until_topic_has_slots("objects").await;
    for (path, form) in [("/invoke", "string"), ("/objects", "object")] {
        let call = json!({"task": "count", "items": [1, 2.5, "three"]});
        let answer = omni.data_client().post(path, &call).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-omnidaemon-path")),
            (200, Some("async"))
        );
        assert_eq!(answer.json(), json!({"content": call, "form": form, "by": "analyst"}));
    }
    drop((strings, objects));
}

#[tokio::test]
async fn what_an_agent_ran_is_polled_and_what_was_queued_before_it_came_is_run() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let poll = submit_task(&omni, "outside", &json!({"n": 1})).await;
    assert_eq!(omni.data_client().get(&poll).await.json()["status"], "queued");
    let agent = python.build_agent("outside", "analyst").start().await;
    let task = wait_for_task_end(&omni, &poll).await;
    assert_eq!(
        (&task["status"], &task["result"]["content"]),
        (&json!("completed"), &json!({"n": 1}))
    );
    wait_until(TEST_DEADLINE, "what an agent left in the stream is not waiting", async || {
        omni.metric_value("omnidaemon_queue_depth", &[("topic", "outside")]).await == 0.0
    })
    .await;
    drop(agent);
}

#[tokio::test]
async fn what_an_agent_ended_of_the_canaried_is_counted_though_nobody_asks_for_it() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let agent = python
        .build_agent("outside", "analyst")
        .set_option("reclaim_idle_ms", 200)
        .set_option("dlq_retry_limit", 1);
    let agent = agent.start().await;
    omni.wait_until_topic_has_slots("outside").await;
    for call in [json!({"n": 1}), json!({"n": 2}), json!({"fail": "out of cheese"})] {
        let request = omni
            .data_client()
            .request(Method::POST, "/invoke")
            .header("prefer", "wait=0")
            .json(&call);
        let deferred = HttpResponse::from_request(request).await;
        assert_eq!(deferred.status, 202, "{}", deferred.text());
    }
    let epoch = omni.admin_client().get("/admin/v1/rollouts/invoke").await.json()["epoch"].clone();
    wait_until(TEST_DEADLINE, "its ends are counted", async || {
        let tally: std::collections::BTreeMap<String, u64> = server
            .connect()
            .await
            .hgetall(format!("omni:tally:invoke:{epoch}"))
            .await
            .expect("answers");
        let counted = |of: &str| {
            tally.iter().filter(|(name, _)| name.starts_with(of)).map(|(_, n)| n).sum::<u64>()
        };
        [counted("accepted"), counted("completed."), counted("failed.")] == [3, 2, 1]
    })
    .await;
    drop(agent);
}

#[tokio::test]
async fn a_task_that_an_agent_runs_is_processing() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let agent = python.build_agent("outside", "analyst").start().await;
    let poll = submit_task(&omni, "outside", &json!({"sleep": 60})).await;
    wait_until(TEST_DEADLINE, "the task is seen running", async || {
        omni.data_client().get(&poll).await.json()["status"] == "processing"
    })
    .await;
    drop(agent);
}

#[tokio::test]
async fn a_task_that_an_agent_gives_up_has_failed_for_whoever_waits_or_polls() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let agent = python
        .build_agent("outside", "analyst")
        .set_option("reclaim_idle_ms", 200)
        .set_option("dlq_retry_limit", 1);
    let mut agent = agent.start().await;
    let poll = submit_task(&omni, "outside", &json!({"fail": "out of cheese"})).await;
    let task = wait_for_task_end(&omni, &poll).await;
    omni.wait_until_topic_has_slots("outside").await;
    let waits = omni.data_client().post("/invoke", &json!({"fail": "out of cheese"})).await;
    assert_eq!(
        (waits.status.as_u16(), waits.header("x-omnidaemon-path")),
        (502, Some("async")),
        "{}",
        waits.text()
    );
    let error = task["error"].to_string();
    assert!(task["status"] == "failed" && error.contains("Max retries (2) exceeded"), "{task}");
    assert_eq!(
        omni.metric_value("omnidaemon_tasks_failed_total", &[("topic", "outside")]).await,
        2.0
    );
    assert!(
        agent.is_running() && !agent.logs().contains("KeyError"),
        "its reclaim reads our messages"
    );
}

#[tokio::test]
async fn a_task_that_no_agent_ends_in_time_has_failed_and_its_own_cli_shows_it() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let done = {
        let agent = python.build_agent("hasty", "analyst").start().await;
        let poll = submit_task(&omni, "hasty", &json!({"n": 1})).await;
        assert_eq!(wait_for_task_end(&omni, &poll).await["status"], "completed");
        drop(agent);
        poll
    };
    let poll = submit_task(&omni, "hasty", &json!({"n": 2})).await;
    let task = wait_for_task_end(&omni, &poll).await;
    assert!(
        task["status"] == "failed" && task["error"].to_string().contains("within 3s"),
        "{task}"
    );
    assert_eq!(
        omni.data_client().get(&done).await.json()["status"],
        "completed",
        "its limit is over too"
    );
    let letters = python.run_cli(&["bus", "dlq", "--topic", "hasty"]).await;
    assert!(
        letters.contains("within 3s") && letters.contains(poll.trim_start_matches("/task/")),
        "{letters}"
    );
}

#[tokio::test]
async fn unsubscribing_pauses_its_agents_and_not_our_workers() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let mut agent = python.build_agent("count", "omnidaemon").start().await;
    let key = json!({"key": "_subscription_active:group:count:omnidaemon"});
    assert_eq!(python.call_sdk("get_config", &key).await, json!(true));
    wait_for_task_end(&omni, &submit_task(&omni, "count", &json!({"a": 1})).await).await;
    assert_eq!(
        python.call_sdk("get_config", &key).await,
        json!(true),
        "nothing of ours takes it away"
    );
    python.run_cli(&["agent", "unsubscribe", "--topic", "count", "--name", "omnidaemon"]).await;
    agent
        .wait_for_log("that its loop stops", 0, |line| {
            line.contains("stopping consume loop").then_some(())
        })
        .await;
    let task =
        wait_for_task_end(&omni, &submit_task(&omni, "count", &json!({"a": 1, "b": 2})).await)
            .await;
    assert_eq!(task["result"], json!({"n": 2}));
}

#[tokio::test]
async fn deleting_an_agent_and_its_group_loses_no_task_of_ours() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    wait_for_task_end(&omni, &submit_task(&omni, "count", &json!({"a": 1})).await).await;
    python.run_cli(&["agent", "delete", "--topic", "count", "--name", "omnidaemon", "--yes"]).await;
    let task =
        wait_for_task_end(&omni, &submit_task(&omni, "count", &json!({"a": 1, "b": 2})).await)
            .await;
    assert_eq!(task["result"], json!({"n": 2}));
}
