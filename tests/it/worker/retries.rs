//! When the attempts of a failing task are repeated.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::http::fixed_response::{AfterResponse, FixedResponseServer};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

const CONFIG: &str = "
upstream: {url: '<upstream>'}
store: {url: 'sqlite:<dir>/omnidaemon.db'}
routes:
  invoke: {path: /invoke, topic: replayed, rollout: {percent: 0, mode: manual}}
topics:
  replayed: {handler: upstream, retries: 2, retry_delay: 10ms}
  posted: {handler: {http: '<server>/build'}, retries: 2, retry_delay: 10ms}
";

const BUSY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 6\r\nContent-Length: 0\r\n\r\n";
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 6\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn the_next_attempt_waits_as_long_as_the_retry_after_of_a_handler_asks() {
    let upstream = FixedResponseServer::start(BUSY, AfterResponse::KeepOpen).await;
    let server = FixedResponseServer::start(UNAVAILABLE, AfterResponse::KeepOpen).await;
    let omni = Omnidaemon::with_config(CONFIG)
        .set_placeholder("upstream", upstream.url())
        .set_placeholder("server", server.url())
        .start()
        .await;
    let before = Instant::now();
    let counts_before = [upstream.request_count(), server.request_count()];
    for topic in ["replayed", "posted"] {
        let task = json!({"topic": topic, "payload": {}});
        assert_eq!(omni.data_client().post("/invoke/async", &task).await.status, 202);
    }
    for (server, before_it) in [&upstream, &server].into_iter().zip(counts_before) {
        wait_until(TEST_DEADLINE, "a second attempt", async || {
            server.request_count() >= before_it + 2
        })
        .await;
        assert!(before.elapsed() >= Duration::from_secs(6), "{:?}", before.elapsed());
    }
}
