//! Tasks as clients submit and poll them.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Omnidaemon, TEST_DEADLINE, wait_for_some};

/// Submits an envelope to the data plane and returns the path at which its task is polled.
pub async fn submit_task(omni: &Omnidaemon, topic: &str, payload: impl Serialize) -> String {
    let envelope = json!({"topic": topic, "payload": payload});
    let accepted = omni.data_client().post("/invoke/async", &envelope).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned()
}

/// Publishes an envelope by the admin API and returns its task's id.
pub async fn publish_task(omni: &Omnidaemon, envelope: &Value) -> String {
    let accepted = omni.admin_client().post("/admin/v1/tasks", envelope).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    accepted.json()["task_id"].as_str().expect("an id").to_owned()
}

/// Polls until a task has ended, and returns its last status document.
pub async fn wait_for_task_end(omni: &Omnidaemon, poll_url: &str) -> Value {
    wait_for_some(TEST_DEADLINE * 2, "the task ends", async || {
        let task = omni.data_client().get(poll_url).await.json();
        (task["status"] != "queued" && task["status"] != "processing").then_some(task)
    })
    .await
}

/// Asks the admin API until a task has this status, and returns its document.
pub async fn wait_for_task_status(omni: &Omnidaemon, id: &str, status: &str) -> Value {
    let path = format!("/admin/v1/tasks/{id}");
    wait_for_some(TEST_DEADLINE, &format!("{id} is {status}"), async || {
        let task = omni.admin_client().get(&path).await.json();
        (task["status"] == status).then_some(task)
    })
    .await
}
