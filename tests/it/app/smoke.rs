//! The shortest proof that the binary does what it is for.

use serde_json::json;

use crate::support::scenario::{Scenario, route, scenario, topic};

async fn start() -> Scenario {
    scenario()
        .route(route("invoke").topic("smoke.invoke"))
        .topic(topic("smoke.invoke"))
        .start()
        .await
}

#[tokio::test]
async fn a_post_passes_through_to_the_legacy_endpoint() {
    let omni = start().await;

    let answer =
        omni.data_client().post("/invoke", &json!({"task": "build", "agent": "meta"})).await;

    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-omnidaemon-path"), Some("sync"));
    assert_eq!(answer.json()["result"], "build is done");
    assert_eq!(answer.json()["agent"], "meta");
    assert_eq!(omni.upstream().fetch_requests().await.requests.len(), 1);
}

#[tokio::test]
async fn the_admin_plane_says_that_the_process_lives() {
    let omni = start().await;

    assert_eq!(omni.admin_client().get("/livez").await.status, 200);
}

#[tokio::test]
async fn sigterm_ends_it_with_status_0() {
    let mut omni = start().await;

    omni.send_sigterm();

    assert!(omni.wait_for_exit().await.success());
}
