//! A sample legacy API: an agent service with a synchronous endpoint, which takes 50 to 800 ms and
//! answers one request in fifty with an error.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The median of the delays.
const MEDIAN_DELAY_MS: f64 = 180.0;
/// The standard deviation of a delay's logarithm: seven delays in ten are within a factor of
/// e^0.6 = 1.8 of the median.
const DELAY_SPREAD: f64 = 0.6;
/// The shortest and the longest delay.
const DELAY_LIMITS_MS: (f64, f64) = (50.0, 800.0);

/// Serves the API until `shutdown`.
pub(super) async fn run(listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
    let router =
        Router::new().route("/invoke", post(serve_invoke)).route("/health", get(serve_health));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn serve_health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `{agent, task, arguments, context}` → `{result, agent, tool, status, execution_time_ms,
/// metadata}`
async fn serve_invoke(body: Bytes) -> Response {
    let start = Instant::now();
    let request: Option<Value> = serde_json::from_slice(&body).ok();
    let Some(task) = request.as_ref().and_then(|request| request["task"].as_str()) else {
        let detail = json!({"detail": [{"loc": ["body", "task"], "msg": "Field \
            required", "type": "missing"}]});
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(detail)).into_response();
    };
    tokio::time::sleep(log_normal_delay(rand::random(), rand::random())).await;
    if let Some(error) = injected_error(rand::random()) {
        let detail = json!({"detail": error.canonical_reason()});
        return (error, [(header::RETRY_AFTER, "1")], Json(detail)).into_response();
    }
    let agent = request.as_ref().and_then(|request| request["agent"].as_str()).unwrap_or("meta");
    Json(json!({
        "result": format!("{agent} did it: {task}"),
        "agent": agent,
        "tool": "orchestrate",
        "status": "completed",
        "execution_time_ms": u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        "metadata": {"served_by": "the demo's legacy API"},
    }))
    .into_response()
}

/// A log-normal delay, computed from two uniform numbers from 0 to 1 (Box and Muller, 1958).
fn log_normal_delay(first: f64, second: f64) -> Duration {
    let normal = (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * second).cos();
    let millis = (MEDIAN_DELAY_MS * (DELAY_SPREAD * normal).exp())
        .clamp(DELAY_LIMITS_MS.0, DELAY_LIMITS_MS.1);
    Duration::from_secs_f64(millis / 1000.0)
}

/// The error that a request is answered with, chosen by a uniform number from 0 to 1; none for 49
/// requests in fifty.
fn injected_error(random: f64) -> Option<StatusCode> {
    match random {
        ..0.01 => Some(StatusCode::INTERNAL_SERVER_ERROR),
        ..0.015 => Some(StatusCode::TOO_MANY_REQUESTS),
        ..0.02 => Some(StatusCode::SERVICE_UNAVAILABLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_lie_around_the_median_and_within_the_limits() {
        let at = |n: u32| f64::from(n) / 100.0;
        let mut all: Vec<Duration> =
            (0..100).flat_map(|a| (0..100).map(move |b| log_normal_delay(at(a), at(b)))).collect();
        all.sort();
        let within = Duration::from_millis(50)..=Duration::from_millis(800);
        assert!(all.iter().all(|delay| within.contains(delay)));
        assert!((170..190).contains(&all[all.len() / 2].as_millis()), "{:?}", all[all.len() / 2]);
    }

    #[test]
    fn one_request_in_fifty_gets_an_error() {
        let errors = (0..1000).filter(|n| injected_error(f64::from(*n) / 1000.0).is_some()).count();
        assert_eq!(errors, 20);
        assert_eq!(injected_error(0.012), Some(StatusCode::TOO_MANY_REQUESTS));
    }
}
