//! Entries that others wrote, read and left: Python publishers and consumers, and what is no task
//! at all.

use std::time::Duration;

use omnidaemon::config::GroupStartPosition;
use omnidaemon::store::{ReprocessResult, SettleResult, Settlement, TopicQueue};
use omnidaemon::task::{FailureKind, Task, TaskAnswer, TaskFailure, TaskId, TaskStatus, UnixMs};
use redis::AsyncCommands as _;
use serde_json::json;

use super::{
    QA_DEAD_LETTERS, QA_GROUP, QA_STREAM, RunningStore, TEST_PROCESS, add_stream_entry,
    age_pending, complete_lease, enqueue_task, lease_available, lease_one, pending_entries,
    qa_queue, reap_queue, stream_payloads,
};
use crate::support::redis::server::RedisServer;

fn python_message(content: &serde_json::Value, task_id: Option<&str>) -> Vec<u8> {
    let message = json!({
        "content": content, "webhook": "http://sink/hook", "reply_to": null,
        "topic": "genesis.qa", "task_id": task_id,
        "correlation_id": "c1", "causation_id": null, "source": "bridge", "delivery_attempts": 1,
        "created_at": 1_753_000_000.25,
    });
    serde_json::to_vec(&message).expect("JSON")
}

#[tokio::test]
async fn foreign_entries_of_both_content_forms_run_under_their_own_id() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for (content, id) in
        [(json!("{\"a\": 1}"), "py-1"), (json!({"a": 1}), "py-2"), (json!("plain"), "py-3")]
    {
        add_stream_entry(&mut redis, "data", &python_message(&content, Some(id))).await;
        let lease = lease_one(&store).await;
        assert_eq!((lease.task.id.as_str(), lease.attempt), (id, 1));
        let payload: serde_json::Value = serde_json::from_slice(&lease.task.payload).expect("JSON");
        assert_eq!(payload, if id == "py-3" { json!("plain") } else { json!({"a": 1}) });
        assert_eq!(lease.task.correlation_id.as_deref(), Some("c1"));
        assert_eq!(lease.task.created, UnixMs(1_753_000_000_250));
        complete_lease(&store, &lease).await;
        let result: String = redis.get(format!("omni:result:{id}")).await.expect("there");
        let result: serde_json::Value = serde_json::from_str(&result).expect("JSON");
        let r = &result["result"];
        assert_eq!(
            (&r["webhook"], &r["source"]),
            (&json!("http://sink/hook"), &json!("bridge")),
            "as they came"
        );
        assert_eq!(r["content"], content);
        let record = store.get_task(&lease.task.id).await.expect("answers").expect("known");
        assert_eq!(
            (record.status, record.created),
            (TaskStatus::Completed, UnixMs(1_753_000_000_250))
        );
    }
}

#[tokio::test]
async fn a_foreign_entry_without_a_usable_id_gets_one_of_its_own() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for id in [None, Some("no id: spaces"), Some("")] {
        let entry =
            add_stream_entry(&mut redis, "data", &python_message(&json!({"a": 1}), id)).await;
        let lease = lease_one(&store).await;
        assert!(
            lease.task.id.as_str().starts_with(&format!("entry_{entry}_")),
            "{}",
            lease.task.id
        );
        complete_lease(&store, &lease).await;
    }
}

#[tokio::test]
async fn an_id_published_twice_runs_twice_and_never_shares_a_record() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for n in [1, 2] {
        add_stream_entry(&mut redis, "data", &python_message(&json!({"n": n}), Some("py-1"))).await;
    }
    let (first, second) = (lease_one(&store).await, lease_one(&store).await);
    assert_eq!(first.task.id.as_str(), "py-1");
    assert!(
        second.task.id.as_str().starts_with("entry_"),
        "the id is taken while the first is unfinished"
    );
    complete_lease(&store, &first).await;
    complete_lease(&store, &second).await;
    add_stream_entry(&mut redis, "data", &python_message(&json!({"n": 3}), Some("py-1"))).await;
    let third = lease_one(&store).await;
    assert_eq!(
        (third.task.id.as_str(), third.attempt),
        ("py-1", 1),
        "an ended task gives its id up"
    );
    complete_lease(&store, &third).await;
}

#[tokio::test]
async fn what_is_no_task_becomes_a_dead_letter_and_its_neighbours_run() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let before = enqueue_task(&store).await;
    let deep = format!("{{\"content\":{}1{}}}", "[".repeat(3000), "]".repeat(3000));
    let bodies: [(&str, &[u8], &str); 7] = [
        ("body", b"{}", "no data"),
        ("data", b"{\"content\":", "not JSON"),
        ("data", b"[1]", "not a JSON object"),
        ("data", b"{\"task_id\":\"known\"}", "no content"),
        ("data", b"{\"content\":null}", "no content"),
        ("data", b"\xff\xfe{", "not UTF-8"),
        ("data", deep.as_bytes(), "cannot be read"),
    ];
    for (field, value, _) in bodies {
        add_stream_entry(&mut redis, field, value).await;
    }
    let after = enqueue_task(&store).await;
    let mut ran = Vec::new();
    while ran.len() < 2 {
        for lease in store
            .lease(TEST_PROCESS, &[qa_queue()], 3, super::WAIT_DEADLINE)
            .await
            .expect("answers")
        {
            complete_lease(&store, &lease).await;
            ran.push(lease.task.id);
        }
    }
    assert_eq!(ran, [before.id, after.id]);
    let mut letters = store.list_dead_letters(&qa_queue(), None, 100).await.expect("answers");
    letters.reverse();
    let errors: Vec<_> = letters.iter().map(|letter| letter.error.as_str()).collect();
    assert_eq!(letters.len(), bodies.len(), "{errors:?}");
    for ((_, value, reason), letter) in bodies.iter().zip(&letters) {
        assert!(letter.error.contains(reason), "{reason}: {}", letter.error);
        assert!(
            letter
                .payload
                .clone()
                .unwrap_or_default()
                .contains(String::from_utf8_lossy(value).trim_matches('"')),
            "{reason}: {}",
            letter.payload.clone().unwrap_or_default()
        );
    }
    assert_eq!(
        (pending_entries(&mut redis).await, redis.xlen::<_, i64>(QA_STREAM).await),
        (vec![], Ok(0))
    );
    let known = TaskId::parse("known").expect("an id");
    let record =
        store.get_task(&known).await.expect("answers").expect("its publisher may ask for it");
    assert_eq!(record.failure.map(|failure| failure.kind), Some(FailureKind::Malformed));
}

#[tokio::test]
async fn a_python_dead_letter_is_listed() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let letter = json!({
        "topic": "genesis.qa", "original_stream": QA_STREAM, "original_id": "5-0", "error": "Max \
            retries exceeded",
        "failed_message": {"content": "{\"a\":1}", "task_id": "py-9"}, "retry_count": 4,
        "failed_at": 1_753_000_000.5,
    });
    let _: String =
        redis.xadd(QA_DEAD_LETTERS, "*", &[("data", letter.to_string())]).await.expect("added");
    let letters = store.list_dead_letters(&qa_queue(), None, 10).await.expect("answers");
    assert_eq!(
        (letters[0].id.as_str(), letters[0].payload.as_deref().unwrap_or_default()),
        ("py-9", "{\"a\":1}")
    );
    assert_eq!((letters[0].attempts, letters[0].failed_at), (4, UnixMs(1_753_000_000_500)));
    assert_eq!(letters[0].error, "Max retries exceeded");
}

#[tokio::test]
async fn a_python_consumers_entry_is_its_own_for_three_minutes() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    assert_eq!(
        store.get_task(&task.id).await.expect("answers").expect("known").status,
        TaskStatus::Processing
    );
    age_pending(&mut redis, Duration::from_mins(2)).await;
    reap_queue(&store).await;
    assert_eq!(lease_available(&store).await, vec![]);
    assert_eq!(pending_entries(&mut redis).await[0].1, "consumer:omnidaemon-1");
    age_pending(&mut redis, Duration::from_secs(200)).await;
    reap_queue(&store).await;
    assert_eq!(lease_one(&store).await.attempt, 2);
}

#[tokio::test]
async fn a_result_that_python_saved_before_it_died_is_not_run_again() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    let r = json!({"task_id": task.id.as_str(), "result": {"status": "completed",
    "result": {"by": "python"},
        "topic": "genesis.qa", "agent": "omnidaemon"}, "saved_at": 1_753_000_000.0});
    let _: () =
        redis.set_ex(format!("omni:result:{}", task.id), r.to_string(), 100).await.expect("saved");
    let record = store.get_task(&task.id).await.expect("answers").expect("known");
    assert_eq!(
        (record.status, record.answer),
        (TaskStatus::Completed, Some(TaskAnswer::from_json("{\"by\":\"python\"}")))
    );
    let left = async |redis: &mut redis::aio::MultiplexedConnection| {
        redis.pttl::<_, i64>(format!("omni:task:{}", task.id)).await.expect("answers")
    };
    assert_eq!(left(&mut redis).await, -1, "not acknowledged: it may yet be ours to run");
    age_pending(&mut redis, Duration::from_secs(200)).await;
    reap_queue(&store).await;
    assert_eq!(
        (lease_available(&store).await, pending_entries(&mut redis).await),
        (vec![], vec![])
    );
    let record = store.get_task(&task.id).await.expect("answers").expect("known");
    assert_eq!(
        (record.status, record.finished),
        (TaskStatus::Completed, Some(UnixMs(1_753_000_000_000)))
    );
    assert!(
        (1..=100_000).contains(&left(&mut redis).await),
        "acknowledged: its record goes with its result"
    );
}

#[tokio::test]
async fn a_parked_entry_never_looks_abandoned_and_outlives_its_index() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let first = lease_one(&store).await;
    let at = crate::support::wall_clock::wall_clock_now().plus(Duration::from_hours(1));
    let failure = TaskFailure::new(FailureKind::HandlerError, "x");
    store.settle(&first, &Settlement::Retry { failure, retry_at: at }).await.expect("settled");
    let index = format!("omni:delayed:{QA_GROUP}");
    let indexed = async |redis: &mut redis::aio::MultiplexedConnection| -> Vec<(String, u64)> {
        redis.zrange_withscores(&index, 0, -1).await.expect("answers")
    };
    let members = indexed(&mut redis).await;
    let _: i64 = redis.del(&index).await.expect("deleted");
    age_pending(&mut redis, Duration::from_secs(200)).await;
    reap_queue(&store).await;
    assert_eq!((members.len(), indexed(&mut redis).await), (1, members.clone()), "rebuilt");
    let (entry, consumer) = pending_entries(&mut redis).await.remove(0);
    assert_eq!((entry.as_str(), consumer.as_str()), (members[0].0.as_str(), "~delayed"));
    let mut idle = redis::cmd("XPENDING");
    idle.arg(QA_STREAM).arg(QA_GROUP).arg("IDLE").arg(30_000).arg("-").arg("+").arg(10);
    let idle: redis::streams::StreamPendingCountReply =
        idle.query_async(&mut redis).await.expect("answers");
    assert!(idle.ids.is_empty(), "a reclaim of Python would not take it");
    let _: i64 = redis.zadd(&index, &entry, 0).await.expect("answers");
    assert_eq!((lease_one(&store).await.attempt, task.retries), (2, 3));
    assert_eq!(stream_payloads(&mut redis, QA_DEAD_LETTERS).await.len(), 0);
}

#[tokio::test]
async fn the_result_of_another_groups_agent_is_no_end_of_ours() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    let r = json!({"task_id": task.id.as_str(), "result": {"status": "completed",
    "result": {"by": "python"},
        "topic": "genesis.qa", "agent": "audit"}, "saved_at": 1_753_000_000.0});
    let _: () =
        redis.set_ex(format!("omni:result:{}", task.id), r.to_string(), 100).await.expect("saved");
    assert_eq!(
        store.get_task(&task.id).await.expect("answers").expect("known").status,
        TaskStatus::Processing
    );
    age_pending(&mut redis, Duration::from_secs(200)).await;
    reap_queue(&store).await;
    assert_eq!(lease_one(&store).await.task.id, task.id, "its own agent died before it ran");
}

#[tokio::test]
async fn what_a_consumer_of_another_make_took_over_is_lost_to_us() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let lease = lease_one(&store).await;
    assert_eq!(store.renew(TEST_PROCESS, std::slice::from_ref(&lease)).await, Ok(vec![]));
    let (entry, _) = pending_entries(&mut redis).await.remove(0);
    let mut claim = redis::cmd("XCLAIM");
    claim.arg(QA_STREAM).arg(QA_GROUP).arg("consumer:omnidaemon-1").arg(0).arg(&entry);
    let _: redis::Value = claim.query_async(&mut redis).await.expect("claimed");
    let failure = TaskFailure::new(FailureKind::HandlerError, "x");
    let retry =
        Settlement::Retry { failure, retry_at: crate::support::wall_clock::wall_clock_now() };
    assert_eq!(store.settle(&lease, &retry).await, Ok(SettleResult::Fenced));
    assert_eq!(store.renew(TEST_PROCESS, &[lease]).await, Ok(vec![task.id]));
    assert_eq!(pending_entries(&mut redis).await[0].1, "consumer:omnidaemon-1");
}

#[tokio::test]
async fn reclaim_idle_says_how_long_an_entry_is_a_python_consumers_own() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    let hasty = TopicQueue { reclaim_idle: Duration::from_secs(20), ..qa_queue() };
    for (idle, leasable) in [(19, 0), (21, 1)] {
        age_pending(&mut redis, Duration::from_secs(idle)).await;
        store
            .reap_expired(TEST_PROCESS, std::slice::from_ref(&hasty), super::RESULT_TTL)
            .await
            .expect("tended");
        assert_eq!(lease_available(&store).await.len(), leasable, "after {idle} s");
    }
    age_pending(&mut redis, Duration::from_secs(25)).await;
    store.reap_expired(TEST_PROCESS, &[hasty], super::RESULT_TTL).await.expect("tended");
    assert_eq!(lease_available(&store).await, vec![], "our own leases live as long as ever");
}

/// Python's `_send_to_dlq`.
async fn give_up(redis: &mut redis::aio::MultiplexedConnection, entry: &str, task: &str) {
    let letter = json!({
        "topic": "genesis.qa", "original_stream": QA_STREAM, "original_id": entry, "error": "Max \
            retries (4) exceeded",
        "failed_message": {"content": "{}", "task_id": task}, "retry_count": 3,
        "failed_at": 1_753_000_000.5,
    });
    let _: String =
        redis.xadd(QA_DEAD_LETTERS, "*", &[("data", letter.to_string())]).await.expect("added");
    let _: i64 = redis.xack(QA_STREAM, QA_GROUP, &[entry]).await.expect("acknowledged");
}

#[tokio::test]
async fn only_the_entry_that_was_given_up_has_failed() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let (given_up, other) = (enqueue_task(&store).await, enqueue_task(&store).await);
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    let (entry, _) = pending_entries(&mut redis).await.remove(0);
    give_up(&mut redis, "1-1", other.id.as_str()).await; // an earlier life of the same id
    give_up(&mut redis, &entry, given_up.id.as_str()).await;
    let buried =
        store.reconcile_external(&[qa_queue()], super::RESULT_TTL).await.expect("attended");
    assert_eq!(buried.len(), 1, "{buried:?}");
    let record = store.get_task(&given_up.id).await.expect("answers").expect("known");
    let failure = record.failure.expect("a reason").message;
    assert!(
        record.status == TaskStatus::Failed && failure.contains("Max retries (4) exceeded"),
        "{failure}"
    );
    assert_eq!(
        store.get_task(&other.id).await.expect("answers").expect("known").status,
        TaskStatus::Processing
    );
    assert_eq!(
        store.reconcile_external(&[qa_queue()], super::RESULT_TTL).await,
        Ok(vec![]),
        "told once"
    );
    assert_eq!(
        store.list_dead_letters(&qa_queue(), None, 10).await.expect("answers").len(),
        2,
        "no letter but Python's"
    );
}

/// What the server has sent so far.
async fn bytes_sent(redis: &mut redis::aio::MultiplexedConnection) -> usize {
    let stats: String = redis::cmd("INFO").arg("stats").query_async(redis).await.expect("answers");
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_net_output_bytes:"))
        .expect("it is there");
    line.parse().expect("a number")
}

#[tokio::test]
async fn a_large_dead_letter_is_read_without_its_payload() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let large = "x".repeat(300_000);
    let letters = [
        // as Python writes a message of its own publishers, and one of ours
        concat!(
            r#"{"topic": "genesis.qa", "original_stream": "s", "original_id": "ENTRY", "#,
            r#""failed_message": {"content": "{\"task_id\": \"no\", \"x\": \"LARGE\"}", "#,
            r#""webhook": null, "task_id": "ID", "source": null}, "error": "said \"no\"", "#,
            r#""retry_count": 3, "failed_at": 1.5}"#,
        ),
        concat!(
            r#"{"topic": "genesis.qa", "original_stream": "s", "original_id": "ENTRY", "#,
            r#""error": "said \"no\"", "failed_message": {"task_id": "ID", "#,
            r#""content": {"task_id": "no", "x": "LARGE"}, "source": null}, "#,
            r#""retry_count": 3, "failed_at": 1.5}"#,
        ),
    ];
    let mut given_up = Vec::new();
    for letter in letters.iter().cycle().take(12) {
        given_up.push(enqueue_task(&store).await.id);
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg(QA_GROUP)
            .arg("consumer:omnidaemon-1")
            .arg("STREAMS")
            .arg(QA_STREAM)
            .arg(">");
        let _: redis::Value = read.query_async(&mut redis).await.expect("read");
        let (entry, _) = pending_entries(&mut redis).await.remove(0);
        let id = given_up.last().expect("just put there").as_str();
        let letter = letter.replace("ENTRY", &entry).replace("ID", id).replace("LARGE", &large);
        let _: String = redis.xadd(QA_DEAD_LETTERS, "*", &[("data", letter)]).await.expect("added");
        let _: i64 = redis.xack(QA_STREAM, QA_GROUP, &[&entry]).await.expect("acknowledged");
    }
    let before = bytes_sent(&mut redis).await;
    let mut buried = 0;
    super::wait_until("all are seen", async || {
        buried += store
            .reconcile_external(&[qa_queue()], super::RESULT_TTL)
            .await
            .expect("attended")
            .len();
        buried >= given_up.len()
    })
    .await;
    let sent = bytes_sent(&mut redis).await - before;
    assert!(sent < large.len(), "{sent} bytes");
    for id in &given_up {
        let failure =
            store.get_task(id).await.expect("answers").expect("known").failure.expect("failed");
        assert!(failure.message.ends_with(r#"gave up: said "no""#), "{}", failure.message);
    }
}

#[tokio::test]
async fn what_others_do_not_end_within_the_limit_has_failed_and_never_runs() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let external = TopicQueue { external_timeout: Some(Duration::from_mins(1)), ..qa_queue() };
    let [late, ended, saved, early] = std::array::from_fn(|_| super::new_task());
    for (task, since) in [(&ended, 120), (&saved, 110), (&late, 90), (&early, 10)] {
        store.enqueue(task, &external).await.expect("enqueued");
        accepted_before(&mut redis, task, since).await;
    }
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("COUNT")
        .arg(2)
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    for task in [&ended, &saved] {
        let r = json!({"task_id": task.id.as_str(), "result": {"status": "completed", "result": 1,
            "topic": "genesis.qa", "agent": "omnidaemon"}, "saved_at": 1_753_000_000.0});
        let _: () = redis
            .set_ex(format!("omni:result:{}", task.id), r.to_string(), 100)
            .await
            .expect("saved");
    }
    // the second died before it acknowledged
    let (entry, _) = pending_entries(&mut redis).await.remove(0);
    let _: i64 = redis.xack(QA_STREAM, QA_GROUP, &[entry]).await.expect("acknowledged");

    let buried = store
        .reconcile_external(std::slice::from_ref(&external), super::RESULT_TTL)
        .await
        .expect("attended");
    assert_eq!(buried.len(), 1, "{buried:?}");
    for (task, status) in [
        (&late, TaskStatus::Failed),
        (&ended, TaskStatus::Completed),
        (&saved, TaskStatus::Completed),
        (&early, TaskStatus::Queued),
    ] {
        assert_eq!(store.get_task(&task.id).await.expect("answers").expect("known").status, status);
    }
    let letters = store.list_dead_letters(&qa_queue(), None, 10).await.expect("answers");
    assert!(letters.len() == 1 && letters[0].error.contains("within 1m"), "{letters:?}");

    let reprocessed = store
        .reprocess_dead_letter(
            &external,
            late.id.as_str(),
            crate::support::wall_clock::wall_clock_now(),
        )
        .await;
    assert_eq!(reprocessed, Ok(ReprocessResult::Queued { is_captured_request: false }));
    assert_eq!(
        store.reconcile_external(std::slice::from_ref(&external), super::RESULT_TTL).await,
        Ok(vec![]),
        "it has its time again"
    );
    accepted_before(&mut redis, &late, 60).await;
    let buried = store
        .reconcile_external(std::slice::from_ref(&external), super::RESULT_TTL)
        .await
        .expect("attended");
    assert_eq!(buried.len(), 1, "and no more than that: {buried:?}");
    assert_eq!(
        store.get_task(&late.id).await.expect("answers").expect("known").status,
        TaskStatus::Failed
    );
    let left = lease_available(&store).await;
    assert_eq!(left.iter().map(|lease| &lease.task.id).collect::<Vec<_>>(), [&early.id]);
}

#[tokio::test]
async fn what_others_were_to_run_has_no_limit_once_it_is_ours() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let external = TopicQueue { external_timeout: Some(Duration::from_mins(1)), ..qa_queue() };
    let task = super::new_task();
    store.enqueue(&task, &external).await.expect("enqueued");
    accepted_before(&mut redis, &task, 90).await;
    let lease = lease_one(&store).await;
    for queue in [qa_queue(), external] {
        assert_eq!(
            store.reconcile_external(&[queue], super::RESULT_TTL).await,
            Ok(vec![]),
            "and the limit does not come back"
        );
    }
    assert_eq!(
        store.get_task(&task.id).await.expect("answers").expect("known").status,
        TaskStatus::Processing
    );
    complete_lease(&store, &lease).await;
}

#[tokio::test]
async fn a_webhook_hears_of_what_others_gave_up_or_did_not_end() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let external = TopicQueue { external_timeout: Some(Duration::from_mins(1)), ..qa_queue() };
    let [given_up, late] = std::array::from_fn(|_| Task {
        webhook: Some("http://sink/hook".into()),
        ..super::new_task()
    });
    for (task, since) in [(&given_up, 0), (&late, 90)] {
        store.enqueue(task, &external).await.expect("enqueued");
        accepted_before(&mut redis, task, since).await;
    }
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("COUNT")
        .arg(1)
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    let (entry, _) = pending_entries(&mut redis).await.remove(0);
    give_up(&mut redis, &entry, given_up.id.as_str()).await;
    store.reconcile_external(&[external], super::RESULT_TTL).await.expect("attended");
    for task in [given_up, late] {
        assert_eq!(
            store.get_task(&task.id).await.expect("answers").expect("known").status,
            TaskStatus::Failed
        );
        let deliveries = store.list_deliveries(&task.id).await.expect("answers");
        assert!(
            deliveries.len() == 1 && deliveries[0].target == "http://sink/hook",
            "{deliveries:?}"
        );
    }
    let taken = store.claim_due_deliveries(10, super::WAIT_DEADLINE).await.expect("answers");
    let body: serde_json::Value = serde_json::from_slice(&taken[0].body).expect("JSON");
    assert_eq!((taken.len(), &body["payload"]["status"]), (2, &json!("failed")));
}

/// Makes a task that others must end look as if it had been accepted some seconds before.
async fn accepted_before(redis: &mut redis::aio::MultiplexedConnection, task: &Task, seconds: u32) {
    let by = -f64::from(seconds) * 1000.0;
    let _: f64 = redis
        .zincr(format!("omni:limits:{QA_GROUP}"), task.id.as_str(), by)
        .await
        .expect("answers");
}

#[tokio::test]
async fn a_foreign_task_is_retried_as_its_topic_says() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for retries in [0, 7] {
        add_stream_entry(&mut redis, "data", &python_message(&json!({"a": 1}), None)).await;
        let queue = TopicQueue { retries, ..qa_queue() };
        let leases =
            store.lease(TEST_PROCESS, &[queue], 1, super::WAIT_DEADLINE).await.expect("answers");
        assert_eq!(leases[0].task.retries, retries);
        complete_lease(&store, &leases[0]).await;
    }
}

#[tokio::test]
async fn a_group_begins_at_the_beginning_or_after_what_others_have_read() {
    for start in [GroupStartPosition::FirstEntry, GroupStartPosition::NewEntries] {
        let server = RedisServer::start().await;
        let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
        let queue = TopicQueue { group_start: start, ..qa_queue() };
        add_stream_entry(&mut redis, "data", &python_message(&json!({"n": 0}), Some("history")))
            .await;
        let _: () =
            redis.xgroup_create(QA_STREAM, "group:genesis.qa:python", "0").await.expect("created");
        let mut mine = super::new_task();
        mine.payload = "{\"n\":1}".into();
        store.enqueue(&mine, &queue).await.expect("enqueued");
        let leased = async || -> Vec<String> {
            let leases = store
                .lease(TEST_PROCESS, std::slice::from_ref(&queue), 10, Duration::ZERO)
                .await
                .expect("answers");
            leases.into_iter().map(|lease| lease.task.id.to_string()).collect()
        };
        let history = (start == GroupStartPosition::FirstEntry).then(|| "history".to_owned());
        let expected: Vec<String> = history.into_iter().chain([mine.id.to_string()]).collect();
        assert_eq!(leased().await, expected);
        add_stream_entry(&mut redis, "data", &python_message(&json!({"n": 2}), Some("later")))
            .await;
        let _: i64 = redis.xgroup_destroy(QA_STREAM, QA_GROUP).await.expect("destroyed");
        let again: Vec<String> = expected.into_iter().chain(["later".to_owned()]).collect();
        assert_eq!(leased().await, again, "made anew, it skips nothing");
    }
}
