//! The demo's traffic: 100 legacy clients that call the endpoint, each with its own `x-client-id`,
//! about five requests a second in total.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cohort_hash::RequestPath;

/// The number of clients: enough for a share of 1 % to be one client.
pub(super) const CLIENT_COUNT: u32 = 100;
/// The mean time between two requests.
const MEAN_PAUSE: Duration = Duration::from_millis(200);
/// The number of latest responses of each path that the median is computed from.
const LATENCY_SAMPLES: usize = 100;

const SAMPLE_TASKS: [(&str, &str); 4] = [
    ("meta", "plan a shop for coffee beans"),
    ("build", "build the landing page"),
    ("qa", "test the checkout"),
    ("deploy", "deploy to staging"),
];

/// The latencies of the latest responses of each path, as the clients measured them.
#[derive(Clone, Default)]
pub(super) struct PathLatencies(Arc<Mutex<[VecDeque<Duration>; 2]>>);

// === impl PathLatencies ===

impl PathLatencies {
    fn record(&self, path: RequestPath, latency: Duration) {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let latencies = &mut paths[path as usize];
        latencies.push_back(latency);
        if latencies.len() > LATENCY_SAMPLES {
            latencies.pop_front();
        }
    }

    /// The median latency of a path; none before its first response.
    pub(super) fn median(&self, path: RequestPath) -> Option<Duration> {
        let mut sorted =
            Vec::from(self.0.lock().unwrap_or_else(PoisonError::into_inner)[path as usize].clone());
        sorted.sort();
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Calls `POST /invoke` of the proxy at `data` until `shutdown`, and waits for the last responses.
pub(super) async fn run(data: SocketAddr, latencies: PathLatencies, shutdown: CancellationToken) {
    let http: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let mut calls = JoinSet::new();
    loop {
        let pause = MEAN_PAUSE.mul_f64(0.5 + rand::random::<f64>());
        if shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
            break;
        }
        calls.spawn(call_invoke(http.clone(), data, latencies.clone()));
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
}

/// Makes one call and records its latency. Errors are ignored, since the proxy counts them.
async fn call_invoke(
    http: Client<HttpConnector, Full<Bytes>>,
    data: SocketAddr,
    latencies: PathLatencies,
) {
    let start = Instant::now();
    let Ok(request) = build_request(data, rand::random()) else { return };
    let Ok(response) = http.request(request).await else { return };
    let path_header = response.headers().get("x-omnidaemon-path").cloned();
    let path = [RequestPath::Sync, RequestPath::Async]
        .into_iter()
        .find(|path| path_header.as_ref().is_some_and(|value| value == path.as_str()));
    if let (Ok(_), Some(path)) = (response.into_body().collect().await, path) {
        latencies.record(path, start.elapsed());
    }
}

fn build_request(data: SocketAddr, random: u32) -> http::Result<Request<Full<Bytes>>> {
    let (agent, task) = SAMPLE_TASKS[random as usize % SAMPLE_TASKS.len()];
    let body = json!({"agent": agent, "task": task, "arguments": {}, "context": {"from": "demo"}});
    Request::post(format!("http://{data}/invoke"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-client-id", format!("client-{:03}", random % CLIENT_COUNT))
        .body(Full::from(body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cohort_hash::{self, Weight};

    #[test]
    fn a_median_is_of_the_latest_responses_of_its_path() {
        let latencies = PathLatencies::default();
        assert_eq!(latencies.median(RequestPath::Sync), None);
        for millis in [900; 5] {
            latencies.record(RequestPath::Sync, Duration::from_millis(millis));
        }
        for millis in 1..=100 {
            latencies.record(RequestPath::Sync, Duration::from_millis(millis));
        }
        assert_eq!(latencies.median(RequestPath::Sync), Some(Duration::from_millis(51)));
        assert_eq!(latencies.median(RequestPath::Async), None);
    }

    #[test]
    fn a_weight_of_ten_percent_moves_about_ten_percent_of_the_clients() {
        let weight = Weight::from_percent(10.0).expect("in range");
        let ids = (0..CLIENT_COUNT).map(|n| format!("client-{n:03}"));
        let moved = ids
            .filter(|id| {
                weight.covers(cohort_hash::cohort_bucket(cohort_hash::hash_sticky_key(
                    "invoke",
                    id.as_bytes(),
                )))
            })
            .count();
        assert!((5..=15).contains(&moved), "10 % of the demo's clients are {moved}");
    }
}
