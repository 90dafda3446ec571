//! Dispatches a request to the upstream, a legacy route, a task endpoint or the metrics page.
//!
//! Every request gets a response, and every response is counted. A legacy call is subject to its
//! route's deprecation first, then it is assigned to a path.

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::cohort_hash::{RequestPath, Weight};
use crate::config::RouteConfig;
use crate::proxy::answer::response::respond_with_metrics;
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::{ClientConnection, RequestContext};
use crate::proxy::http::collect::discard_unwanted_body;
use crate::proxy::http::headers::PATH_HEADER;
use crate::proxy::http::request_body::RequestBody;
use crate::proxy::paths::canary::serve_canary;
use crate::proxy::paths::deprecate::DeprecationNotice;
use crate::proxy::paths::idempotency::serve_idempotent;
use crate::proxy::paths::path_response::PathResponse;
use crate::proxy::paths::shadow;
use crate::proxy::paths::sync::serve_sync;
use crate::proxy::queueing::key_claim::idempotency_key;
use crate::proxy::server::accounting::{ClientDisconnectGuard, CountedResponse, DrainCutGuard};
use crate::proxy::server::check_request::{check_request, new_context};
use crate::proxy::tasks::{handle_task_request, submit_task};
use crate::route::{
    AssignmentBasis, CohortAssignment, RouteTarget, assign_cohort, find_client_group,
};
use crate::snapshot::SnapshotRoute;

/// Answers one request. Tells the check of the connection's bytes how an upgrade was answered, so
/// that it knows whether a tunnel or the next request follows.
pub(crate) async fn handle_request(
    connection: &ClientConnection,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let upgrade_report = connection
        .framing_report
        .as_ref()
        .filter(|_| request.headers().contains_key(header::UPGRADE));
    let response = admit_and_dispatch(connection, request).await;
    if let Some(report) = upgrade_report {
        report.record_upgrade_answer(response.status() == StatusCode::SWITCHING_PROTOCOLS);
    }
    response
}

async fn admit_and_dispatch(
    connection: &ClientConnection,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let context = new_context(connection, &request);
    let counted = match check_request(&context, &mut request) {
        Ok(()) => dispatch_request(&context, request).await,
        Err(problem) => {
            let mut refusal = problem.into_response();
            if request.version() < Version::HTTP_2 {
                // After an ambiguous request no further one is read from the connection.
                let close = HeaderValue::from_static("close");
                refusal.headers_mut().insert(header::CONNECTION, close);
            }
            CountedResponse::for_other(&context, refusal)
        }
    };
    counted.finalize(&context)
}

async fn dispatch_request(
    context: &RequestContext<'_>,
    request: Request<Incoming>,
) -> CountedResponse {
    let path = request.uri().path().to_owned();
    let snapshot = &context.snapshot;
    match snapshot.route_table.match_request(request.method(), &path) {
        RouteTarget::Other => {
            let counters = &snapshot.unmatched_counters;
            let _cut = DrainCutGuard { context, counters, path: RequestPath::Sync };
            let response = serve_sync(context, request.map(RequestBody::from_incoming)).await;
            CountedResponse::for_other(context, response)
        }
        RouteTarget::Invoke(index) => {
            handle_invoke(context, &snapshot.routes[index], request).await
        }
        RouteTarget::InvokeAsync(index) => {
            let counters = &snapshot.task_endpoint_counters;
            let _cut = DrainCutGuard { context, counters, path: RequestPath::Async };
            let response = submit_task(context, &snapshot.routes[index], request).await;
            CountedResponse::for_task_call(context, response)
        }
        RouteTarget::Task(id) => {
            let counters = &snapshot.task_endpoint_counters;
            let _cut = DrainCutGuard { context, counters, path: RequestPath::Async };
            let response = handle_task_request(context, request, id).await;
            CountedResponse::for_task_call(context, response)
        }
        RouteTarget::Metrics => {
            let text = context.services().metrics.render_exposition();
            CountedResponse::for_other(context, respond_with_metrics(text))
        }
    }
}

/// Answers a legacy call.
async fn handle_invoke(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    request: Request<Incoming>,
) -> CountedResponse {
    let route = context.snapshot.route_config(snapshot_route);
    let notice = DeprecationNotice::from_config(&route.deprecation);
    if let Some(notice) = &notice {
        count_deprecated_call(context, route, &request);
        if let Some(response) = notice.replacement_response(route) {
            let (head, body) = request.into_parts();
            discard_unwanted_body(&head, body);
            return CountedResponse::for_other(context, response);
        }
    }
    let assignment = assign_path(context, snapshot_route, &request);
    context.client_group.set(client_group_of(context, snapshot_route, &request, assignment));
    count_assignment(snapshot_route, context.thread().index, assignment);
    let disconnect_guard = ClientDisconnectGuard::arm(context, snapshot_route, assignment.path);
    let mut served = serve_assigned(context, snapshot_route, assignment.path, request).await;
    disconnect_guard.disarm();
    if let Some(notice) = notice {
        notice.add_headers(served.response.headers_mut());
    }
    CountedResponse::for_route_call(snapshot_route, served)
}

fn count_deprecated_call(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    request: &Request<Incoming>,
) {
    let mode = route.deprecation.mode.as_str();
    context.services().metrics.count_deprecated_request(&route.name, mode);
    let callers = &context.thread().deprecated_callers;
    callers.record_call(route, request.headers(), context.connection.peer_address);
}

/// The path that a legacy call is assigned to; a trusted client may choose it by a header.
fn assign_path(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    request: &Request<Incoming>,
) -> CohortAssignment {
    let headers = request.headers();
    if context.is_trusted {
        match headers.get(&PATH_HEADER).map(HeaderValue::as_bytes) {
            Some(b"sync") => return RequestPath::Sync.into(),
            Some(b"async") => return RequestPath::Async.into(),
            _ => {}
        }
    }
    let rollout = &context.snapshot.route_config(snapshot_route).rollout;
    assign_cohort(rollout, snapshot_route.weight, headers, rand::random)
}

fn count_assignment(
    snapshot_route: &SnapshotRoute,
    thread_index: usize,
    assignment: CohortAssignment,
) {
    let counters = &snapshot_route.counters;
    if assignment.lacks_sticky_key {
        counters.count_unkeyed_request(thread_index);
    }
    if assignment.basis == AssignmentBasis::Random {
        counters.count_random_assignment(thread_index, assignment.path);
    } else if assignment.is_mismatched(snapshot_route.desired_weight) {
        counters.count_mismatched_assignment(thread_index, assignment.path);
    }
}

/// The group of the client that sent a legacy call; none while the whole route is sync, when no
/// gate counts by group.
fn client_group_of(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    request: &Request<Incoming>,
    assignment: CohortAssignment,
) -> Option<u8> {
    if assignment.client_group.is_some()
        || (snapshot_route.weight == Weight::ZERO && assignment.path == RequestPath::Sync)
    {
        return assignment.client_group;
    }
    find_client_group(&context.snapshot.route_config(snapshot_route).rollout, request.headers())
}

/// Serves a legacy call by the path that it is assigned to. A call with an idempotency key is never
/// copied as shadow traffic.
async fn serve_assigned(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    assigned: RequestPath,
    request: Request<Incoming>,
) -> PathResponse {
    let route = context.snapshot.route_config(snapshot_route);
    let key = idempotency_key(request.headers());
    let picked =
        shadow::pick_for_shadow(context, snapshot_route, route, assigned, request.headers());
    // Boxed, so that the futures of these rare ways do not enlarge that of every request.
    match (key, picked) {
        (Some(key), picked) => {
            if picked.is_some() {
                shadow::count_ineligible(context, route);
            }
            Box::pin(serve_idempotent(context, snapshot_route, assigned, &key, request)).await
        }
        (None, Some(shadow)) => {
            let response =
                Box::pin(shadow::serve_shadowed(context, snapshot_route, shadow, request)).await;
            PathResponse::from_sync(response)
        }
        (None, None) if assigned == RequestPath::Sync => {
            let request = request.map(RequestBody::from_incoming);
            PathResponse::from_sync(serve_sync(context, request).await)
        }
        (None, None) => serve_canary(context, snapshot_route, request).await,
    }
}
