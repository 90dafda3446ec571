//! Processes whose wall clocks are an hour off, on one Redis: what waits is timed by Redis alone,
//! whoever said for how long.

use std::time::Duration;

use redis::AsyncCommands as _;
use serde_json::{Value, json};

use crate::store::contract::wall_clock_now;
use crate::support::process::clock::ClockOffset;
use crate::support::redis::server::RedisServer;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_for_some, wait_until};
use crate::worker::webhooks::Sink;

const HOUR: Duration = Duration::from_hours(1);

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: calls, wait: 20s, rollout: {percent: 100, mode: manual}}
topics:
  calls: {handler: upstream}
  echo: {handler: {command: [cat]}}
  flaky: {handler: {command: [sh, -c, '[ $OMNIDAEMON_ATTEMPT = 2 ] && echo 1 || exit 3']}, \
  retries: 1, retry_delay: 1s}
  slow_to_retry: {handler: {command: [sh, -c, 'exit 3']}, retries: 1, retry_delay: 1h}
  outside: {handler: external, timeout: 30m}
  outside_soon: {handler: external, timeout: 1s}
workers: {count: <workers>}
webhooks: {hosts: ['private:<sink>'], timeout: 2s}
";

/// Who accepts, and who works; their clocks are off.
struct Two {
    acceptor: Omnidaemon,
    _worker: Omnidaemon,
    sink: Sink,
    redis: RedisServer,
    _upstream: TestUpstream,
}

impl Two {
    async fn start(acceptor: ClockOffset, worker: ClockOffset) -> Self {
        let (redis, upstream, sink) =
            (RedisServer::start().await, TestUpstream::start().await, Sink::start().await);
        let launch = |off, workers: &str| {
            let launch = Omnidaemon::with_config(CONFIG)
                .with_upstream(&upstream)
                .set_placeholder("store", redis.url());
            launch
                .set_placeholder("workers", workers)
                .set_placeholder("sink", sink.addr())
                .with_clock(off)
                .start()
        };
        let (acceptor, worker) = tokio::join!(launch(acceptor, "0"), launch(worker, "4"));
        Self { acceptor, _worker: worker, sink, redis, _upstream: upstream }
    }

    async fn publish(&self, envelope: Value) -> String {
        let accepted = self.acceptor.admin_client().post("/admin/v1/tasks", &envelope).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        accepted.json()["task_id"].as_str().expect("an id").to_owned()
    }

    async fn task(&self, id: &str) -> Value {
        self.acceptor.admin_client().get(&format!("/admin/v1/tasks/{id}")).await.json()
    }

    async fn until(&self, id: &str, status: &str) -> Value {
        wait_for_some(TEST_DEADLINE, status, async || {
            let task = self.task(id).await;
            (task["status"] == status).then_some(task)
        })
        .await
    }
}

/// Both ways round.
async fn both_ways() -> [Two; 2] {
    let (ahead, behind) = (ClockOffset::ahead(HOUR), ClockOffset::behind(HOUR));
    let (one, other) = tokio::join!(Two::start(ahead, behind), Two::start(behind, ahead));
    [one, other]
}

#[tokio::test]
async fn a_delay_is_as_long_as_it_is_whatever_the_clocks_of_who_accepts_and_who_works() {
    for two in both_ways().await {
        let later = two.publish(json!({"topic": "echo", "payload": 1, "delay": "30m"})).await;
        let soon = two.publish(json!({"topic": "echo", "payload": 1, "delay": "1s"})).await;
        two.until(&soon, "completed").await;
        assert_eq!(two.task(&later).await["status"], "queued");
    }
}

#[tokio::test]
async fn a_retry_waits_for_its_pause_whatever_the_clock_of_its_worker() {
    for two in both_ways().await {
        let flaky = two.publish(json!({"topic": "flaky", "payload": 1})).await;
        two.until(&flaky, "completed").await;
        // the pause is any share of an hour: of a few of them one is there to be seen
        let mut parked = Vec::new();
        for _ in 0..4 {
            parked.push(two.publish(json!({"topic": "slow_to_retry", "payload": 1})).await);
        }
        wait_until(TEST_DEADLINE, "one waits for its next attempt", async || {
            for id in &parked {
                let next = two.task(id).await["next_attempt_ms"].as_u64();
                if next.is_some_and(|next| {
                    next > wall_clock_now().0 && next < wall_clock_now().plus(HOUR).0
                }) {
                    return true;
                }
            }
            false
        })
        .await;
    }
}

#[tokio::test]
async fn a_task_that_others_run_is_late_when_its_time_is_over_and_no_sooner() {
    for two in both_ways().await {
        let patient = two.publish(json!({"topic": "outside", "payload": 1})).await;
        let delayed = two.publish(json!({"topic": "outside", "payload": 1, "delay": "1s"})).await;
        let late = two.publish(json!({"topic": "outside_soon", "payload": 1})).await;
        let late_later =
            two.publish(json!({"topic": "outside_soon", "payload": 1, "delay": "1s"})).await;
        two.until(&late, "failed").await;
        two.until(&late_later, "failed").await;
        for id in [&patient, &delayed] {
            assert_eq!(two.task(id).await["status"], "queued");
        }
    }
}

#[tokio::test]
async fn a_webhook_that_was_not_heard_is_tried_again_whatever_the_clock_of_who_tries() {
    for two in both_ways().await {
        two.publish(json!({"topic": "echo", "payload": 1, "webhook": two.sink.url("flaky")})).await;
        wait_until(TEST_DEADLINE, "it is told twice", async || two.sink.posts("flaky").len() == 2)
            .await;
    }
}

#[tokio::test]
async fn a_canaried_task_took_what_it_took_whatever_the_clocks_of_who_accepts_and_who_works() {
    for two in both_ways().await {
        let rollout =
            async || two.acceptor.admin_client().get("/admin/v1/rollouts/invoke").await.json();
        wait_until(TEST_DEADLINE, "somebody leads", async || rollout().await["weight"] == 100.0)
            .await;
        let call = json!({"task": "t", "arguments": {"sleep_ms": 300}});
        two.acceptor.wait_until_topic_has_slots("calls").await;
        let answer = two.acceptor.data_client().post("/invoke", &call).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-omnidaemon-path")),
            (200, Some("async"))
        );
        let tally = format!("omni:tally:invoke:{}", rollout().await["epoch"]);
        let tally: Vec<(String, u64)> =
            two.redis.connect().await.hgetall(tally).await.expect("answers");
        let took = tally
            .iter()
            .find_map(|(name, _)| name.strip_prefix("completed.")?.parse::<usize>().ok());
        let over = omnidaemon::task::DURATION_BUCKET_BOUNDS[took.expect("it is counted") - 1];
        assert!((0.25..60.0).contains(&over), "over {over} s: {tally:?}");
    }
}
