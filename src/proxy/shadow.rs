//! Shadow traffic: of the requests that the sync path serves, some are run on the async path too, and the two answers are
//! held against each other.
//!
//! The client has its answer from the sync path as ever. A picked request is read whole before the upstream is asked; nothing
//! else delays it, and nothing fails it: its copy is queued once that answer has ended, nobody waits for it, and it is dropped at the first backpressure. It is a task that says what it is
//! (`x-omnidaemon-shadow`), is tried once, tells nobody, and is of no route and epoch, so that no gate but its own hears
//! of it. Compared is what a client of the canary would get. Every picked request is counted by what came of
//! it, wherever its way ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::body::{Outgoing, Reply, Tap};
use super::canary::unfit;
use super::capture::{Sent, capture};
use super::collect::{Collected, Held, Hoard, collect};
use super::headers::PATH;
use super::idempotency::was_served;
use super::pass;
use super::respond::{self, Problem};
use super::service::{Context, Thread};
use crate::cohort;
use crate::config::{Route, Shadow, deadline};
use crate::metrics::{Fallback, Metrics, ShadowOutcome};
use crate::route::{Assigned, Difference, Parsed, difference, is_kept_out, parse_body};
use crate::snapshot::LiveRoute;
use crate::store::{Cancelled, Circuit, Queue, Refusal, StoreError};
use crate::task::{SHADOW, Status, Task, TaskId, TaskRecord, UnixMs};

/// Copies that one thread has under way at a time.
const MOST: usize = 256;
/// What they hold of bodies at a time: less than requests of clients may.
const HELD_MOST: usize = 64 * 1024 * 1024;

/// Answers that are compared at a time, per thread: both are read whole.
const COMPARED_MOST: usize = 2;
/// The part of the topic's backlog that copies may add to: over it, nothing but clients' own tasks gets in.
const BACKLOG_SHARE: u64 = 10;

/// How long a copy that was given up can be looked at.
const CANCELLED_KEPT: Duration = Duration::from_hours(1);

/// What one thread has under way.
pub(super) struct Shadows {
    hoard: Hoard,
    places: Arc<Semaphore>,
    comparing: Arc<Semaphore>,
}

/// Counts what came of a picked request when it is dropped: wherever its way ends.
struct Fate {
    metrics: Arc<Metrics>,
    route: String,
    outcome: ShadowOutcome,
}

/// A copy of a request, to be queued once that is answered.
struct Copy {
    thread: Rc<Thread>,
    task: Task,
    queue: Queue,
    /// How long its answer is waited for.
    deadline: Duration,
    /// What of the answers is not compared.
    ignore: Vec<String>,
    fate: Fate,
    /// Its body's share of what the copies may hold, and that of the answer.
    shares: (Held, Held),
    _place: OwnedSemaphorePermit,
}

/// Copies the sync path's answer as it goes by.
struct Answered {
    copy: Copy,
    status: StatusCode,
    body: BytesMut,
    /// The largest that is compared.
    most: usize,
}

/// Picks some of the requests of the sync path; none of a client that is kept out of the other, or that chose its path.
pub(super) fn picked<'r>(
    context: &Context<'_>,
    live: &LiveRoute,
    route: &'r Route,
    side: Assigned,
    headers: &HeaderMap,
) -> Option<&'r Shadow> {
    let shadow = route.rollout.shadow.as_ref().filter(|_| live.copies && side == Assigned::Sync)?;
    // few are picked: who is bound to a path is asked of those alone
    let is_picked = shadow.percent.covers(cohort::bucket(rand::random()));
    let is_bound = || is_kept_out(&route.rollout, headers) || context.trusted && headers.contains_key(&PATH);
    (is_picked && !is_bound()).then_some(shadow)
}

/// Counts a picked request that is not copied, since its client says with a key that it must not run twice.
pub(super) fn pass_over(context: &Context<'_>, route: &Route) {
    context.parts().metrics.shadow(&route.name, ShadowOutcome::Ineligible);
}

/// Serves a picked request sync, and has it copied if it can be.
pub(super) async fn serve(
    context: &Context<'_>,
    live: &LiveRoute,
    shadow: &Shadow,
    request: Request<Incoming>,
) -> Response<Reply> {
    let route = context.snapshot.route(live);
    let mut fate = Fate::new(context, route);
    let length = request.body().size_hint().exact();
    let unfit = unfit(context, route, request.method(), request.headers(), length);
    let place = context.connection.thread.shadows.place();
    let (None, Some(place)) = (unfit, place) else {
        fate.is(unfit.map_or(ShadowOutcome::Crowded, |reason| match reason {
            Fallback::StoreUnavailable => ShadowOutcome::StoreUnavailable,
            _ => ShadowOutcome::Ineligible,
        }));
        return pass::serve(context, request.map(Outgoing::stream)).await;
    };
    let (head, body) = request.into_parts();
    let hoard = &context.connection.thread.shadows.hoard;
    let mut shares = (hoard.hold(), hoard.hold());
    let (outcome, rest) = match collect(body, context.snapshot.config.proxy.max_body, &mut shares.0).await {
        Collected::Whole(body) => {
            let request = Request::from_parts(head.clone(), Outgoing::whole(body.clone()));
            // parsed while the upstream is asked
            let copied = async {
                tokio::task::yield_now().await;
                copied(context, route, &head, &body)
            };
            let (response, copied) = tokio::join!(biased; pass::serve(context, request), copied);
            let Some((task, queue, deadline)) = copied else {
                fate.is(ShadowOutcome::Ineligible);
                return response;
            };
            let (thread, ignore) = (context.connection.thread.clone(), shadow.ignore.clone());
            let copy = Copy { thread, task, queue, deadline, ignore, fate, shares, _place: place };
            return copy.listen(response, context.snapshot.config.results.max_result);
        }
        Collected::Outgrown(rest) => (ShadowOutcome::Ineligible, rest),
        Collected::Crowded(rest) => (ShadowOutcome::Crowded, rest),
        Collected::Faulty(fault) => return Problem::Request(fault).into_response(),
    };
    fate.is(outcome);
    pass::serve(context, Request::from_parts(head, rest)).await
}

/// The task that a copy becomes, its queue, and how long it may take; none for an envelope that the route's topic is not
/// the one of, or that puts it off, and for what is no task.
fn copied(context: &Context<'_>, route: &Route, head: &Parts, body: &Bytes) -> Option<(Task, Queue, Duration)> {
    let parsed = parse_body(body).ok()?;
    if parsed.delay.is_some() || parsed.topic.as_ref().is_some_and(|topic| *topic != route.topic) {
        return None;
    }
    let parsed = Parsed { webhook: None, reply_to: None, ..parsed };
    let target = head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let sent = Sent { route, head, method: head.method.clone(), target, body: body.clone(), parsed };
    let captured = capture(context, sent, None).ok()?;
    let mut task = Task { retries: 0, ..captured.task };
    if let Some(request) = &mut task.request {
        request.headers.insert(HeaderName::from_static(SHADOW), HeaderValue::from_static("1"));
    }
    let queue = Queue { max_backlog: captured.queue.max_backlog.div_ceil(BACKLOG_SHARE), ..captured.queue };
    Some((task, queue, deadline(captured.config, false)))
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

fn refused(error: &StoreError) -> ShadowOutcome {
    match error {
        StoreError::Refused(Refusal::Backlog { .. }) => ShadowOutcome::Backpressure,
        error if error.is_outage() => ShadowOutcome::StoreUnavailable,
        _ => ShadowOutcome::StoreRefused,
    }
}

// === impl Shadows ===

impl Default for Shadows {
    fn default() -> Self {
        let [places, comparing] = [MOST, COMPARED_MOST].map(|most| Arc::new(Semaphore::new(most)));
        Self { hoard: Hoard::new(HELD_MOST), places, comparing }
    }
}

impl Shadows {
    /// A place for one more copy; none where there are too many.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }
}

// === impl Fate ===

impl Fate {
    /// Of a request that nobody has answered yet.
    fn new(context: &Context<'_>, route: &Route) -> Self {
        let metrics = context.parts().metrics.clone();
        Self { metrics, route: route.name.clone(), outcome: ShadowOutcome::Unanswered }
    }

    fn is(&mut self, outcome: ShadowOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        self.metrics.shadow(&self.route, self.outcome);
    }
}

// === impl Copy ===

impl Copy {
    /// Has the answer listened to, where it is one to compare with.
    fn listen(mut self, response: Response<Reply>, most: usize) -> Response<Reply> {
        let status = response.status();
        if !was_served(status) {
            return response;
        }
        if is_encoded(response.headers()) {
            self.fate.is(ShadowOutcome::Encoded);
            return response;
        }
        let answered = Answered { copy: self, status, body: BytesMut::new(), most };
        response.map(|body| body.tapped(Box::new(answered)))
    }

    /// Queues it, waits for its end and compares.
    async fn run(mut self, status: StatusCode, body: Bytes) {
        let draining = self.thread.draining.clone();
        if draining.is_cancelled() {
            return self.fate.is(ShadowOutcome::Draining);
        }
        let (circuit, id) = (self.thread.parts.circuit.clone(), self.task.id.clone());
        self.task.created = UnixMs::from(jiff::Timestamp::now()); // it did not wait while its original was served
        let outages = circuit.outages();
        let waiter = circuit.store().waiters().register(&id);
        if let Err(error) = circuit.enqueue(&self.task, &self.queue).await {
            return self.fate.is(refused(&error));
        }
        self.fate.metrics.shadow(&self.fate.route, ShadowOutcome::Queued);
        self.fate.metrics.task_received(self.queue.topic.as_str());
        (self.task.payload, self.task.request) = (Bytes::new(), None);
        drop(self.shares.0);
        match timeout(self.deadline, draining.run_until_cancelled(waiter)).await {
            Ok(Some(Some(record))) if record.status != Status::Cancelled => {
                let comparing = self.thread.shadows.comparing.clone();
                self.fate.is(compare(&self.fate.route, &record, (status, body), self.ignore, &comparing).await);
                if record.status == Status::Failed {
                    // It is told by now, and nobody is to look into it twice; an error: it stays.
                    let _ = circuit.call(circuit.store().discard(&self.queue, id.as_str())).await;
                }
            }
            Ok(Some(_)) => self.fate.is(ShadowOutcome::Lost),
            Ok(None) => {
                self.fate.is(ShadowOutcome::Draining);
                give_up(&circuit, &self.queue, &id).await;
            }
            Err(_) => {
                // without the store nobody ran it, or could have said so
                let is_known = circuit.outages() == outages && !circuit.is_open();
                self.fate.is(if is_known { ShadowOutcome::Mismatch } else { ShadowOutcome::Lost });
                if is_known {
                    tell(&self.fate.route, &id, "deadline", None);
                }
                give_up(&circuit, &self.queue, &id).await;
            }
        }
    }
}

/// Takes the work off the workers for which nobody waits any more; what cannot be reached runs for nothing.
async fn give_up(circuit: &Circuit, queue: &Queue, id: &TaskId) {
    if let Ok(Cancelled::Ended(Status::Failed)) = circuit.call(circuit.store().cancel(id, CANCELLED_KEPT)).await {
        let _ = circuit.call(circuit.store().discard(queue, id.as_str())).await; // an error: it stays
    }
}

/// Holds what a client of the canary would have got against what the sync path's got. Large answers take a while: not on
/// a thread that serves clients.
async fn compare(
    route: &str,
    record: &TaskRecord,
    (status, body): (StatusCode, Bytes),
    ignore: Vec<String>,
    comparing: &Semaphore,
) -> ShadowOutcome {
    let _permit = comparing.acquire().await;
    let (head, reply) = respond::outcome(record).into_parts();
    let copied = reply.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let compared = tokio::task::spawn_blocking(move || difference((status, &body), (head.status, &copied), &ignore));
    match compared.await {
        Ok(None) => return ShadowOutcome::Match,
        Ok(Some(Difference::Status)) => tell(route, &record.id, "status", Some((status, head.status))),
        Ok(Some(Difference::Body(place))) => tell(route, &record.id, &place, None),
        Err(_) => return ShadowOutcome::Lost, // the process ends
    }
    ShadowOutcome::Mismatch
}

/// Says where the answers differ, and nothing of what they say.
fn tell(route: &str, task_id: &TaskId, at: &str, statuses: Option<(StatusCode, StatusCode)>) {
    let at: String = at.chars().take(200).collect();
    let (sync, copy) = statuses.map(|(sync, copy)| (sync.as_u16(), copy.as_u16())).unzip();
    tracing::info!(route, %task_id, at, sync, copy, "the copy of a request was answered otherwise");
}

// === impl Answered ===

impl Tap for Answered {
    fn copy(&mut self, data: &[u8]) -> bool {
        if self.body.len() + data.len() > self.most {
            self.copy.fate.is(ShadowOutcome::TooLarge);
            return false;
        }
        if !self.copy.shares.1.add(data.len()) {
            self.copy.fate.is(ShadowOutcome::Crowded);
            return false;
        }
        self.body.extend_from_slice(data);
        true
    }

    fn end(self: Box<Self>) {
        let Self { copy, status, body, .. } = *self;
        tokio::task::spawn_local(copy.run(status, body.freeze()));
    }

    fn give_up(self: Box<Self>) {}
}
