//! `/admin/v1/rollouts`: how rollouts stand and why, what was done to them by whom, and the verbs
//! of an operator.

use std::sync::Arc;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::AdminServices;
use super::api::{ApiProblem, ApiResult};
use super::rollout_view::{RolloutPresenter, round_to_seconds};
use crate::cohort::Weight;
use crate::config::RouteConfig;
use crate::control::{RolloutCommandError, RolloutCommandOutcome, RolloutsView};
use crate::rollout::{OperatorAction, OperatorCommand, RESERVED_ACTOR_NAMES, RolloutEventKind};
use crate::snapshot::Snapshot;
use crate::store::{DeprecatedCaller, RolloutHistoryEntry, StoreError};

/// The largest body of an order.
const MAX_COMMAND_BODY: usize = 16 * 1024;
/// The longest actor and the longest reason, characters.
const MAX_TEXT_CHARS: [usize; 2] = [200, 2000];
/// Entries of a page of history, where nothing is said, and at most.
const DEFAULT_HISTORY_PAGE: usize = 50;
const MAX_HISTORY_PAGE: usize = 1000;

/// `GET rollouts`
pub(super) async fn get_rollouts(State(parts): State<AdminServices>) -> Json<Value> {
    let (view, snapshot) =
        (parts.rollouts.view_with_evidence(&parts.circuit, None).await, parts.snapshots.load());
    Json(
        snapshot
            .routes
            .iter()
            .map(|live| RolloutPresenter::new(&parts, &snapshot, live, &view).render_document())
            .collect(),
    )
}

/// The lines of all rollouts, for `GET status`.
pub(super) fn render_rollout_summaries(parts: &AdminServices, snapshot: &Snapshot) -> Vec<Value> {
    let view = parts.rollouts.current_view();
    snapshot
        .routes
        .iter()
        .map(|live| RolloutPresenter::new(parts, snapshot, live, &view).render_summary())
        .collect()
}

/// `GET rollouts/{route}`
pub(super) async fn get_rollout(
    State(parts): State<AdminServices>,
    Path(name): Path<String>,
) -> ApiResult {
    let view = parts.rollouts.view_with_evidence(&parts.circuit, Some(&name)).await;
    render_rollout(&parts, &name, &view).map(Json)
}

/// A route's document.
#[allow(clippy::redundant_closure_for_method_calls, reason = "the method alone is of one lifetime")]
pub(super) fn render_rollout(
    parts: &AdminServices,
    name: &str,
    view: &Arc<RolloutsView>,
) -> Result<Value, ApiProblem> {
    with_rollout(parts, name, view, |seen| seen.render_document())
}

/// `GET rollouts/{route}/explain`: a paragraph; as JSON for who accepts that.
pub(super) async fn get_explanation(
    State(parts): State<AdminServices>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiProblem> {
    let view = parts.rollouts.view_with_evidence(&parts.circuit, Some(&name)).await;
    let explanation = with_rollout(&parts, &name, &view, |seen| seen.explanation().cloned())?;
    let not_yet = || {
        ApiProblem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the stored rollout state is not loaded yet",
        )
    };
    let explanation = explanation.ok_or_else(not_yet)?;
    let accepted =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accepted.contains("application/json") {
        let kind = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        return Ok((kind, format!("{}\n", explanation.text)).into_response());
    }
    let document = json!({
        "route": name,
        "waiting_for": explanation.waiting_for.as_str(),
        "explain": explanation.text,
        "to_do": explanation.next_action,
        "countdown": explanation.continues_in.map(round_to_seconds),
        "pauses_in": explanation.pauses_in.map(round_to_seconds),
    });
    Ok(Json(document).into_response())
}

fn with_rollout<T>(
    parts: &AdminServices,
    name: &str,
    view: &RolloutsView,
    what: impl FnOnce(&RolloutPresenter<'_>) -> T,
) -> Result<T, ApiProblem> {
    let snapshot = parts.snapshots.load();
    let live = snapshot.routes.iter().find(|live| snapshot.route_config(live).name == name);
    let live = live.ok_or_else(|| no_such_route_problem(name, &snapshot.config.routes))?;
    Ok(what(&RolloutPresenter::new(parts, &snapshot, live, view)))
}

fn no_such_route_problem(name: &str, routes: &[RouteConfig]) -> ApiProblem {
    let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    let detail = format!("there is no route {name:?}, there are: {}", names.join(", "));
    ApiProblem::new(StatusCode::NOT_FOUND, detail)
}

fn check_route_exists(parts: &AdminServices, name: &str) -> Result<(), ApiProblem> {
    let config = parts.snapshots.load().config.clone();
    let is_there = config.routes.iter().any(|route| route.name == name);
    if is_there { Ok(()) } else { Err(no_such_route_problem(name, &config.routes)) }
}

/// `GET rollouts/{route}/history?before=&limit=`
#[derive(Deserialize)]
pub(super) struct HistoryPageParams {
    before: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn get_history(
    State(parts): State<AdminServices>,
    Path(name): Path<String>,
    Query(page): Query<HistoryPageParams>,
) -> ApiResult {
    check_route_exists(&parts, &name)?;
    let before = page.before.as_deref().filter(|before| !before.is_empty());
    let limit = page.limit.unwrap_or(DEFAULT_HISTORY_PAGE).clamp(1, MAX_HISTORY_PAGE);
    let entries = match parts
        .circuit
        .call(parts.circuit.store().load_rollout_history(&name, before, limit))
        .await
    {
        Err(StoreError::Malformed(detail)) if before.is_some() => {
            return Err(ApiProblem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        entries => entries?,
    };
    let next = entries.last().filter(|_| entries.len() == limit).map(|last| last.cursor.clone());
    Ok(Json(
        json!({"events": entries.iter().map(render_history_entry).collect::<Vec<_>>(), "next": next}),
    ))
}

fn render_history_entry(entry: &RolloutHistoryEntry) -> Value {
    let mut event = serde_json::from_str(&entry.event_json)
        .unwrap_or_else(|_| json!({"unreadable": entry.event_json}));
    event["cursor"] = entry.cursor.clone().into();
    event
}

/// `GET rollouts/{route}/clients`: who still calls a deprecated route, the latest first.
pub(super) async fn get_clients(
    State(parts): State<AdminServices>,
    Path(name): Path<String>,
) -> ApiResult {
    check_route_exists(&parts, &name)?;
    let callers = parts.circuit.call(parts.circuit.store().list_deprecated_callers(&name)).await?;
    let view = |caller: &DeprecatedCaller| {
        json!({
            "client": caller.name,
            "calls": caller.call_count,
            "last_call": caller.last_called_at.to_rfc3339(),
            "last_call_ms": caller.last_called_at.0,
        })
    };
    Ok(Json(json!({"route": name, "clients": callers.iter().map(view).collect::<Vec<_>>()})))
}

/// The body of an order.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RolloutCommandBody {
    reason: Option<String>,
    weight: Option<f64>,
    full: Option<bool>,
    actor: Option<String>,
}

/// `POST rollouts/{route}/{verb}`
pub(super) async fn post_verb(
    State(parts): State<AdminServices>,
    Path((name, verb)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    check_route_exists(&parts, &name)?;
    let (head, body) = request.into_parts();
    let too_large = |_| {
        ApiProblem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("an order is at most {MAX_COMMAND_BODY} bytes"),
        )
    };
    let body = to_bytes(body, MAX_COMMAND_BODY).await.map_err(too_large)?;
    let verb = parse_command(&verb, &body, &head.headers)?;
    let acted = parts.rollouts.execute(&name, verb.clone()).await?;
    tracing::info!(
        route = name,
        verb = verb.action.as_str(),
        actor = verb.actor,
        reason = verb.reason,
        "order taken"
    );
    Ok(Json(render_command_result(&name, &verb, &acted)))
}

/// What is ordered, or what is wrong with it.
fn parse_command(
    verb: &str,
    body: &Bytes,
    headers: &HeaderMap,
) -> Result<OperatorCommand, ApiProblem> {
    let bad = |detail: String| ApiProblem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let said: RolloutCommandBody = match body.trim_ascii() {
        [] => RolloutCommandBody::default(),
        body => serde_json::from_slice(body).map_err(|error| {
            bad(format!("{error}: write {{\"reason\", \"weight\", \"full\", \"actor\"}}"))
        })?,
    };
    let action = parse_action(verb, &said)?;
    let given = headers.get("x-omnidaemon-actor").and_then(|value| value.to_str().ok());
    let actor = said
        .actor
        .as_deref()
        .or(given)
        .map(str::trim)
        .filter(|actor| !actor.is_empty())
        .unwrap_or("unknown");
    let reason = said.reason.as_deref().unwrap_or_default().trim();
    for ((name, text), longest) in
        [("actor", actor), ("reason", reason)].into_iter().zip(MAX_TEXT_CHARS)
    {
        if text.chars().count() > longest || text.chars().any(|c| c.is_control() && c != '\n') {
            return Err(bad(format!("{name} is a text of at most {longest} characters")));
        }
    }
    if RESERVED_ACTOR_NAMES.contains(&actor) {
        return Err(bad(format!(
            "actor {actor:?} is a name that the history uses for changes without an operator: \
             write another name"
        )));
    }
    Ok(OperatorCommand { action, actor: actor.to_owned(), reason: reason.to_owned() })
}

fn parse_action(verb: &str, said: &RolloutCommandBody) -> Result<OperatorAction, ApiProblem> {
    let bad = |detail: String| ApiProblem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let action = match RolloutEventKind::parse(verb) {
        Some(RolloutEventKind::Promote) => {
            OperatorAction::Promote { full: said.full.unwrap_or_default() }
        }
        Some(RolloutEventKind::Pause) => OperatorAction::Pause,
        Some(RolloutEventKind::Resume) => OperatorAction::Resume,
        Some(RolloutEventKind::Abort) => OperatorAction::Abort,
        Some(RolloutEventKind::Retry) => OperatorAction::Retry,
        Some(RolloutEventKind::SetWeight) => {
            let percent = said
                .weight
                .ok_or_else(|| bad("set-weight needs a weight, percent from 0 to 100".into()))?;
            let outside = || bad(format!("weight is {percent}: write a percentage from 0 to 100"));
            OperatorAction::SetWeight(Weight::from_percent(percent).ok_or_else(outside)?)
        }
        Some(RolloutEventKind::Step | RolloutEventKind::Rollback) | None => {
            let verbs = OperatorAction::WORDS.join(", ");
            return Err(ApiProblem::new(
                StatusCode::NOT_FOUND,
                format!("{verb:?} is no verb: use one of {verbs}"),
            ));
        }
    };
    if said.weight.is_some() && !matches!(action, OperatorAction::SetWeight(_)) {
        return Err(bad(format!("{verb} takes no weight: set-weight does")));
    }
    if said.full.is_some() && !matches!(action, OperatorAction::Promote { .. }) {
        return Err(bad(format!("{verb} takes no `full`: promote does")));
    }
    Ok(action)
}

impl From<RolloutCommandError> for ApiProblem {
    fn from(error: RolloutCommandError) -> Self {
        let status = match error {
            RolloutCommandError::UnknownRoute(_) => StatusCode::NOT_FOUND,
            RolloutCommandError::Refused(_) | RolloutCommandError::ConcurrentChange => {
                StatusCode::CONFLICT
            }
            RolloutCommandError::StoreUnavailable(_) | RolloutCommandError::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.to_string())
    }
}

fn render_command_result(
    route: &str,
    verb: &OperatorCommand,
    RolloutCommandOutcome { state, is_saved: saved }: &RolloutCommandOutcome,
) -> Value {
    json!({
        "route": route,
        "verb": verb.action.as_str(),
        "phase": state.phase.as_str(),
        "weight": state.weight.percent(),
        "epoch": state.epoch,
        "held": state.manual_hold,
        "by": state.actor.name(),
        "reason": state.reason,
        "saved": saved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_test_command(verb: &str, body: &str) -> Result<OperatorCommand, (u16, String)> {
        let mut headers = HeaderMap::new();
        headers.insert("x-omnidaemon-actor", "proxy-user".parse().expect("a value"));
        parse_command(verb, &Bytes::copy_from_slice(body.as_bytes()), &headers)
            .map_err(|problem| (problem.status.as_u16(), problem.detail))
    }

    #[test]
    fn an_order_is_read_with_its_actor_and_reason() {
        let verb = parse_test_command(
            "promote",
            r#"{"reason": " seen enough ", "full": true, "actor": "ada@ops"}"#,
        );
        let expected = OperatorCommand {
            action: OperatorAction::Promote { full: true },
            actor: "ada@ops".into(),
            reason: "seen enough".into(),
        };
        assert_eq!(verb, Ok(expected));
        let verb = parse_test_command("abort", "").expect("a body is not needed");
        assert_eq!(
            (verb.action, verb.actor.as_str(), verb.reason.as_str()),
            (OperatorAction::Abort, "proxy-user", "")
        );
        let weight =
            parse_test_command("set-weight", r#"{"weight": 12.5}"#).map(|verb| verb.action);
        assert_eq!(weight, Ok(OperatorAction::SetWeight(Weight::from_basis_points(1_250))));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_way_out() {
        for (verb, body, status, way_out) in [
            ("set-weight", r#"{"weight": 101}"#, 422, "from 0 to 100"),
            ("set-weight", r#"{"weight": -1}"#, 422, "from 0 to 100"),
            ("set-weight", "{}", 422, "needs a weight"),
            ("set-weight", r#"{"weight": "ten"}"#, 422, "weight"),
            ("pause", r#"{"weight": 10}"#, 422, "set-weight does"),
            ("abort", r#"{"full": true}"#, 422, "promote does"),
            ("pause", r#"{"why": "x"}"#, 422, "reason"),
            ("pause", "nonsense", 422, "reason"),
            ("pause", r#"{"actor": "a\u0007b"}"#, 422, "actor"),
            ("pause", r#"{"actor": "controller"}"#, 422, "another name"),
            ("abort", r#"{"actor": " file "}"#, 422, "another name"),
            ("step", "", 404, "set-weight"),
            ("push", "", 404, "set-weight"),
        ] {
            let (given, detail) = parse_test_command(verb, body).expect_err(body);
            assert!(given == status && detail.contains(way_out), "{verb} {body}: {given} {detail}");
        }
        let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(2001));
        assert!(parse_test_command("pause", &long).is_err());
    }
}
