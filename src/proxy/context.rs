//! What a request is served with: the services of the process, and the state of its thread, its
//! connection and itself. Data and accessors only: nothing here answers a request.
//!
//! Everything below [`ProxyServices`] belongs to one thread, which alone writes it.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capacity::CapacityHandle;
use crate::metrics::Metrics;
use crate::proxy::http::collect::BodyBudget;
use crate::proxy::http::framing_check::FramingReport;
use crate::proxy::http::headers::ForwardingHeaders;
use crate::proxy::state::callers::DeprecatedCallers;
use crate::proxy::state::progress_reports::ProgressReports;
use crate::proxy::state::shadow_limits::ShadowLimits;
use crate::proxy::upstream::pool::UpstreamPool;
use crate::snapshot::{Snapshot, SnapshotHandle};
use crate::store::Circuit;

/// Hexadecimal digits of a request id: 8 of the thread, 16 of the request.
const REQUEST_ID_DIGITS: usize = 24;

/// The services of the process that the data plane uses.
#[derive(Clone)]
pub struct ProxyServices {
    /// The current configuration, routing table and weights.
    pub snapshots: Arc<SnapshotHandle>,
    /// The store behind its circuit breaker.
    pub circuit: Arc<Circuit>,
    /// What the fleet can run.
    pub capacity: Arc<CapacityHandle>,
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
    /// The name of this process in `Via`, by which a request loop is detected.
    pub process_name: Arc<str>,
}

/// The state of one data-plane thread.
pub(crate) struct ProxyThread {
    /// The number of the thread, from 0; selects its metric cells.
    pub(crate) index: usize,
    pub(crate) services: ProxyServices,
    pub(crate) pool: UpstreamPool,
    /// The bytes of request bodies that this thread may hold.
    pub(crate) body_budget: BodyBudget,
    pub(crate) shadow_limits: ShadowLimits,
    /// Shared by all threads.
    pub(crate) progress_reports: Arc<ProgressReports>,
    pub(crate) deprecated_callers: DeprecatedCallers,
    /// Cancelled when the thread drains: polls and event streams end early.
    pub(crate) draining: CancellationToken,
    /// Cancelled shortly before the drain is over: legacy calls that wait for a task, or for
    /// another request with the same key, are answered.
    pub(crate) answer_waiting: CancellationToken,
    /// Set when the drain is over: requests that end from then on are cut off.
    pub(crate) is_aborting: Rc<Cell<bool>>,
    /// The element that this process adds to `Via`.
    pub(crate) via_header: HeaderValue,
    request_id_prefix: u32,
    next_request_id: Cell<u64>,
}

/// The state of one client connection.
pub(crate) struct ClientConnection {
    pub(crate) thread: Rc<ProxyThread>,
    /// Tracks the tasks that the thread waits for when it drains.
    pub(crate) task_tracker: TaskTracker,
    pub(crate) peer_address: IpAddr,
    forwarding: ForwardingHeaders,
    /// State shared with the check of the connection's bytes; `None` on HTTP/2.
    pub(crate) framing_report: Option<Arc<FramingReport>>,
    /// How many requests the parser has returned.
    parsed_requests: Cell<u64>,
}

/// The state of one request.
pub(crate) struct RequestContext<'c> {
    pub(crate) connection: &'c ClientConnection,
    /// The configuration, routing table and weights that hold for the whole request.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Whether the client is in `proxy.trusted`: its forwarding headers are kept, and it may choose
    /// the path of its request.
    pub(crate) is_trusted: bool,
    pub(crate) request_id: HeaderValue,
    pub(crate) started_at: Instant,
    /// The client's group, once the request's path is assigned; failures are counted by it.
    pub(crate) client_group: Cell<Option<u8>>,
}

// === impl ProxyThread ===

impl ProxyThread {
    /// A thread without connections; `draining` is cancelled when it is to end, and
    /// `answer_waiting` shortly before its requests are cut off.
    pub(crate) fn new(
        index: usize,
        services: ProxyServices,
        progress_reports: Arc<ProgressReports>,
        draining: CancellationToken,
        answer_waiting: CancellationToken,
    ) -> Self {
        let via_header = HeaderValue::from_str(&format!("1.1 {}", services.process_name))
            .unwrap_or(HeaderValue::from_static("1.1 omnidaemon"));
        Self {
            index,
            services,
            pool: UpstreamPool::default(),
            body_budget: BodyBudget::default(),
            shadow_limits: ShadowLimits::default(),
            progress_reports,
            deprecated_callers: DeprecatedCallers::default(),
            draining,
            answer_waiting,
            is_aborting: Rc::default(),
            via_header,
            request_id_prefix: rand::random(),
            next_request_id: Cell::new(rand::random()),
        }
    }

    /// A new request id: a random prefix of the thread, and a counter with a random start.
    pub(crate) fn new_request_id(&self) -> HeaderValue {
        self.next_request_id.set(self.next_request_id.get().wrapping_add(1));
        let number =
            u128::from(self.request_id_prefix) << 64 | u128::from(self.next_request_id.get());
        let digit = |index: usize| {
            b"0123456789abcdef"[(number >> (4 * (REQUEST_ID_DIGITS - 1 - index))) as usize & 0xf]
        };
        let text: [u8; REQUEST_ID_DIGITS] = std::array::from_fn(digit);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
    }
}

// === impl ClientConnection ===

impl ClientConnection {
    /// A connection from `peer_address`; `framing_report` is `None` on HTTP/2.
    pub(crate) fn new(
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

    /// Counts a request that the parser has returned; gives its number, from 0, as the framing
    /// check counts them.
    pub(crate) fn next_request_number(&self) -> u64 {
        self.parsed_requests.replace(self.parsed_requests.get() + 1)
    }
}

// === impl RequestContext ===

impl RequestContext<'_> {
    /// The services of the process.
    pub(crate) fn services(&self) -> &ProxyServices {
        &self.connection.thread.services
    }

    /// The thread that serves the request.
    pub(crate) fn thread(&self) -> &Rc<ProxyThread> {
        &self.connection.thread
    }

    /// The forwarding headers of the client's connection.
    pub(crate) fn forwarding(&self) -> &ForwardingHeaders {
        &self.connection.forwarding
    }
}
