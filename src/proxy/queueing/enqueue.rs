//! Enqueues the task of a canaried request.
//!
//! An enqueue ends in one of three ways: the task is durable, the upstream serves the request
//! instead, or the request is refused. If the store does not answer, the route's `on_unknown`
//! decides between the last two.

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;

use crate::cohort_hash::RequestPath;
use crate::config::{
    HandlerConfig, RouteConfig, SaturationAction, TopicConfig, UnknownEnqueueAction,
};
use crate::metrics::{FallbackReason, TaskOutcome};
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::context::RequestContext;
use crate::proxy::queueing::capture::{CaptureInput, CapturedTask, capture_request};
use crate::proxy::queueing::eligibility::parse_legacy_body;
use crate::route::{Admission, AdmissionTiming, decide_admission};
use crate::snapshot::SnapshotRoute;
use crate::store::{StoreError, StoreRefusal, TaskEndWaiter};
use crate::task::{Task, TaskId};

/// The result of enqueueing a canaried request.
pub(crate) enum EnqueueOutcome {
    /// The task is durable.
    Durable(CanariedTask),
    /// The upstream serves the request.
    FallBack(FallbackReason),
    /// The request is answered with a problem.
    Refused(ProxyProblem),
}

/// The durable task of a canaried request.
pub(crate) struct CanariedTask {
    pub(crate) id: TaskId,
    /// Resolves when the task has ended.
    pub(crate) end_waiter: TaskEndWaiter,
    /// Whether the task counts in an epoch of its route's rollout.
    pub(crate) counts_for_gates: bool,
}

/// Enqueues a request as a task with the id `task_id`, or with a new one.
pub(crate) async fn enqueue_request(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    head: &Parts,
    body: &Bytes,
    task_id: Option<&TaskId>,
) -> EnqueueOutcome {
    let route = context.snapshot.route_config(snapshot_route);
    let Some(topic) = context.snapshot.config.topics.get(&route.topic) else {
        return EnqueueOutcome::FallBack(FallbackReason::Ineligible);
    };
    let Some(parsed) = parse_legacy_body(route, &topic.handler, body) else {
        return EnqueueOutcome::FallBack(FallbackReason::Ineligible);
    };
    let input = CaptureInput::legacy_call(route, head, body, parsed);
    match capture_request(context, input, Some(snapshot_route.epoch)) {
        Ok(mut captured) => {
            if let Some(id) = task_id {
                captured.task.id = id.clone();
            }
            enqueue_captured(context, snapshot_route, captured).await
        }
        Err(error) => EnqueueOutcome::Refused(ProxyProblem::InvalidTask(error)),
    }
}

async fn enqueue_captured(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    captured: CapturedTask<'_>,
) -> EnqueueOutcome {
    let route = context.snapshot.route_config(snapshot_route);
    let CapturedTask { task, mut queue, topic_config } = captured;
    match limit_open_tasks(context, route, &task, topic_config) {
        Ok(limit) => queue.max_open_tasks = limit,
        Err(reason) => return EnqueueOutcome::FallBack(reason),
    }
    let (circuit, metrics) = (&context.services().circuit, &context.services().metrics);
    let end_waiter = circuit.store().end_waiters().register_waiter(&task.id);
    let counts_for_gates = task.epoch.is_some();
    let fall_back = |reason| {
        if counts_for_gates {
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
            if let Some(outcome) = resolve_unknown_enqueue(context, route, &task.id).await {
                return outcome;
            }
        }
        Err(StoreError::Refused(StoreRefusal::Saturated { .. })) => {
            return EnqueueOutcome::FallBack(FallbackReason::Saturated);
        }
        Err(StoreError::Refused(StoreRefusal::BacklogFull { .. })) => {
            return fall_back(FallbackReason::Backpressure);
        }
        Err(error) => {
            tracing::warn!(%error, route = route.name, "the store refused a task");
            return fall_back(FallbackReason::StoreRefused);
        }
    }
    metrics.count_task_received(task.topic.as_str());
    if counts_for_gates {
        let (thread, path) = (context.thread().index, RequestPath::Async);
        snapshot_route.counters.count_request_by_group(thread, path, task.client_group);
    }
    EnqueueOutcome::Durable(CanariedTask { id: task.id, end_waiter, counts_for_gates })
}

/// The number of open tasks of its topic at which the task is refused, so that it starts within the
/// route's `max_start_delay`; none for a task that may start later. An error if no consumer of the
/// topic is live.
fn limit_open_tasks(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    task: &Task,
    topic: &TopicConfig,
) -> Result<Option<u64>, FallbackReason> {
    let handle = &context.services().capacity;
    let capacity = handle.topic_capacity(&task.topic);
    let timing = AdmissionTiming::new(
        &capacity,
        handle.sync_median(&route.name),
        topic.handler == HandlerConfig::Upstream,
        route.max_start_delay,
    );
    match decide_admission(&capacity, &timing) {
        Admission::NoConsumer => Err(FallbackReason::NoWorker),
        Admission::BelowOpenTasks(_) if route.on_saturation == SaturationAction::Queue => Ok(None),
        Admission::BelowOpenTasks(limit) => Ok(Some(limit)),
    }
}

/// Looks for a task whose enqueue was never answered; `None` if the store has it. If the store does
/// not, the circuit breaker still cancels the task once the store is back, in case it arrived late:
/// this is the one window in which a request can run twice.
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
            StoreError::OutcomeUnknown("the store became unreachable during the enqueue".into()),
        )),
    })
}

/// Counts an enqueue with an unknown result; returns what the route does then.
pub(crate) fn count_unknown_enqueue(
    context: &RequestContext<'_>,
    route: &RouteConfig,
) -> UnknownEnqueueAction {
    context.services().metrics.count_unknown_enqueue(&route.name);
    route.on_unknown_enqueue
}

/// Counts a canaried request that is answered without a task.
pub(crate) fn count_refused(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    outcome: TaskOutcome,
    status: StatusCode,
) {
    let metrics = &context.services().metrics;
    metrics.count_task_outcome(&route.name, outcome);
    let counters = metrics.request_counters.route_counters(&route.name);
    let (thread, path, group) =
        (context.thread().index, RequestPath::Async, context.client_group.get());
    counters.count_request_by_group(thread, path, group);
    counters.count_error_by_group(thread, path, status.as_u16(), group);
}
