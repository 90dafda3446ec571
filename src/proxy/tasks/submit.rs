//! `POST <route>/async`: submits a task; answered by 202 once the task is durable.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::{Body as _, Incoming};

use crate::config::{HandlerConfig, RouteConfig};
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::{respond_accepted, respond_preflight};
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::proxy::http::collect::discard_unwanted_body;
use crate::proxy::queueing::capture::{CaptureInput, CapturedTask, capture_request};
use crate::proxy::queueing::key_claim::{
    KeyClaimGuard, KeyClaimOutcome, claim_key, idempotency_key, mark_replayed,
};
use crate::proxy::tasks::cors::{add_cors_headers, is_cors_preflight};
use crate::proxy::tasks::read_body::read_body;
use crate::route::{TaskRequestError, is_json_request, parse_body};
use crate::snapshot::SnapshotRoute;
use crate::store::ClaimConclusion;
use crate::task::{TaskId, TaskStatus};

/// The claim of a task that is submitted with an idempotency key.
enum SubmitClaim {
    /// The task is to be enqueued, under the claim if there is one.
    Enqueue(Option<KeyClaimGuard>),
    /// An earlier request with the same key has submitted this task.
    AlreadySubmitted(TaskId),
}

/// Answers `POST <route>/async`.
pub(crate) async fn submit_task(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let request_headers = request.headers().clone();
    let mut response = if is_cors_preflight(&request) {
        respond_preflight()
    } else {
        try_submit_task(context, snapshot_route, request)
            .await
            .unwrap_or_else(ProxyProblem::into_response)
    };
    add_cors_headers(&context.snapshot, &request_headers, response.headers_mut());
    response
}

async fn try_submit_task(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    let (head, body) = request.into_parts();
    let config = &context.snapshot.config;
    let limit = config.proxy.max_body_bytes;
    if let Err(problem) = check_submit_head(&head, &body, limit) {
        discard_unwanted_body(&head, body);
        return Err(problem);
    }
    let mut permit = context.thread().body_budget.new_permit();
    let discard = |rest| discard_unwanted_body(&head, rest);
    let too_large = ProxyProblem::BodyTooLarge { limit };
    let body = read_body(body, limit, &mut permit, too_large, discard).await?;
    let route = context.snapshot.route_config(snapshot_route);
    let mut captured = capture_submission(context, route, &head, &body)?;
    let claim = match claim_submission(context, route, &head, &body).await? {
        SubmitClaim::Enqueue(claim) => claim,
        SubmitClaim::AlreadySubmitted(id) => {
            let accepted = respond_accepted(&id, TaskStatus::Queued, &config.proxy.task_path);
            return Ok(mark_replayed(context, route, accepted));
        }
    };
    if let Some(claim) = &claim {
        captured.task.id = claim.task_id.clone();
    }
    // If the result of the enqueue is unknown, the circuit breaker cancels the task later: its
    // client got no 202.
    context.services().circuit.enqueue(&captured.task, &captured.queue).await?;
    if let Some(claim) = claim {
        claim.conclude(ClaimConclusion::Task(captured.task.id.clone()));
    }
    context.services().metrics.count_task_received(captured.task.topic.as_str());
    Ok(respond_accepted(&captured.task.id, TaskStatus::Queued, &config.proxy.task_path))
}

fn check_submit_head(head: &Parts, body: &Incoming, limit: usize) -> Result<(), ProxyProblem> {
    if head.method != Method::POST {
        return Err(ProxyProblem::MethodNotAllowed("POST"));
    }
    if !is_json_request(&head.headers) {
        return Err(ProxyProblem::NotJson);
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(ProxyProblem::BodyTooLarge { limit });
    }
    Ok(())
}

/// Captures a submission as a task. The replayed request is a `POST` of the payload to the route
/// itself; only the handler `upstream` replays it.
fn capture_submission<'c>(
    context: &'c RequestContext<'_>,
    route: &RouteConfig,
    head: &Parts,
    body: &Bytes,
) -> Result<CapturedTask<'c>, ProxyProblem> {
    let parsed = parse_body(body).map_err(ProxyProblem::InvalidBody)?;
    if let Some(topic) = parsed.topic.as_ref().filter(|topic| !route.accepts_submission(topic))
        && context.snapshot.config.topics.contains_key(topic)
    {
        let error = TaskRequestError::TopicOfOtherRoute(topic.clone());
        return Err(ProxyProblem::InvalidTask(error));
    }
    let path = head.uri.path();
    let mut target = path.strip_suffix("/async").unwrap_or(path).to_owned();
    if let Some(query) = head.uri.query() {
        target = format!("{target}?{query}");
    }
    let input = CaptureInput {
        route,
        request_head: head,
        replay_method: Method::POST,
        replay_target: target,
        replay_body: parsed.payload.clone(),
        parsed_body: parsed,
    };
    let mut captured = capture_request(context, input, None).map_err(ProxyProblem::InvalidTask)?;
    if captured.topic_config.handler != HandlerConfig::Upstream {
        captured.task.request = None;
    }
    Ok(captured)
}

/// Claims the idempotency key of a submission, if it has one.
async fn claim_submission(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    head: &Parts,
    body: &Bytes,
) -> Result<SubmitClaim, ProxyProblem> {
    let Some(key) = idempotency_key(&head.headers) else { return Ok(SubmitClaim::Enqueue(None)) };
    match claim_key(context, route, &key, head, body, None, route.client_wait).await {
        KeyClaimOutcome::Acquired(claim) => Ok(SubmitClaim::Enqueue(Some(claim))),
        KeyClaimOutcome::StoreUnavailable => Ok(SubmitClaim::Enqueue(None)),
        KeyClaimOutcome::AlreadyServed(ClaimConclusion::Task(id)) => {
            Ok(SubmitClaim::AlreadySubmitted(id))
        }
        KeyClaimOutcome::AlreadyServed(_) => Err(ProxyProblem::IdempotencyKeyReused),
        KeyClaimOutcome::Refused(problem) => Err(problem),
    }
}
