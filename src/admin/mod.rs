//! The admin plane: health and metrics for machines, `/admin/v1` for operators and the command
//! line.
//!
//! Health and metrics need no token. The API does where one is configured, answers only to host
//! names that it knows (a page in a browser cannot rebind to it), and takes changes only from the
//! same site.

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

pub use self::api::{check_workers, render_advice, render_task, render_topic, render_worker};
pub use self::dead_letters::{
    DeadLetterRefusal, discard_dead_letter, list_dead_letters, reprocess_dead_letter,
};
pub use self::health::{ProcessHealth, ProcessRole};
pub use self::rollout_view::render_plan;
pub use self::tasks::{parse_status, render_bulk_item, render_task_details, render_task_page};
use crate::control::{ReloadStatus, RolloutHandle};
use crate::metrics::Metrics;
use crate::snapshot::SnapshotHandle;
use crate::store::Circuit;
use crate::task::UnixMs;

/// What the admin plane works with.
#[derive(Clone)]
pub struct AdminServices {
    /// The current snapshot.
    pub snapshots: Arc<SnapshotHandle>,
    /// The store behind its breaker.
    pub circuit: Arc<Circuit>,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// How ready the process is.
    pub health: Arc<ProcessHealth>,
    /// How the last reload went.
    pub reload_status: Arc<ReloadStatus>,
    /// Where rollouts are shown and ordered.
    pub rollouts: RolloutHandle,
    /// The configuration's file, where it came from one.
    pub config_file: Option<Arc<str>>,
    /// When the process started.
    pub started_at: UnixMs,
}

/// Serves the admin plane on a bound listener until `shutdown`.
///
/// # Errors
/// When the listener fails for good.
pub async fn run(
    listener: TcpListener,
    parts: AdminServices,
    shutdown: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, build_router(parts))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

fn build_router(parts: AdminServices) -> Router {
    let api = Router::new()
        .route("/status", get(api::get_status))
        .route("/rollouts", get(rollouts::get_rollouts))
        .route("/rollouts/{route}", get(rollouts::get_rollout))
        .route("/rollouts/{route}/explain", get(rollouts::get_explanation))
        .route("/rollouts/{route}/history", get(rollouts::get_history))
        .route("/rollouts/{route}/events", get(rollout_events::get_events))
        .route("/rollouts/{route}/clients", get(rollouts::get_clients))
        .route("/rollouts/{route}/{verb}", post(rollouts::post_verb))
        .route("/topics", get(api::get_topics))
        .route("/config", get(config_view::get_config))
        .route("/openapi.json", get(get_openapi))
        .route("/workers", get(api::get_workers))
        .route("/tasks", get(tasks::get_tasks).post(api::post_tasks))
        .route("/tasks/{id}", get(tasks::get_task))
        .route("/tasks/{id}/cancel", post(api::post_cancel))
        .route("/tasks/{id}/retry", post(dead_letters::post_retry))
        .route("/dead-letters", get(dead_letters::get_dead_letters))
        .route("/dead-letters/{id}", delete(dead_letters::delete_dead_letter))
        .route("/dead-letters/{id}/reprocess", post(dead_letters::post_reprocess))
        .fallback(api::respond_not_found)
        .layer(middleware::from_fn_with_state(parts.clone(), guard::authorize_request));
    Router::new()
        .route("/livez", get(health::get_livez))
        .route("/readyz", get(health::get_readyz))
        .route("/healthz", get(health::get_readyz))
        .route("/metrics", get(get_metrics))
        .nest("/admin/v1", api)
        .fallback(api::respond_not_found)
        .with_state(parts)
}

/// The API's description: `openapi.json` beside this file, which a test holds against the routes
/// above.
async fn get_openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

async fn get_metrics(
    axum::extract::State(parts): axum::extract::State<AdminServices>,
) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        parts.metrics.render_exposition(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn the_description_has_every_route_of_the_api_with_its_methods_and_no_other() {
        let document: Value = serde_json::from_str(include_str!("openapi.json")).expect("JSON");
        let described = document["paths"].as_object().expect("paths");
        let described = described.iter().flat_map(|(path, methods)| {
            methods
                .as_object()
                .expect("methods")
                .keys()
                .map(move |method| format!("{method} {path}"))
        });
        let source = include_str!("mod.rs");
        let api = source.split("Router::new()").nth(1).expect("the API's router comes first");
        let routed = api
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".route(\"")?.split_once("\", "));
        let routed = routed.flat_map(|(path, handlers)| {
            let methods = ["get", "post", "delete"]
                .into_iter()
                .filter(move |method| handlers.contains(&format!("{method}(")));
            methods.map(move |method| format!("{method} {path}"))
        });
        let sorted = |all: Vec<String>| std::collections::BTreeSet::from_iter(all);
        assert_eq!(sorted(described.collect()), sorted(routed.collect()));
    }
}
