//! Serves a picked request by the sync path, and prepares its copy.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::{Body as _, Incoming};

use crate::config::{RouteConfig, ShadowConfig, max_task_duration};
use crate::metrics::ShadowOutcome;
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::proxy::http::collect::{CollectedBody, collect_body};
use crate::proxy::http::request_body::RequestBody;
use crate::proxy::paths::shadow::copy::ShadowCopy;
use crate::proxy::paths::shadow::outcome::{OutcomeGuard, outcome_of_fallback};
use crate::proxy::paths::sync::serve_sync;
use crate::proxy::queueing::capture::{CaptureInput, capture_request};
use crate::proxy::queueing::eligibility::fallback_reason;
use crate::route::{ParsedBody, parse_legacy_call};
use crate::snapshot::SnapshotRoute;
use crate::store::TopicQueue;
use crate::task::{SHADOW_HEADER, Task};

/// Copies may fill this fraction (1/n) of their topic's backlog; the rest is for clients' own
/// tasks.
const BACKLOG_DIVISOR: u64 = 10;

/// Serves a picked request by the sync path, and copies it if it can be captured.
pub(crate) async fn serve_shadowed(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    shadow: &ShadowConfig,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let route = context.snapshot.route_config(snapshot_route);
    let limits = &context.thread().shadow_limits;
    let mut outcome_guard = OutcomeGuard::new(context, route);
    let length = request.body().size_hint().exact();
    let fallback = fallback_reason(context, route, request.method(), request.headers(), length);
    let slot = if fallback.is_none() { limits.acquire_copy_slot() } else { None };
    let Some(copy_slot) = slot else {
        let outcome = fallback.map_or(ShadowOutcome::TooManyCopies, outcome_of_fallback);
        outcome_guard.set_outcome(outcome);
        return serve_sync(context, request.map(RequestBody::from_incoming)).await;
    };
    let (head, body) = request.into_parts();
    let mut request_permit = limits.new_body_permit();
    let max_body = context.snapshot.config.proxy.max_body_bytes;
    let (outcome, body) = match collect_body(body, max_body, &mut request_permit).await {
        CollectedBody::Complete(body) => {
            let (response, captured) = serve_and_capture(context, route, head, body).await;
            let Some((task, queue, result_deadline)) = captured else {
                outcome_guard.set_outcome(ShadowOutcome::Ineligible);
                return response;
            };
            let copy = ShadowCopy {
                thread: context.thread().clone(),
                task,
                queue,
                result_deadline,
                ignored_pointers: shadow.ignored_pointers.clone(),
                outcome_guard,
                request_permit: Some(request_permit),
                response_permit: limits.new_body_permit(),
                _copy_slot: copy_slot,
            };
            let max_body = context.snapshot.config.results.max_result_bytes;
            return copy.observe_response(response, max_body);
        }
        CollectedBody::TooLarge(body) => (ShadowOutcome::Ineligible, body),
        CollectedBody::OverBudget(body) => (ShadowOutcome::TooManyCopies, body),
        CollectedBody::Failed(error) => return ProxyProblem::RequestBody(error).into_response(),
    };
    outcome_guard.set_outcome(outcome);
    serve_sync(context, Request::from_parts(head, body)).await
}

/// Serves the request, and builds its copy while the upstream works on it.
async fn serve_and_capture(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    head: Parts,
    body: Bytes,
) -> (Response<ResponseBody>, Option<(Task, TopicQueue, Duration)>) {
    let request = Request::from_parts(head.clone(), RequestBody::from_bytes(body.clone()));
    let capture = async {
        tokio::task::yield_now().await; // the request is sent before its body is parsed here
        build_copy_task(context, route, &head, &body)
    };
    tokio::join!(biased; serve_sync(context, request), capture)
}

/// The task of a copy, its queue, and the longest time until it has ended. `None` if the body
/// cannot be parsed, or is an envelope that names another topic or a delay.
fn build_copy_task(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    head: &Parts,
    body: &Bytes,
) -> Option<(Task, TopicQueue, Duration)> {
    let parsed = parse_legacy_call(body, |topic| route.has_topic(topic)).ok()?;
    if parsed.delay.is_some() || parsed.topic.as_ref().is_some_and(|topic| *topic != route.topic) {
        return None;
    }
    let parsed = ParsedBody { webhook: None, reply_to: None, ..parsed };
    let input = CaptureInput::legacy_call(route, head, body, parsed);
    let captured = capture_request(context, input, None).ok()?;
    let mut task = Task { retries: 0, ..captured.task };
    if let Some(request) = &mut task.request {
        let name = HeaderName::from_static(SHADOW_HEADER);
        request.headers.insert(name, HeaderValue::from_static("1"));
    }
    let max_backlog = captured.queue.max_backlog.div_ceil(BACKLOG_DIVISOR);
    let queue = TopicQueue { max_backlog, ..captured.queue };
    Some((task, queue, max_task_duration(captured.topic_config, false)))
}
