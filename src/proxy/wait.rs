//! `GET /task/<id>?wait=10s`: answered as soon as the task has ended, else as it stands when
//! the wait is over.
//!
//! A wait is a place in [`TaskEndWaiters`](crate::store::Waiters): it costs the store nothing while
//! it lasts, and nothing at all once its client has left. A server that drains ends them early,
//! with the state of that moment.

use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::respond::ProxyProblem;
use super::service::RequestContext;
use super::tasks::find_owned_task;
use crate::route::parse_wait_param;
use crate::task::{TaskId, TaskRecord};

/// The longest wait; one that asks for more has this. Less than what balancers let a connection
/// idle.
const MAX_POLL_WAIT: Duration = Duration::from_mins(1);

/// The task once it has ended, or once the wait that the query asks for is over.
pub(super) async fn long_poll_task(
    context: &RequestContext<'_>,
    request: &Request<Incoming>,
    id: &TaskId,
) -> Result<TaskRecord, ProxyProblem> {
    let Some(wait) = parse_wait_param(request.uri().query()).map_err(ProxyProblem::BadWait)? else {
        return find_owned_task(context, request.headers(), id).await;
    };
    // Before the look: an end between the two would be missed.
    let waiter = context.services().circuit.store().end_waiters().register_waiter(id);
    let record = find_owned_task(context, request.headers(), id).await?;
    if record.status.is_final() {
        return Ok(record);
    }
    let draining = &context.connection.thread.draining;
    match timeout(wait.min(MAX_POLL_WAIT), draining.run_until_cancelled(waiter)).await {
        Ok(Some(Some(ended))) => Ok(ended.as_ref().clone()),
        // Over, draining, or lost by the store: as it stands.
        _ => find_owned_task(context, request.headers(), id).await,
    }
}
