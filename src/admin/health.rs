//! `/livez`, `/readyz`, `/healthz`: the probes of load balancers and orchestrators.
//!
//! A `serve` process whose store or upstream is down is degraded and stays ready: it fails open, so
//! it must stay in the balancer. A worker process without its store is not ready: it can do
//! nothing.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::services::{AdminServices, ProcessRole};
use super::views::{CheckDocuments, HealthDocument};
use crate::config::UpstreamConfig;

/// How long the upstream may take to accept a connection before its check fails.
const UPSTREAM_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The verdict of all checks together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthStatus {
    /// All checks pass.
    Ready,
    /// A check fails.
    Degraded,
    /// The stored weights are not loaded yet.
    Starting,
    /// The shutdown has begun.
    Draining,
}

/// The health of the process at one moment.
pub(super) struct HealthReport {
    /// Whether a balancer may send requests here.
    pub(super) is_ready: bool,
    pub(super) status: HealthStatus,
    pub(super) checks: CheckDocuments,
}

impl HealthStatus {
    /// The word of `/readyz`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Starting => "starting",
            Self::Draining => "draining",
        }
    }
}

pub(super) async fn get_livez() -> impl IntoResponse {
    Json(json!({"status": "alive"}))
}

pub(super) async fn get_readyz(State(services): State<AdminServices>) -> impl IntoResponse {
    let report = collect_health(&services).await;
    let code = if report.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = report.status.as_str().to_owned();
    (code, Json(HealthDocument { status, checks: report.checks }))
}

/// Runs all checks that readiness depends on.
pub(super) async fn collect_health(services: &AdminServices) -> HealthReport {
    let role = services.health.role;
    let store_problem = services.circuit.open_reason().map(|reason| reason.to_string());
    let upstream_problem = match role {
        ProcessRole::Serve => check_upstream(&services.config().upstream).await.err(),
        ProcessRole::Worker => None,
    };
    let config_problem = services.reload_status.last_error();
    let weights_loaded = *services.health.weights_loaded.borrow();
    let all_pass =
        store_problem.is_none() && upstream_problem.is_none() && config_problem.is_none();
    let status = if services.health.draining.is_cancelled() {
        HealthStatus::Draining
    } else if !weights_loaded {
        HealthStatus::Starting
    } else if all_pass {
        HealthStatus::Ready
    } else {
        HealthStatus::Degraded
    };
    let is_ready = match status {
        HealthStatus::Ready => true,
        HealthStatus::Degraded => role == ProcessRole::Serve || store_problem.is_none(),
        HealthStatus::Starting | HealthStatus::Draining => false,
    };
    let mut checks = CheckDocuments::default();
    checks.add("config", config_problem);
    checks.add("store", store_problem);
    if role == ProcessRole::Serve {
        checks.add("upstream", upstream_problem);
        let not_loaded = || "the stored weight is not loaded yet".to_owned();
        checks.add("rollout", (!weights_loaded).then(not_loaded));
    }
    HealthReport { is_ready, status, checks }
}

/// Succeeds when one of the upstream's servers accepts a connection; else the last failure.
async fn check_upstream(upstream: &UpstreamConfig) -> Result<(), String> {
    let mut problem = String::from("no server is configured");
    for url in &upstream.urls {
        let connect = TcpStream::connect((url.host.as_str(), url.port));
        problem = match timeout(UPSTREAM_CHECK_TIMEOUT, connect).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => format!("cannot connect to {url}: {error}"),
            Err(_) => {
                format!("{url} does not accept a connection within {UPSTREAM_CHECK_TIMEOUT:?}")
            }
        };
    }
    Err(problem)
}
