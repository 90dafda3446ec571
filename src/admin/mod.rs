//! The admin plane: health and metrics for machines, `/admin/v1` for operators and the command line.
//!
//! Health and metrics need no token. The API does where one is configured, answers only to host names
//! that it knows (a page in a browser cannot rebind to it), and takes changes only from the same site.

mod api;
mod dead_letters;
mod guard;
mod health;
mod tasks;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::api::{advice_view, task_view, topic_view, worker_view, workers_check};
pub use self::dead_letters::{Refused, discarded, listed, reprocessed};
pub use self::health::{Health, Role};
pub use self::tasks::{fate_view, life_view, page_view, status};
use crate::control::{ReloadStatus, Rollouts};
use crate::metrics::Metrics;
use crate::snapshot::Snapshots;
use crate::store::Circuit;
use crate::task::UnixMs;

/// What the admin plane works with.
#[derive(Clone)]
pub struct Parts {
    /// The current snapshot.
    pub snapshots: Arc<Snapshots>,
    /// The store behind its breaker.
    pub circuit: Arc<Circuit>,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// How ready the process is.
    pub health: Arc<Health>,
    /// How the last reload went.
    pub reloads: Arc<ReloadStatus>,
    /// Where rollouts are shown and ordered.
    pub rollouts: Rollouts,
    /// When the process started.
    pub started: UnixMs,
}

/// Serves the admin plane on a bound listener until `shutdown`.
///
/// # Errors
/// When the listener fails for good.
pub async fn run(listener: TcpListener, parts: Parts, shutdown: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router(parts)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn router(parts: Parts) -> Router {
    let api = Router::new()
        .route("/status", get(api::status))
        .route("/rollouts", get(api::rollouts))
        .route("/rollouts/{route}", get(api::rollout))
        .route("/topics", get(api::topics))
        .route("/workers", get(api::workers))
        .route("/tasks", get(tasks::list).post(api::publish))
        .route("/tasks/{id}", get(tasks::life))
        .route("/tasks/{id}/cancel", post(api::cancel))
        .route("/tasks/{id}/retry", post(dead_letters::retry))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", delete(dead_letters::discard))
        .route("/dead-letters/{id}/reprocess", post(dead_letters::reprocess))
        .fallback(api::not_found)
        .layer(middleware::from_fn_with_state(parts.clone(), guard::check));
    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/healthz", get(health::ready))
        .route("/metrics", get(metrics))
        .nest("/admin/v1", api)
        .fallback(api::not_found)
        .with_state(parts)
}

async fn metrics(axum::extract::State(parts): axum::extract::State<Parts>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], parts.metrics.exposition())
}
