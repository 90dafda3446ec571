//! A rollout whose workers do not keep up: it neither climbs nor is rolled back, says why, and goes
//! on once there are slots.

use serde_json::json;

use super::traffic::Traffic;
use super::{event_names, wait_for_phase, wait_for_rollout};
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
      interval: 300ms
      soak: 1s
      min_samples: {async: 20, sync: 20}
      gates: [{name: errors, type: error_ratio, max: 15%}]
topics:
  t: {handler: upstream, timeout: 30s, concurrency: 1}
workers: {count: 1}
";

on_both_stores!(a_rollout_capped_by_capacity_does_not_climb_until_there_are_slots);

async fn a_rollout_capped_by_capacity_does_not_climb_until_there_are_slots(store: Store) {
    let upstream = TestUpstream::start().await;
    let mut omni = Omnidaemon::with_config(CONFIG)
        .with_upstream(&upstream)
        .set_placeholder("store", store.url())
        .start()
        .await;
    let traffic = Traffic::on(vec![omni.data_client()]);
    traffic.ask(json!({"sleep_ms": 200}));
    let blocked = wait_for_rollout(&omni, "blocked", |rollout| {
        rollout["blocked_code"] == "saturated"
            && rollout["evidence"]["canaried"].as_u64() > Some(30)
    })
    .await;
    for field in ["explain", "frozen"] {
        let text = blocked[field].as_str().expect("a text");
        assert!(text.contains("were served sync, since all slots were busy"), "{text}");
        assert!(!text.contains("promote"), "{text}");
    }
    assert_eq!(blocked["waiting_for"], "capacity", "{blocked:#}");
    let next = "run more workers, or raise topics.t.concurrency (docs/sizing.md)";
    assert_eq!(blocked["to_do"], next, "{blocked:#}");
    assert!(blocked["evidence"]["fallbacks"]["saturated"].as_u64() > Some(2), "{blocked:#}");
    let warned = |line: &str| {
        (line.contains("WARN") && line.contains("the rollout is blocked")).then(|| line.to_owned())
    };
    let line = omni.process().wait_for_log("the warning", 0, warned).await;
    assert!(line.contains("saturated"), "{line}");
    assert_eq!(event_names(&omni).await, ["step"], "{blocked:#}");

    drop(traffic);
    omni.edit_config(|yaml| yaml.replace("concurrency: 1", "concurrency: 32"));
    omni.restart().await;
    let traffic = Traffic::on(vec![omni.data_client()]);
    let healthy = wait_for_phase(&omni, "healthy").await;
    assert_eq!(healthy["blocked_code"], json!(null), "{healthy:#}");
    assert_eq!(event_names(&omni).await, ["step", "step"], "{healthy:#}");
    traffic.stop().await;
}
