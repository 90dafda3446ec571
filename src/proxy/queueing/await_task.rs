//! Waiting for a task on behalf of a legacy call, and the answer when the wait is over.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Response};
use tokio::time::{Duration, timeout};

use crate::config::{RouteConfig, WaitTimeoutAction};
use crate::proxy::answer::response::{
    respond_accepted, respond_see_response, respond_with_outcome,
};
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::route::ClientPreferences;
use crate::store::{TaskEndWaiter, TaskLookup};
use crate::task::{TaskId, TaskRecord, TaskStatus};

/// The result of waiting for a task of a legacy call.
pub(crate) enum WaitResult {
    /// The task has ended.
    Ended(Arc<TaskRecord>),
    /// The wait is over, and the client is told where to ask again.
    Deferred(Box<Response<ResponseBody>>),
    /// The server's drain is almost over, and the client is told where to ask again.
    Drained(Box<Response<ResponseBody>>),
    /// The store lost the task.
    Lost,
}

/// Waits for the end of a task, for as long as its client or its route asks, and not longer than
/// the server's drain.
pub(crate) async fn await_task(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    id: &TaskId,
    end_waiter: TaskEndWaiter,
    preferences: ClientPreferences,
) -> WaitResult {
    let client_wait = preferences.preferred_wait();
    let wait = client_wait.unwrap_or(route.client_wait);
    let is_held = route.on_wait_timeout == WaitTimeoutAction::KeepWaiting && client_wait.is_none();
    let until_end = async {
        if is_held { Some(end_waiter.await) } else { timeout(wait, end_waiter).await.ok() }
    };
    match context.thread().answer_waiting.run_until_cancelled(until_end).await {
        Some(Some(Some(record))) => WaitResult::Ended(record),
        Some(Some(None)) => WaitResult::Lost,
        Some(None) => end_wait(context, route, id, wait, preferences).await,
        None => match end_wait(context, route, id, wait, preferences).await {
            WaitResult::Deferred(response) => WaitResult::Drained(response),
            ended => ended,
        },
    }
}

/// The answer of a task that has not ended within `wait`, as its route has it. A client that
/// prefers `respond-async` expects a 202.
async fn end_wait(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    id: &TaskId,
    wait: Duration,
    preferences: ClientPreferences,
) -> WaitResult {
    let task_path = &context.snapshot.config.proxy.task_path;
    if route.on_wait_timeout == WaitTimeoutAction::Redirect && !preferences.respond_async {
        let redirect = respond_see_response(id, task_path, 1);
        return WaitResult::Deferred(Box::new(add_preference_applied(preferences, redirect)));
    }
    let status = if wait.is_zero() {
        TaskStatus::Queued
    } else {
        match load_state(context, id).await {
            LoadedState::Unfinished(status) => status,
            LoadedState::Ended(record) => return WaitResult::Ended(record),
        }
    };
    let accepted = respond_accepted(id, status, task_path);
    WaitResult::Deferred(Box::new(add_preference_applied(preferences, accepted)))
}

/// The state of a task whose client has waited. The task is `queued` as far as the store cannot
/// tell.
enum LoadedState {
    Unfinished(TaskStatus),
    Ended(Arc<TaskRecord>),
}

async fn load_state(context: &RequestContext<'_>, id: &TaskId) -> LoadedState {
    let circuit = &context.services().circuit;
    let ids = [id.clone()];
    match circuit.call(circuit.store().statuses(&ids)).await.map(|mut found| found.pop()) {
        Ok(Some(TaskLookup::Active(state))) => LoadedState::Unfinished(state.status),
        Ok(Some(TaskLookup::Ended)) => match circuit.call(circuit.store().get_task(id)).await {
            Ok(Some(record)) if record.status.is_final() => LoadedState::Ended(Arc::new(record)),
            _ => LoadedState::Unfinished(TaskStatus::Processing),
        },
        Ok(Some(TaskLookup::NotFound) | None) | Err(_) => {
            LoadedState::Unfinished(TaskStatus::Queued)
        }
    }
}

/// The response for a client whose task has ended.
pub(crate) fn respond_ended(
    record: &TaskRecord,
    preferences: ClientPreferences,
) -> Response<ResponseBody> {
    add_preference_applied(preferences, respond_with_outcome(record))
}

/// Answers a request whose task was enqueued by an earlier request with the same idempotency key,
/// as that request is answered. `None` if the task failed, was cancelled or is unknown, so that the
/// request has to be served anew.
pub(crate) async fn await_existing_task(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    id: &TaskId,
    head: &Parts,
) -> Option<Response<ResponseBody>> {
    let circuit = &context.services().circuit;
    let preferences = ClientPreferences::from_headers(&head.headers);
    let waiter = circuit.store().end_waiters().register_waiter(id);
    let record = circuit.call(circuit.store().get_task(id)).await.ok().flatten()?;
    let record = if record.status.is_final() {
        Arc::new(record)
    } else {
        match await_task(context, route, id, waiter, preferences).await {
            WaitResult::Ended(record) => record,
            WaitResult::Deferred(response) | WaitResult::Drained(response) => {
                return Some(*response);
            }
            WaitResult::Lost => return None,
        }
    };
    (record.status == TaskStatus::Completed).then(|| respond_ended(&record, preferences))
}

/// Adds `Preference-Applied` (RFC 7240) for the preferences that were followed.
fn add_preference_applied(
    preferences: ClientPreferences,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    if let Some(value) =
        preferences.render_applied().and_then(|text| HeaderValue::from_str(&text).ok())
    {
        response.headers_mut().insert("preference-applied", value);
    }
    response
}
