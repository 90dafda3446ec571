//! The async path of a legacy call: its request is captured as a durable task, its client waits for
//! the task, and gets the response that the legacy endpoint would have given. A request that cannot
//! become a task is served by the sync path: the path fails open.
//!
//! A request whose task is durable stays with that task. If the store is unreachable when the
//! client's wait ends, the client is still told where to ask again, and is counted as `deferred`:
//! the task runs, and can be polled, once the store is back. A client that still waits shortly
//! before a drain is over is answered in the same way, also with `hold`: its task goes on
//! elsewhere. That is not counted as `deferred`, since it says nothing about the queue.

use bytes::Bytes;
use http::Request;
use http::request::Parts;
use hyper::body::{Body as _, Incoming};

use crate::config::{RouteConfig, UnknownEnqueueAction};
use crate::metrics::{FallbackReason, TaskOutcome};
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::add_task_id;
use crate::proxy::context::RequestContext;
use crate::proxy::http::collect::{CollectedBody, collect_body};
use crate::proxy::http::request_body::RequestBody;
use crate::proxy::paths::path_response::PathResponse;
use crate::proxy::paths::sync::serve_sync;
use crate::proxy::queueing::await_task::{WaitResult, await_task, respond_ended};
use crate::proxy::queueing::eligibility::fallback_reason;
use crate::proxy::queueing::enqueue::{
    CanariedTask, EnqueueOutcome, count_refused, count_unknown_enqueue, enqueue_request,
};
use crate::route::ClientPreferences;
use crate::snapshot::SnapshotRoute;
use crate::store::StoreError;

/// Serves a request of the async cohort that has no idempotency key.
pub(crate) async fn serve_canary(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    request: Request<Incoming>,
) -> PathResponse {
    let route = context.snapshot.route_config(snapshot_route);
    let length = request.body().size_hint().exact();
    let no_worker = || has_no_consumer(context, route).then_some(FallbackReason::NoWorker);
    let fallback = fallback_reason(context, route, request.method(), request.headers(), length)
        .or_else(no_worker); // decided before the body is read
    if let Some(reason) = fallback {
        let request = request.map(RequestBody::from_incoming);
        return fall_back_to_sync(context, route, reason, request).await;
    }
    let (head, body) = request.into_parts();
    let max_body = context.snapshot.config.proxy.max_body_bytes;
    let mut permit = context.thread().body_budget.new_permit();
    let body = match collect_body(body, max_body, &mut permit).await {
        CollectedBody::Complete(body) => body,
        CollectedBody::TooLarge(body) | CollectedBody::OverBudget(body) => {
            let request = Request::from_parts(head, body);
            return fall_back_to_sync(context, route, FallbackReason::BodyTooLarge, request).await;
        }
        CollectedBody::Failed(error) => {
            return refuse_request(context, route, ProxyProblem::RequestBody(error));
        }
    };
    match enqueue_request(context, snapshot_route, &head, &body, None).await {
        EnqueueOutcome::Durable(task) => wait_for_outcome(context, route, task, head, body).await,
        EnqueueOutcome::FallBack(reason) => {
            let request = Request::from_parts(head, RequestBody::from_bytes(body));
            fall_back_to_sync(context, route, reason, request).await
        }
        EnqueueOutcome::Refused(problem) => refuse_request(context, route, problem),
    }
}

/// Whether no consumer of the route's topic is live.
fn has_no_consumer(context: &RequestContext<'_>, route: &RouteConfig) -> bool {
    context.services().capacity.topic_capacity(&route.topic).slots == 0
}

/// Serves a request of the async cohort by the sync path, and counts why.
pub(crate) async fn fall_back_to_sync(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    reason: FallbackReason,
    request: Request<RequestBody>,
) -> PathResponse {
    context.services().metrics.count_fallback(&route.name, reason);
    PathResponse::from_sync(serve_sync(context, request).await)
}

/// Answers a canaried request with a problem where the sync path would have had the upstream's
/// response. Counted as the client's error if the status is 4xx, else as a failure of the canary.
pub(crate) fn refuse_request(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    problem: ProxyProblem,
) -> PathResponse {
    let response = problem.into_response();
    let is_client_error = response.status().is_client_error();
    let outcome = if is_client_error { TaskOutcome::Rejected } else { TaskOutcome::Refused };
    count_refused(context, route, outcome, response.status());
    PathResponse::from_async(response)
}

/// Waits for the end of a canaried request's task, for as long as the client or the route asks, but
/// not longer than the server's drain. `head` and `body` are served by the sync path if the store
/// loses the task.
pub(crate) async fn wait_for_outcome(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    task: CanariedTask,
    head: Parts,
    body: Bytes,
) -> PathResponse {
    let CanariedTask { id, end_waiter, counts_for_gates } = task;
    let preferences = ClientPreferences::from_headers(&head.headers);
    match await_task(context, route, &id, end_waiter, preferences).await {
        WaitResult::Ended(record) => {
            let mut response = respond_ended(&record, preferences);
            add_task_id(&mut response, &id);
            return PathResponse::from_async(response);
        }
        WaitResult::Deferred(mut response) => {
            if counts_for_gates && preferences.preferred_wait().is_none() {
                context.services().metrics.count_task_outcome(&route.name, TaskOutcome::Deferred);
            }
            add_task_id(&mut response, &id);
            return PathResponse::from_async(*response);
        }
        WaitResult::Drained(mut response) => {
            add_task_id(&mut response, &id);
            return PathResponse::from_async(*response);
        }
        WaitResult::Lost => {}
    }
    // The store lost the task, in a crash that its persistence did not cover.
    context.services().circuit.cancel_on_recovery(id);
    match count_unknown_enqueue(context, route) {
        UnknownEnqueueAction::ServeSync => {
            let request = Request::from_parts(head, RequestBody::from_bytes(body));
            fall_back_to_sync(context, route, FallbackReason::EnqueueUnknown, request).await
        }
        UnknownEnqueueAction::Refuse => {
            let error = StoreError::OutcomeUnknown("the store lost the task".into());
            refuse_request(context, route, ProxyProblem::Store(error))
        }
    }
}
