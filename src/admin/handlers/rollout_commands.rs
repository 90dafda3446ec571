//! `POST rollouts/{route}/{verb}`: an operator's command, parsed and handed to the controller.

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};

use super::rollouts::check_route_exists;
use crate::admin::problem::{ApiProblem, ApiResult};
use crate::admin::services::AdminServices;
use crate::admin::views::{CommandResultDocument, RolloutCommandBody};
use crate::cohort_hash::Weight;
use crate::rollout::{OperatorAction, OperatorCommand};
use crate::rollout::{RESERVED_ACTOR_NAMES, RolloutEventKind};

/// The largest body of a command, bytes.
const MAX_COMMAND_BODY: usize = 16 * 1024;
/// The longest actor and the longest reason, characters.
const MAX_ACTOR_CHARS: usize = 200;
const MAX_REASON_CHARS: usize = 2000;
/// The header that names the actor when the body does not: set by a proxy that authenticates.
const ACTOR_HEADER: &str = "x-omnidaemon-actor";

/// `POST rollouts/{route}/{verb}`
pub(crate) async fn post_verb(
    State(services): State<AdminServices>,
    Path((name, verb)): Path<(String, String)>,
    request: Request,
) -> ApiResult<CommandResultDocument> {
    check_route_exists(&services, &name)?;
    let (head, body) = request.into_parts();
    let too_large = |_| {
        ApiProblem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body of a command has at most {MAX_COMMAND_BODY} bytes"),
        )
    };
    let body = to_bytes(body, MAX_COMMAND_BODY).await.map_err(too_large)?;
    let command = parse_command(&verb, &body, &head.headers)?;
    let outcome = services.rollouts.execute(&name, command.clone()).await?;
    tracing::info!(
        route = name,
        verb = command.action.as_str(),
        actor = command.actor,
        reason = command.reason,
        "rollout command executed"
    );
    Ok(Json(CommandResultDocument::new(&name, command.action, &outcome)))
}

/// The command of a request, or what is wrong with it.
fn parse_command(
    verb: &str,
    body: &Bytes,
    headers: &HeaderMap,
) -> Result<OperatorCommand, ApiProblem> {
    let body: RolloutCommandBody = match body.trim_ascii() {
        [] => RolloutCommandBody::default(),
        body => serde_json::from_slice(body).map_err(|error| {
            ApiProblem::unprocessable(format!(
                "{error}: write {{\"reason\", \"weight\", \"full\", \"actor\"}}"
            ))
        })?,
    };
    let action = parse_action(verb, &body)?;
    let actor_of_proxy = headers.get(ACTOR_HEADER).and_then(|value| value.to_str().ok());
    let actor = body
        .actor
        .as_deref()
        .or(actor_of_proxy)
        .map(str::trim)
        .filter(|actor| !actor.is_empty())
        .unwrap_or("unknown");
    let reason = body.reason.as_deref().unwrap_or_default().trim();
    check_text("actor", actor, MAX_ACTOR_CHARS)?;
    if RESERVED_ACTOR_NAMES.contains(&actor) {
        return Err(ApiProblem::unprocessable(format!(
            "actor {actor:?} is a name that the history uses for changes without an operator: \
             write another name"
        )));
    }
    check_text("reason", reason, MAX_REASON_CHARS)?;
    Ok(OperatorCommand { action, actor: actor.to_owned(), reason: reason.to_owned() })
}

/// Refuses a text that is too long, or has control characters other than line breaks.
fn check_text(name: &str, text: &str, max_chars: usize) -> Result<(), ApiProblem> {
    let has_control = text.chars().any(|c| c.is_control() && c != '\n');
    if has_control || text.chars().count() > max_chars {
        let detail = format!("{name} is a text of at most {max_chars} characters");
        return Err(ApiProblem::unprocessable(detail));
    }
    Ok(())
}

fn parse_action(verb: &str, body: &RolloutCommandBody) -> Result<OperatorAction, ApiProblem> {
    let action = match RolloutEventKind::parse(verb) {
        Some(RolloutEventKind::Promote) => {
            OperatorAction::Promote { full: body.full.unwrap_or_default() }
        }
        Some(RolloutEventKind::Pause) => OperatorAction::Pause,
        Some(RolloutEventKind::Resume) => OperatorAction::Resume,
        Some(RolloutEventKind::Abort) => OperatorAction::Abort,
        Some(RolloutEventKind::Retry) => OperatorAction::Retry,
        Some(RolloutEventKind::SetWeight) => OperatorAction::SetWeight(parse_weight(body.weight)?),
        Some(RolloutEventKind::Step | RolloutEventKind::Rollback) | None => {
            let verbs = OperatorAction::WORDS.join(", ");
            let detail = format!("{verb:?} is no verb: use one of {verbs}");
            return Err(ApiProblem::new(StatusCode::NOT_FOUND, detail));
        }
    };
    if body.weight.is_some() && !matches!(action, OperatorAction::SetWeight(_)) {
        let detail = format!("{verb} takes no weight: set-weight does");
        return Err(ApiProblem::unprocessable(detail));
    }
    if body.full.is_some() && !matches!(action, OperatorAction::Promote { .. }) {
        let detail = format!("{verb} takes no `full`: promote does");
        return Err(ApiProblem::unprocessable(detail));
    }
    Ok(action)
}

fn parse_weight(percent: Option<f64>) -> Result<Weight, ApiProblem> {
    let percent = percent.ok_or_else(|| {
        ApiProblem::unprocessable("set-weight needs a weight, percent from 0 to 100")
    })?;
    Weight::from_percent(percent).ok_or_else(|| {
        ApiProblem::unprocessable(format!("weight is {percent}: write a percentage from 0 to 100"))
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
    fn a_command_is_parsed_with_its_actor_and_reason() {
        let command = parse_test_command(
            "promote",
            r#"{"reason": " seen enough ", "full": true, "actor": "ada@ops"}"#,
        );
        let expected = OperatorCommand {
            action: OperatorAction::Promote { full: true },
            actor: "ada@ops".into(),
            reason: "seen enough".into(),
        };
        assert_eq!(command, Ok(expected));
        let command = parse_test_command("abort", "").expect("a body is not needed");
        assert_eq!(
            (command.action, command.actor.as_str(), command.reason.as_str()),
            (OperatorAction::Abort, "proxy-user", "")
        );
        let weight =
            parse_test_command("set-weight", r#"{"weight": 12.5}"#).map(|command| command.action);
        assert_eq!(weight, Ok(OperatorAction::SetWeight(Weight::from_basis_points(1_250))));
    }

    #[test]
    fn an_invalid_command_is_refused_with_what_to_write_instead() {
        for (verb, body, status, remedy) in [
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
            assert!(given == status && detail.contains(remedy), "{verb} {body}: {given} {detail}");
        }
        let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(2001));
        assert!(parse_test_command("pause", &long).is_err());
    }
}
