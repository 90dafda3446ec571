//! Its publishers, its SDK and its command line find in us what they found in its agents.

use serde_json::{Value, json};

use super::start_server;
use crate::support::process::python::PythonOmnidaemon;
use crate::support::redis::server::RedisServer;
use crate::support::tasks::{submit_task, wait_for_task_end};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some, wait_until};

/// Polls its SDK for a task's result.
async fn result(python: &PythonOmnidaemon, task: &str) -> Value {
    wait_for_some(TEST_DEADLINE, "the SDK finds the result", async || {
        let result = python.fetch_result(task).await;
        (!result.is_null()).then_some(result)
    })
    .await
}

#[tokio::test]
async fn a_publisher_gets_the_result_of_our_workers() {
    let server = RedisServer::start().await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    for content in
        [json!({"a": 1, "b": 2, "c": 3}), json!("{\"a\": 1, \"b\": 2, \"c\": 3}"), json!([1, 2, 3])]
    {
        let task = python.publish_task("count", &content).await;
        let result = result(&python, &task).await;
        assert_eq!(
            (&result["status"], &result["result"]),
            (&json!("completed"), &json!({"n": 3})),
            "{content}"
        );
        assert_eq!((&result["content"], &result["task_id"]), (&content, &json!(task)));
        assert_eq!(
            (&result["correlation_id"], &result["source"]),
            (&json!("mine"), &json!("test"))
        );
        assert_eq!((&result["agent"], &result["topic"]), (&json!("omnidaemon"), &json!("count")));
        let polled = wait_for_task_end(&omni, &format!("/task/{task}")).await;
        assert_eq!((&polled["status"], &polled["result"]), (&json!("completed"), &json!({"n": 3})));
    }
}

#[tokio::test]
async fn what_a_publisher_trims_has_failed_and_says_so() {
    // whole nodes of the stream are trimmed, which have a hundred entries otherwise
    let server = RedisServer::start_with(&["--stream-node-max-entries", "1"]).await;
    let (python, omni) = (PythonOmnidaemon::with_redis(&server), start_server(&server).await);
    let mut polls = Vec::new();
    for n in 0..5 {
        polls.push(submit_task(&omni, "outside", &json!({"n": n})).await);
    }
    python
        .call_sdk(
            "publish_tasks",
            &json!({"topic": "outside", "contents": [{"n": 5}], "maxlen": 2}),
        )
        .await;
    // a process that has just started looks at once
    let other = start_server(&server).await;
    for poll in &polls[..4] {
        let task = wait_for_task_end(&omni, poll).await;
        assert_eq!(
            (&task["status"], &task["error"]),
            (&json!("failed"), &json!("trimmed by a foreign publisher"))
        );
    }
    assert_eq!(
        omni.data_client().get(&polls[4]).await.json()["status"],
        "queued",
        "that one was kept"
    );
    wait_until(TEST_DEADLINE, "they are counted", async || {
        let counted = [("topic", "outside")];
        let of = async |omni: &Omnidaemon| {
            omni.metric_value("omnidaemon_tasks_trimmed_total", &counted).await
        };
        of(&omni).await + of(&other).await == 4.0
    })
    .await;
}

#[tokio::test]
async fn its_command_line_shows_our_results_agents_dead_letters_and_metrics() {
    let server = RedisServer::start().await;
    let python = PythonOmnidaemon::with_redis(&server);
    // an agent of its own begins the stream that `metrics` reads
    let agent = python.build_agent("outside", "analyst").start().await;
    result(&python, &python.publish_task("outside", &json!({"n": 0})).await).await;
    let omni = start_server(&server).await;
    let poll = submit_task(&omni, "count", &json!({"a": 1})).await;
    let task = poll.trim_start_matches("/task/").to_owned();
    assert_eq!(wait_for_task_end(&omni, &poll).await["status"], "completed");
    let dead = submit_task(&omni, "crash", &json!({"a": 1})).await;
    assert_eq!(wait_for_task_end(&omni, &dead).await["status"], "failed");

    let shown = python.run_cli(&["task", "result", "--task-id", &task]).await;
    assert!(
        shown.contains("\"n\"") && shown.contains(&task) && shown.contains("omnidaemon"),
        "{shown}"
    );
    let listed = python.run_cli(&["task", "list"]).await;
    assert!(
        listed.contains(&task[..16]) && listed.contains("Failed") && listed.contains("analyst"),
        "{listed}"
    );
    let agents = python.call_sdk("list_agents", &json!({})).await;
    for (topic, name) in [("count", "omnidaemon"), ("crash", "omnidaemon"), ("outside", "analyst")]
    {
        assert_eq!(agents[topic][0]["name"], name, "{agents}");
    }
    assert!(python.run_cli(&["agent", "list"]).await.contains("omnidaemon"));
    let letters = python.run_cli(&["bus", "dlq", "--topic", "crash"]).await;
    assert!(
        letters.contains("out of cheese") && letters.contains(dead.trim_start_matches("/task/")),
        "{letters}"
    );
    let metrics = wait_for_some(TEST_DEADLINE, "its metrics count ours", async || {
        let metrics = python.call_sdk("metrics", &json!({})).await;
        (metrics["crash"]["omnidaemon"]["tasks_failed"] == 2).then_some(metrics)
    })
    .await;
    let counts = &metrics["count"]["omnidaemon"];
    assert_eq!(
        (&counts["tasks_received"], &counts["tasks_processed"]),
        (&json!(1), &json!(1)),
        "{metrics}"
    );
    assert!(counts["total_processing_time"].as_f64() > Some(0.0), "{metrics}");
    for look in
        [&["health"][..], &["metrics"], &["bus", "list"], &["bus", "stats"], &["storage", "health"]]
    {
        let shown = python.run_cli(look).await;
        assert!(!shown.contains("Failed to"), "{look:?}: {shown}");
    }
    assert!(
        python
            .run_cli(&["bus", "groups", "--stream", "count"])
            .await
            .contains("group:count:omnidaemon")
    );
    drop(agent);
}

#[tokio::test]
async fn a_second_group_on_the_topic_gets_every_task_and_so_do_we() {
    let server = RedisServer::start().await;
    let (python, runs) =
        (PythonOmnidaemon::with_redis(&server), tempfile::NamedTempFile::new().expect("a file"));
    let path = runs.path().to_str().expect("UTF-8");
    let agent = python.build_agent("count", "audit").set_option("runs", path).start().await;
    let omni = start_server(&server).await;
    let contents: Vec<Value> = (0..10).map(|n| json!({"n": n})).collect();
    let mut tasks = python.publish_tasks("count", &contents).await;
    for content in &contents {
        tasks.push(
            submit_task(&omni, "count", content).await.trim_start_matches("/task/").to_owned(),
        );
    }
    let processed = [("topic", "count")];
    wait_until(TEST_DEADLINE, "our workers have free slots", async || {
        omni.metric_value("omnidaemon_tasks_processed_total", &processed).await >= 20.0
    })
    .await;
    let answer = omni.data_client().post("/count", &json!({"a": 1, "b": 2})).await;
    assert_eq!(answer.json(), json!({"n": 2}), "our own group's, though the other is quicker");
    wait_until(TEST_DEADLINE, "our workers run each", async || {
        omni.metric_value("omnidaemon_tasks_processed_total", &processed).await >= 21.0
    })
    .await;
    wait_for_some(TEST_DEADLINE, "its agent runs each", async || {
        let ran = std::fs::read_to_string(path).expect("readable");
        tasks.iter().all(|task| ran.lines().any(|line| line == task)).then_some(())
    })
    .await;
    assert_eq!(
        omni.metric_value("omnidaemon_tasks_processed_total", &processed).await,
        21.0,
        "each once"
    );
    for task in &tasks {
        assert_eq!(
            omni.data_client().get(&format!("/task/{task}")).await.json()["status"],
            "completed"
        );
    }
    drop(agent);
}
