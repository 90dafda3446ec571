//! Legacy calls with an idempotency key: a request that is repeated is not served twice.
//!
//! A repeat that arrives while the first request is being served waits for it. A later repeat gets
//! the stored response of the sync path, or the response of the task. A first request that failed
//! (5xx, 408, 425, 429) does not count as served, and its key can be claimed again. The claim of an
//! async request is concluded when its task is durable, not when the task has ended, so that a
//! repeat in between waits for the same task.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;

use crate::cohort_hash::RequestPath;
use crate::config::RouteConfig;
use crate::metrics::FallbackReason;
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response::{add_task_id, respond_with_answer};
use crate::proxy::answer::response_body::{ResponseBody, ResponseObserver};
use crate::proxy::context::RequestContext;
use crate::proxy::http::collect::{CollectedBody, collect_body};
use crate::proxy::http::request_body::RequestBody;
use crate::proxy::paths::canary::{fall_back_to_sync, refuse_request, wait_for_outcome};
use crate::proxy::paths::path_response::PathResponse;
use crate::proxy::paths::sync::serve_sync;
use crate::proxy::queueing::await_task::await_existing_task;
use crate::proxy::queueing::eligibility::fallback_reason;
use crate::proxy::queueing::enqueue::{EnqueueOutcome, enqueue_request};
use crate::proxy::queueing::key_claim::{
    IdempotencyOutcome, KeyClaimGuard, KeyClaimOutcome, claim_key, count_key_outcome, mark_replayed,
};
use crate::route::{ClientPreferences, is_retryable_status};
use crate::snapshot::SnapshotRoute;
use crate::store::ClaimConclusion;
use crate::task::{TaskAnswer, TaskId};

/// Copies a response body while it is sent, and concludes the claim with it.
struct StoredResponseRecorder {
    claim_guard: KeyClaimGuard,
    /// The response without its body.
    answer: TaskAnswer,
    copied_body: BytesMut,
    /// The largest body that is stored, bytes.
    max_body: usize,
}

/// Serves a legacy call with an idempotency key. `assigned` is the path of the request if it
/// was not served before.
pub(crate) async fn serve_idempotent(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    assigned: RequestPath,
    key: &HeaderValue,
    request: Request<Incoming>,
) -> PathResponse {
    let route = context.snapshot.route_config(snapshot_route);
    let (head, body) = request.into_parts();
    let max_body = context.snapshot.config.proxy.max_body_bytes;
    let mut permit = context.thread().body_budget.new_permit();
    match collect_body(body, max_body, &mut permit).await {
        CollectedBody::Complete(body) => {
            claim_and_serve(context, snapshot_route, assigned, key, head, body).await
        }
        CollectedBody::TooLarge(body) | CollectedBody::OverBudget(body) => {
            // Without the whole body, the request cannot be compared with a repeat.
            count_key_outcome(context, route, IdempotencyOutcome::Unclaimed);
            if assigned == RequestPath::Async {
                let reason = FallbackReason::BodyTooLarge;
                context.services().metrics.count_fallback(&route.name, reason);
            }
            let response = serve_sync(context, Request::from_parts(head, body)).await;
            PathResponse::from_sync(response)
        }
        CollectedBody::Failed(error) => {
            PathResponse::from_sync(ProxyProblem::RequestBody(error).into_response())
        }
    }
}

/// Claims the key and serves the request, or replays the response of an earlier request.
async fn claim_and_serve(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    assigned: RequestPath,
    key: &HeaderValue,
    head: Parts,
    body: Bytes,
) -> PathResponse {
    let route = context.snapshot.route_config(snapshot_route);
    let preferences = ClientPreferences::from_headers(&head.headers);
    let wait = preferences.preferred_wait().unwrap_or(route.client_wait);
    let mut replaced_task = None;
    loop {
        match claim_key(context, route, key, &head, &body, replaced_task.take(), wait).await {
            KeyClaimOutcome::Acquired(claim) if !claim.is_new_task => {
                // The previous holder of the claim enqueued the task, and ended before it concluded
                // the claim.
                let id = claim.task_id.clone();
                if let Some(response) = replay_task(context, route, &id, &head).await {
                    claim.conclude(ClaimConclusion::Task(id));
                    return response;
                }
                // The task has failed: dropping the claim releases it, and the loop claims again.
            }
            KeyClaimOutcome::Acquired(claim) => {
                return serve_claimed(context, snapshot_route, assigned, head, body, Some(claim))
                    .await;
            }
            KeyClaimOutcome::StoreUnavailable => {
                return serve_claimed(context, snapshot_route, assigned, head, body, None).await;
            }
            KeyClaimOutcome::Refused(problem) => {
                return PathResponse::from_sync(problem.into_response());
            }
            KeyClaimOutcome::AlreadyServed(ClaimConclusion::Answer(answer)) => {
                let response = mark_replayed(context, route, respond_with_answer(&answer));
                return PathResponse::from_sync(response);
            }
            KeyClaimOutcome::AlreadyServed(ClaimConclusion::AnswerNotStored) => {
                count_key_outcome(context, route, IdempotencyOutcome::Conflict);
                return PathResponse::from_sync(ProxyProblem::AnswerNotStored.into_response());
            }
            KeyClaimOutcome::AlreadyServed(ClaimConclusion::Task(id)) => {
                match replay_task(context, route, &id, &head).await {
                    Some(response) => return response,
                    None => replaced_task = Some(id),
                }
            }
        }
    }
}

/// Answers with the task of an earlier request; `None` if that task failed, was cancelled or is
/// unknown.
async fn replay_task(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    id: &TaskId,
    head: &Parts,
) -> Option<PathResponse> {
    let mut response = await_existing_task(context, route, id, head).await?;
    add_task_id(&mut response, id);
    Some(PathResponse::from_async(mark_replayed(context, route, response)))
}

/// Serves a request that holds its key, or without a claim because the store is not available.
async fn serve_claimed(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    assigned: RequestPath,
    head: Parts,
    body: Bytes,
    claim: Option<KeyClaimGuard>,
) -> PathResponse {
    match assigned {
        RequestPath::Sync => {
            let request = Request::from_parts(head, RequestBody::from_bytes(body));
            let response = PathResponse::from_sync(serve_sync(context, request).await);
            record_response(context, claim, response)
        }
        RequestPath::Async => {
            serve_claimed_canary(context, snapshot_route, head, body, claim).await
        }
    }
}

async fn serve_claimed_canary(
    context: &RequestContext<'_>,
    snapshot_route: &SnapshotRoute,
    head: Parts,
    body: Bytes,
    claim: Option<KeyClaimGuard>,
) -> PathResponse {
    let route = context.snapshot.route_config(snapshot_route);
    let length = Some(body.len() as u64);
    let fallback = fallback_reason(context, route, &head.method, &head.headers, length);
    let outcome = if let Some(reason) = fallback {
        EnqueueOutcome::FallBack(reason)
    } else {
        let task_id = claim.as_ref().map(|claim| &claim.task_id);
        enqueue_request(context, snapshot_route, &head, &body, task_id).await
    };
    match outcome {
        EnqueueOutcome::Durable(task) => {
            if let Some(claim) = claim {
                claim.conclude(ClaimConclusion::Task(task.id.clone()));
            }
            wait_for_outcome(context, route, task, head, body).await
        }
        EnqueueOutcome::FallBack(reason) => {
            let request = Request::from_parts(head, RequestBody::from_bytes(body));
            let response = fall_back_to_sync(context, route, reason, request).await;
            record_response(context, claim, response)
        }
        EnqueueOutcome::Refused(problem) => refuse_request(context, route, problem),
    }
}

/// Stores a response under the claim once its body has been sent. A response with a status that is
/// not final releases the claim.
fn record_response(
    context: &RequestContext<'_>,
    claim: Option<KeyClaimGuard>,
    served: PathResponse,
) -> PathResponse {
    let status = served.response.status();
    let Some(claim_guard) = claim.filter(|_| !is_retryable_status(status)) else { return served };
    let mut headers = served.response.headers().clone();
    headers.remove(header::CONTENT_LENGTH); // set anew when the response is replayed
    let recorder = StoredResponseRecorder {
        claim_guard,
        answer: TaskAnswer { status: Some(status), headers, body: Bytes::new(), verbatim: true },
        copied_body: BytesMut::new(),
        max_body: context.snapshot.config.results.max_result_bytes,
    };
    let observe = |body: ResponseBody| body.with_observer(Box::new(recorder));
    PathResponse { response: served.response.map(observe), ..served }
}

// === impl StoredResponseRecorder ===

impl ResponseObserver for StoredResponseRecorder {
    fn observe_chunk(&mut self, data: &[u8]) -> bool {
        let fits = self.copied_body.len() + data.len() <= self.max_body;
        if fits {
            self.copied_body.extend_from_slice(data);
        }
        fits
    }

    fn finish_body(self: Box<Self>) {
        let body = self.copied_body.freeze();
        let answer = TaskAnswer { body, ..self.answer };
        self.claim_guard.conclude(ClaimConclusion::Answer(answer));
    }

    /// Concludes the claim without the body, which is too large to store: a repeat is refused with
    /// an error that says that the request was served.
    fn stop_early(self: Box<Self>) {
        self.claim_guard.conclude(ClaimConclusion::AnswerNotStored);
    }
}
