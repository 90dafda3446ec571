//! Processes whose wall clocks are an hour off, on one Redis: what waits is timed by Redis alone,
//! whoever said for how long.

use std::time::Duration;

use redis::AsyncCommands as _;
use serde_json::{Value, json};

use crate::support::process::clock::ClockOffset;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{route, scenario, topic};
use crate::support::sink::WebhookSink;
use crate::support::tasks::{publish_task, wait_for_task_status};
use crate::support::wall_clock::wall_clock_now;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

const HOUR: Duration = Duration::from_hours(1);

/// A server that accepts tasks and a server that runs them; the clocks of both are off.
struct OffsetPair {
    acceptor: Omnidaemon,
    _worker: Omnidaemon,
    sink: WebhookSink,
    redis: RedisServer,
    _upstream: TestUpstream,
}

impl OffsetPair {
    async fn start(acceptor: ClockOffset, worker: ClockOffset) -> Self {
        let (redis, upstream, sink) =
            (RedisServer::start().await, TestUpstream::start().await, WebhookSink::start().await);
        let launch = |offset, workers| {
            let flaky = "[ $OMNIDAEMON_ATTEMPT = 2 ] && echo 1 || exit 3";
            scenario()
                .upstream(&upstream)
                .redis(&redis)
                .route(route("invoke").topic("calls").wait("20s").percent(100))
                .topic(topic("calls"))
                .topic(topic("echo").command(["cat"]))
                .topic(topic("flaky").shell(flaky).retries(1).retry_delay("1s"))
                .topic(topic("slow_to_retry").shell("exit 3").retries(1).retry_delay("1h"))
                .topic(topic("outside").external().timeout("30m"))
                .topic(topic("outside_soon").external().timeout("1s"))
                .workers(workers)
                .yaml("webhooks.hosts", json!([format!("private:{}", sink.addr())]))
                .yaml("webhooks.timeout", "2s")
                .clock(offset)
                .start_server()
        };
        let (acceptor, worker) = tokio::join!(launch(acceptor, 0), launch(worker, 4));
        Self { acceptor, _worker: worker, sink, redis, _upstream: upstream }
    }

    async fn publish(&self, envelope: Value) -> String {
        publish_task(&self.acceptor, &envelope).await
    }

    async fn task(&self, id: &str) -> Value {
        self.acceptor.admin_client().get(&format!("/admin/v1/tasks/{id}")).await.json()
    }

    async fn wait_for_status(&self, id: &str, status: &str) -> Value {
        wait_for_task_status(&self.acceptor, id, status).await
    }
}

/// Two pairs: in one the acceptor is ahead, in the other the worker.
async fn both_ways() -> [OffsetPair; 2] {
    let (ahead, behind) = (ClockOffset::ahead(HOUR), ClockOffset::behind(HOUR));
    let (one, other) =
        tokio::join!(OffsetPair::start(ahead, behind), OffsetPair::start(behind, ahead));
    [one, other]
}

#[tokio::test]
async fn a_delay_is_as_long_as_it_is_whatever_the_clocks_of_who_accepts_and_who_works() {
    for pair in both_ways().await {
        let later = pair.publish(json!({"topic": "echo", "payload": 1, "delay": "30m"})).await;
        let soon = pair.publish(json!({"topic": "echo", "payload": 1, "delay": "1s"})).await;
        pair.wait_for_status(&soon, "completed").await;
        assert_eq!(pair.task(&later).await["status"], "queued");
    }
}

#[tokio::test]
async fn a_retry_waits_for_its_pause_whatever_the_clock_of_its_worker() {
    for pair in both_ways().await {
        let flaky = pair.publish(json!({"topic": "flaky", "payload": 1})).await;
        pair.wait_for_status(&flaky, "completed").await;
        // the pause is any share of an hour: of a few of them one is there to be seen
        let mut parked = Vec::new();
        for _ in 0..4 {
            parked.push(pair.publish(json!({"topic": "slow_to_retry", "payload": 1})).await);
        }
        wait_until(TEST_DEADLINE, "one waits for its next attempt", async || {
            for id in &parked {
                let next = pair.task(id).await["next_attempt_ms"].as_u64();
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
    for pair in both_ways().await {
        let patient = pair.publish(json!({"topic": "outside", "payload": 1})).await;
        let delayed = pair.publish(json!({"topic": "outside", "payload": 1, "delay": "1s"})).await;
        let late = pair.publish(json!({"topic": "outside_soon", "payload": 1})).await;
        let late_later =
            pair.publish(json!({"topic": "outside_soon", "payload": 1, "delay": "1s"})).await;
        pair.wait_for_status(&late, "failed").await;
        pair.wait_for_status(&late_later, "failed").await;
        for id in [&patient, &delayed] {
            assert_eq!(pair.task(id).await["status"], "queued");
        }
    }
}

#[tokio::test]
async fn a_webhook_that_was_not_heard_is_tried_again_whatever_the_clock_of_who_tries() {
    for pair in both_ways().await {
        pair.publish(json!({"topic": "echo", "payload": 1, "webhook": pair.sink.url("flaky")}))
            .await;
        wait_until(TEST_DEADLINE, "it is told twice", async || pair.sink.posts("flaky").len() == 2)
            .await;
    }
}

#[tokio::test]
async fn a_canaried_task_took_what_it_took_whatever_the_clocks_of_who_accepts_and_who_works() {
    for pair in both_ways().await {
        let rollout =
            async || pair.acceptor.admin_client().get("/admin/v1/rollouts/invoke").await.json();
        wait_until(TEST_DEADLINE, "somebody leads", async || rollout().await["weight"] == 100.0)
            .await;
        let call = json!({"task": "t", "arguments": {"sleep_ms": 300}});
        pair.acceptor.wait_until_topic_has_slots("calls").await;
        let answer = pair.acceptor.data_client().post("/invoke", &call).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-omnidaemon-path")),
            (200, Some("async"))
        );
        let tally = format!("omni:tally:invoke:{}", rollout().await["epoch"]);
        let tally: Vec<(String, u64)> =
            pair.redis.connect().await.hgetall(tally).await.expect("answers");
        let took = tally
            .iter()
            .find_map(|(name, _)| name.strip_prefix("completed.")?.parse::<usize>().ok());
        let over = omnidaemon::task::DURATION_BUCKET_BOUNDS[took.expect("it is counted") - 1];
        assert!((0.25..60.0).contains(&over), "over {over} s: {tally:?}");
    }
}
