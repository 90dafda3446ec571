//! The embedded store under a system clock that jumps: what waits is timed by the store's own
//! clock, within a process and over a restart.

use std::time::Duration;

use jiff::SignedDuration;
use omnidaemon::store::{SqliteStore, TaskQueue as _, TaskReader as _, TopicQueue};
use omnidaemon::task::{Task, TaskId, Topic, UnixMs};
use serde_json::{Value, json};

use crate::support::process::clock::AdjustableClock;
use crate::support::wall_clock::wall_clock_now;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some};

const DAY: SignedDuration = SignedDuration::from_hours(24);

const CONFIG: &str = "
upstream: {url: 'http://127.0.0.1:9'}
store: {url: 'sqlite:data/omnidaemon.db'}
routes:
  invoke: {path: /invoke, topic: echo, rollout: {percent: 0, mode: manual}}
topics:
  echo: {handler: {command: [cat]}}
  flaky: {handler: {command: [sh, -c, '[ $OMNIDAEMON_ATTEMPT = 2 ] && echo 1 || exit 3']}, \
  retries: 1, retry_delay: 1s}
workers: {count: 2}
results: {ttl: 1h}
";

async fn publish(omni: &Omnidaemon, envelope: Value) -> String {
    let accepted = omni.admin_client().post("/admin/v1/tasks", &envelope).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    accepted.json()["task_id"].as_str().expect("an id").to_owned()
}

async fn task(omni: &Omnidaemon, id: &str) -> Value {
    omni.admin_client().get(&format!("/admin/v1/tasks/{id}")).await.json()
}

async fn completed(omni: &Omnidaemon, id: &str) -> Value {
    wait_for_some(TEST_DEADLINE, "the task completes", async || {
        let task = task(omni, id).await;
        (task["status"] == "completed").then_some(task)
    })
    .await
}

/// A delayed task, and one that is completed; the first is not to begin and the second not to
/// expire in this test.
struct LongWaits {
    delayed: String,
    done: String,
}

impl LongWaits {
    async fn begin(omni: &Omnidaemon) -> Self {
        let delayed = json!({"topic": "echo", "payload": 1, "delay": "30m"});
        let delayed = publish(omni, delayed).await;
        let done = publish(omni, json!({"topic": "echo", "payload": 1})).await;
        completed(omni, &done).await;
        Self { delayed, done }
    }

    async fn assert_unchanged(&self, omni: &Omnidaemon, when: &str) {
        let delayed = task(omni, &self.delayed).await;
        assert_eq!(delayed["status"], "queued", "{when}: {delayed}");
        let done = task(omni, &self.done).await;
        assert_eq!(done["status"], "completed", "{when}: {done}");
    }
}

/// Tasks that wait for a second or two run, and one that fails once is tried again.
async fn assert_short_waits_end(omni: &Omnidaemon) {
    let soon = publish(omni, json!({"topic": "echo", "payload": 1, "delay": "1s"})).await;
    let flaky = publish(omni, json!({"topic": "flaky", "payload": 1})).await;
    completed(omni, &soon).await;
    completed(omni, &flaky).await;
}

#[tokio::test]
async fn delays_retries_and_results_last_as_long_as_they_do_when_the_system_clock_jumps() {
    let clock = AdjustableClock::new();
    let omni = Omnidaemon::with_config(CONFIG).with_adjustable_clock(&clock).start().await;
    let waits = LongWaits::begin(&omni).await;
    for ahead in [DAY, SignedDuration::ZERO, -DAY, SignedDuration::ZERO] {
        let meanwhile = publish(&omni, json!({"topic": "echo", "payload": 2, "delay": "2s"})).await;
        clock.set_ahead(ahead);
        assert_short_waits_end(&omni).await;
        let created = task(&omni, &publish(&omni, json!({"topic": "echo", "payload": 3})).await)
            .await["created_ms"]
            .as_u64()
            .expect("a time");
        let off = i128::from(created) - i128::from(wall_clock_now().0);
        assert!((off - ahead.as_millis()).abs() < 60_000, "{ahead:?}: created {off} ms off");
        waits.assert_unchanged(&omni, &format!("a clock {ahead:?} ahead")).await;
        completed(&omni, &meanwhile).await;
    }
}

#[tokio::test]
async fn delays_and_results_last_as_long_as_they_do_over_restarts_under_other_clocks() {
    let clock = AdjustableClock::new();
    let mut omni = Omnidaemon::with_config(CONFIG).with_adjustable_clock(&clock).start().await;
    let waits = LongWaits::begin(&omni).await;
    for ahead in [DAY, SignedDuration::ZERO, -DAY, SignedDuration::ZERO] {
        let meanwhile = publish(&omni, json!({"topic": "echo", "payload": 2, "delay": "3s"})).await;
        omni.kill();
        omni.wait_for_exit().await;
        clock.set_ahead(ahead);
        omni.restart().await;
        assert_short_waits_end(&omni).await;
        waits.assert_unchanged(&omni, &format!("a restart with a clock {ahead:?} ahead")).await;
        completed(&omni, &meanwhile).await;
    }
}

#[tokio::test]
async fn a_database_of_the_release_before_keeps_its_tasks_and_their_times() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tasks.db");
    let topic = Topic::parse("t").expect("a topic");
    let queue = TopicQueue::with_default_settings(topic.clone(), "omnidaemon");
    let due = wall_clock_now().plus(Duration::from_hours(1));
    let task = Task {
        due: Some(due),
        ..Task::new(TaskId::new(UnixMs(1), 1), topic, "1", wall_clock_now())
    };
    let store = SqliteStore::open(&path).expect("opens");
    store.enqueue(&task, &queue).await.expect("enqueued");
    drop(store);
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection.execute_batch("DROP TABLE clock; PRAGMA user_version = 4").expect("as it was");
    drop(connection);
    let store = SqliteStore::open(&path).expect("opens the older schema");
    let record = store.get_task(&task.id).await.expect("answers").expect("known");
    assert_eq!((record.created, record.due), (task.created, Some(due)));
    drop(store);
    SqliteStore::open(&path).expect("opens the new schema");
}
