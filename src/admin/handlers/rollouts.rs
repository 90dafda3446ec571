//! `GET rollouts`: the state of rollouts, why they are where they are, their history, and the
//! callers of deprecated routes.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::presenter::RolloutPresenter;
use crate::admin::problem::{ApiProblem, ApiResult};
use crate::admin::services::AdminServices;
use crate::admin::views::{
    ClientDocument, ClientsDocument, HistoryPageDocument, RolloutDocument, RolloutSummaryDocument,
};
use crate::config::RouteConfig;
use crate::control::RolloutsView;
use crate::snapshot::{Snapshot, SnapshotRoute};
use crate::store::RolloutHistoryEntry;

/// Events of a page of history, by default and at most.
const DEFAULT_HISTORY_PAGE: usize = 50;
const MAX_HISTORY_PAGE: usize = 1000;

/// The query of `GET rollouts/{route}/history`.
#[derive(Deserialize)]
pub(crate) struct HistoryPageParams {
    before: Option<String>,
    limit: Option<usize>,
}

/// `GET rollouts`
pub(crate) async fn get_rollouts(
    State(services): State<AdminServices>,
) -> Json<Vec<RolloutDocument>> {
    let view = services.rollouts.view_with_evidence(&services.circuit, None).await;
    let snapshot = services.snapshots.load();
    let document = |live| RolloutPresenter::new(&services, &snapshot, live, &view).document();
    Json(snapshot.routes.iter().map(document).collect())
}

/// The rollouts as entries of `GET status`.
pub(crate) fn summarize_rollouts(
    services: &AdminServices,
    snapshot: &Snapshot,
) -> Vec<RolloutSummaryDocument> {
    let view = services.rollouts.current_view();
    let summary = |live| RolloutPresenter::new(services, snapshot, live, &view).summary();
    snapshot.routes.iter().map(summary).collect()
}

/// `GET rollouts/{route}`
pub(crate) async fn get_rollout(
    State(services): State<AdminServices>,
    Path(name): Path<String>,
) -> ApiResult<RolloutDocument> {
    let view = services.rollouts.view_with_evidence(&services.circuit, Some(&name)).await;
    render_rollout(&services, &name, &view).map(Json)
}

/// A rollout's document as of a view of the controller.
pub(crate) fn render_rollout(
    services: &AdminServices,
    name: &str,
    view: &RolloutsView,
) -> Result<RolloutDocument, ApiProblem> {
    let snapshot = services.snapshots.load();
    let live = find_route(&snapshot, name)?;
    Ok(RolloutPresenter::new(services, &snapshot, live, view).document())
}

/// `GET rollouts/{route}/explain`: a paragraph of text, or JSON when the client accepts that.
pub(crate) async fn get_explanation(
    State(services): State<AdminServices>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiProblem> {
    let view = services.rollouts.view_with_evidence(&services.circuit, Some(&name)).await;
    let snapshot = services.snapshots.load();
    let live = find_route(&snapshot, &name)?;
    let explanation = RolloutPresenter::new(&services, &snapshot, live, &view).explanation();
    let not_loaded = || {
        ApiProblem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the stored rollout state is not loaded yet",
        )
    };
    let explanation = explanation.ok_or_else(not_loaded)?;
    let accepted =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepted.contains("application/json") {
        return Ok(Json(explanation).into_response());
    }
    let kind =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    Ok((kind, format!("{}\n", explanation.explain)).into_response())
}

/// A route of the snapshot by its name, or 404.
fn find_route<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a SnapshotRoute, ApiProblem> {
    let live = snapshot.routes.iter().find(|live| snapshot.route_config(live).name == name);
    live.ok_or_else(|| no_such_route(name, &snapshot.config.routes))
}

fn no_such_route(name: &str, routes: &[RouteConfig]) -> ApiProblem {
    let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    let detail = format!("there is no route {name:?}, there are: {}", names.join(", "));
    ApiProblem::new(StatusCode::NOT_FOUND, detail)
}

/// 404 for a route that the configuration does not have.
pub(crate) fn check_route_exists(services: &AdminServices, name: &str) -> Result<(), ApiProblem> {
    find_route(&services.snapshots.load(), name).map(|_| ())
}

/// `GET rollouts/{route}/history?before=&limit=`
pub(crate) async fn get_history(
    State(services): State<AdminServices>,
    Path(name): Path<String>,
    Query(params): Query<HistoryPageParams>,
) -> ApiResult<HistoryPageDocument> {
    check_route_exists(&services, &name)?;
    let before = params.before.as_deref().filter(|before| !before.is_empty());
    let limit = params.limit.unwrap_or(DEFAULT_HISTORY_PAGE).clamp(1, MAX_HISTORY_PAGE);
    let access = services.store_access();
    let entries = access.call(access.store().load_rollout_history(&name, before, limit)).await;
    let entries = entries.map_err(|error| ApiProblem::from_page_error(error, before))?;
    let last = entries.last().filter(|_| entries.len() == limit);
    Ok(Json(HistoryPageDocument {
        events: entries.iter().map(render_history_entry).collect(),
        next: last.map(|last| last.cursor.clone()),
    }))
}

/// The event as it is stored, with its cursor; a text that is no JSON is shown as `unreadable`.
fn render_history_entry(entry: &RolloutHistoryEntry) -> Value {
    let mut event = serde_json::from_str(&entry.event_json)
        .unwrap_or_else(|_| json!({"unreadable": entry.event_json}));
    event["cursor"] = entry.cursor.clone().into();
    event
}

/// `GET rollouts/{route}/clients`: the callers of a deprecated route, the latest first.
pub(crate) async fn get_clients(
    State(services): State<AdminServices>,
    Path(name): Path<String>,
) -> ApiResult<ClientsDocument> {
    check_route_exists(&services, &name)?;
    let access = services.store_access();
    let callers = access.call(access.store().list_deprecated_callers(&name)).await?;
    let clients = callers.iter().map(ClientDocument::from).collect();
    Ok(Json(ClientsDocument { route: name, clients }))
}
