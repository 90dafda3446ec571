//! Side by side with the Python `OmniDaemon`, the package itself: one Redis, the same topics, in
//! both directions.

mod agents;
mod fleet;
mod publishers;

use serde_json::{Value, json};

use crate::support::redis::server::RedisServer;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some};

const CONFIG: &str = "
upstream: {url: http://127.0.0.1:9}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: outside, wait: 25s, rollout: {percent: 100, mode: manual}}
  count: {path: /count, topic: count, wait: 25s, rollout: {percent: 100, mode: manual}}
  objects: {path: /objects, topic: objects, wait: 25s, rollout: {percent: 100, mode: manual}}
topics:
  outside: {handler: external, external_slots: 4, agent: analyst, timeout: 1m}
  hasty: {handler: external, agent: analyst, timeout: 3s}
  objects: {handler: external, agent: analyst, content: object}
  count: {handler: {command: [python3, -c, 'import json,sys; task=json.load(sys.stdin); \
  print(json.dumps({\"n\": len(task[\"payload\"])}))']}}
  crash: {handler: {command: [sh, -c, 'echo out of cheese >&2; exit 3']}, retries: 1, \
  retry_delay: 20ms}
workers: {count: 2}
";

async fn start_server(server: &RedisServer) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG).set_placeholder("store", server.url()).start().await
}

/// Submits an envelope and returns where to poll.
async fn submit_task(omni: &Omnidaemon, topic: &str, payload: &Value) -> String {
    let accepted = omni
        .data_client()
        .post("/invoke/async", &json!({"topic": topic, "payload": payload}))
        .await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned()
}

/// Polls until a task has ended, and returns how.
async fn wait_for_end(omni: &Omnidaemon, poll: &str) -> Value {
    wait_for_some(TEST_DEADLINE, "the task ends", async || {
        let task = omni.data_client().get(poll).await.json();
        (task["status"] != "queued" && task["status"] != "processing").then_some(task)
    })
    .await
}
