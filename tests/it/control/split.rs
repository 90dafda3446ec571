//! How requests are assigned to the paths, and what becomes of those that are assigned async.

use http::Method;
use serde_json::{Value, json};

use super::{wait_for_phase, wait_for_rollout};
use crate::support::http::client::HttpResponse;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TestUpstream};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
proxy: {listen: 127.0.0.1:0, trusted: [127.0.0.0/8], max_body: 64KiB}
routes:
  invoke:
    path: /invoke
    topic: t
    wait: 10s
    rollout:
      percent: 50
      steps: [50]
      interval: 1s
      soak: 1h
      sticky: {keys: [header:x-client-id]}
      pin: {async: [first]}
topics:
  t: {handler: upstream, timeout: 30s}
workers: {count: 4, concurrency: 4}
";

on_both_stores!(
    only_calls_without_a_key_count_as_assigned_at_random_and_what_fell_back_is_explained,
);

/// A call with this header, if it is not empty, and with a body of about that many bytes.
async fn call(omni: &Omnidaemon, header: (&str, &str), size: usize) {
    let body = json!({"task": "t", "arguments": {"pad": "x".repeat(size)}});
    let mut request = omni.data_client().request(Method::POST, "/invoke").json(&body);
    if !header.0.is_empty() {
        request = request.header(header.0, header.1);
    }
    HttpResponse::from_request(request).await;
}

async fn only_calls_without_a_key_count_as_assigned_at_random_and_what_fell_back_is_explained(
    store: Store,
) {
    let upstream = TestUpstream::start().await;
    let omni = Omnidaemon::with_config(CONFIG)
        .with_upstream(&upstream)
        .set_placeholder("store", store.url())
        .start()
        .await;
    wait_for_phase(&omni, "soaking").await;
    for n in 0..40 {
        call(&omni, ("", ""), 10).await;
        call(&omni, ("x-client-id", "first"), 10).await;
        call(&omni, ("x-client-id", &format!("client-{n}")), 10).await;
        call(&omni, ("x-omnidaemon-path", "async"), 10).await;
        call(&omni, ("x-client-id", "first"), 100_000).await;
    }
    let count = |rollout: &Value, field: &str| rollout["evidence"][field].as_u64();
    let judged = wait_for_rollout(&omni, "all calls are counted", |rollout| {
        rollout["evidence"]["fallbacks"]["body_too_large"] == 40
            && count(rollout, "async_random")
                .zip(count(rollout, "sync_random"))
                .is_some_and(|(async_random, sync_random)| async_random + sync_random == 40)
            && count(rollout, "canaried") > Some(80)
    })
    .await;
    assert_eq!(judged["evidence"]["mismatched_assignments"], 0, "{judged:#}");
    assert_eq!(judged["blocked_code"], json!(null), "{judged:#}");
    let share = judged["evidence"]["served_share"].as_str().expect("a text");
    assert!(share.contains(" assigned: 20 % over max_body"), "{share}");
    let explained = judged["explain"].as_str().expect("a text");
    assert!(explained.contains(share), "{explained}");
}
