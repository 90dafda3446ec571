//! The admin plane: health and metrics for machines, `/admin/v1` for operators and the command line.
//!
//! Health and metrics need no token. The API does where one is configured, answers only to host names
//! that it knows (a page in a browser cannot rebind to it), and takes changes only from the same site.

mod api;
mod config_view;
mod dead_letters;
mod guard;
mod health;
mod rollout_events;
mod rollout_view;
mod rollouts;
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
pub use self::rollout_view::plan_view;
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
    /// The configuration's file, where it came from one.
    pub file: Option<Arc<str>>,
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
        .route("/rollouts", get(rollouts::list))
        .route("/rollouts/{route}", get(rollouts::one))
        .route("/rollouts/{route}/explain", get(rollouts::explain))
        .route("/rollouts/{route}/history", get(rollouts::history))
        .route("/rollouts/{route}/events", get(rollout_events::open))
        .route("/rollouts/{route}/clients", get(rollouts::clients))
        .route("/rollouts/{route}/{verb}", post(rollouts::act))
        .route("/topics", get(api::topics))
        .route("/config", get(config_view::config))
        .route("/openapi.json", get(openapi))
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

/// The API's description: `openapi.json` beside this file, which a test holds against the routes above.
async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

async fn metrics(axum::extract::State(parts): axum::extract::State<Parts>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], parts.metrics.exposition())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn the_description_has_every_route_of_the_api_with_its_methods_and_no_other() {
        let document: Value = serde_json::from_str(include_str!("openapi.json")).expect("JSON");
        let described = document["paths"].as_object().expect("paths");
        let described = described.iter().flat_map(|(path, methods)| {
            methods.as_object().expect("methods").keys().map(move |method| format!("{method} {path}"))
        });
        let source = include_str!("mod.rs");
        let api = source.split("Router::new()").nth(1).expect("the API's router comes first");
        let routed = api.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")?.split_once("\", "));
        let routed = routed.flat_map(|(path, handlers)| {
            let methods =
                ["get", "post", "delete"].into_iter().filter(move |method| handlers.contains(&format!("{method}(")));
            methods.map(move |method| format!("{method} {path}"))
        });
        let sorted = |all: Vec<String>| std::collections::BTreeSet::from_iter(all);
        assert_eq!(sorted(described.collect()), sorted(routed.collect()));
    }
}
