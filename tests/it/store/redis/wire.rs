//! The exact shapes on the wire, read back raw.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method};
use omnidaemon::config::ContentForm;
use omnidaemon::store::{SettleResult, Settlement, TopicQueue};
use omnidaemon::task::{CapturedRequest, FailureKind, Task, TaskAnswer, TaskFailure};
use redis::AsyncCommands as _;
use serde_json::{Value, json};

use super::{
    QA_DEAD_LETTERS, QA_GROUP, QA_STREAM, RESULT_TTL, RunningStore, TEST_PROCESS, complete_lease,
    enqueue_task, lease_one, new_task, pending_entries, qa_queue, stream_payloads,
};
use crate::support::redis::server::RedisServer;

#[tokio::test]
async fn an_entry_has_the_fields_that_python_reads() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = Task { correlation_id: Some("mine".into()), ..new_task() };
    store.enqueue(&task, &qa_queue()).await.expect("enqueued");
    let data = stream_payloads(&mut redis, QA_STREAM).await.remove(0);
    let created = data["created_at"].as_f64().expect("float seconds");
    assert_eq!(format!("{:.0}", created * 1000.0), task.created.0.to_string());
    assert!(data["created_at"].is_f64());
    assert_eq!(
        data,
        json!({
            "content": "{\"n\":  1.0}", "webhook": null, "reply_to": null, "topic": "genesis.qa",
            "task_id": task.id.as_str(), "correlation_id": "mine", "causation_id": null,
            "source": null,
            "delivery_attempts": 1, "created_at": created,
        })
    );
}

#[tokio::test]
async fn content_is_the_payload_itself_where_the_topic_says_object() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let objects = TopicQueue { content_form: ContentForm::Object, ..qa_queue() };
    for payload in ["{\"n\":1}", "[1]", "\"text\"", "null"] {
        let task = Task { payload: Bytes::from_static(payload.as_bytes()), ..new_task() };
        store.enqueue(&task, &objects).await.expect("enqueued");
        let lease = lease_one(&store).await;
        assert_eq!(lease.task, task, "{payload}");
        complete_lease(&store, &lease).await;
    }
    let task = Task { payload: Bytes::from_static(b"{\"n\":1}"), ..new_task() };
    store.enqueue(&task, &objects).await.expect("enqueued");
    assert_eq!(stream_payloads(&mut redis, QA_STREAM).await[0]["content"], json!({"n": 1}));
}

#[tokio::test]
async fn a_captured_request_is_an_extra_key_without_its_credentials() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer canary"));
    headers.insert("x-kept", HeaderValue::from_static("yes"));
    let (method, target) = (Method::POST, "/invoke?a=1".to_owned());
    let request = CapturedRequest { method, target, headers, body: Bytes::from_static(b"\xff") };
    let task = Task { request: Some(request), ..new_task() };
    store.enqueue(&task, &qa_queue()).await.expect("enqueued");
    let data = stream_payloads(&mut redis, QA_STREAM).await.remove(0);
    assert_eq!(data["request"]["target"], "/invoke?a=1");
    assert_eq!(data["request"]["headers"], json!([["x-kept", "yes"]]));
    assert_eq!(lease_one(&store).await.task, task, "its worker gets them all");
}

#[tokio::test]
async fn a_completed_task_leaves_its_result_and_nothing_in_the_queue() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let lease = lease_one(&store).await;
    let (entry, consumer) = pending_entries(&mut redis).await.remove(0);
    assert_eq!(consumer, format!("consumer:omnidaemon-rs.{TEST_PROCESS}-1"));
    let _: i64 = redis.hset(format!("retry_counts:{QA_GROUP}"), &entry, 2).await.expect("answers");
    let answer = TaskAnswer::from_json("{\"answer\": 42}");
    let settled = store.settle(&lease, &Settlement::Complete { answer, ttl: RESULT_TTL }).await;
    assert_eq!(settled, Ok(SettleResult::Applied));

    let key = format!("omni:result:{}", task.id);
    let stored: Value =
        serde_json::from_str(&redis.get::<_, String>(&key).await.expect("there")).expect("JSON");
    assert_eq!((&stored["task_id"], stored["saved_at"].is_f64()), (&json!(task.id.as_str()), true));
    let r = &stored["result"];
    assert_eq!((&r["status"], &r["result"]), (&json!("completed"), &json!({"answer": 42})));
    assert_eq!((&r["runner_id"], r["timestamp"].is_f64()), (&json!(TEST_PROCESS), true));
    assert_eq!((&r["task_id"], &r["content"]), (&json!(task.id.as_str()), &json!("{\"n\":  1.0}")));
    for message in [
        "webhook",
        "reply_to",
        "topic",
        "correlation_id",
        "causation_id",
        "source",
        "delivery_attempts",
    ] {
        assert!(r.get(message).is_some(), "{message} of the message is in R");
    }
    let left: i64 = redis.pttl(&key).await.expect("answers");
    assert!((1..=3_600_000).contains(&left), "{left}");
    let indexed: Option<f64> =
        redis.zscore("omni:results:index", task.id.as_str()).await.expect("answers");
    assert_eq!(indexed, stored["saved_at"].as_f64());
    assert_eq!(redis.xlen::<_, i64>(QA_STREAM).await, Ok(0));
    assert_eq!(redis.exists::<_, bool>(format!("retry_counts:{QA_GROUP}")).await, Ok(false));
    assert_eq!(pending_entries(&mut redis).await, vec![]);
}

#[tokio::test]
async fn a_buried_task_is_a_dead_letter_of_its_group_and_a_failed_result() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let message = stream_payloads(&mut redis, QA_STREAM).await.remove(0);
    let lease = lease_one(&store).await;
    let (entry, _) = pending_entries(&mut redis).await.remove(0);
    let failure = TaskFailure::new(FailureKind::FailedStatus, "status 500");
    store.settle(&lease, &Settlement::Bury { failure, ttl: RESULT_TTL }).await.expect("settled");
    let letter = stream_payloads(&mut redis, QA_DEAD_LETTERS).await.remove(0);
    assert_eq!(
        (&letter["topic"], &letter["original_stream"]),
        (&json!("genesis.qa"), &json!(QA_STREAM))
    );
    assert_eq!((&letter["original_id"], &letter["failed_message"]), (&json!(entry), &message));
    assert_eq!((&letter["error"], &letter["retry_count"]), (&json!("status 500"), &json!(1)));
    assert!(letter["failed_at"].is_f64());
    let result: String = redis.get(format!("omni:result:{}", task.id)).await.expect("there");
    let result: Value = serde_json::from_str(&result).expect("JSON");
    assert_eq!(
        (&result["result"]["status"], &result["result"]["error"]),
        (&json!("failed"), &json!("status 500"))
    );
}

#[tokio::test]
async fn an_entry_stays_for_the_other_groups_of_its_stream() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let _: String = redis
        .xgroup_create_mkstream(QA_STREAM, "group:genesis.qa:audit", "0")
        .await
        .expect("created");
    enqueue_task(&store).await;
    let lease = lease_one(&store).await;
    complete_lease(&store, &lease).await;
    assert_eq!(
        (redis.xlen::<_, i64>(QA_STREAM).await, pending_entries(&mut redis).await),
        (Ok(1), vec![])
    );
    let depths = store.load_queue_depths(&[qa_queue()]).await.expect("answers");
    assert_eq!((depths[0].queued, depths[0].processing), (0, 0), "what is done is not waiting");
}

#[tokio::test]
async fn the_group_reads_what_was_queued_before_any_consumer_came() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let groups: Vec<std::collections::HashMap<String, redis::Value>> = redis::cmd("XINFO")
        .arg("GROUPS")
        .arg(QA_STREAM)
        .query_async(&mut redis)
        .await
        .expect("answers");
    assert_eq!(groups[0]["name"], redis::Value::BulkString(QA_GROUP.into()));
    assert_eq!(groups[0]["last-delivered-id"], redis::Value::BulkString(b"0-0".to_vec()));
}

/// The numbers are printed; the bounds catch a step back.
#[tokio::test]
async fn a_task_costs_two_round_trips_and_a_share_of_a_read_at_most() {
    const TASKS: usize = 1000;
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    // so that connections and scripts are there
    complete_lease(&store, &lease_one(&store).await).await;
    let payload = Bytes::from(format!("{{\"text\":\"{}\"}}", "x".repeat(289)));
    let mut record = String::new();
    let (start, cpu) = (calls(&mut redis).await, own_cpu());
    for _ in 0..TASKS {
        let task = Task { payload: payload.clone(), ..new_task() };
        store.enqueue(&task, &qa_queue()).await.expect("enqueued");
        record = format!("omni:task:{}", task.id);
    }
    let (queued, cpu_in) = (calls(&mut redis).await, own_cpu() - cpu);
    let bytes = (memory(&mut redis, QA_STREAM).await / TASKS, memory(&mut redis, &record).await);
    let (mut done, settlement) =
        (0, Settlement::Complete { answer: TaskAnswer::from_json("1"), ttl: RESULT_TTL });
    while done < TASKS {
        let leases =
            store.lease(TEST_PROCESS, &[qa_queue()], 50, Duration::ZERO).await.expect("answers");
        let settled = join_all(leases.iter().map(|lease| store.settle(lease, &settlement))).await;
        assert!(settled.iter().all(|settled| *settled == Ok(SettleResult::Applied)));
        done += leases.len();
    }
    let (ended, cpu_all) = (calls(&mut redis).await, own_cpu() - cpu);
    let ((sent_in, inside_in), (sent_out, inside_out)) = (queued - start, ended - queued);
    println!(
        "{TASKS} tasks: {sent_in} calls and {inside_in} commands to enqueue; {sent_out} and \
            {inside_out} to end"
    );
    println!(
        "our CPU for all, in this build: {cpu_in} µs to enqueue, {} µs to end them",
        cpu_all - cpu_in
    );
    println!("bytes per task that waits: {bytes:?} of entry and record");
    assert!(sent_in == TASKS && sent_out <= TASKS / 8, "{sent_in} {sent_out}");
    assert!(inside_in <= 5 * TASKS + 20 && inside_out <= 3 * TASKS / 2, "{inside_in} {inside_out}");
    assert!(bytes.0 <= 660 && bytes.1 <= 176, "{bytes:?}");
}

async fn memory(redis: &mut redis::aio::MultiplexedConnection, key: &str) -> usize {
    let mut usage = redis::cmd("MEMORY");
    usage.arg("USAGE").arg(key).arg("SAMPLES").arg(0).query_async(redis).await.expect("answers")
}

/// Microseconds that this process has run.
fn own_cpu() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ran = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    };
    threads.filter_map(ran).sum::<u64>() / 1000
}

/// What the server ran so far: calls of scripts, and commands inside of them.
#[derive(Clone, Copy)]
pub(super) struct Calls(usize, usize);

impl std::ops::Sub for Calls {
    type Output = (usize, usize);

    fn sub(self, before: Self) -> (usize, usize) {
        (self.0 - before.0, self.1 - before.1)
    }
}

pub(super) async fn calls(redis: &mut redis::aio::MultiplexedConnection) -> Calls {
    let info: String =
        redis::cmd("INFO").arg("commandstats").query_async(redis).await.expect("answers");
    let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<usize>().ok();
    let own = ["info", "memory", "xread:", "eval"];
    let of = |line: &&str| !own.iter().any(|name| line.starts_with(&format!("cmdstat_{name}")));
    let scripts =
        info.lines().filter(|line| line.starts_with("cmdstat_eval")).filter_map(calls).sum();
    Calls(scripts, info.lines().filter(of).filter_map(calls).sum())
}
