//! A whole rollout as legacy clients see it: every response is compared with what the legacy
//! endpoint itself answers, while the weight climbs to 100 % and a bad deployment of the async path
//! turns it back. Calls of the async path fail until the rollout is turned back, and none after it.

mod legacy_clients;

use serde_json::{Value, json};

use self::legacy_clients::{LegacyClients, Tally};
use crate::support::scenario::{ScenarioBuilder, route, scenario, topic};
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

/// Calls in a second, for both endpoints together.
const RATE: u32 = 100;
const ROUTES: [&str; 2] = ["invoke", "agents"];

/// The README's smallest configuration for both endpoints, with short soaks and gates that few
/// requests can pass.
fn rollout_scenario(store_url: String, upstream: &TestUpstream) -> ScenarioBuilder {
    let both = |name: &str| route(name).wait("10s").rollout(rollout(100));
    scenario()
        .store_url(store_url)
        .upstream(upstream)
        .route(both("invoke"))
        .route(both("agents").path("/invoke/{agent}"))
        .topic(topic("t").timeout("1h"))
}

fn rollout(percent: u8) -> Value {
    json!({
        "percent": percent,
        "steps": [10, 25, 50, 100],
        "mode": "gated",
        "interval": "300ms",
        "soak": "1s",
        "min_samples": {"async": 60, "sync": 0},
        "gates": [
            {"name": "errors", "type": "error_ratio", "max": "10%"},
            {"name": "client_errors", "type": "client_error_ratio", "max": "20%"},
            {"name": "deferred", "type": "deferred_ratio", "max": "10%"},
        ],
    })
}

async fn wait_for_phase(omni: &Omnidaemon, phase: &str) {
    for name in ROUTES {
        let path = format!("/admin/v1/rollouts/{name}");
        wait_until(TEST_DEADLINE * 6, &format!("{name} is {phase}"), async || {
            omni.admin_client().get(&path).await.json()["phase"] == phase
        })
        .await;
    }
}

/// Fails if clients noticed anything but 202s.
fn assert_unnoticed(what: &str, tally: &Tally) {
    let first: Vec<_> = tally.noticed.iter().take(5).collect();
    assert!(first.is_empty(), "{what}: {} of them, such as {first:#?}", tally.noticed.len());
    eprintln!(
        "{what}: {:?}, {} deferred, p95 sync {:?}, async {:?}",
        tally.same,
        tally.deferred,
        tally.p95("sync"),
        tally.p95("async"),
    );
}

#[tokio::test]
async fn legacy_clients_notice_nothing_on_sqlite() {
    let upstream = TestUpstream::start().await;
    let omni = rollout_scenario("sqlite:<dir>/tasks.db".to_owned(), &upstream).start_server().await;
    let clients = LegacyClients::start(&upstream, vec![omni.data_client()], RATE).await;

    wait_for_phase(&omni, "healthy").await;
    let climb = clients.take_tally();
    assert_unnoticed("10 to 100 %", &climb);
    assert_eq!(climb.deferred, 0);
    assert!(climb.same_by("sync") > 0 && climb.same_by("async") > 0, "{:?}", climb.same);

    assert_bad_deployment_is_turned_back(&omni, &clients).await;
    assert_unnoticed("the last calls", &clients.stop().await);
}

/// Every replayed call fails from now on: the rollouts are turned back, and few clients notice.
async fn assert_bad_deployment_is_turned_back(omni: &Omnidaemon, clients: &LegacyClients) {
    clients.fail_replayed_calls();
    wait_for_phase(omni, "degraded").await;
    let noticed = clients.take_tally().noticed;
    assert!(noticed.iter().all(|what| what.starts_with("async")), "{noticed:?}");
    eprintln!("a bad deployment: {} calls failed before it was turned back", noticed.len());
    clients.tally_of_next(100).await; // responses of tasks that were under way
    assert_unnoticed("the rollout is turned back", &clients.tally_of_next(200).await);
}
