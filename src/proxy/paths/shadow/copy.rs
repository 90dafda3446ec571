//! The copy of a picked request: from the end of the original's response to the comparison.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, header};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::metrics::ShadowOutcome;
use crate::proxy::answer::response_body::{ResponseBody, ResponseObserver};
use crate::proxy::context::ProxyThread;
use crate::proxy::http::collect::BodyPermit;
use crate::proxy::paths::shadow::compare::{compare_with_original, log_difference};
use crate::proxy::paths::shadow::outcome::{OutcomeGuard, outcome_of_refusal};
use crate::route::is_retryable_status;
use crate::store::{CancelResult, Circuit, TopicQueue};
use crate::task::{Task, TaskId, TaskRecord, TaskStatus, UnixMs};

/// How long a cancelled copy can be looked up.
const CANCELLED_COPY_TTL: Duration = Duration::from_hours(1);

/// The copy of a request, to be enqueued once the response of its original has been sent.
pub(crate) struct ShadowCopy {
    pub(crate) thread: Rc<ProxyThread>,
    pub(crate) task: Task,
    pub(crate) queue: TopicQueue,
    /// How long the copy's end is waited for.
    pub(crate) result_deadline: Duration,
    /// JSON pointers to the parts of the answers that are not compared.
    pub(crate) ignored_pointers: Vec<String>,
    pub(crate) outcome_guard: OutcomeGuard,
    /// The permit of the request's body, while the copy still holds it.
    pub(crate) request_permit: Option<BodyPermit>,
    /// The permit of the response's body.
    pub(crate) response_permit: BodyPermit,
    pub(crate) _copy_slot: OwnedSemaphorePermit,
}

/// Copies the response of the sync path while it is sent.
struct ShadowResponseRecorder {
    copy: ShadowCopy,
    status: StatusCode,
    body: BytesMut,
    /// The largest body that is compared, bytes.
    max_body: usize,
}

// === impl ShadowCopy ===

impl ShadowCopy {
    /// Copies the response while it is sent, and then enqueues the copy of its request. A response
    /// that failed or is compressed is not compared; `max_body` is the largest body that is, bytes.
    pub(crate) fn observe_response(
        mut self,
        response: Response<ResponseBody>,
        max_body: usize,
    ) -> Response<ResponseBody> {
        let status = response.status();
        if is_retryable_status(status) {
            return response;
        }
        if is_content_encoded(response.headers()) {
            self.outcome_guard.set_outcome(ShadowOutcome::CompressedAnswer);
            return response;
        }
        let recorder =
            ShadowResponseRecorder { copy: self, status, body: BytesMut::new(), max_body };
        response.map(|body| body.with_observer(Box::new(recorder)))
    }

    /// Enqueues the copy, waits for its end and compares its answer with that of the original.
    async fn enqueue_and_compare(mut self, status: StatusCode, body: Bytes) {
        let draining = self.thread.draining.clone();
        if draining.is_cancelled() {
            return self.outcome_guard.set_outcome(ShadowOutcome::Draining);
        }
        let (circuit, id) = (self.thread.services.circuit.clone(), self.task.id.clone());
        // The time in which the original was served does not count as the copy's waiting time.
        self.task.created = UnixMs::from(jiff::Timestamp::now());
        let outages_before = circuit.outage_count();
        let waiter = circuit.store().end_waiters().register_waiter(&id);
        if let Err(error) = circuit.enqueue(&self.task, &self.queue).await {
            return self.outcome_guard.set_outcome(outcome_of_refusal(&error));
        }
        let metrics = &self.outcome_guard.metrics;
        metrics.count_shadow_outcome(&self.outcome_guard.route, ShadowOutcome::Queued);
        metrics.count_task_received(self.queue.topic.as_str());
        (self.task.payload, self.task.request) = (Bytes::new(), None);
        self.request_permit = None;
        match timeout(self.result_deadline, draining.run_until_cancelled(waiter)).await {
            Ok(Some(Some(record))) if record.status != TaskStatus::Cancelled => {
                self.compare_record(&record, status, body).await;
            }
            Ok(Some(_)) => self.outcome_guard.set_outcome(ShadowOutcome::CopyLost),
            Ok(None) => {
                self.outcome_guard.set_outcome(ShadowOutcome::Draining);
                cancel_copy(&circuit, &self.queue, &id).await;
            }
            Err(_) => {
                // During an outage of the store the copy may not have run, or could not report its
                // end: that is no difference between the answers.
                let store_was_up = circuit.outage_count() == outages_before && !circuit.is_open();
                if store_was_up {
                    self.outcome_guard.set_outcome(ShadowOutcome::Mismatch);
                    log_difference(&self.outcome_guard.route, &id, "deadline", None);
                } else {
                    self.outcome_guard.set_outcome(ShadowOutcome::CopyLost);
                }
                cancel_copy(&circuit, &self.queue, &id).await;
            }
        }
    }

    /// Compares the copy's end with the response of the original, and discards the dead letter of a
    /// copy that failed.
    async fn compare_record(&mut self, record: &TaskRecord, status: StatusCode, body: Bytes) {
        let slots = self.thread.shadow_limits.comparison_slots();
        let ignored = std::mem::take(&mut self.ignored_pointers);
        let route = &self.outcome_guard.route;
        let outcome = compare_with_original(route, record, (status, body), ignored, &slots).await;
        self.outcome_guard.set_outcome(outcome);
        if record.status == TaskStatus::Failed {
            // The difference is counted and logged; the dead letter would be looked into twice. On
            // an error it stays.
            let circuit = &self.thread.services.circuit;
            let store = circuit.store();
            let _ = circuit.call(store.discard_dead_letter(&self.queue, record.id.as_str())).await;
        }
    }
}

/// Cancels a copy whose answer is not needed any more. If the store cannot be reached, the copy
/// runs in vain.
async fn cancel_copy(circuit: &Circuit, queue: &TopicQueue, id: &TaskId) {
    if let Ok(CancelResult::AlreadyEnded(TaskStatus::Failed)) =
        circuit.call(circuit.store().cancel(id, CANCELLED_COPY_TTL)).await
    {
        // On an error the dead letter stays.
        let _ = circuit.call(circuit.store().discard_dead_letter(queue, id.as_str())).await;
    }
}

fn is_content_encoded(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

// === impl ShadowResponseRecorder ===

impl ResponseObserver for ShadowResponseRecorder {
    fn observe_chunk(&mut self, data: &[u8]) -> bool {
        if self.body.len() + data.len() > self.max_body {
            self.copy.outcome_guard.set_outcome(ShadowOutcome::AnswerTooLarge);
            return false;
        }
        if !self.copy.response_permit.reserve(data.len()) {
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
