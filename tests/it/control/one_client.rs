//! One client whose calls fail again and again, known by its `Authorization` alone: nothing is
//! rolled back for it, and it is named. A fault that all clients meet is rolled back.

use http::Method;
use serde_json::{Value, json};

use super::{wait_for_phase, wait_for_rollout};
use crate::support::http::client::HttpResponse;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TestUpstream};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  invoke:
    path: /invoke
    topic: t
    wait: 10s
    rollout:
      percent: 50
      steps: [50]
      interval: 2s
      soak: 1h
topics:
  t: {handler: upstream, timeout: 30s}
workers: {count: 4, concurrency: 4}
";

on_both_stores!(one_client_that_fails_again_and_again_causes_no_rollback_and_is_named);

/// Calls as `client`; replayed by a worker, the upstream answers with `status`.
async fn call(omni: &Omnidaemon, client: Option<&str>, status: u16) {
    let body = json!({"task": "t", "arguments": {"replayed": {"status": status}}});
    let mut request = omni.data_client().request(Method::POST, "/invoke").json(&body);
    if let Some(client) = client {
        request = request.header("authorization", format!("Bearer {client}"));
    }
    HttpResponse::from_request(request).await;
}

async fn one_client_that_fails_again_and_again_causes_no_rollback_and_is_named(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = Omnidaemon::with_config(CONFIG)
        .with_upstream(&upstream)
        .set_placeholder("store", store.url())
        .start()
        .await;
    wait_for_phase(&omni, "soaking").await;
    call(&omni, None, 200).await;
    for n in 0..60 {
        call(&omni, Some(&format!("client-{n}")), 200).await;
        call(&omni, Some("noisy"), 500).await;
        call(&omni, Some(&format!("client-{n}")), 200).await;
    }
    let failed = |rollout: &Value| rollout["evidence"]["async"]["failed"].as_u64();
    let judged = wait_for_rollout(&omni, "the failures are judged", |rollout| {
        failed(rollout) > Some(20) && rollout["gates"][0]["verdict"] == "inconclusive"
    })
    .await;
    assert_eq!(judged["phase"], "soaking", "{judged:#}");
    assert_eq!(judged["evidence"]["counted_by"], "clients", "{judged:#}");
    let group = judged["evidence"]["noisy_client"].as_str().expect("it is named").to_owned();
    assert!(group.contains("come from client group"), "{group}");
    for text in [&judged["explain"], &judged["gates"][0]["why"]] {
        let text = text.as_str().expect("a text");
        assert!(text.contains("one client alone causes no rollback"), "{text}");
    }

    for n in 0..60 {
        call(&omni, Some(&format!("client-{n}")), 500).await;
    }
    wait_for_phase(&omni, "degraded").await;
}
