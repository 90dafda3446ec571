//! Gated rollouts with real traffic: what is raised, what is turned back, and what clients notice
//! of it.
//!
//! ```text
//! traffic.rs   clients who call all the time, and are counted
//! capacity.rs  workers that do not keep up
//! counts.rs    which calls the gates hear of
//! clients.rs   whose they are
//! one_client.rs  one client alone rolls nothing back
//! clocks.rs    three processes whose clocks are hours apart
//! climb.rs     one process: steps, gates, orders
//! prometheus.rs  what a real Prometheus answers
//! replicas.rs  three processes on one Redis, killed and stopped
//! shadow.rs    copies that are answered alike, and otherwise
//! split.rs     what is assigned to which path, and what falls back
//! story.rs     the playbook's calendar, and a regression in each of its phases
//! ```

mod capacity;
mod clients;
mod climb;
mod clocks;
mod counts;
mod one_client;
mod prometheus;
mod replicas;
mod shadow;
mod split;
mod story;
mod traffic;

use serde_json::{Value, json};

use crate::support::scenario::{Route, ScenarioBuilder, route, scenario, topic};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_for_some};

/// A rollout to 50 % by 10 % and 25 %, which moves within seconds when its gate on errors passes.
fn gated_rollout() -> Value {
    json!({
        "percent": 50,
        "steps": [10, 25, 50],
        "mode": "gated",
        "interval": "300ms",
        "soak": "1s",
        "min_samples": {"async": 20, "sync": 20},
        "gates": [{"name": "errors", "type": "error_ratio", "max": "15%"}],
    })
}

/// The route `invoke`, whose calls wait ten seconds at most, under this rollout.
fn rollout_route(rollout: Value) -> Route {
    route("invoke").wait("10s").rollout(rollout)
}

/// A server with that one route and enough workers for all of its calls.
fn rollout_scenario(route: Route) -> ScenarioBuilder {
    scenario().route(route).topic(topic("t").timeout("30s")).workers(4).concurrency(4)
}

/// A rollout as the admin API shows it.
async fn fetch_rollout(omni: &Omnidaemon) -> Value {
    omni.admin_client().get("/admin/v1/rollouts/invoke").await.json()
}

/// Waits until the rollout is so.
///
/// # Panics
/// When it is not in good time; with what it was last.
async fn wait_for_rollout(
    omni: &Omnidaemon,
    what: &str,
    mut is: impl FnMut(&Value) -> bool,
) -> Value {
    let last = std::cell::RefCell::new(Value::Null);
    let found = tokio::time::timeout(TEST_DEADLINE * 2, async {
        loop {
            let now = fetch_rollout(omni).await;
            if is(&now) {
                return now;
            }
            *last.borrow_mut() = now;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not {what}: {:#}", last.borrow()))
}

/// Waits until it runs at this weight.
async fn wait_for_weight(omni: &Omnidaemon, weight: f64) -> Value {
    wait_for_rollout(omni, &format!("at {weight} %"), |rollout| rollout["weight"] == weight).await
}

/// Waits until it is in this phase.
async fn wait_for_phase(omni: &Omnidaemon, phase: &str) -> Value {
    wait_for_rollout(omni, phase, |rollout| rollout["phase"] == phase).await
}

/// Names of the events in the history, oldest first.
async fn event_names(omni: &Omnidaemon) -> Vec<String> {
    let answer = wait_for_some(TEST_DEADLINE, "the history is told", async || {
        let answer = omni.admin_client().get("/admin/v1/rollouts/invoke/history?limit=1000").await;
        (answer.status == 200).then(|| answer.json())
    });
    let page = answer.await;
    let events = page["events"].as_array().unwrap_or_else(|| panic!("{page}")).iter();
    let mut names: Vec<String> =
        events.map(|event| event["event"].as_str().expect("a name").to_owned()).collect();
    names.reverse();
    names
}

/// Orders something, and gives the status and what was said.
async fn send_command(omni: &Omnidaemon, verb: &str, body: Value) -> (u16, Value) {
    let answer =
        omni.admin_client().post(&format!("/admin/v1/rollouts/invoke/{verb}"), &body).await;
    (answer.status.as_u16(), answer.json())
}
