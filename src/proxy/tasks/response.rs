//! `GET /task/<id>/response?hop=N`: the answer that the legacy endpoint gave, for a client that was
//! redirected here because its wait was over (`on_wait_timeout: redirect`).
//!
//! Each hop waits for as long as the route's `wait`, and redirects to the next one; after the last
//! hop the client gets 202 with the URL to poll. The same clients may see the answer as may see the
//! task.

use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response};
use tokio::time::timeout;

use crate::config::RouteConfig;
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::{
    respond_accepted, respond_see_response, respond_with_outcome,
};
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::proxy::tasks::lookup::find_owned_task;
use crate::route::{MAX_RESPONSE_HOPS, parse_response_hop};
use crate::task::{TaskId, TaskRecord};

/// The wait of a task that no route of the configuration has made.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// The legacy answer of a task once it has ended, else the next hop.
pub(crate) async fn give_legacy_response<B>(
    context: &RequestContext<'_>,
    request: &Request<B>,
    id: &TaskId,
) -> Result<Response<ResponseBody>, ProxyProblem> {
    let hop = parse_response_hop(request.uri().query());
    // Registered before the task is read: an end between the two would be missed.
    let waiter = context.services().circuit.store().end_waiters().register_waiter(id);
    let record = find_owned_task(context, request.headers(), id).await?;
    if record.status.is_final() {
        return Ok(respond_uncached(&record));
    }
    let wait = find_client_wait(context, &record).await;
    let draining = &context.thread().draining;
    if let Ok(Some(Some(ended))) = timeout(wait, draining.run_until_cancelled(waiter)).await {
        return Ok(respond_uncached(&ended));
    }
    let task_path = &context.snapshot.config.proxy.task_path;
    if hop < MAX_RESPONSE_HOPS {
        return Ok(respond_see_response(id, task_path, hop + 1));
    }
    let record = find_owned_task(context, request.headers(), id).await?;
    if record.status.is_final() {
        return Ok(respond_uncached(&record));
    }
    Ok(respond_accepted(id, record.status, task_path))
}

/// What the legacy endpoint answered. It may have allowed caches to keep the answer of its own URL,
/// but this URL is the task's.
fn respond_uncached(record: &TaskRecord) -> Response<ResponseBody> {
    let mut response = respond_with_outcome(record);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The `wait` of the route that made a task. The store is asked for the route's name only if
/// several routes with different waits could have made it.
async fn find_client_wait(context: &RequestContext<'_>, record: &TaskRecord) -> Duration {
    let routes = &context.snapshot.config.routes;
    let could_be = |route: &&RouteConfig| route.has_topic(record.topic.as_str());
    let mut candidates = routes.iter().filter(could_be);
    let Some(first) = candidates.next() else { return DEFAULT_WAIT };
    if candidates.all(|route| route.client_wait == first.client_wait) {
        return first.client_wait;
    }
    let circuit = &context.services().circuit;
    let details = circuit.call(circuit.store().load_task_details(&record.id)).await;
    let name = details.ok().flatten().and_then(|details| details.route);
    let maker = name.and_then(|name| routes.iter().find(|route| route.name == name));
    maker.unwrap_or(first).client_wait
}
