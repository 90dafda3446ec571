//! The async path of a legacy call: captured, made durable, waited for, and answered as the legacy
//! endpoint would have. Whatever stands in the way of that, the upstream serves it: fail open.
//!
//! A request whose task is durable keeps to it. Where `wait` ends while the store is gone, its
//! client gets the same 202 and is counted as `deferred`: the task runs, and can be polled, once
//! the store is back.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use super::body::{RequestBody, ResponseBody};
use super::capture::{CaptureInput, CapturedTask, capture_request};
use super::collect::{CollectedBody, collect_body};
use super::idempotency::{self, KeyClaimGuard};
use super::pass;
use super::respond::{self, ProxyProblem};
use super::service::RequestContext;
use crate::cohort::RequestPath;
use crate::config::{HandlerConfig, RouteConfig, UnknownEnqueueAction, WaitTimeoutAction};
use crate::metrics::{FallbackReason, TaskOutcome};
use crate::route::{BodyError, ClientPreferences, ParsedBody, check_capturable, parse_body};
use crate::snapshot::SnapshotRoute;
use crate::store::{ClaimConclusion, StoreError, StoreRefusal, TaskEndWaiter};
use crate::task::{TaskId, TaskStatus};

/// What came of queueing a request.
enum EnqueueOutcome {
    /// Its task is durable.
    Durable(CanariedTask),
    /// It is served sync.
    FallBack(FallbackReason),
    /// It is refused.
    Refused(ProxyProblem),
}

/// A task that a request has become.
struct CanariedTask {
    id: TaskId,
    end_waiter: TaskEndWaiter,
    /// Whether the gates hear of it.
    counts_for_gates: bool,
}

/// Serves a request of the async cohort, and says which path it took in the end.
pub(super) async fn serve_canary(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    request: Request<Incoming>,
) -> (RequestPath, Response<ResponseBody>) {
    let route = context.snapshot.route_config(live);
    let length = request.body().size_hint().exact();
    if let Some(reason) =
        fallback_reason(context, route, request.method(), request.headers(), length)
    {
        return fall_back_to_sync(context, route, reason, request.map(RequestBody::from_incoming))
            .await;
    }
    let (head, body) = request.into_parts();
    let mut share = context.connection.thread.body_budget.new_permit();
    let body =
        match collect_body(body, context.snapshot.config.proxy.max_body_bytes, &mut share).await {
            CollectedBody::Complete(body) => body,
            CollectedBody::TooLarge(body) | CollectedBody::OverBudget(body) => {
                return fall_back_to_sync(
                    context,
                    route,
                    FallbackReason::Ineligible,
                    Request::from_parts(head, body),
                )
                .await;
            }
            CollectedBody::Failed(fault) => {
                return refuse_request(context, route, ProxyProblem::RequestBody(fault));
            }
        };
    enqueue_and_wait(context, live, head, body, None).await
}

/// Serves a request of the async cohort that was read whole, and whose key may be held.
pub(super) async fn serve_collected(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    head: Parts,
    body: Bytes,
    mine: Option<KeyClaimGuard>,
) -> (RequestPath, Response<ResponseBody>) {
    let route = context.snapshot.route_config(live);
    if let Some(reason) =
        fallback_reason(context, route, &head.method, &head.headers, Some(body.len() as u64))
    {
        let (path, response) = fall_back_to_sync(
            context,
            route,
            reason,
            Request::from_parts(head, RequestBody::from_bytes(body)),
        )
        .await;
        return (path, idempotency::record_response(context, mine, response));
    }
    enqueue_and_wait(context, live, head, body, mine).await
}

async fn enqueue_and_wait(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    head: Parts,
    body: Bytes,
    mine: Option<KeyClaimGuard>,
) -> (RequestPath, Response<ResponseBody>) {
    let route = context.snapshot.route_config(live);
    match enqueue_request(context, live, &head, &body, mine.as_ref().map(|mine| &mine.task_id))
        .await
    {
        EnqueueOutcome::Durable(durable) => {
            if let Some(mine) = mine {
                mine.conclude(ClaimConclusion::Task(durable.id.clone()));
            }
            wait_for_outcome(context, route, durable, head, body).await
        }
        EnqueueOutcome::FallBack(reason) => {
            let request = Request::from_parts(head, RequestBody::from_bytes(body));
            let (path, response) = fall_back_to_sync(context, route, reason, request).await;
            (path, idempotency::record_response(context, mine, response))
        }
        EnqueueOutcome::Refused(problem) => refuse_request(context, route, problem),
    }
}

/// Answers a canaried request itself, where the sync path would have had the upstream's answer: a
/// failure of the canary, or with a 4xx a client error.
fn refuse_request(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    problem: ProxyProblem,
) -> (RequestPath, Response<ResponseBody>) {
    let response = problem.into_response();
    let rejected = response.status().is_client_error();
    let outcome = if rejected { TaskOutcome::Rejected } else { TaskOutcome::Refused };
    count_refused(context, route, outcome, response.status());
    (RequestPath::Async, response)
}

/// Counts a canaried request that came to no task.
fn count_refused(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    outcome: TaskOutcome,
    status: StatusCode,
) {
    let metrics = &context.services().metrics;
    metrics.count_task_outcome(&route.name, outcome);
    let (cells, thread) =
        (metrics.request_counters.route_counters(&route.name), context.connection.thread.index);
    cells.count_error_by_group(
        thread,
        RequestPath::Async,
        status.as_u16(),
        context.client_group.get(),
    );
}

/// Answers with the task that the request became before, as it ends or as far as it is; none where
/// that came to nothing: it failed, was cancelled, or is not known any more.
pub(super) async fn await_existing_task(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    id: &TaskId,
    head: &Parts,
) -> Option<Response<ResponseBody>> {
    let (circuit, prefer) =
        (&context.services().circuit, ClientPreferences::from_headers(&head.headers));
    let waiter = circuit.store().end_waiters().register_waiter(id);
    let record = match circuit.call(circuit.store().get_task(id)).await {
        Ok(Some(record)) if record.status.is_final() => Some(Arc::new(record)),
        Ok(Some(_)) => {
            let Ok(ended) =
                timeout(prefer.preferred_wait().unwrap_or(route.client_wait), waiter).await
            else {
                let accepted =
                    respond::respond_accepted(id, &context.snapshot.config.proxy.task_path);
                return Some(add_preference_applied(prefer, accepted));
            };
            ended
        }
        Ok(None) | Err(_) => None,
    };
    let record = record.filter(|record| record.status == TaskStatus::Completed)?;
    Some(add_preference_applied(prefer, respond::respond_with_outcome(&record)))
}

/// Why a request is not captured, seen from its head and the store's state.
pub(super) fn fallback_reason(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    method: &Method,
    headers: &HeaderMap,
    length: Option<u64>,
) -> Option<FallbackReason> {
    let config = &context.snapshot.config;
    let topic = config.topics.get(&route.topic)?;
    let judged =
        check_capturable(method, headers, &topic.handler, length, config.proxy.max_body_bytes);
    if judged.is_some() {
        return Some(FallbackReason::Ineligible);
    }
    context.services().circuit.is_open().then_some(FallbackReason::StoreUnavailable)
}

async fn fall_back_to_sync(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    reason: FallbackReason,
    request: Request<RequestBody>,
) -> (RequestPath, Response<ResponseBody>) {
    context.services().metrics.count_fallback(&route.name, reason);
    (RequestPath::Sync, pass::serve_sync(context, request).await)
}

/// Makes the request a durable task, if it can be one: that of `id`, where one is given.
async fn enqueue_request(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    head: &Parts,
    body: &Bytes,
    id: Option<&TaskId>,
) -> EnqueueOutcome {
    let route = context.snapshot.route_config(live);
    let topics = &context.snapshot.config.topics;
    let Some(handler) = topics.get(&route.topic).map(|topic| &topic.handler) else {
        return EnqueueOutcome::FallBack(FallbackReason::Ineligible);
    };
    let parsed = match parse_body(body) {
        Ok(parsed) => parsed,
        // What the upstream would have made of it, it still decides.
        Err(BodyError::NotJson(_) | BodyError::DuplicateKey(_))
            if *handler == HandlerConfig::Upstream =>
        {
            wrap_opaque_body(body)
        }
        Err(_) => return EnqueueOutcome::FallBack(FallbackReason::Ineligible),
    };
    let target = head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let sent = CaptureInput {
        route,
        request_head: head,
        replay_method: head.method.clone(),
        replay_target: target,
        replay_body: body.clone(),
        parsed_body: parsed,
    };
    match capture_request(context, sent, Some(live.epoch)) {
        Ok(mut captured) => {
            if let Some(id) = id {
                captured.task.id = id.clone();
            }
            enqueue_captured(context, route, captured).await
        }
        Err(bad) => EnqueueOutcome::Refused(ProxyProblem::InvalidTask(bad)),
    }
}

/// A body that is not JSON, as a payload: a string of it.
fn wrap_opaque_body(body: &Bytes) -> ParsedBody {
    ParsedBody { payload: crate::store::body_as_json(body), ..ParsedBody::default() }
}

async fn enqueue_captured(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    captured: CapturedTask<'_>,
) -> EnqueueOutcome {
    let CapturedTask { task, queue, .. } = captured;
    let (circuit, metrics) = (&context.services().circuit, &context.services().metrics);
    let waiter = circuit.store().end_waiters().register_waiter(&task.id);
    let counts = task.epoch.is_some();
    let refused = |reason| {
        if counts {
            count_refused(context, route, TaskOutcome::Refused, StatusCode::SERVICE_UNAVAILABLE);
        }
        EnqueueOutcome::FallBack(reason)
    };
    match circuit.enqueue(&task, &queue).await {
        Ok(()) => {}
        Err(StoreError::Unreachable(_)) => {
            return EnqueueOutcome::FallBack(FallbackReason::StoreUnavailable);
        }
        Err(StoreError::OutcomeUnknown(_)) => {
            if let Some(unresolved) = resolve_unknown_enqueue(context, route, &task.id).await {
                return unresolved;
            }
        }
        Err(StoreError::Refused(StoreRefusal::BacklogFull { .. })) => {
            return refused(FallbackReason::Backpressure);
        }
        Err(error) => {
            tracing::warn!(%error, route = route.name, "the store refused a task");
            return refused(FallbackReason::StoreRefused);
        }
    }
    metrics.count_task_received(task.topic.as_str());
    EnqueueOutcome::Durable(CanariedTask {
        id: task.id,
        end_waiter: waiter,
        counts_for_gates: counts,
    })
}

/// Asks for a task whose enqueue was never answered; none when it is there. Otherwise it stays to
/// be cancelled as soon as the store is back, in case it was only late: the one window in which a
/// request can run twice.
async fn resolve_unknown_enqueue(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    id: &TaskId,
) -> Option<EnqueueOutcome> {
    let circuit = &context.services().circuit;
    if let Ok(Some(_)) = circuit.call_even_if_open(circuit.store().get_task(id)).await
        && circuit.withdraw_cancel(id)
    {
        return None;
    }
    Some(match count_unknown_enqueue(context, route) {
        UnknownEnqueueAction::ServeSync => EnqueueOutcome::FallBack(FallbackReason::EnqueueUnknown),
        UnknownEnqueueAction::Refuse => EnqueueOutcome::Refused(ProxyProblem::Store(
            StoreError::OutcomeUnknown("the store died".into()),
        )),
    })
}

fn count_unknown_enqueue(
    context: &RequestContext<'_>,
    route: &RouteConfig,
) -> UnknownEnqueueAction {
    context.services().metrics.count_unknown_enqueue(&route.name);
    route.on_unknown_enqueue
}

/// Waits for the task's end as long as the client or the route says.
async fn wait_for_outcome(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    durable: CanariedTask,
    head: Parts,
    body: Bytes,
) -> (RequestPath, Response<ResponseBody>) {
    let CanariedTask { id, end_waiter: waiter, counts_for_gates: counts } = durable;
    let prefer = ClientPreferences::from_headers(&head.headers);
    let mut waiter = std::pin::pin!(waiter);
    let ended = match timeout(prefer.preferred_wait().unwrap_or(route.client_wait), waiter.as_mut())
        .await
    {
        Ok(ended) => ended,
        Err(_)
            if route.on_wait_timeout == WaitTimeoutAction::KeepWaiting
                && prefer.preferred_wait().is_none() =>
        {
            waiter.await
        }
        Err(_) => {
            if counts && prefer.preferred_wait().is_none() {
                context.services().metrics.count_task_outcome(&route.name, TaskOutcome::Deferred);
            }
            let accepted = respond::respond_accepted(&id, &context.snapshot.config.proxy.task_path);
            return (RequestPath::Async, add_preference_applied(prefer, accepted));
        }
    };
    if let Some(record) = ended {
        return (
            RequestPath::Async,
            add_preference_applied(prefer, respond::respond_with_outcome(&record)),
        );
    }
    // The store lost it, in a crash that its persistence did not cover.
    context.services().circuit.cancel_on_recovery(id);
    match count_unknown_enqueue(context, route) {
        UnknownEnqueueAction::ServeSync => {
            let request = Request::from_parts(head, RequestBody::from_bytes(body));
            fall_back_to_sync(context, route, FallbackReason::EnqueueUnknown, request).await
        }
        UnknownEnqueueAction::Refuse => {
            let lost = StoreError::OutcomeUnknown("the store lost the task".into());
            refuse_request(context, route, ProxyProblem::Store(lost))
        }
    }
}

fn add_preference_applied(
    prefer: ClientPreferences,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    if let Some(value) = prefer.render_applied().and_then(|text| HeaderValue::from_str(&text).ok())
    {
        response.headers_mut().insert("preference-applied", value);
    }
    response
}
