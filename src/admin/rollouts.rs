//! `/admin/v1/rollouts`: how rollouts stand and why, what was done to them by whom, and the verbs of an operator.

use std::sync::Arc;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::api::{Answer, Problem};
use super::rollout_view::{Seen, whole_seconds};
use crate::cohort::Weight;
use crate::config::Route;
use crate::control::{ActError, Acted, View};
use crate::rollout::{Action, Verb};
use crate::snapshot::Snapshot;
use crate::store::{Caller, HistoryEntry, StoreError};

/// The largest body of an order.
const LARGEST: usize = 16 * 1024;
/// The longest actor and the longest reason, characters.
const LONGEST: [usize; 2] = [200, 2000];
/// Entries of a page of history, where nothing is said, and at most.
const PAGE: usize = 50;
const LONGEST_PAGE: usize = 1000;
/// The verbs, for whoever writes another one.
const VERBS: &str = "promote, pause, resume, abort, retry, set-weight";

/// `GET rollouts`
pub(super) async fn list(State(parts): State<Parts>) -> Json<Value> {
    let (view, snapshot) = (parts.rollouts.looked_up(&parts.circuit, None).await, parts.snapshots.load());
    Json(snapshot.routes.iter().map(|live| Seen::new(&parts, &snapshot, live, &view).document()).collect())
}

/// The lines of all rollouts, for `GET status`.
pub(super) fn briefs(parts: &Parts, snapshot: &Snapshot) -> Vec<Value> {
    let view = parts.rollouts.view();
    snapshot.routes.iter().map(|live| Seen::new(parts, snapshot, live, &view).brief()).collect()
}

/// `GET rollouts/{route}`
pub(super) async fn one(State(parts): State<Parts>, Path(name): Path<String>) -> Answer {
    let view = parts.rollouts.looked_up(&parts.circuit, Some(&name)).await;
    document(&parts, &name, &view).map(Json)
}

/// A route's document.
#[allow(clippy::redundant_closure_for_method_calls, reason = "the method alone is of one lifetime")]
pub(super) fn document(parts: &Parts, name: &str, view: &Arc<View>) -> Result<Value, Problem> {
    with(parts, name, view, |seen| seen.document())
}

/// `GET rollouts/{route}/explain`: a paragraph; as JSON for who accepts that.
pub(super) async fn explain(
    State(parts): State<Parts>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let view = parts.rollouts.looked_up(&parts.circuit, Some(&name)).await;
    let explanation = with(&parts, &name, &view, |seen| seen.explanation().cloned())?;
    let not_yet = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the stored rollout state is not loaded yet");
    let explanation = explanation.ok_or_else(not_yet)?;
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accepted.contains("application/json") {
        let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
        return Ok((kind, format!("{}\n", explanation.text)).into_response());
    }
    let document = json!({
        "route": name,
        "waiting_for": explanation.waiting_for.as_str(),
        "explain": explanation.text,
        "to_do": explanation.next,
        "countdown": explanation.countdown.map(whole_seconds),
        "pauses_in": explanation.pauses_in.map(whole_seconds),
    });
    Ok(Json(document).into_response())
}

fn with<T>(parts: &Parts, name: &str, view: &View, what: impl FnOnce(&Seen<'_>) -> T) -> Result<T, Problem> {
    let snapshot = parts.snapshots.load();
    let live = snapshot.routes.iter().find(|live| snapshot.route(live).name == name);
    let live = live.ok_or_else(|| no_such_route(name, &snapshot.config.routes))?;
    Ok(what(&Seen::new(parts, &snapshot, live, view)))
}

fn no_such_route(name: &str, routes: &[Route]) -> Problem {
    let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    let detail = format!("there is no route {name:?}, there are: {}", names.join(", "));
    Problem::new(StatusCode::NOT_FOUND, detail)
}

fn known(parts: &Parts, name: &str) -> Result<(), Problem> {
    let config = parts.snapshots.load().config.clone();
    let is_there = config.routes.iter().any(|route| route.name == name);
    if is_there { Ok(()) } else { Err(no_such_route(name, &config.routes)) }
}

/// `GET rollouts/{route}/history?before=&limit=`
#[derive(Deserialize)]
pub(super) struct Page {
    before: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn history(State(parts): State<Parts>, Path(name): Path<String>, Query(page): Query<Page>) -> Answer {
    known(&parts, &name)?;
    let before = page.before.as_deref().filter(|before| !before.is_empty());
    let limit = page.limit.unwrap_or(PAGE).clamp(1, LONGEST_PAGE);
    let entries = match parts.circuit.call(parts.circuit.store().rollout_history(&name, before, limit)).await {
        Err(StoreError::Malformed(detail)) if before.is_some() => {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        entries => entries?,
    };
    let next = entries.last().filter(|_| entries.len() == limit).map(|last| last.cursor.clone());
    Ok(Json(json!({"events": entries.iter().map(entry_view).collect::<Vec<_>>(), "next": next})))
}

fn entry_view(entry: &HistoryEntry) -> Value {
    let mut event = serde_json::from_str(&entry.event).unwrap_or_else(|_| json!({"unreadable": entry.event}));
    event["cursor"] = entry.cursor.clone().into();
    event
}

/// `GET rollouts/{route}/clients`: who still calls a deprecated route, the latest first.
pub(super) async fn clients(State(parts): State<Parts>, Path(name): Path<String>) -> Answer {
    known(&parts, &name)?;
    let callers = parts.circuit.call(parts.circuit.store().callers(&name)).await?;
    let view = |caller: &Caller| {
        json!({
            "client": caller.who,
            "calls": caller.count,
            "last_call": caller.last.rfc3339(),
            "last_call_ms": caller.last.0,
        })
    };
    Ok(Json(json!({"route": name, "clients": callers.iter().map(view).collect::<Vec<_>>()})))
}

/// The body of an order.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    reason: Option<String>,
    weight: Option<f64>,
    full: Option<bool>,
    actor: Option<String>,
}

/// `POST rollouts/{route}/{verb}`
pub(super) async fn act(
    State(parts): State<Parts>,
    Path((name, verb)): Path<(String, String)>,
    request: Request,
) -> Answer {
    known(&parts, &name)?;
    let (head, body) = request.into_parts();
    let too_large = |_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("an order is at most {LARGEST} bytes"));
    let body = to_bytes(body, LARGEST).await.map_err(too_large)?;
    let verb = order(&verb, &body, &head.headers)?;
    let acted = parts.rollouts.act(&name, verb.clone()).await?;
    tracing::info!(route = name, verb = verb.action.as_str(), actor = verb.actor, reason = verb.reason, "order taken");
    Ok(Json(acted_view(&name, &verb, &acted)))
}

/// What is ordered, or what is wrong with it.
fn order(verb: &str, body: &Bytes, headers: &HeaderMap) -> Result<Verb, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let said: Said = match body.trim_ascii() {
        [] => Said::default(),
        body => serde_json::from_slice(body)
            .map_err(|error| bad(format!("{error}: write {{\"reason\", \"weight\", \"full\", \"actor\"}}")))?,
    };
    let action = action(verb, &said)?;
    let given = headers.get("x-omnidaemon-actor").and_then(|value| value.to_str().ok());
    let actor = said.actor.as_deref().or(given).map(str::trim).filter(|actor| !actor.is_empty()).unwrap_or("unknown");
    let reason = said.reason.as_deref().unwrap_or_default().trim();
    for ((name, text), longest) in [("actor", actor), ("reason", reason)].into_iter().zip(LONGEST) {
        if text.chars().count() > longest || text.chars().any(|c| c.is_control() && c != '\n') {
            return Err(bad(format!("{name} is a text of at most {longest} characters")));
        }
    }
    Ok(Verb { action, actor: actor.to_owned(), reason: reason.to_owned() })
}

fn action(verb: &str, said: &Said) -> Result<Action, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let action = match verb {
        "promote" => Action::Promote { full: said.full.unwrap_or_default() },
        "pause" => Action::Pause,
        "resume" => Action::Resume,
        "abort" => Action::Abort,
        "retry" => Action::Retry,
        "set-weight" => {
            let percent = said.weight.ok_or_else(|| bad("set-weight needs a weight, percent from 0 to 100".into()))?;
            let outside = || bad(format!("weight is {percent}: write a percentage from 0 to 100"));
            Action::SetWeight(Weight::from_percent(percent).ok_or_else(outside)?)
        }
        other => {
            return Err(Problem::new(StatusCode::NOT_FOUND, format!("{other:?} is no verb: use one of {VERBS}")));
        }
    };
    if said.weight.is_some() && !matches!(action, Action::SetWeight(_)) {
        return Err(bad(format!("{verb} takes no weight: set-weight does")));
    }
    if said.full.is_some() && !matches!(action, Action::Promote { .. }) {
        return Err(bad(format!("{verb} takes no `full`: promote does")));
    }
    Ok(action)
}

impl From<ActError> for Problem {
    fn from(error: ActError) -> Self {
        let status = match error {
            ActError::NoRoute(_) => StatusCode::NOT_FOUND,
            ActError::Refused(_) | ActError::Contended => StatusCode::CONFLICT,
            ActError::NoStore(_) | ActError::Ending => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

fn acted_view(route: &str, verb: &Verb, Acted { state, saved }: &Acted) -> Value {
    json!({
        "route": route,
        "verb": verb.action.as_str(),
        "phase": state.phase.as_str(),
        "weight": state.weight.percent(),
        "epoch": state.epoch,
        "held": state.held,
        "by": state.by,
        "reason": state.reason,
        "saved": saved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(verb: &str, body: &str) -> Result<Verb, (u16, String)> {
        let mut headers = HeaderMap::new();
        headers.insert("x-omnidaemon-actor", "proxy-user".parse().expect("a value"));
        order(verb, &Bytes::copy_from_slice(body.as_bytes()), &headers)
            .map_err(|problem| (problem.status.as_u16(), problem.detail))
    }

    #[test]
    fn an_order_is_read_with_its_actor_and_reason() {
        let verb = ordered("promote", r#"{"reason": " seen enough ", "full": true, "actor": "ada@ops"}"#);
        let expected =
            Verb { action: Action::Promote { full: true }, actor: "ada@ops".into(), reason: "seen enough".into() };
        assert_eq!(verb, Ok(expected));
        let verb = ordered("abort", "").expect("a body is not needed");
        assert_eq!((verb.action, verb.actor.as_str(), verb.reason.as_str()), (Action::Abort, "proxy-user", ""));
        let weight = ordered("set-weight", r#"{"weight": 12.5}"#).map(|verb| verb.action);
        assert_eq!(weight, Ok(Action::SetWeight(Weight::from_basis_points(1_250))));
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
            ("push", "", 404, "set-weight"),
        ] {
            let (given, detail) = ordered(verb, body).expect_err(body);
            assert!(given == status && detail.contains(way_out), "{verb} {body}: {given} {detail}");
        }
        let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(2001));
        assert!(ordered("pause", &long).is_err());
    }
}
