//! The gate of shadow traffic: copies that are answered as the sync path answers let a rollout
//! climb, others turn it back.

use serde_json::{Value, json};

use super::traffic::Traffic;
use super::{
    event_names, fetch_rollout, gated_rollout, rollout_route, rollout_scenario, wait_for_phase,
    wait_for_rollout, wait_for_weight,
};
use crate::support::scenario::Scenario;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{TEST_DEADLINE, TestUpstream, wait_until};

on_both_stores!(
    copies_that_are_answered_alike_let_it_climb_to_where_there_are_none,
    copies_that_are_answered_otherwise_turn_it_back,
);

async fn start(store: &Store, copies: &TestUpstream) -> Scenario {
    let route = rollout_route(gated_rollout())
        .yaml("rollout.percent", 100)
        .yaml("rollout.steps", json!([25, 100]))
        .yaml(
            "rollout.shadow",
            json!({
                "percent": 50,
                "side_effects": "allowed",
                "compare": {"ignore": ["/execution_time_ms"]},
                "max_mismatch": "15%",
            }),
        );
    rollout_scenario(route)
        .yaml("topics.t.handler", json!({"http": format!("{}/invoke", copies.url())}))
        .store(store)
        .start()
        .await
}

fn gate(rollout: &Value) -> Value {
    let gates = rollout["gates"].as_array().expect("gates");
    gates
        .iter()
        .find(|gate| gate["gate"] == "shadow_mismatch")
        .cloned()
        .expect("it stands there by itself")
}

async fn copies_that_are_answered_alike_let_it_climb_to_where_there_are_none(store: Store) {
    let copies = TestUpstream::start().await;
    let omni = start(&store, &copies).await;
    let traffic = Traffic::on(vec![omni.data_client()]);
    let passing =
        wait_for_rollout(&omni, "passing its gate", |rollout| gate(rollout)["verdict"] == "pass")
            .await;
    assert_eq!(gate(&passing)["type"], "shadow_mismatch");
    assert!(passing["evidence"]["compared"].as_u64() > Some(10), "{passing:#}");
    assert_eq!(passing["evidence"]["mismatched"], 0, "{passing:#}");
    let healthy = wait_for_rollout(&omni, "healthy at 100 %", |rollout| {
        rollout["phase"] == "healthy" && rollout["weight"] == 100.0
    });
    let why = gate(&healthy.await)["why"].as_str().expect("why").to_owned();
    assert!(why.ends_with("nothing to shadow at 100 %"), "{why}");
    let verdict = [("route", "invoke"), ("gate", "shadow_mismatch")];
    assert_eq!(omni.metric_value("omnidaemon_gate_verdict", &verdict).await, 1.0);
    let told = traffic.stop().await;
    assert_eq!(told.failed(), 0, "{told:?}");
    let shown = omni.run_cli(&["rollout", "get"]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("shadow_mismatch"), "{shown:?}");
}

async fn copies_that_are_answered_otherwise_turn_it_back(store: Store) {
    let copies = TestUpstream::start().await;
    let omni = start(&store, &copies).await;
    wait_for_weight(&omni, 25.0).await;
    let traffic = Traffic::on(vec![omni.data_client()]);
    traffic.ask(json!({"replayed": {"tool": "another"}}));
    let degraded = wait_for_phase(&omni, "degraded").await;
    assert!(
        degraded["reason"].as_str().is_some_and(|why| why.contains("shadow_mismatch")),
        "{degraded:#}"
    );
    assert_eq!(event_names(&omni).await.last().map(String::as_str), Some("rollback"));
    let told = traffic.stop().await;
    assert_eq!(told.failed(), 0, "no client had an error: {told:?}");
    // the async path is left alone: but for what was under way, half of these would be copied
    let queued =
        async || omni.metric_value("omnidaemon_shadow_total", &[("outcome", "queued")]).await;
    let (before, served) = (queued().await, omni.upstream().fetch_requests().await.requests.len());
    let traffic = Traffic::on(vec![omni.data_client()]);
    let more = async || omni.upstream().fetch_requests().await.requests.len() - served;
    wait_until(TEST_DEADLINE, "clients are served", async || more().await > 100).await;
    traffic.stop().await;
    assert!(queued().await - before < 20.0, "{before} and {}", queued().await);
    assert_eq!(fetch_rollout(&omni).await["phase"], "degraded");
}
