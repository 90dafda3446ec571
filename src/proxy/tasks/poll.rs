//! `GET /task/<id>?wait=10s`: answered as soon as the task has ended, or with the task's state when
//! the wait is over.
//!
//! A wait is an entry in the store's table of end waiters: it causes no calls to the store while it
//! lasts, and the entry is gone once its client has left. A server that drains ends all waits
//! early, with the state of that moment.

use std::time::Duration;

use http::Request;
use tokio::time::timeout;

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::context::RequestContext;
use crate::proxy::tasks::lookup::find_owned_task;
use crate::route::parse_wait_param;
use crate::task::{TaskId, TaskRecord};

/// The longest wait; longer ones are shortened to it. Load balancers close connections that are
/// idle for longer.
const MAX_POLL_WAIT: Duration = Duration::from_mins(1);

/// The task once it has ended, or once the wait in the query is over.
pub(crate) async fn long_poll_task<B>(
    context: &RequestContext<'_>,
    request: &Request<B>,
    id: &TaskId,
) -> Result<TaskRecord, ProxyProblem> {
    let Some(wait) = parse_wait_param(request.uri().query()).map_err(ProxyProblem::BadWait)? else {
        return find_owned_task(context, request.headers(), id).await;
    };
    // Registered before the task is read: an end between the two would be missed.
    let waiter = context.services().circuit.store().end_waiters().register_waiter(id);
    let record = find_owned_task(context, request.headers(), id).await?;
    if record.status.is_final() {
        return Ok(record);
    }
    let draining = &context.thread().draining;
    match timeout(wait.min(MAX_POLL_WAIT), draining.run_until_cancelled(waiter)).await {
        Ok(Some(Some(ended))) => Ok(ended.as_ref().clone()),
        // The wait is over, the thread drains, or the store lost the task.
        _ => find_owned_task(context, request.headers(), id).await,
    }
}
