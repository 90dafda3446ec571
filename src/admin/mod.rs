//! The admin plane: health and metrics for machines, `/admin/v1` for operators and the command
//! line.
//!
//! Health and metrics need no token. The API needs one where one is configured, answers only to
//! known host names (so that a page in a browser cannot rebind a name to it), and takes changes
//! only from the same site (`access.rs`). `handlers/` has the endpoints, `views/` the documents
//! that they give, `problem.rs` the errors.

mod access;
mod handlers;
mod health;
mod presenter;
mod problem;
mod services;
pub mod views;

use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::access::authorize_request;
use self::handlers::{
    config, dead_letters, rollout_commands, rollout_events, rollouts, status, tasks,
};
use self::problem::respond_not_found;
pub use self::services::{AdminServices, ProcessHealth, ProcessRole};

/// Serves the admin plane on a bound listener until `shutdown`.
///
/// # Errors
/// When the listener fails for good.
pub async fn run(
    listener: TcpListener,
    services: AdminServices,
    shutdown: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, build_router(services))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

fn build_router(services: AdminServices) -> Router {
    let api = Router::new()
        .route("/status", get(status::get_status))
        .route("/rollouts", get(rollouts::get_rollouts))
        .route("/rollouts/{route}", get(rollouts::get_rollout))
        .route("/rollouts/{route}/explain", get(rollouts::get_explanation))
        .route("/rollouts/{route}/history", get(rollouts::get_history))
        .route("/rollouts/{route}/events", get(rollout_events::get_events))
        .route("/rollouts/{route}/clients", get(rollouts::get_clients))
        .route("/rollouts/{route}/{verb}", post(rollout_commands::post_verb))
        .route("/topics", get(status::get_topics))
        .route("/config", get(config::get_config))
        .route("/openapi.json", get(get_openapi))
        .route("/workers", get(status::get_workers))
        .route("/tasks", get(tasks::get_tasks).post(tasks::post_tasks))
        .route("/tasks/{id}", get(tasks::get_task))
        .route("/tasks/{id}/cancel", post(tasks::post_cancel))
        .route("/tasks/{id}/retry", post(dead_letters::post_retry))
        .route("/dead-letters", get(dead_letters::get_dead_letters))
        .route("/dead-letters/{id}", get(dead_letters::get_dead_letter))
        .route("/dead-letters/{id}", delete(dead_letters::delete_dead_letter))
        .route("/dead-letters/{id}/reprocess", post(dead_letters::post_reprocess))
        .fallback(respond_not_found)
        .layer(middleware::from_fn_with_state(services.clone(), authorize_request));
    Router::new()
        .route("/livez", get(health::get_livez))
        .route("/readyz", get(health::get_readyz))
        .route("/healthz", get(health::get_readyz))
        .route("/metrics", get(get_metrics))
        .nest("/admin/v1", api)
        .fallback(respond_not_found)
        .with_state(services)
}

/// The API's description, `openapi.json` beside this file; a test compares it with the routes
/// above.
async fn get_openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

async fn get_metrics(State(services): State<AdminServices>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        services.metrics.render_exposition(),
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
