//! One process: steps, gates, orders, and what is kept over a restart.

use serde_json::json;

use super::traffic::Traffic;
use super::{
    event_names, fetch_rollout, gated_rollout, rollout_route, rollout_scenario, send_command,
    wait_for_phase, wait_for_rollout, wait_for_weight,
};
use crate::support::scenario::{Route, Scenario};
use crate::support::sink::WebhookSink;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{TEST_DEADLINE, wait_until};

on_both_stores!(
    a_healthy_canary_climbs_by_its_steps_to_percent,
    a_canary_that_fails_is_turned_back_and_stays_so,
    what_is_reached_outlives_a_restart,
    orders_are_followed_and_remembered_with_who_and_why,
);

/// The common rollout with a second gate.
fn climbing_route() -> Route {
    rollout_route(gated_rollout()).yaml(
        "rollout.gates",
        json!([
            {"name": "errors", "type": "error_ratio", "max": "15%"},
            {"name": "deferred", "type": "deferred_ratio", "max": "20%"},
        ]),
    )
}

async fn start(store: &Store) -> Scenario {
    rollout_scenario(climbing_route()).store(store).start().await
}

async fn a_healthy_canary_climbs_by_its_steps_to_percent(store: Store) {
    let omni = start(&store).await;
    let traffic = Traffic::on(vec![omni.data_client()]);
    let mut seen = Vec::new();
    wait_for_rollout(&omni, "healthy at 50 %", |rollout| {
        let weight = rollout["weight"].as_f64().expect("a number");
        if seen.last() != Some(&weight) {
            seen.push(weight);
        }
        rollout["phase"] == "healthy"
    })
    .await;
    seen.retain(|weight| *weight > 0.0);
    assert!([&[10.0, 25.0, 50.0][..], &[25.0, 50.0]].contains(&&seen[..]), "{seen:?}");
    assert_eq!(event_names(&omni).await, ["step", "step", "step", "step"]);
    let told = traffic.stop().await;
    assert_eq!(told.failed(), 0, "{told:?}");
    assert!(told.by_path("async") > 60, "{told:?}");
}

async fn a_canary_that_fails_is_turned_back_and_stays_so(store: Store) {
    let mut omni = start(&store).await;
    let traffic = Traffic::on(vec![omni.data_client()]);
    wait_for_weight(&omni, 25.0).await;
    traffic.ask(json!({"replayed": {"status": 500}}));
    let degraded = wait_for_phase(&omni, "degraded").await;
    assert_eq!(degraded["weight"], 0.0);
    traffic.take();
    traffic.ask(json!({}));
    wait_until(TEST_DEADLINE, "clients are served", async || traffic.take().by_path("sync") > 0)
        .await;
    assert_eq!(event_names(&omni).await.last().map(String::as_str), Some("rollback"));

    // an edit of percent moves nothing, and a restart neither
    omni.apply_setting("routes.invoke.rollout.percent", 40).await;
    assert_eq!(fetch_rollout(&omni).await["phase"], "degraded");
    traffic.take();
    let mut served = 0;
    wait_until(TEST_DEADLINE, "calls are answered", async || {
        let told = traffic.take();
        assert_eq!(told.by_path("async"), 0, "{told:?}");
        served += told.by_path("sync");
        served > 20
    })
    .await;
    let (status, refused) = send_command(&omni, "promote", json!({"reason": "impatience"})).await;
    assert_eq!(status, 409, "{refused}");
    assert!(refused["detail"].as_str().expect("a detail").contains("rollout retry"), "{refused}");

    let (status, _) = send_command(&omni, "retry", json!({"reason": "the fix is out"})).await;
    assert_eq!(status, 200);
    wait_for_rollout(&omni, "at 40 %", |rollout| rollout["weight"] == 40.0).await;
    traffic.stop().await;
}

async fn what_is_reached_outlives_a_restart(store: Store) {
    let mut omni = start(&store).await;
    let traffic = Traffic::on(vec![omni.data_client()]);
    wait_for_weight(&omni, 25.0).await;
    let (status, _) =
        send_command(&omni, "pause", json!({"reason": "lunch", "actor": "ann"})).await;
    assert_eq!(status, 200);
    let before = fetch_rollout(&omni).await;
    drop(traffic);
    omni.restart().await;
    let after = wait_for_phase(&omni, "paused").await;
    for field in ["weight", "epoch", "by", "reason", "since"] {
        assert_eq!(after[field], before[field], "{field} in {after:#} and {before:#}");
    }
    let (status, _) = send_command(&omni, "resume", json!({})).await;
    assert_eq!(status, 200);
    let traffic = Traffic::on(vec![omni.data_client()]);
    wait_for_phase(&omni, "healthy").await;
    traffic.stop().await;
}

async fn orders_are_followed_and_remembered_with_who_and_why(store: Store) {
    let omni = start(&store).await;
    wait_for_weight(&omni, 10.0).await;
    let (status, refused) = send_command(&omni, "set-weight", json!({"weight": 60})).await;
    assert_eq!(status, 409, "{refused}");
    assert!(
        refused["detail"].as_str().expect("a detail").contains("routes.invoke.rollout.percent"),
        "{refused}"
    );
    let (status, refused) = send_command(&omni, "set-weight", json!({"weight": 101})).await;
    assert_eq!(status, 422, "{refused}");
    for (verb, body, weight) in [
        ("set-weight", json!({"weight": 5, "actor": "ann", "reason": "a look"}), 5.0),
        ("resume", json!({"actor": "ann"}), 5.0),
        ("promote", json!({"actor": "bob", "reason": "seen enough"}), 10.0),
        ("promote", json!({"actor": "bob", "full": true}), 50.0),
        ("abort", json!({"actor": "cy", "reason": "tickets"}), 0.0),
        ("abort", json!({"actor": "cy", "reason": "tickets"}), 0.0),
    ] {
        let (status, said) = send_command(&omni, verb, body).await;
        assert_eq!(status, 200, "{verb}: {said}");
        assert_eq!(said["weight"], weight, "{verb}: {said}");
    }
    wait_for_phase(&omni, "degraded").await;
    let page = omni.admin_client().get("/admin/v1/rollouts/invoke/history").await.json();
    let events = page["events"].as_array().expect("events");
    let abort = &events[0];
    assert_eq!(
        (&abort["event"], &abort["by"], &abort["reason"]),
        (&json!("abort"), &json!("cy"), &json!("tickets"))
    );
    assert_eq!((&abort["from"], &abort["to"]), (&json!(50.0), &json!(0.0)));
    let names: Vec<&str> =
        events.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    assert_eq!(names, ["abort", "promote", "promote", "resume", "set-weight", "step"]);
}

#[tokio::test]
async fn whoever_asked_is_told_of_steps_pauses_and_the_turn_back_again_until_they_hear() {
    let sink = WebhookSink::start().await;
    let notify = json!([
        {"on": ["step", "paused", "rollback"], "webhook": sink.url("all")},
        {"on": ["rollback"], "webhook": sink.url("flaky")},
    ]);
    let omni = rollout_scenario(climbing_route().yaml("rollout.notify", notify)).start().await;
    wait_for_weight(&omni, 10.0).await;
    for (verb, reason) in [("pause", "lunch"), ("resume", "back"), ("abort", "tickets")] {
        let (status, said) =
            send_command(&omni, verb, json!({"actor": "ann", "reason": reason})).await;
        assert_eq!(status, 200, "{said}");
    }
    let told = async || {
        let posts = sink.posts("all").into_iter();
        posts
            .map(|post| post.body["event"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    wait_until(TEST_DEADLINE, "all three are told", async || {
        let mut told = told().await;
        told.sort();
        told == ["abort", "pause", "step"]
    })
    .await;
    let posts = sink.posts("all");
    let abort =
        posts.iter().map(|post| &post.body).find(|body| body["event"] == "abort").expect("told");
    assert_eq!(
        (&abort["route"], &abort["by"], &abort["reason"]),
        (&json!("invoke"), &json!("ann"), &json!("tickets"))
    );
    assert_eq!((&abort["from"], &abort["to"]), (&json!(10.0), &json!(0.0)));
    assert_eq!(abort["text"], "invoke: abort from 10 % to 0 %, by ann: tickets");
    let pause =
        posts.iter().map(|post| &post.body).find(|body| body["event"] == "pause").expect("told");
    assert_eq!(pause["text"], "invoke: pause at 10 %, by ann: lunch");
    wait_until(TEST_DEADLINE, "who was out is told again", async || sink.posts("flaky").len() == 2)
        .await;
}
