//! A request's way through a thread: admitted, named, routed, answered, counted.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{RequestBody, RequestTimer, ResponseBody};
use super::callers::DeprecatedCallers;
use super::collect::BodyBudget;
use super::framing::FramingReport;
use super::headers::{self, ForwardingHeaders};
use super::pool::UpstreamPool;
use super::progress::ProgressReports;
use super::respond::{self, ProxyProblem};
use super::shadow::{self, ShadowLimits};
use super::{ProxyServices, canary, deprecate, guard, idempotency, pass, tasks};
use crate::cohort::RequestPath;
use crate::metrics::RouteCounters;
use crate::route::{CohortAssignment, RouteTarget, assign_cohort};
use crate::snapshot::{Snapshot, SnapshotRoute};

/// What a client that left is counted as; nobody is sent it.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// Hexadecimal digits of a request id: 8 of the thread's, 16 of the request's.
const REQUEST_ID_DIGITS: usize = 24;

/// Why [`FramingReport::is_refused`] refuses a head.
const AMBIGUOUS_HEAD: &str = "a line of the head ends without CR, or Content-Length is malformed or stands beside Transfer-Encoding";

/// What belongs to one data-plane thread.
pub(super) struct ProxyThread {
    pub(super) index: usize,
    pub(super) services: ProxyServices,
    pub(super) pool: UpstreamPool,
    pub(super) body_budget: BodyBudget,
    pub(super) shadow_limits: ShadowLimits,
    pub(super) progress_reports: Arc<ProgressReports>,
    pub(super) deprecated_callers: DeprecatedCallers,
    /// Cancelled when the thread drains: who waits is answered early.
    pub(super) draining: CancellationToken,
    via_header: HeaderValue,
    request_id_prefix: u32,
    next_request_id: Cell<u64>,
}

/// What belongs to one client connection.
pub(super) struct ClientConnection {
    pub(super) thread: Rc<ProxyThread>,
    pub(super) task_tracker: TaskTracker,
    peer_address: IpAddr,
    forwarding: ForwardingHeaders,
    /// What the check of the connection's bytes found; none on HTTP/2.
    framing_report: Option<Arc<FramingReport>>,
    /// How many requests the parser has handed over.
    parsed_requests: Cell<u64>,
}

/// What belongs to one request.
pub(super) struct RequestContext<'c> {
    pub(super) connection: &'c ClientConnection,
    pub(super) snapshot: Arc<Snapshot>,
    /// Whether the caller is one whose forwarding headers count.
    pub(super) is_trusted: bool,
    pub(super) request_id: HeaderValue,
    pub(super) started_at: Instant,
    /// The group of the caller, once its side is known: failures are told by it.
    pub(super) client_group: Cell<Option<u8>>,
}

/// An answer and where it counts.
struct CountedResponse {
    response: Response<ResponseBody>,
    cells: Arc<RouteCounters>,
    path: RequestPath,
    /// Whether the client is told which path it took.
    is_route_call: bool,
}

// === impl Thread ===

impl ProxyThread {
    pub(super) fn new(
        index: usize,
        services: ProxyServices,
        progress_reports: Arc<ProgressReports>,
        draining: CancellationToken,
    ) -> Self {
        let via_header = HeaderValue::from_str(&format!("1.1 {}", services.process_name))
            .unwrap_or(HeaderValue::from_static("1.1 omnidaemon"));
        Self {
            index,
            services,
            pool: UpstreamPool::new(),
            body_budget: BodyBudget::default(),
            shadow_limits: ShadowLimits::default(),
            progress_reports,
            deprecated_callers: DeprecatedCallers::default(),
            draining,
            via_header,
            request_id_prefix: rand::random(),
            next_request_id: Cell::new(rand::random()),
        }
    }

    fn new_request_id(&self) -> HeaderValue {
        self.next_request_id.set(self.next_request_id.get().wrapping_add(1));
        let number =
            u128::from(self.request_id_prefix) << 64 | u128::from(self.next_request_id.get());
        let digit = |place: usize| {
            b"0123456789abcdef"[(number >> (4 * (REQUEST_ID_DIGITS - 1 - place))) as usize & 0xf]
        };
        let text: [u8; REQUEST_ID_DIGITS] = std::array::from_fn(digit);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
    }
}

// === impl Connection ===

impl ClientConnection {
    pub(super) fn new(
        thread: Rc<ProxyThread>,
        peer_address: IpAddr,
        task_tracker: TaskTracker,
        framing_report: Option<Arc<FramingReport>>,
    ) -> Self {
        let forwarding = ForwardingHeaders::new(peer_address, thread.via_header.clone());
        Self {
            thread,
            task_tracker,
            peer_address,
            forwarding,
            framing_report,
            parsed_requests: Cell::new(0),
        }
    }

    /// Answers one request, and says to the check of the connection's bytes what follows an
    /// upgrade.
    pub(super) async fn handle_request(
        &self,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let upgrade = self
            .framing_report
            .as_ref()
            .filter(|_| request.headers().contains_key(header::UPGRADE));
        let response = self.admit_and_dispatch(request).await;
        if let Some(framing) = upgrade {
            framing.record_upgrade_answer(response.status() == StatusCode::SWITCHING_PROTOCOLS);
        }
        response
    }

    /// Whether the head of the request that the parser handed over now is framed in one way only.
    fn check_head_framing(&self) -> Result<(), ProxyProblem> {
        let number = self.parsed_requests.replace(self.parsed_requests.get() + 1);
        let refused =
            self.framing_report.as_ref().is_some_and(|framing| framing.is_refused(number));
        if refused { Err(ProxyProblem::BadRequest(AMBIGUOUS_HEAD)) } else { Ok(()) }
    }

    /// Answers one request. Whatever happens, there is an answer, and it is counted.
    async fn admit_and_dispatch(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let started = Instant::now();
        let snapshot = self.thread.services.snapshots.load();
        let trusted = snapshot
            .config
            .proxy
            .trusted_networks
            .iter()
            .any(|network| network.contains(self.peer_address));
        let request_id = headers::client_request_id(request.headers())
            .unwrap_or_else(|| self.thread.new_request_id());
        let clients = Cell::new(None);
        let context = RequestContext {
            connection: self,
            snapshot,
            is_trusted: trusted,
            request_id,
            started_at: started,
            client_group: clients,
        };
        let counted =
            match self.check_head_framing().and_then(|()| context.admit_request(&mut request)) {
                Ok(()) => context.dispatch_request(request).await,
                Err(problem) => {
                    let mut refused = problem.into_response();
                    if request.version() < Version::HTTP_2 {
                        // In doubt about one request, nothing that follows it on the connection is
                        // read.
                        refused
                            .headers_mut()
                            .insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    context.count_as_other(refused)
                }
            };
        context.finalize_response(counted)
    }
}

// === impl Context ===

impl RequestContext<'_> {
    pub(super) fn services(&self) -> &ProxyServices {
        &self.connection.thread.services
    }

    pub(super) fn forwarding(&self) -> &ForwardingHeaders {
        &self.connection.forwarding
    }

    fn admit_request(&self, request: &mut Request<Incoming>) -> Result<(), ProxyProblem> {
        guard::validate_request(request)?;
        let mine = &self.connection.thread.via_header;
        let passed = request.headers().get_all(header::VIA).iter();
        let looped = passed
            .filter_map(|via| via.to_str().ok())
            .flat_map(|via| via.split(','))
            .any(|hop| hop.trim() == mine);
        if looped { Err(ProxyProblem::LoopDetected) } else { Ok(()) }
    }

    async fn dispatch_request(&self, request: Request<Incoming>) -> CountedResponse {
        let path = request.uri().path().to_owned();
        match self.snapshot.route_table.match_request(request.method(), &path) {
            RouteTarget::Other => {
                let response =
                    pass::serve_sync(self, request.map(RequestBody::from_incoming)).await;
                self.count_as_other(response)
            }
            RouteTarget::Invoke(index) => {
                self.handle_invoke(&self.snapshot.routes[index], request).await
            }
            RouteTarget::InvokeAsync(index) => {
                let response =
                    tasks::submit_task(self, &self.snapshot.routes[index], request).await;
                self.count_as_task_call(response)
            }
            RouteTarget::Task(id) => {
                let response = tasks::handle_task_request(self, request, id).await;
                self.count_as_task_call(response)
            }
            RouteTarget::Metrics => self.count_as_other(respond::respond_with_metrics(
                self.services().metrics.render_exposition(),
            )),
        }
    }

    /// A legacy call: deprecation first, then the split.
    async fn handle_invoke(
        &self,
        live: &SnapshotRoute,
        request: Request<Incoming>,
    ) -> CountedResponse {
        let route = self.snapshot.route_config(live);
        let told = deprecate::DeprecationNotice::from_config(&route.deprecation);
        if let Some(told) = &told {
            self.services()
                .metrics
                .count_deprecated_request(&route.name, route.deprecation.mode.as_str());
            self.connection.thread.deprecated_callers.record_call(
                route,
                request.headers(),
                self.connection.peer_address,
            );
            if let Some(response) = told.replacement_response(route) {
                let (head, body) = request.into_parts();
                tasks::discard_unwanted_body(&head, body);
                return self.count_as_other(response); // it took neither path
            }
        }
        let CohortAssignment { path: side, client_group: clients, lacks_sticky_key: unkeyed } =
            self.assign_path(live, &request);
        self.client_group.set(clients);
        if unkeyed {
            live.counters.count_unkeyed_request(self.connection.thread.index);
        }
        let watch = ClientDisconnectGuard::arm(self, live, side);
        let (key, shadow) = (
            idempotency::idempotency_key(request.headers()),
            shadow::pick_for_shadow(self, live, route, side, request.headers()),
        );
        let (path, mut response) = match (key, shadow, side) {
            (Some(key), shadow, _) => {
                if shadow.is_some() {
                    shadow::count_ineligible(self, route);
                }
                Box::pin(idempotency::serve_idempotent(self, live, side, &key, request)).await
            }
            (None, Some(shadow), _) => (
                RequestPath::Sync,
                Box::pin(shadow::serve_shadowed(self, live, shadow, request)).await,
            ),
            (None, None, RequestPath::Sync) => (
                RequestPath::Sync,
                pass::serve_sync(self, request.map(RequestBody::from_incoming)).await,
            ),
            (None, None, RequestPath::Async) => canary::serve_canary(self, live, request).await,
        };
        watch.disarm();
        if let Some(told) = told {
            told.add_headers(response.headers_mut());
        }
        CountedResponse::for_route_call(live, path, response)
    }

    /// The request's side of the split; a trusted caller may choose it.
    fn assign_path(&self, live: &SnapshotRoute, request: &Request<Incoming>) -> CohortAssignment {
        let headers = request.headers();
        if self.is_trusted {
            match headers.get(&headers::PATH_HEADER).map(HeaderValue::as_bytes) {
                Some(b"sync") => return RequestPath::Sync.into(),
                Some(b"async") => return RequestPath::Async.into(),
                _ => {}
            }
        }
        assign_cohort(&self.snapshot.route_config(live).rollout, live.weight, headers, rand::random)
    }

    fn count_as_other(&self, response: Response<ResponseBody>) -> CountedResponse {
        CountedResponse {
            response,
            cells: self.snapshot.unmatched_counters.clone(),
            path: RequestPath::Sync,
            is_route_call: false,
        }
    }

    fn count_as_task_call(&self, response: Response<ResponseBody>) -> CountedResponse {
        CountedResponse {
            response,
            cells: self.snapshot.task_endpoint_counters.clone(),
            path: RequestPath::Async,
            is_route_call: false,
        }
    }

    fn finalize_response(&self, counted: CountedResponse) -> Response<ResponseBody> {
        let CountedResponse { mut response, cells, path, is_route_call: on_route } = counted;
        let thread = self.connection.thread.index;
        let status = response.status();
        cells.count_response(thread, path, status.as_u16());
        // on the async path, what became of the task says it
        if on_route
            && path == RequestPath::Sync
            && (status.is_client_error() || status.is_server_error())
        {
            cells.count_error_by_group(thread, path, status.as_u16(), self.client_group.get());
        }
        let headers = response.headers_mut();
        if on_route {
            headers.insert(&headers::PATH_HEADER, HeaderValue::from_static(path.as_str()));
        }
        headers.insert(&headers::REQUEST_ID_HEADER, self.request_id.clone());
        let timing =
            RequestTimer { cells, thread_index: thread, path, started_at: self.started_at };
        response.map(|body| body.with_timer(timing))
    }
}

// === impl Counted ===

impl CountedResponse {
    fn for_route_call(
        live: &SnapshotRoute,
        path: RequestPath,
        response: Response<ResponseBody>,
    ) -> Self {
        Self { response, cells: live.counters.clone(), path, is_route_call: true }
    }
}

/// Counts a client that leaves before it is answered, as 499.
struct ClientDisconnectGuard<'a> {
    context: &'a RequestContext<'a>,
    cells: &'a RouteCounters,
    path: RequestPath,
    is_armed: bool,
}

// === impl Unanswered ===

impl<'a> ClientDisconnectGuard<'a> {
    fn arm(context: &'a RequestContext<'a>, live: &'a SnapshotRoute, path: RequestPath) -> Self {
        Self { context, cells: &live.counters, path, is_armed: true }
    }

    fn disarm(mut self) {
        self.is_armed = false;
    }
}

impl Drop for ClientDisconnectGuard<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            let thread = self.context.connection.thread.index;
            self.cells.count_response(thread, self.path, CLIENT_CLOSED_REQUEST);
            if self.path == RequestPath::Sync {
                self.cells.count_error_by_group(
                    thread,
                    self.path,
                    CLIENT_CLOSED_REQUEST,
                    self.context.client_group.get(),
                );
            }
            self.cells.observe_duration(thread, self.path, self.context.started_at.elapsed());
        }
    }
}

/// Adds what lets a browser on a configured origin read an own path's answer.
pub(super) fn add_cors_headers(snapshot: &Snapshot, asked: &HeaderMap, answer: &mut HeaderMap) {
    let Some(origin) = asked.get(header::ORIGIN) else { return };
    let allowed = &snapshot.config.proxy.cors_origins;
    if allowed.iter().any(|one| one == "*" || one.as_bytes() == origin.as_bytes()) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.append(header::VARY, HeaderValue::from_static("origin"));
        let exposed = HeaderValue::from_static("location, retry-after, x-request-id");
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Whether a request is a browser's question before the real one.
pub(super) fn is_cors_preflight(request: &Request<Incoming>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}
