//! `omnidaemon metrics`, as the operators' book uses it.

use serde_json::{Value, json};

use crate::support::cli_output::stdout;
use crate::support::scenario::{Scenario, route, scenario, topic};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

async fn start() -> Scenario {
    scenario()
        .route(route("invoke").topic("echo").percent(100))
        .topic(topic("echo").command(["cat"]).retries(0))
        .topic(topic("broken").command(["false"]).retries(0))
        .workers(2)
        .start()
        .await
}

async fn publish_and_wait(omni: &Omnidaemon, topic: &str) {
    let done =
        omni.run_cli(&["task", "publish", "--topic", topic, "--payload", "1", "--wait=30s"]).await;
    assert!(done.status.code().is_some_and(|code| code < 2), "{done:?}");
}

#[tokio::test]
async fn metrics_are_lines_to_calculate_with_and_tables_to_read() {
    let omni = start().await;
    for topic in ["echo", "echo", "echo", "broken"] {
        publish_and_wait(&omni, topic).await;
    }
    assert_eq!(omni.data_client().post("/invoke", &json!({"task": "x"})).await.status, 200);
    wait_until(TEST_DEADLINE, "all are counted", async || {
        stdout(&omni.run_cli(&["metrics"]).await)
            .starts_with("received=5\nprocessed=4\nfailed=1\nfailure_rate=20 %\n")
    })
    .await;
    let shown = stdout(&omni.run_cli(&["metrics", "--detailed"]).await);
    for part in ["queue_depth=0", "avg_duration=", "FAILURE RATE", "100 %", "async", "BUSY"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    // As the playbook has it: $(($(omnidaemon metrics | grep processed) / 24))
    let processed: Vec<&str> = shown.lines().filter(|line| line.contains("processed")).collect();
    let script = format!("echo $(( {} / 2 ))", processed.join("\n"));
    let calculated = std::process::Command::new("bash")
        .args(["-c", &script])
        .output()
        .expect("there is a shell");
    assert_eq!(stdout(&calculated), "2\n", "{script}");

    let one = stdout(&omni.run_cli(&["metrics", "--topic", "broken"]).await);
    assert!(
        one.starts_with("received=1\nprocessed=0\nfailed=1\n") && !one.contains("echo"),
        "{one}"
    );
    let unknown = omni.run_cli(&["metrics", "--topic", "unheard.of"]).await;
    assert_eq!(unknown.status.code(), Some(3));

    let document: Value =
        serde_json::from_slice(&omni.run_cli(&["metrics", "--format", "json"]).await.stdout)
            .expect("JSON");
    assert_eq!(
        (&document["processed"], &document["failure_rate"]),
        (&json!(4), &json!(0.2)),
        "{document}"
    );
    let path = &document["routes"][0]["paths"][1];
    assert_eq!(
        (&path["path"], &path["requests"], &path["error_rate"]),
        (&json!("async"), &json!(1), &json!(0.0))
    );
}

#[tokio::test]
async fn metrics_of_nobody_say_where_to_look() {
    let mut omni = start().await;
    omni.kill();
    omni.wait_for_exit().await;
    let without_server = omni.run_cli(&["metrics"]).await;
    assert_eq!(without_server.status.code(), Some(5));
    assert!(
        String::from_utf8_lossy(&without_server.stderr).contains("--admin"),
        "{without_server:?}"
    );
}
