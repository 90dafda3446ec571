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

use super::body::{Outgoing, Reply, Timing};
use super::callers::Callers;
use super::collect::Hoard;
use super::framing::FramingReport;
use super::headers::{self, Forwarding};
use super::pool::Pool;
use super::progress::Reports;
use super::respond::{self, Problem};
use super::shadow::{self, Shadows};
use super::{Parts, canary, deprecate, guard, idempotency, pass, tasks};
use crate::metrics::{Path, RouteCells};
use crate::route::{Assigned, Split, Target, assign};
use crate::snapshot::{LiveRoute, Snapshot};

/// What a client that left is counted as; nobody is sent it.
const CLIENT_LEFT: u16 = 499;
/// Hexadecimal digits of a request id: 8 of the thread's, 16 of the request's.
const ID_DIGITS: usize = 24;

/// Why [`FramingReport::is_refused`] refuses a head.
const AMBIGUOUS_HEAD: &str =
    "a line of the head ends without CR, or Content-Length is malformed or stands beside Transfer-Encoding";

/// What belongs to one data-plane thread.
pub(super) struct Thread {
    pub(super) index: usize,
    pub(super) parts: Parts,
    pub(super) pool: Pool,
    pub(super) hoard: Hoard,
    pub(super) shadows: Shadows,
    pub(super) reports: Arc<Reports>,
    pub(super) callers: Callers,
    /// Cancelled when the thread drains: who waits is answered early.
    pub(super) draining: CancellationToken,
    via: HeaderValue,
    id_prefix: u32,
    id_next: Cell<u64>,
}

/// What belongs to one client connection.
pub(super) struct Connection {
    pub(super) thread: Rc<Thread>,
    pub(super) tracker: TaskTracker,
    peer: IpAddr,
    forwarding: Forwarding,
    /// What the check of the connection's bytes found; none on HTTP/2.
    framing: Option<Arc<FramingReport>>,
    /// How many requests the parser has handed over.
    requests: Cell<u64>,
}

/// What belongs to one request.
pub(super) struct Context<'c> {
    pub(super) connection: &'c Connection,
    pub(super) snapshot: Arc<Snapshot>,
    /// Whether the caller is one whose forwarding headers count.
    pub(super) trusted: bool,
    pub(super) request_id: HeaderValue,
    pub(super) started: Instant,
    /// The group of the caller, once its side is known: failures are told by it.
    pub(super) clients: Cell<Option<u8>>,
}

/// An answer and where it counts.
struct Counted {
    response: Response<Reply>,
    cells: Arc<RouteCells>,
    path: Path,
    /// Whether the client is told which path it took.
    on_route: bool,
}

// === impl Thread ===

impl Thread {
    pub(super) fn new(index: usize, parts: Parts, reports: Arc<Reports>, draining: CancellationToken) -> Self {
        let via = HeaderValue::from_str(&format!("1.1 {}", parts.process))
            .unwrap_or(HeaderValue::from_static("1.1 omnidaemon"));
        Self {
            index,
            parts,
            pool: Pool::new(),
            hoard: Hoard::default(),
            shadows: Shadows::default(),
            reports,
            callers: Callers::default(),
            draining,
            via,
            id_prefix: rand::random(),
            id_next: Cell::new(rand::random()),
        }
    }

    fn new_request_id(&self) -> HeaderValue {
        self.id_next.set(self.id_next.get().wrapping_add(1));
        let number = u128::from(self.id_prefix) << 64 | u128::from(self.id_next.get());
        let digit = |place: usize| b"0123456789abcdef"[(number >> (4 * (ID_DIGITS - 1 - place))) as usize & 0xf];
        let text: [u8; ID_DIGITS] = std::array::from_fn(digit);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
    }
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(
        thread: Rc<Thread>,
        peer: IpAddr,
        tracker: TaskTracker,
        framing: Option<Arc<FramingReport>>,
    ) -> Self {
        let forwarding = Forwarding::new(peer, thread.via.clone());
        Self { thread, tracker, peer, forwarding, framing, requests: Cell::new(0) }
    }

    /// Answers one request, and says to the check of the connection's bytes what follows an upgrade.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Reply> {
        let upgrade = self.framing.as_ref().filter(|_| request.headers().contains_key(header::UPGRADE));
        let response = self.answer_request(request).await;
        if let Some(framing) = upgrade {
            framing.record_upgrade_answer(response.status() == StatusCode::SWITCHING_PROTOCOLS);
        }
        response
    }

    /// Whether the head of the request that the parser handed over now is framed in one way only.
    fn check_head(&self) -> Result<(), Problem> {
        let number = self.requests.replace(self.requests.get() + 1);
        let refused = self.framing.as_ref().is_some_and(|framing| framing.is_refused(number));
        if refused { Err(Problem::BadRequest(AMBIGUOUS_HEAD)) } else { Ok(()) }
    }

    /// Answers one request. Whatever happens, there is an answer, and it is counted.
    async fn answer_request(&self, mut request: Request<Incoming>) -> Response<Reply> {
        let started = Instant::now();
        let snapshot = self.thread.parts.snapshots.load();
        let trusted = snapshot.config.proxy.trusted.iter().any(|network| network.contains(self.peer));
        let request_id = headers::given_request_id(request.headers()).unwrap_or_else(|| self.thread.new_request_id());
        let clients = Cell::new(None);
        let context = Context { connection: self, snapshot, trusted, request_id, started, clients };
        let counted = match self.check_head().and_then(|()| context.admit(&mut request)) {
            Ok(()) => context.route(request).await,
            Err(problem) => {
                let mut refused = problem.into_response();
                if request.version() < Version::HTTP_2 {
                    // In doubt about one request, nothing that follows it on the connection is read.
                    refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                context.other(refused)
            }
        };
        context.finish(counted)
    }
}

// === impl Context ===

impl Context<'_> {
    pub(super) fn parts(&self) -> &Parts {
        &self.connection.thread.parts
    }

    pub(super) fn forwarding(&self) -> &Forwarding {
        &self.connection.forwarding
    }

    fn admit(&self, request: &mut Request<Incoming>) -> Result<(), Problem> {
        guard::admit(request)?;
        let mine = &self.connection.thread.via;
        let passed = request.headers().get_all(header::VIA).iter();
        let looped =
            passed.filter_map(|via| via.to_str().ok()).flat_map(|via| via.split(',')).any(|hop| hop.trim() == mine);
        if looped { Err(Problem::Loop) } else { Ok(()) }
    }

    async fn route(&self, request: Request<Incoming>) -> Counted {
        let path = request.uri().path().to_owned();
        match self.snapshot.table.find(request.method(), &path) {
            Target::Other => {
                let response = pass::serve(self, request.map(Outgoing::stream)).await;
                self.other(response)
            }
            Target::Invoke(index) => self.invoke(&self.snapshot.routes[index], request).await,
            Target::InvokeAsync(index) => {
                let response = tasks::submit(self, &self.snapshot.routes[index], request).await;
                self.tasks(response)
            }
            Target::Task(id) => {
                let response = tasks::task(self, request, id).await;
                self.tasks(response)
            }
            Target::Metrics => self.other(respond::metrics(self.parts().metrics.exposition())),
        }
    }

    /// A legacy call: deprecation first, then the split.
    async fn invoke(&self, live: &LiveRoute, request: Request<Incoming>) -> Counted {
        let route = self.snapshot.route(live);
        let told = deprecate::Told::of(&route.deprecation);
        if let Some(told) = &told {
            self.parts().metrics.deprecated(&route.name, route.deprecation.mode.as_str());
            self.connection.thread.callers.note(route, request.headers(), self.connection.peer);
            if let Some(response) = told.instead(route) {
                let (head, body) = request.into_parts();
                tasks::turn_away(&head, body);
                return self.other(response); // it took neither path
            }
        }
        let Split { side, clients, unkeyed } = self.split(live, &request);
        self.clients.set(clients);
        if unkeyed {
            live.cells.unkeyed(self.connection.thread.index);
        }
        let watch = Unanswered::on(self, live, side);
        let (key, shadow) =
            (idempotency::key(request.headers()), shadow::picked(self, live, route, side, request.headers()));
        let (path, mut response) = match (key, shadow, side) {
            (Some(key), shadow, _) => {
                if shadow.is_some() {
                    shadow::pass_over(self, route);
                }
                Box::pin(idempotency::serve(self, live, side, &key, request)).await
            }
            (None, Some(shadow), _) => (Path::Sync, Box::pin(shadow::serve(self, live, shadow, request)).await),
            (None, None, Assigned::Sync) => (Path::Sync, pass::serve(self, request.map(Outgoing::stream)).await),
            (None, None, Assigned::Async) => canary::serve(self, live, request).await,
        };
        watch.answered();
        if let Some(told) = told {
            told.announce(response.headers_mut());
        }
        Counted::on_route(live, path, response)
    }

    /// The request's side of the split; a trusted caller may choose it.
    fn split(&self, live: &LiveRoute, request: &Request<Incoming>) -> Split {
        let headers = request.headers();
        if self.trusted {
            match headers.get(&headers::PATH).map(HeaderValue::as_bytes) {
                Some(b"sync") => return Assigned::Sync.into(),
                Some(b"async") => return Assigned::Async.into(),
                _ => {}
            }
        }
        assign(&self.snapshot.route(live).rollout, live.weight, headers, rand::random)
    }

    fn other(&self, response: Response<Reply>) -> Counted {
        Counted { response, cells: self.snapshot.other.clone(), path: Path::Sync, on_route: false }
    }

    fn tasks(&self, response: Response<Reply>) -> Counted {
        Counted { response, cells: self.snapshot.tasks.clone(), path: Path::Async, on_route: false }
    }

    fn finish(&self, counted: Counted) -> Response<Reply> {
        let Counted { mut response, cells, path, on_route } = counted;
        let thread = self.connection.thread.index;
        let status = response.status();
        cells.answered(thread, path, status.as_u16());
        // on the async path, what became of the task says it
        if on_route && path == Path::Sync && (status.is_client_error() || status.is_server_error()) {
            cells.blame(thread, path, status.as_u16(), self.clients.get());
        }
        let headers = response.headers_mut();
        if on_route {
            headers.insert(&headers::PATH, HeaderValue::from_static(path.as_str()));
        }
        headers.insert(&headers::REQUEST_ID, self.request_id.clone());
        let timing = Timing { cells, thread, path, started: self.started };
        response.map(|body| body.timed(timing))
    }
}

// === impl Counted ===

impl Counted {
    fn on_route(live: &LiveRoute, path: Path, response: Response<Reply>) -> Self {
        Self { response, cells: live.cells.clone(), path, on_route: true }
    }
}

/// Counts a client that leaves before it is answered, as 499.
struct Unanswered<'a> {
    context: &'a Context<'a>,
    cells: &'a RouteCells,
    path: Path,
    armed: bool,
}

// === impl Unanswered ===

impl<'a> Unanswered<'a> {
    fn on(context: &'a Context<'a>, live: &'a LiveRoute, side: Assigned) -> Self {
        let path = if side == Assigned::Sync { Path::Sync } else { Path::Async };
        Self { context, cells: &live.cells, path, armed: true }
    }

    fn answered(mut self) {
        self.armed = false;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.armed {
            let thread = self.context.connection.thread.index;
            self.cells.answered(thread, self.path, CLIENT_LEFT);
            if self.path == Path::Sync {
                self.cells.blame(thread, self.path, CLIENT_LEFT, self.context.clients.get());
            }
            self.cells.took(thread, self.path, self.context.started.elapsed());
        }
    }
}

/// Adds what lets a browser on a configured origin read an own path's answer.
pub(super) fn allow_origin(snapshot: &Snapshot, asked: &HeaderMap, answer: &mut HeaderMap) {
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
pub(super) fn is_preflight(request: &Request<Incoming>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}
