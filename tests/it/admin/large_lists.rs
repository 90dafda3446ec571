//! Lists cost what they show, whatever is stored.

use serde_json::json;

use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

const CONFIG: &str = "
proxy: {listen: '127.0.0.1:0', max_body: 8MiB}
upstream: {url: 'http://127.0.0.1:9'}
store: {url: '<store>', timeout: 20s}
routes:
  invoke: {path: /invoke, topic: crash, rollout: {percent: 0, mode: manual}}
topics:
  crash: {handler: {command: [sh, -c, 'cat >/dev/null; exit 3']}, retries: 0}
  waits: {handler: external}
workers: {count: 2}
";

/// Large tasks of each topic, and the bytes of each.
const LARGE_TASKS: usize = 60;
const PAYLOAD_BYTES: usize = 4_000_000;

/// What a list may add to the memory of the process: far below what is stored.
const MAX_GROWTH_BYTES: u64 = 64 << 20;

on_both_stores!(lists_of_large_tasks_take_little_memory);

/// The bytes of memory that a process has, now or at most so far.
fn memory_bytes(omni: &mut Omnidaemon, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", omni.process().pid()));
    let status = status.expect("it runs");
    let line = status.lines().find(|line| line.starts_with(field)).expect("it is there");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// Makes the present size the highest so far.
fn reset_peak(omni: &mut Omnidaemon) {
    let path = format!("/proc/{}/clear_refs", omni.process().pid());
    std::fs::write(path, "5").expect("it runs");
}

async fn lists_of_large_tasks_take_little_memory(store: Store) {
    let mut omni =
        Omnidaemon::with_config(CONFIG).set_placeholder("store", store.url()).start().await;
    for topic in ["crash", "waits"] {
        for n in 0..LARGE_TASKS {
            let payload = json!({"n": n, "text": "x".repeat(PAYLOAD_BYTES)});
            let envelope = json!({"topic": topic, "payload": payload});
            let accepted = omni.data_client().post("/invoke/async", &envelope).await;
            assert_eq!(accepted.status, 202, "{}", accepted.text());
        }
    }
    wait_until(TEST_DEADLINE * 3, "all tasks are dead letters", async || {
        let count = omni.run_cli(&["bus", "dlq", "--topic", "crash", "--count"]).await;
        String::from_utf8_lossy(&count.stdout).trim() == LARGE_TASKS.to_string()
    })
    .await;
    reset_peak(&mut omni);
    let before = memory_bytes(&mut omni, "VmRSS:");
    let table = omni.run_cli(&["bus", "dlq", "--topic", "crash"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert_eq!(table.matches("task_").count(), LARGE_TASKS, "{table}");
    let tasks = omni.admin_client().get("/admin/v1/tasks?limit=200").await;
    assert_eq!(tasks.status, 200);
    assert_eq!(omni.admin_client().get("/admin/v1/topics").await.status, 200);
    let letters = omni.admin_client().get("/admin/v1/dead-letters?topic=crash&limit=200").await;
    let letters = letters.json();
    let letters = letters.as_array().expect("a list");
    assert_eq!(letters.len(), LARGE_TASKS);
    assert!(letters.iter().all(|letter| letter["payload"].is_null()));
    let grown = memory_bytes(&mut omni, "VmHWM:").saturating_sub(before);
    assert!(grown < MAX_GROWTH_BYTES, "{} MiB more for lists", grown >> 20);
    let id = letters[0]["id"].as_str().expect("an id");
    let shown = omni.run_cli(&["bus", "dlq", "show", "--task-id", id, "--format", "json"]).await;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown["payload"]["text"].as_str().map(str::len), Some(PAYLOAD_BYTES));
}
