//! Waits for a task that was enqueued by an earlier request, on behalf of a legacy call.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Response};
use tokio::time::timeout;

use crate::config::RouteConfig;
use crate::proxy::answer::response::{respond_accepted, respond_with_outcome};
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::route::ClientPreferences;
use crate::task::{TaskId, TaskStatus};

/// Answers a request whose task was enqueued by an earlier request with the same idempotency key:
/// with the task's result, or with 202 if the task has not ended when the wait is over. `None` if
/// the task failed, was cancelled or is unknown, so that the request has to be served anew.
pub(crate) async fn await_existing_task(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    id: &TaskId,
    head: &Parts,
) -> Option<Response<ResponseBody>> {
    let circuit = &context.services().circuit;
    let preferences = ClientPreferences::from_headers(&head.headers);
    let waiter = circuit.store().end_waiters().register_waiter(id);
    let record = match circuit.call(circuit.store().get_task(id)).await {
        Ok(Some(record)) if record.status.is_final() => Some(Arc::new(record)),
        Ok(Some(_)) => {
            let wait = preferences.preferred_wait().unwrap_or(route.client_wait);
            let Ok(ended) = timeout(wait, waiter).await else {
                let accepted = respond_accepted(id, &context.snapshot.config.proxy.task_path);
                return Some(add_preference_applied(preferences, accepted));
            };
            ended
        }
        Ok(None) | Err(_) => None,
    };
    let record = record.filter(|record| record.status == TaskStatus::Completed)?;
    Some(add_preference_applied(preferences, respond_with_outcome(&record)))
}

/// Adds `Preference-Applied` (RFC 7240) for the preferences that were followed.
pub(crate) fn add_preference_applied(
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
