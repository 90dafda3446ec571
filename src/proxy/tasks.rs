//! The own endpoints: `POST <route>/async`, and `/task/<id>` with what stands below it (`wait.rs`,
//! `events.rs`, `progress.rs`).

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::{Body, Incoming};

use super::body::ResponseBody;
use super::capture::{CaptureInput, capture_request, owner_from_headers};
use super::collect::{CollectedBody, collect_body, discard_body};
use super::idempotency::{self, KeyClaimOutcome};
use super::respond::{self, ProxyProblem};
use super::service::{RequestContext, add_cors_headers, is_cors_preflight};
use super::{events, progress, wait};
use crate::config::HandlerConfig;
use crate::route::{is_json_request, parse_body};
use crate::snapshot::SnapshotRoute;
use crate::store::{CancelResult, ClaimConclusion};
use crate::task::{TaskId, TaskRecord};

/// `POST <route>/async`: 202 once the task is durable.
pub(super) async fn submit_task(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let asked = request.headers().clone();
    let mut response = if is_cors_preflight(&request) {
        respond::respond_preflight()
    } else {
        try_submit_task(context, live, request).await.unwrap_or_else(ProxyProblem::into_response)
    };
    add_cors_headers(&context.snapshot, &asked, response.headers_mut());
    response
}

async fn try_submit_task(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    let (head, body) = request.into_parts();
    let config = &context.snapshot.config;
    let limit = config.proxy.max_body_bytes;
    if let Err(problem) = check_submit_head(&head, &body, limit) {
        discard_unwanted_body(&head, body);
        return Err(problem);
    }
    let mut share = context.connection.thread.body_budget.new_permit();
    let body = match collect_body(body, limit, &mut share).await {
        CollectedBody::Complete(body) => body,
        CollectedBody::TooLarge(rest) => {
            discard_unwanted_body(&head, rest);
            return Err(ProxyProblem::BodyTooLarge { limit });
        }
        CollectedBody::OverBudget(rest) => {
            discard_unwanted_body(&head, rest);
            return Err(ProxyProblem::OverBodyBudget);
        }
        CollectedBody::Failed(fault) => return Err(ProxyProblem::RequestBody(fault)),
    };
    let parsed = parse_body(&body).map_err(ProxyProblem::InvalidBody)?;
    let route = context.snapshot.route_config(live);
    let path = head.uri.path();
    let mut target = path.strip_suffix("/async").unwrap_or(path).to_owned();
    if let Some(query) = head.uri.query() {
        target = format!("{target}?{query}");
    }
    let (whole, body) = (body, parsed.payload.clone());
    let sent = CaptureInput {
        route,
        request_head: &head,
        replay_method: Method::POST,
        replay_target: target,
        replay_body: body,
        parsed_body: parsed,
    };
    let mut captured = capture_request(context, sent, None).map_err(ProxyProblem::InvalidTask)?;
    if captured.topic_config.handler != HandlerConfig::Upstream {
        captured.task.request = None; // nobody would replay it
    }
    let mut mine = None;
    if let Some(key) = idempotency::idempotency_key(&head.headers) {
        match idempotency::claim_key(context, route, &key, &head, &whole, None, route.client_wait)
            .await
        {
            KeyClaimOutcome::Acquired(claim) => {
                captured.task.id = claim.task_id.clone();
                mine = Some(claim);
            }
            KeyClaimOutcome::StoreUnavailable => {}
            KeyClaimOutcome::AlreadyServed(ClaimConclusion::Task(id)) => {
                let accepted = respond::respond_accepted(&id, &config.proxy.task_path);
                return Ok(idempotency::mark_replayed(context, route, accepted));
            }
            KeyClaimOutcome::AlreadyServed(_) => return Err(ProxyProblem::IdempotencyKeyReused),
            KeyClaimOutcome::Refused(problem) => return Err(problem),
        }
    }
    let circuit = &context.services().circuit;
    // One whose fate is unknown is cancelled: no 202 was given for it.
    circuit.enqueue(&captured.task, &captured.queue).await.map_err(ProxyProblem::Store)?;
    if let Some(claim) = mine {
        claim.conclude(ClaimConclusion::Task(captured.task.id.clone()));
    }
    context.services().metrics.count_task_received(captured.task.topic.as_str());
    Ok(respond::respond_accepted(&captured.task.id, &config.proxy.task_path))
}

fn check_submit_head(head: &Parts, body: &Incoming, limit: usize) -> Result<(), ProxyProblem> {
    if head.method != Method::POST {
        return Err(ProxyProblem::MethodNotAllowed("POST"));
    }
    if !is_json_request(&head.headers) {
        return Err(ProxyProblem::NotJson);
    }
    if body.size_hint().lower() > limit as u64 {
        Err(ProxyProblem::BodyTooLarge { limit })
    } else {
        Ok(())
    }
}

/// Lets a client whose body is not wanted finish sending, unless it waits to be told to begin.
pub(super) fn discard_unwanted_body(head: &Parts, body: impl Body<Data = Bytes> + Unpin + 'static) {
    if !head.headers.contains_key(header::EXPECT) {
        discard_body(body);
    }
}

/// `/task/<id>`, and what stands below it.
pub(super) async fn handle_task_request(
    context: &RequestContext<'_>,
    request: Request<Incoming>,
    rest: &str,
) -> Response<ResponseBody> {
    let asked = request.headers().clone();
    let mut response = if is_cors_preflight(&request) {
        respond::respond_preflight()
    } else {
        route_task_request(context, request, rest).await.unwrap_or_else(ProxyProblem::into_response)
    };
    add_cors_headers(&context.snapshot, &asked, response.headers_mut());
    response
}

async fn route_task_request(
    context: &RequestContext<'_>,
    request: Request<Incoming>,
    rest: &str,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    let (id, view) = rest.split_once('/').map_or((rest, None), |(id, view)| (id, Some(view)));
    let id = TaskId::parse(id).map_err(|_| ProxyProblem::NoSuchTask)?;
    match view {
        None => {}
        Some("events") => return events::open_task_events(context, &request, id).await,
        Some("progress") => return progress::accept_progress_report(context, request, id).await,
        Some(_) => return Err(ProxyProblem::NoSuchTask),
    }
    match *request.method() {
        Method::GET | Method::HEAD => wait::long_poll_task(context, &request, &id)
            .await
            .map(|record| respond::respond_with_task(&record)),
        Method::DELETE => cancel_task(context, &request, &id).await,
        _ => Err(ProxyProblem::MethodNotAllowed("GET, HEAD, DELETE")),
    }
}

/// The task, if it is there and its caller's: unknown, expired and another key's are the same.
pub(super) async fn find_owned_task(
    context: &RequestContext<'_>,
    headers: &HeaderMap,
    id: &TaskId,
) -> Result<TaskRecord, ProxyProblem> {
    let circuit = &context.services().circuit;
    let record = circuit.call(circuit.store().get_task(id)).await.map_err(ProxyProblem::Store)?;
    let mine =
        |record: &TaskRecord| record.owner.is_none() || record.owner == owner_from_headers(headers);
    record.filter(mine).ok_or(ProxyProblem::NoSuchTask)
}

async fn cancel_task(
    context: &RequestContext<'_>,
    request: &Request<Incoming>,
    id: &TaskId,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    find_owned_task(context, request.headers(), id).await?;
    let circuit = &context.services().circuit;
    let ttl = context.snapshot.config.results.ttl;
    match circuit.call(circuit.store().cancel(id, ttl)).await.map_err(ProxyProblem::Store)? {
        CancelResult::Cancelled | CancelResult::WasRunning => Ok(respond::respond_cancelled(id)),
        CancelResult::AlreadyEnded(status) => Err(ProxyProblem::TaskAlreadyEnded(status)),
        CancelResult::NoSuchTask => Err(ProxyProblem::NoSuchTask),
    }
}
