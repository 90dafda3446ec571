//! SIGTERM: clients that wait for a task are answered, tasks are given back unspent, sync calls may
//! run until the drain is over, and those that are cut off then are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use omnidaemon::app::App;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::http::client::HttpResponse;
use crate::support::metrics::ScrapedMetrics;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

/// The routes `invoke` and `held` become tasks that run until `<dir>/go` exists; `slow` ones sleep
/// in the upstream.
const CONFIG: &str = "
proxy: {listen: 127.0.0.1:0, drain: <drain>}
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: gate, wait: 5m, saturation: queue, rollout: {percent: 100, \
           mode: manual}}
  held: {path: /held, topic: gate, wait: 10ms, on_wait_timeout: hold, saturation: queue, \
         rollout: {percent: 100, mode: manual}}
  slow: {path: /slow, topic: slow, wait: 5m, saturation: queue, rollout: {percent: 100, \
         mode: manual}}
topics:
  gate:
    handler: {command: [sh, -c, 'echo >> <dir>/runs; until [ -e <dir>/go ]; do sleep 0.05; done; \
              echo 7']}
    concurrency: 4
  slow: {handler: {http: '<upstream>/invoke'}, retries: 0}
workers: {count: 2, drain: <workers-drain>}
";

async fn start(store: &Store, upstream: &TestUpstream, drains: (&str, &str)) -> Omnidaemon {
    let (drain, workers_drain) = drains;
    let omni = Omnidaemon::with_config(CONFIG)
        .with_upstream(upstream)
        .set_placeholder("store", store.url())
        .set_placeholder("drain", drain)
        .set_placeholder("workers-drain", workers_drain)
        .start()
        .await;
    omni.wait_until_topic_has_slots("gate").await;
    omni.wait_until_topic_has_slots("slow").await;
    omni
}

fn call(
    omni: &Omnidaemon,
    path: &str,
    key: Option<&str>,
    sleep_ms: u32,
) -> JoinHandle<HttpResponse> {
    let body = json!({"task": "t", "arguments": {"sleep_ms": sleep_ms}});
    let request = omni.data_client().request(Method::POST, path).json(&body);
    let request = match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    };
    tokio::spawn(HttpResponse::from_request(request))
}

fn poll_url(accepted: &HttpResponse) -> String {
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned()
}

/// How often the tasks of topic `gate` were begun.
fn begun(omni: &Omnidaemon) -> usize {
    std::fs::read_to_string(omni.dir().join("runs")).unwrap_or_default().lines().count()
}

on_both_stores!(
    drain_answers_202_to_waiting_clients_hold_included,
    tasks_that_end_as_the_drain_does_spend_no_attempt,
);

async fn drain_answers_202_to_waiting_clients_hold_included(store: Store) {
    let upstream = TestUpstream::start().await;
    let mut omni = start(&store, &upstream, ("4s", "500ms")).await;
    let first = [call(&omni, "/invoke", None, 0), call(&omni, "/invoke", Some("a key"), 0)];
    let held = call(&omni, "/held", None, 0);
    wait_until(TEST_DEADLINE, "the tasks run", async || begun(&omni) == 3).await;
    let repeat = call(&omni, "/invoke", Some("a key"), 0);
    let (open, state) = ("omnidaemon_idempotent_requests_total", [("outcome", "claimed")]);
    wait_until(TEST_DEADLINE, "the key is claimed", async || {
        omni.metric_value(open, &state).await >= 1.0
    })
    .await;
    omni.send_sigterm();
    let mut polls = BTreeMap::new();
    let [plain, keyed] = first;
    for (name, call) in [("plain", plain), ("keyed", keyed), ("held", held), ("repeat", repeat)] {
        polls.insert(name, poll_url(&call.await.expect("an answer")));
    }
    assert_eq!(polls["keyed"], polls["repeat"], "the repeat waited for the same task");
    assert!(omni.wait_for_exit().await.success());
    assert!(!omni.logs().contains("cut off"), "{}", omni.logs().to_text());

    std::fs::write(omni.dir().join("go"), "").expect("written");
    omni.restart().await;
    for (name, poll) in &polls {
        let ended = omni.data_client().get(&format!("{poll}?wait=60s")).await.json();
        assert_eq!(
            (&ended["status"], &ended["result"], &ended["attempts"]),
            (&json!("completed"), &json!(7), &json!(1)),
            "{name}: {ended}"
        );
    }
}

async fn tasks_that_end_as_the_drain_does_spend_no_attempt(store: Store) {
    let upstream = TestUpstream::start().await;
    let mut omni = start(&store, &upstream, ("5s", "1s")).await;
    // The workers stop about 1.5 s after SIGTERM, and interrupt attempts 1 s later.
    let calls: Vec<_> = (0..5).map(|n| call(&omni, "/slow", None, 2_300 + n * 150)).collect();
    wait_until(TEST_DEADLINE, "all run", async || {
        upstream.fetch_requests().await.requests.len() == 5
    })
    .await;
    omni.send_sigterm();
    let mut unfinished = Vec::new();
    for call in calls {
        let answer = call.await.expect("an answer");
        if answer.status != 200 {
            unfinished.push(poll_url(&answer));
        }
    }
    assert!(omni.wait_for_exit().await.success());
    assert!(!omni.logs().contains("workers did not end in time"), "{}", omni.logs().to_text());
    omni.restart().await;
    for poll in unfinished {
        let task = omni.data_client().get(&poll).await.json();
        assert_ne!(task["status"], "failed", "{task}");
        let ended = omni.data_client().get(&format!("{poll}?wait=60s")).await.json();
        assert_eq!(
            (&ended["status"], &ended["attempts"]),
            (&json!("completed"), &json!(1)),
            "{ended}"
        );
    }
}

#[tokio::test]
async fn a_sync_call_of_twenty_seconds_fits_the_default_drain() {
    let upstream = TestUpstream::start().await;
    let config = "
upstream: {url: <upstream>}
store: {url: 'sqlite:<dir>/omnidaemon.db'}
routes:
  invoke: {path: /invoke, topic: t, rollout: {percent: 0, mode: manual}}
topics:
  t: {handler: upstream}
";
    let mut omni = Omnidaemon::with_config(config).with_upstream(&upstream).start().await;
    let sync = call(&omni, "/invoke", None, 20_000);
    wait_until(TEST_DEADLINE, "the upstream has it", async || {
        upstream.fetch_requests().await.requests.len() == 1
    })
    .await;
    omni.send_sigterm();
    assert_eq!(sync.await.expect("an answer").status, 200);
    assert!(omni.wait_for_exit().await.success());
    assert!(!omni.logs().contains("cut off"), "{}", omni.logs().to_text());
}

/// A configuration of a sync route, whose drain cuts calls off after a second.
const CUTTING_CONFIG: &str = "
proxy: {listen: 127.0.0.1:0, drain: 1s}
admin: {listen: 127.0.0.1:0}
upstream: {url: <upstream>}
store: {url: 'sqlite:<dir>/omnidaemon.db'}
routes:
  invoke: {path: /invoke, topic: t, rollout: {percent: 0, mode: manual}}
topics:
  t: {handler: upstream}
workers: {count: 1, drain: 0s}
";

#[tokio::test]
async fn sync_calls_that_the_drain_cuts_off_are_named_in_one_warning() {
    let upstream = TestUpstream::start().await;
    let mut omni = Omnidaemon::with_config(CUTTING_CONFIG).with_upstream(&upstream).start().await;
    let cut = [("route", "invoke")];
    assert_eq!(omni.metric_value("omnidaemon_drain_cut_total", &cut).await, 0.0);
    let body = json!({"task": "t", "arguments": {"sleep_ms": 60_000}});
    let calls = [
        (Method::POST, "/invoke"),
        (Method::POST, "/invoke"),
        (Method::GET, "/stream?n=2&ms=60000"),
    ];
    let calls = calls.map(|(method, path)| {
        let request = omni.data_client().request(method, path).json(&body);
        tokio::spawn(HttpResponse::try_from_request(request))
    });
    wait_until(TEST_DEADLINE, "the upstream has them", async || {
        upstream.fetch_requests().await.requests.len() == 3
    })
    .await;
    omni.send_sigterm();
    assert!(omni.wait_for_exit().await.success());
    for call in calls {
        let _ = call.await.expect("joined");
    }
    let text = omni.logs().to_text();
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("cut off")).collect();
    assert_eq!(warnings.len(), 1, "{text}");
    assert!(
        warnings[0].contains(" WARN ")
            && warnings[0].contains("requests=3")
            && warnings[0].contains("proxy.drain"),
        "{}",
        warnings[0]
    );
}

/// Runs the program's parts in this process, since its metrics cannot be read once it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn sync_calls_that_the_drain_cuts_off_are_counted_by_route() {
    let upstream = TestUpstream::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let config = CUTTING_CONFIG
        .replace("<upstream>", &upstream.url())
        .replace("<dir>", dir.path().to_str().expect("UTF-8"));
    let file = dir.path().join("omnidaemon.yaml");
    std::fs::write(&file, config).expect("written");
    let loaded = omnidaemon::config::load_file(&file, &BTreeMap::default()).expect("valid");
    let bound = App::new(loaded).bind().await.expect("bound");
    let (metrics, address) = (bound.metrics(), bound.data_address());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(bound.run(shutdown.clone()));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let send = |path: &str, body: serde_json::Value| {
        let request = client.post(format!("http://{address}{path}")).json(&body);
        tokio::spawn(request.send())
    };
    let slow = json!({"task": "t", "arguments": {"sleep_ms": 60_000}});
    let calls = [send("/invoke", slow.clone()), send("/invoke", slow)];
    wait_until(TEST_DEADLINE, "the upstream has them", async || {
        upstream.fetch_requests().await.requests.len() >= 2
    })
    .await;
    shutdown.cancel();
    tokio::time::timeout(Duration::from_mins(1), running)
        .await
        .expect("it ends")
        .expect("joined")
        .expect("no error");
    for call in calls {
        assert!(call.await.expect("joined").is_err(), "it was cut off");
    }
    let counted = ScrapedMetrics::parse(&metrics.render_exposition());
    assert_eq!(counted.value("omnidaemon_drain_cut_total", &[("route", "invoke")]), 2.0);
    assert_eq!(counted.value("omnidaemon_drain_cut_total", &[("route", "_other")]), 0.0);
}
