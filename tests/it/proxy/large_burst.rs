//! A burst of large submissions is stored, and is no outage for anyone else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;

use crate::support::http::client::HttpResponse;
use crate::support::stores::{Store, on_both_stores};
use crate::support::{Omnidaemon, wait_until};

const CONFIG: &str = "
proxy: {listen: '127.0.0.1:0', max_body: 8MiB}
upstream: {url: 'http://127.0.0.1:9'}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: waits, rollout: {percent: 0, mode: manual}}
topics:
  waits: {handler: external, max_backlog: 100000}
workers: {count: 0}
";

/// Fewer than the budget of bodies of one proxy thread has room for.
const LARGE_SUBMISSIONS: usize = 20;
const LARGE_BYTES: usize = 7_000_000;

on_both_stores!(a_burst_of_large_submissions_is_stored_and_small_ones_do_not_feel_it);

async fn submit(omni: &Omnidaemon, payload: String) -> HttpResponse {
    let body = format!("{{\"topic\":\"waits\",\"payload\":{payload}}}");
    let request = omni
        .data_client()
        .request(Method::POST, "/invoke/async")
        .header("content-type", "application/json")
        .body(body);
    HttpResponse::from_request(request).await
}

async fn a_burst_of_large_submissions_is_stored_and_small_ones_do_not_feel_it(store: Store) {
    let omni = Omnidaemon::with_config(CONFIG).set_placeholder("store", store.url()).start().await;
    let large = format!("\"{}\"", "x".repeat(LARGE_BYTES));
    let is_over = Arc::new(AtomicBool::new(false));
    let burst = async {
        let burst = (0..LARGE_SUBMISSIONS).map(|_| submit(&omni, large.clone()));
        let answers = join_all(burst).await;
        is_over.store(true, Ordering::Relaxed);
        answers
    };
    let trickle = async {
        let mut answers = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            answers.push(submit(&omni, "1".to_owned()).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        answers
    };
    let (large, small) = tokio::join!(burst, trickle);
    for answer in large.iter().chain(&small) {
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    let logs = omni.logs().lines();
    assert!(!logs.iter().any(|line| line.contains("circuit opened")), "{logs:?}");
    let stored = f64::from(u32::try_from(large.len() + small.len()).expect("few"));
    wait_until(crate::support::TEST_DEADLINE, "all of them are queued", async || {
        omni.metric_value("omnidaemon_queue_depth", &[("topic", "waits")]).await == stored
    })
    .await;
}
