//! Gentle traffic: clients that call the endpoint as they always did, each under its own
//! `x-client-id`.

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

use crate::cohort::RequestPath;

/// How many clients there are: enough for a share of 1 % to be one of them.
pub(super) const CLIENT_COUNT: u32 = 100;
/// Between two requests, on average.
const MEAN_PAUSE: Duration = Duration::from_millis(200);
/// How many answers of each path a median is taken of.
const LATENCY_SAMPLES: usize = 100;

const SAMPLE_TASKS: [(&str, &str); 4] = [
    ("meta", "plan a shop for coffee beans"),
    ("build", "build the landing page"),
    ("qa", "test the checkout"),
    ("deploy", "deploy to staging"),
];

/// How long the last answers of each path took, as the clients saw it.
#[derive(Clone, Default)]
pub(super) struct PathLatencies(Arc<Mutex<[VecDeque<Duration>; 2]>>);

// === impl Latencies ===

impl PathLatencies {
    fn record(&self, path: RequestPath, took: Duration) {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_path = &mut paths[path as usize];
        of_path.push_back(took);
        if of_path.len() > LATENCY_SAMPLES {
            of_path.pop_front();
        }
    }

    /// The median; none before the first answer.
    pub(super) fn median(&self, path: RequestPath) -> Option<Duration> {
        let mut sorted =
            Vec::from(self.0.lock().unwrap_or_else(PoisonError::into_inner)[path as usize].clone());
        sorted.sort();
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Calls `POST /invoke` of the proxy at `data` until `shutdown`, and waits for the last answers.
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

/// One call. An answer that does not come shows in the proxy's own counts.
async fn call_invoke(
    http: Client<HttpConnector, Full<Bytes>>,
    data: SocketAddr,
    latencies: PathLatencies,
) {
    let start = Instant::now();
    let Ok(request) = build_request(data, rand::random()) else { return };
    let Ok(response) = http.request(request).await else { return };
    let by = response.headers().get("x-omnidaemon-path").cloned();
    let path = [RequestPath::Sync, RequestPath::Async]
        .into_iter()
        .find(|path| by.as_ref().is_some_and(|by| by == path.as_str()));
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
    use crate::cohort::{self, Weight};

    #[test]
    fn a_median_is_of_the_last_answers_of_its_path() {
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
    fn clients_have_ids_that_a_tenth_of_the_weight_finds() {
        let weight = Weight::from_percent(10.0).expect("in range");
        let ids = (0..CLIENT_COUNT).map(|n| format!("client-{n:03}"));
        let moved = ids
            .filter(|id| {
                weight
                    .covers(cohort::cohort_bucket(cohort::hash_sticky_key("invoke", id.as_bytes())))
            })
            .count();
        assert!((5..=15).contains(&moved), "10 % of the demo's clients are {moved}");
    }
}
