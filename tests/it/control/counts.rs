//! Which canaried calls the gates hear of, and as what.

use serde_json::{Value, json};

use super::{rollout_scenario, wait_for_phase, wait_for_rollout};
use crate::support::scenario::{Scenario, route, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

on_both_stores!(
    what_the_proxy_refuses_is_a_client_error_of_the_canary,
    a_canary_whose_envelopes_are_refused_is_turned_back,
    an_envelope_of_another_topic_or_a_later_time_is_no_evidence,
);

/// A server whose rollout at 100 % soaks, and the calls of which wait this long.
async fn start(wait: &str, store: &Store) -> Scenario {
    let rollout = json!({
        "percent": 100,
        "steps": [100],
        "mode": "gated",
        "interval": "300ms",
        "soak": "1h",
        "min_samples": {"async": 25, "sync": 0},
        "gates": [{"name": "client_errors", "type": "client_error_ratio", "max": "10%"}],
    });
    let omni = rollout_scenario(
        route("invoke").yaml("topics", json!(["other"])).wait(wait).rollout(rollout),
    )
    .topic(topic("other").command(["cat"]))
    .store(store)
    .start()
    .await;
    wait_for_phase(&omni, "soaking").await;
    omni
}

async fn call(omni: &Omnidaemon, body: Value) -> u16 {
    let answer = omni.data_client().post("/invoke", &body).await;
    assert_eq!(answer.header("x-omnidaemon-path"), Some("async"), "{body}: {}", answer.text());
    answer.status.as_u16()
}

/// Waits until the gates know what is `expected` of the evidence.
async fn wait_for_evidence(omni: &Omnidaemon, expected: &Value) {
    let expected = expected.as_object().expect("an object");
    let what = format!("{expected:?}");
    wait_for_rollout(omni, &what, |rollout| {
        expected.iter().all(|(key, value)| rollout["evidence"][key] == *value)
    })
    .await;
}

async fn what_the_proxy_refuses_is_a_client_error_of_the_canary(store: Store) {
    let omni = start("10s", &store).await;
    for _ in 0..8 {
        assert_eq!(call(&omni, json!({"task": "t"})).await, 200);
    }
    let unlisted = json!({"topic": "t", "payload": {}, "webhook": "https://nobody.example/"});
    for body in [json!({"topic": "t", "payload": {}, "reply_to": "nobody"}), unlisted] {
        assert_eq!(call(&omni, body).await, 422);
    }
    let asynchronous = json!({"total": 10, "failed": 0, "client_errors": 2});
    let expected = json!({"canaried": 10, "accepted": 8, "rejected": 2, "refused": 0, "open": 0,
    "async": asynchronous});
    wait_for_evidence(&omni, &expected).await;
}

async fn a_canary_whose_envelopes_are_refused_is_turned_back(store: Store) {
    let omni = start("10s", &store).await;
    wait_until(TEST_DEADLINE, "three of ten are refused, and it is turned back", async || {
        for n in 0..10 {
            let body = if n < 3 {
                json!({"topic": "t", "payload": {}, "reply_to": "nobody"})
            } else {
                json!({"task": "t"})
            };
            omni.data_client().post("/invoke", &body).await;
        }
        super::fetch_rollout(&omni).await["phase"] == "degraded"
    })
    .await;
}

async fn an_envelope_of_another_topic_or_a_later_time_is_no_evidence(store: Store) {
    let omni = start("2s", &store).await;
    assert_eq!(call(&omni, json!({"topic": "other", "payload": {"n": 1}})).await, 200);
    assert_eq!(
        call(&omni, json!({"topic": "t", "payload": {"task": "t"}, "delay": "1h"})).await,
        202
    );
    assert_eq!(call(&omni, json!({"task": "t"})).await, 200);
    let at_once = json!({"topic": "t", "payload": {"task": "t"}, "delay": 0});
    assert_eq!(call(&omni, at_once).await, 422, "the upstream knows no envelopes");
    let asynchronous = json!({"total": 2, "failed": 0, "client_errors": 1});
    let expected =
        json!({"canaried": 2, "accepted": 2, "open": 0, "deferred": 0, "async": asynchronous});
    wait_for_evidence(&omni, &expected).await;
}
