//! `GET /task/<id>?wait=10s`: answered as soon as the task has ended, else as it stands when the wait is over.
//!
//! A wait is a place in [`Waiters`](crate::store::Waiters): it costs the store nothing while it lasts, and nothing at
//! all once its client has left. A server that drains ends them early, with the state of that moment.

use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::respond::Problem;
use super::service::Context;
use super::tasks::find;
use crate::route::wait_of;
use crate::task::{TaskId, TaskRecord};

/// The longest wait; one that asks for more has this. Less than what balancers let a connection idle.
const LONGEST: Duration = Duration::from_mins(1);

/// The task once it has ended, or once the wait that the query asks for is over.
pub(super) async fn ended(
    context: &Context<'_>,
    request: &Request<Incoming>,
    id: &TaskId,
) -> Result<TaskRecord, Problem> {
    let Some(wait) = wait_of(request.uri().query()).map_err(Problem::BadWait)? else {
        return find(context, request.headers(), id).await;
    };
    // Before the look: an end between the two would be missed.
    let waiter = context.parts().circuit.store().waiters().register(id);
    let record = find(context, request.headers(), id).await?;
    if record.status.is_final() {
        return Ok(record);
    }
    let draining = &context.connection.thread.draining;
    match timeout(wait.min(LONGEST), draining.run_until_cancelled(waiter)).await {
        Ok(Some(Some(ended))) => Ok(ended.as_ref().clone()),
        // Over, draining, or lost by the store: as it stands.
        _ => find(context, request.headers(), id).await,
    }
}
