//! Shadow traffic: of the requests that the sync path serves, some are run on the async path too,
//! and the two answers are held against each other.
//!
//! The client has its answer from the sync path as ever. A picked request is read whole before the
//! upstream is asked; nothing else delays it, and nothing fails it: its copy is queued once that
//! answer has ended, nobody waits for it, and it is dropped at the first backpressure. It is a task
//! that says what it is (`x-omnidaemon-shadow`), is tried once, tells nobody, and is of no route
//! and epoch, so that no gate but its own hears of it. Compared is what a client of the canary
//! would get. Every picked request is counted by what came of it, wherever its way ends.

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

use super::body::{RequestBody, ResponseBody, ResponseObserver};
use super::canary::fallback_reason;
use super::capture::{CaptureInput, capture_request};
use super::collect::{BodyBudget, BodyPermit, CollectedBody, collect_body};
use super::headers::PATH_HEADER;
use super::idempotency::is_served_status;
use super::pass;
use super::respond::{self, ProxyProblem};
use super::service::{ProxyThread, RequestContext};
use crate::cohort::{self, RequestPath};
use crate::config::{RouteConfig, ShadowConfig, max_task_duration};
use crate::metrics::{FallbackReason, Metrics, ShadowOutcome};
use crate::route::{ParsedBody, ResponseDifference, compare_responses, is_pinned_sync, parse_body};
use crate::snapshot::SnapshotRoute;
use crate::store::{CancelResult, Circuit, StoreError, StoreRefusal, TopicQueue};
use crate::task::{SHADOW_HEADER, Task, TaskId, TaskRecord, TaskStatus, UnixMs};

/// Copies that one thread has under way at a time.
const MAX_COPIES: usize = 256;
/// What they hold of bodies at a time: less than requests of clients may.
const MAX_COPIED_BYTES: usize = 64 * 1024 * 1024;

/// Answers that are compared at a time, per thread: both are read whole.
const MAX_COMPARISONS: usize = 2;
/// The part of the topic's backlog that copies may add to: over it, nothing but clients' own tasks
/// gets in.
const BACKLOG_DIVISOR: u64 = 10;

/// How long a copy that was given up can be looked at.
const CANCELLED_COPY_TTL: Duration = Duration::from_hours(1);

/// What one thread has under way.
pub(super) struct ShadowLimits {
    body_budget: BodyBudget,
    copy_slots: Arc<Semaphore>,
    comparison_slots: Arc<Semaphore>,
}

/// Counts what came of a picked request when it is dropped: wherever its way ends.
struct OutcomeGuard {
    metrics: Arc<Metrics>,
    route: String,
    outcome: ShadowOutcome,
}

/// A copy of a request, to be queued once that is answered.
struct ShadowCopy {
    thread: Rc<ProxyThread>,
    task: Task,
    queue: TopicQueue,
    /// How long its answer is waited for.
    result_deadline: Duration,
    /// What of the answers is not compared.
    ignored_pointers: Vec<String>,
    outcome_guard: OutcomeGuard,
    /// Its body's share of what the copies may hold, and that of the answer.
    body_permits: (BodyPermit, BodyPermit),
    _copy_slot: OwnedSemaphorePermit,
}

/// Copies the sync path's answer as it goes by.
struct ShadowResponseRecorder {
    copy: ShadowCopy,
    status: StatusCode,
    body: BytesMut,
    /// The largest that is compared.
    max_body: usize,
}

/// Picks some of the requests of the sync path; none of a client that is kept out of the other, or
/// that chose its path.
pub(super) fn pick_for_shadow<'r>(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    route: &'r RouteConfig,
    side: RequestPath,
    headers: &HeaderMap,
) -> Option<&'r ShadowConfig> {
    let shadow = route
        .rollout
        .shadow
        .as_ref()
        .filter(|_| live.copies_requests && side == RequestPath::Sync)?;
    // few are picked: who is bound to a path is asked of those alone
    let is_picked = shadow.percent.covers(cohort::cohort_bucket(rand::random()));
    let is_bound = || {
        is_pinned_sync(&route.rollout, headers)
            || context.is_trusted && headers.contains_key(&PATH_HEADER)
    };
    (is_picked && !is_bound()).then_some(shadow)
}

/// Counts a picked request that is not copied, since its client says with a key that it must not
/// run twice.
pub(super) fn count_ineligible(context: &RequestContext<'_>, route: &RouteConfig) {
    context.services().metrics.count_shadow_outcome(&route.name, ShadowOutcome::Ineligible);
}

/// Serves a picked request sync, and has it copied if it can be.
pub(super) async fn serve_shadowed(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    shadow: &ShadowConfig,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let route = context.snapshot.route_config(live);
    let mut fate = OutcomeGuard::new(context, route);
    let length = request.body().size_hint().exact();
    let unfit = fallback_reason(context, route, request.method(), request.headers(), length);
    let place = context.connection.thread.shadow_limits.acquire_copy_slot();
    let (None, Some(place)) = (unfit, place) else {
        fate.set_outcome(unfit.map_or(ShadowOutcome::TooManyCopies, |reason| match reason {
            FallbackReason::StoreUnavailable => ShadowOutcome::StoreUnavailable,
            _ => ShadowOutcome::Ineligible,
        }));
        return pass::serve_sync(context, request.map(RequestBody::from_incoming)).await;
    };
    let (head, body) = request.into_parts();
    let hoard = &context.connection.thread.shadow_limits.body_budget;
    let mut shares = (hoard.new_permit(), hoard.new_permit());
    let (outcome, rest) =
        match collect_body(body, context.snapshot.config.proxy.max_body_bytes, &mut shares.0).await
        {
            CollectedBody::Complete(body) => {
                let request =
                    Request::from_parts(head.clone(), RequestBody::from_bytes(body.clone()));
                // parsed while the upstream is asked
                let copied = async {
                    tokio::task::yield_now().await;
                    build_copy_task(context, route, &head, &body)
                };
                let (response, copied) =
                    tokio::join!(biased; pass::serve_sync(context, request), copied);
                let Some((task, queue, deadline)) = copied else {
                    fate.set_outcome(ShadowOutcome::Ineligible);
                    return response;
                };
                let (thread, ignore) =
                    (context.connection.thread.clone(), shadow.ignored_pointers.clone());
                let copy = ShadowCopy {
                    thread,
                    task,
                    queue,
                    result_deadline: deadline,
                    ignored_pointers: ignore,
                    outcome_guard: fate,
                    body_permits: shares,
                    _copy_slot: place,
                };
                return copy
                    .observe_response(response, context.snapshot.config.results.max_result_bytes);
            }
            CollectedBody::TooLarge(rest) => (ShadowOutcome::Ineligible, rest),
            CollectedBody::OverBudget(rest) => (ShadowOutcome::TooManyCopies, rest),
            CollectedBody::Failed(fault) => {
                return ProxyProblem::RequestBody(fault).into_response();
            }
        };
    fate.set_outcome(outcome);
    pass::serve_sync(context, Request::from_parts(head, rest)).await
}

/// The task that a copy becomes, its queue, and how long it may take; none for an envelope that the
/// route's topic is not the one of, or that puts it off, and for what is no task.
fn build_copy_task(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    head: &Parts,
    body: &Bytes,
) -> Option<(Task, TopicQueue, Duration)> {
    let parsed = parse_body(body).ok()?;
    if parsed.delay.is_some() || parsed.topic.as_ref().is_some_and(|topic| *topic != route.topic) {
        return None;
    }
    let parsed = ParsedBody { webhook: None, reply_to: None, ..parsed };
    let target = head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let sent = CaptureInput {
        route,
        request_head: head,
        replay_method: head.method.clone(),
        replay_target: target,
        replay_body: body.clone(),
        parsed_body: parsed,
    };
    let captured = capture_request(context, sent, None).ok()?;
    let mut task = Task { retries: 0, ..captured.task };
    if let Some(request) = &mut task.request {
        request
            .headers
            .insert(HeaderName::from_static(SHADOW_HEADER), HeaderValue::from_static("1"));
    }
    let queue = TopicQueue {
        max_backlog: captured.queue.max_backlog.div_ceil(BACKLOG_DIVISOR),
        ..captured.queue
    };
    Some((task, queue, max_task_duration(captured.topic_config, false)))
}

fn is_content_encoded(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

fn outcome_of_refusal(error: &StoreError) -> ShadowOutcome {
    match error {
        StoreError::Refused(StoreRefusal::BacklogFull { .. }) => ShadowOutcome::Backpressure,
        error if error.is_outage() => ShadowOutcome::StoreUnavailable,
        _ => ShadowOutcome::StoreRefused,
    }
}

// === impl Shadows ===

impl Default for ShadowLimits {
    fn default() -> Self {
        let [places, comparing] =
            [MAX_COPIES, MAX_COMPARISONS].map(|most| Arc::new(Semaphore::new(most)));
        Self {
            body_budget: BodyBudget::new(MAX_COPIED_BYTES),
            copy_slots: places,
            comparison_slots: comparing,
        }
    }
}

impl ShadowLimits {
    /// A place for one more copy; none where there are too many.
    fn acquire_copy_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.copy_slots.clone().try_acquire_owned().ok()
    }
}

// === impl Fate ===

impl OutcomeGuard {
    /// Of a request that nobody has answered yet.
    fn new(context: &RequestContext<'_>, route: &RouteConfig) -> Self {
        let metrics = context.services().metrics.clone();
        Self { metrics, route: route.name.clone(), outcome: ShadowOutcome::NoSyncAnswer }
    }

    fn set_outcome(&mut self, outcome: ShadowOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for OutcomeGuard {
    fn drop(&mut self) {
        self.metrics.count_shadow_outcome(&self.route, self.outcome);
    }
}

// === impl Copy ===

impl ShadowCopy {
    /// Has the answer listened to, where it is one to compare with.
    fn observe_response(
        mut self,
        response: Response<ResponseBody>,
        most: usize,
    ) -> Response<ResponseBody> {
        let status = response.status();
        if !is_served_status(status) {
            return response;
        }
        if is_content_encoded(response.headers()) {
            self.outcome_guard.set_outcome(ShadowOutcome::CompressedAnswer);
            return response;
        }
        let answered =
            ShadowResponseRecorder { copy: self, status, body: BytesMut::new(), max_body: most };
        response.map(|body| body.with_observer(Box::new(answered)))
    }

    /// Queues it, waits for its end and compares.
    async fn enqueue_and_compare(mut self, status: StatusCode, body: Bytes) {
        let draining = self.thread.draining.clone();
        if draining.is_cancelled() {
            return self.outcome_guard.set_outcome(ShadowOutcome::Draining);
        }
        let (circuit, id) = (self.thread.services.circuit.clone(), self.task.id.clone());
        self.task.created = UnixMs::from(jiff::Timestamp::now()); // it did not wait while its original was served
        let outages = circuit.outage_count();
        let waiter = circuit.store().end_waiters().register_waiter(&id);
        if let Err(error) = circuit.enqueue(&self.task, &self.queue).await {
            return self.outcome_guard.set_outcome(outcome_of_refusal(&error));
        }
        self.outcome_guard
            .metrics
            .count_shadow_outcome(&self.outcome_guard.route, ShadowOutcome::Queued);
        self.outcome_guard.metrics.count_task_received(self.queue.topic.as_str());
        (self.task.payload, self.task.request) = (Bytes::new(), None);
        drop(self.body_permits.0);
        match timeout(self.result_deadline, draining.run_until_cancelled(waiter)).await {
            Ok(Some(Some(record))) if record.status != TaskStatus::Cancelled => {
                let comparing = self.thread.shadow_limits.comparison_slots.clone();
                self.outcome_guard.set_outcome(
                    compare_with_original(
                        &self.outcome_guard.route,
                        &record,
                        (status, body),
                        self.ignored_pointers,
                        &comparing,
                    )
                    .await,
                );
                if record.status == TaskStatus::Failed {
                    // It is told by now, and nobody is to look into it twice; an error: it stays.
                    let _ = circuit
                        .call(circuit.store().discard_dead_letter(&self.queue, id.as_str()))
                        .await;
                }
            }
            Ok(Some(_)) => self.outcome_guard.set_outcome(ShadowOutcome::CopyLost),
            Ok(None) => {
                self.outcome_guard.set_outcome(ShadowOutcome::Draining);
                cancel_copy(&circuit, &self.queue, &id).await;
            }
            Err(_) => {
                // without the store nobody ran it, or could have said so
                let is_known = circuit.outage_count() == outages && !circuit.is_open();
                self.outcome_guard.set_outcome(if is_known {
                    ShadowOutcome::Mismatch
                } else {
                    ShadowOutcome::CopyLost
                });
                if is_known {
                    log_difference(&self.outcome_guard.route, &id, "deadline", None);
                }
                cancel_copy(&circuit, &self.queue, &id).await;
            }
        }
    }
}

/// Takes the work off the workers for which nobody waits any more; what cannot be reached runs for
/// nothing.
async fn cancel_copy(circuit: &Circuit, queue: &TopicQueue, id: &TaskId) {
    if let Ok(CancelResult::AlreadyEnded(TaskStatus::Failed)) =
        circuit.call(circuit.store().cancel(id, CANCELLED_COPY_TTL)).await
    {
        let _ = circuit.call(circuit.store().discard_dead_letter(queue, id.as_str())).await; // an error: it stays
    }
}

/// Holds what a client of the canary would have got against what the sync path's got. Large answers
/// take a while: not on a thread that serves clients.
async fn compare_with_original(
    route: &str,
    record: &TaskRecord,
    (status, body): (StatusCode, Bytes),
    ignore: Vec<String>,
    comparing: &Semaphore,
) -> ShadowOutcome {
    let _permit = comparing.acquire().await;
    let (head, reply) = respond::respond_with_outcome(record).into_parts();
    let copied = reply.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let compared = tokio::task::spawn_blocking(move || {
        compare_responses((status, &body), (head.status, &copied), &ignore)
    });
    match compared.await {
        Ok(None) => return ShadowOutcome::Match,
        Ok(Some(ResponseDifference::Status)) => {
            log_difference(route, &record.id, "status", Some((status, head.status)));
        }
        Ok(Some(ResponseDifference::Body(place))) => {
            log_difference(route, &record.id, &place, None);
        }
        Err(_) => return ShadowOutcome::CopyLost, // the process ends
    }
    ShadowOutcome::Mismatch
}

/// Says where the answers differ, and nothing of what they say.
fn log_difference(
    route: &str,
    task_id: &TaskId,
    at: &str,
    statuses: Option<(StatusCode, StatusCode)>,
) {
    let at: String = at.chars().take(200).collect();
    let (sync, copy) = statuses.map(|(sync, copy)| (sync.as_u16(), copy.as_u16())).unzip();
    tracing::info!(route, %task_id, at, sync, copy, "the copy of a request was answered otherwise");
}

// === impl Answered ===

impl ResponseObserver for ShadowResponseRecorder {
    fn observe_chunk(&mut self, data: &[u8]) -> bool {
        if self.body.len() + data.len() > self.max_body {
            self.copy.outcome_guard.set_outcome(ShadowOutcome::AnswerTooLarge);
            return false;
        }
        if !self.copy.body_permits.1.reserve(data.len()) {
            self.copy.outcome_guard.set_outcome(ShadowOutcome::TooManyCopies);
            return false;
        }
        self.body.extend_from_slice(data);
        true
    }

    fn finish_body(self: Box<Self>) {
        let Self { copy, status, body, .. } = *self;
        tokio::task::spawn_local(copy.enqueue_and_compare(status, body.freeze()));
    }

    fn stop_early(self: Box<Self>) {}
}
