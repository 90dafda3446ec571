//! Whose failures they are: one client that fails again and again is one, in what the paths are
//! compared by.

use http::Method;
use serde_json::{Value, json};

use super::{rollout_route, rollout_scenario, wait_for_phase, wait_for_rollout};
use crate::support::Omnidaemon;
use crate::support::http::client::HttpResponse;
use crate::support::stores::{Store, on_both_stores};

on_both_stores!(a_client_that_is_refused_again_and_again_turns_nothing_back_and_many_do);

/// Calls as `who`; replayed by a worker, the upstream answers with `status`.
async fn call(omni: &Omnidaemon, who: &str, status: u16) -> String {
    let body = json!({"task": "t", "arguments": {"replayed": {"status": status}}});
    let request =
        omni.data_client().request(Method::POST, "/invoke").header("x-client-id", who).json(&body);
    let answer = HttpResponse::from_request(request).await;
    let path = answer.header("x-omnidaemon-path").expect("it says which path").to_owned();
    assert_eq!(answer.status.as_u16(), if path == "async" { status } else { 200 });
    path
}

fn refused(rollout: &Value) -> &Value {
    &rollout["gates"][0]["async"]["x"]
}

async fn a_client_that_is_refused_again_and_again_turns_nothing_back_and_many_do(store: Store) {
    let omni = rollout_scenario(rollout_route(json!({
        "percent": 50,
        "steps": [50],
        "interval": "3s",
        "soak": "1h",
        "min_samples": {"async": 25, "sync": 25},
        "sticky": {"keys": ["header:x-client-id"]},
        "pin": {"async": ["noisy"]},
        "gates": [{"name": "refused", "type": "client_error_ratio", "margin": "5%"}],
    })))
    .store(&store)
    .start()
    .await;
    wait_for_phase(&omni, "soaking").await;
    let mut noisy = 0;
    for n in 0..80 {
        call(&omni, &format!("client-{n}"), 200).await;
        noisy += usize::from(call(&omni, "noisy", 401).await == "async");
    }
    let judged =
        wait_for_rollout(&omni, "all are judged", |rollout| *refused(rollout) == noisy).await;
    assert_eq!(
        (&judged["phase"], &judged["gates"][0]["verdict"]),
        (&json!("soaking"), &json!("inconclusive")),
        "{judged:#}"
    );

    for n in 0..80 {
        call(&omni, &format!("client-{n}"), 401).await;
    }
    let rollout = wait_for_phase(&omni, "degraded").await;
    let why = rollout["reason"].as_str().expect("a reason");
    assert!(why.contains("more than 1.25 times the sync path's share"), "{why}");
}
