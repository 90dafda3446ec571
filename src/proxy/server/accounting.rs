//! Counts responses: by route, path and status, and by how long they took.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{Response, StatusCode};

use crate::cohort_hash::RequestPath;
use crate::metrics::RouteCounters;
use crate::proxy::answer::response_body::{RequestTimer, ResponseBody};
use crate::proxy::context::RequestContext;
use crate::proxy::http::headers::{PATH_HEADER, REQUEST_ID_HEADER};
use crate::proxy::paths::path_response::PathResponse;
use crate::snapshot::SnapshotRoute;

/// The status under which a client that left before its response is counted; never sent.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A response, and where it is counted.
pub(crate) struct CountedResponse {
    response: Response<ResponseBody>,
    counters: Arc<RouteCounters>,
    path: RequestPath,
    /// Whether the response names the path that its request took.
    is_route_call: bool,
}

/// Counts a client that leaves before its response, when dropped without `disarm`. If the request
/// is dropped because the drain is over, it is counted as cut off instead.
pub(crate) struct ClientDisconnectGuard<'a> {
    context: &'a RequestContext<'a>,
    counters: &'a RouteCounters,
    path: RequestPath,
    is_armed: bool,
}

/// Counts a request that is not a legacy call of a route, if it is dropped because the drain is
/// over.
pub(crate) struct DrainCutGuard<'a> {
    pub(crate) context: &'a RequestContext<'a>,
    pub(crate) counters: &'a RouteCounters,
    pub(crate) path: RequestPath,
}

// === impl CountedResponse ===

impl CountedResponse {
    /// A response to a legacy call of `route`, by the path that it took.
    pub(crate) fn for_route_call(route: &SnapshotRoute, served: PathResponse) -> Self {
        let PathResponse { path, response } = served;
        Self { response, counters: route.counters.clone(), path, is_route_call: true }
    }

    /// A response to a request of a task endpoint.
    pub(crate) fn for_task_call(
        context: &RequestContext<'_>,
        response: Response<ResponseBody>,
    ) -> Self {
        let counters = context.snapshot.task_endpoint_counters.clone();
        Self { response, counters, path: RequestPath::Async, is_route_call: false }
    }

    /// A response to any other request, or to a legacy call that took neither path.
    pub(crate) fn for_other(
        context: &RequestContext<'_>,
        response: Response<ResponseBody>,
    ) -> Self {
        let counters = context.snapshot.unmatched_counters.clone();
        Self { response, counters, path: RequestPath::Sync, is_route_call: false }
    }

    /// Counts the response and adds the headers that every response has.
    pub(crate) fn finalize(self, context: &RequestContext<'_>) -> Response<ResponseBody> {
        let Self { mut response, counters, path, is_route_call } = self;
        let thread_index = context.thread().index;
        let status = response.status();
        counters.count_response(thread_index, path, status.as_u16());
        // On the async path the outcome of the task counts, not the status.
        if is_route_call && path == RequestPath::Sync {
            let group = context.client_group.get();
            counters.count_request_by_group(thread_index, path, group);
            if is_error(status) {
                counters.count_error_by_group(thread_index, path, status.as_u16(), group);
            }
        }
        let headers = response.headers_mut();
        if is_route_call {
            headers.insert(&PATH_HEADER, HeaderValue::from_static(path.as_str()));
        }
        headers.insert(&REQUEST_ID_HEADER, context.request_id.clone());
        let started_at = context.started_at;
        let is_aborting = context.thread().is_aborting.clone();
        let timer = RequestTimer { counters, thread_index, path, started_at, is_aborting };
        response.map(|body| body.with_timer(timer))
    }
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

// === impl ClientDisconnectGuard ===

impl<'a> ClientDisconnectGuard<'a> {
    /// Starts to guard a legacy call that is assigned to a path.
    pub(crate) fn arm(
        context: &'a RequestContext<'a>,
        route: &'a SnapshotRoute,
        path: RequestPath,
    ) -> Self {
        Self { context, counters: &route.counters, path, is_armed: true }
    }

    /// The response is ready: nothing is counted here.
    pub(crate) fn disarm(mut self) {
        self.is_armed = false;
    }
}

impl Drop for ClientDisconnectGuard<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let Self { context, counters, path, .. } = self;
        let (thread_index, path) = (context.thread().index, *path);
        let is_cut = context.thread().is_aborting.get();
        if is_cut {
            counters.count_cut_by_drain(thread_index, path);
        } else {
            counters.count_response(thread_index, path, CLIENT_CLOSED_REQUEST);
        }
        if path == RequestPath::Sync && !is_cut {
            let group = context.client_group.get();
            counters.count_request_by_group(thread_index, path, group);
            counters.count_error_by_group(thread_index, path, CLIENT_CLOSED_REQUEST, group);
        }
        counters.observe_duration(thread_index, path, context.started_at.elapsed());
    }
}

// === impl DrainCutGuard ===

impl Drop for DrainCutGuard<'_> {
    fn drop(&mut self) {
        let thread = self.context.thread();
        if thread.is_aborting.get() {
            self.counters.count_cut_by_drain(thread.index, self.path);
        }
    }
}
