//! `/livez`, `/readyz`, `/healthz`: what a balancer and an orchestrator ask.
//!
//! A `serve` whose store or upstream is down stays ready, degraded: failing open must stay in the
//! balancer. A bare worker without its store is not ready: it can do nothing.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::AdminServices;
use crate::config::UpstreamConfig;

/// How long the upstream may take to accept a connection before a check calls it down.
const UPSTREAM_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRole {
    /// The proxy, with or without embedded workers.
    Serve,
    /// Workers alone.
    Worker,
}

/// What readiness depends on.
pub struct ProcessHealth {
    /// What the process is for.
    pub role: ProcessRole,
    /// True once the stored weight is loaded, or the store is declared unreachable.
    pub weights_loaded: watch::Receiver<bool>,
    /// Cancelled when the shutdown begins.
    pub draining: CancellationToken,
}

/// How a process stands.
pub(super) struct HealthReport {
    pub(super) is_ready: bool,
    pub(super) status: &'static str,
    pub(super) checks: Value,
}

pub(super) async fn get_livez() -> impl IntoResponse {
    Json(json!({"status": "alive"}))
}

pub(super) async fn get_readyz(State(parts): State<AdminServices>) -> impl IntoResponse {
    let report = collect_health(&parts).await;
    let code = if report.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({"status": report.status, "checks": report.checks})))
}

/// Looks at everything that readiness depends on.
pub(super) async fn collect_health(parts: &AdminServices) -> HealthReport {
    let snapshot = parts.snapshots.load();
    let store = parts.circuit.open_reason().map(|reason| reason.to_string());
    let upstream = match parts.health.role {
        ProcessRole::Serve => check_upstream(&snapshot.config.upstream).await.err(),
        ProcessRole::Worker => None,
    };
    let reload = parts.reload_status.last_error();
    let loaded = *parts.health.weights_loaded.borrow();
    let draining = parts.health.draining.is_cancelled();
    let (ready, status) = match (draining, loaded, parts.health.role, &store, &upstream) {
        (true, ..) => (false, "draining"),
        (_, false, ..) => (false, "starting"),
        (_, _, ProcessRole::Worker, Some(_), _) => (false, "degraded"),
        (_, _, _, None, None) if reload.is_none() => (true, "ready"),
        _ => (true, "degraded"),
    };
    let said = |problem: Option<String>| problem.unwrap_or_else(|| "ok".to_owned());
    let mut checks = json!({"config": said(reload), "store": said(store)});
    if parts.health.role == ProcessRole::Serve {
        checks["upstream"] = said(upstream).into();
        checks["rollout"] =
            if loaded { "ok" } else { "the stored weight is not loaded yet" }.into();
    }
    HealthReport { is_ready: ready, status, checks }
}

/// Whether one of the servers accepts a connection.
async fn check_upstream(upstream: &UpstreamConfig) -> Result<(), String> {
    let mut last = String::from("no server is configured");
    for url in &upstream.urls {
        match timeout(UPSTREAM_CHECK_TIMEOUT, TcpStream::connect((url.host.as_str(), url.port)))
            .await
        {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => last = format!("cannot connect to {url}: {error}"),
            Err(_) => {
                last =
                    format!("{url} does not accept a connection within {UPSTREAM_CHECK_TIMEOUT:?}");
            }
        }
    }
    Err(last)
}
