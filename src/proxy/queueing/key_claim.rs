//! Claims on idempotency keys (`Idempotency-Key`).
//!
//! A key is claimed in the store before its request is served, in the scope of the caller's API key
//! and the route. The claim is renewed while the request is served, and then concluded: a repeat
//! with the same key gets what the first request got. Without the store a request is served as
//! without a key, and counted. A [`KeyClaimGuard`] that is dropped without a conclusion releases
//! its claim.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, header};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use crate::backoff::BackoffPolicy;
use crate::config::RouteConfig;
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::{ProxyServices, RequestContext};
use crate::proxy::queueing::claim_digest::{claim_scope, fingerprint_request};
use crate::store::{ClaimConclusion, ClaimResult, IdempotencyClaim, LEASE_DURATION, StoreError};
use crate::task::{TaskId, TaskStatus, UnixMs};

const KEY_HEADER: &str = "idempotency-key";
/// The delays between tries to claim a key while another request holds it.
const CLAIM_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(1));

/// The result of claiming a key.
pub(crate) enum KeyClaimOutcome {
    /// The request holds the key and is to be served.
    Acquired(KeyClaimGuard),
    /// A request with this key was served before.
    AlreadyServed(ClaimConclusion),
    /// The key is in use, or was used for another request.
    Refused(ProxyProblem),
    /// The store is not available: the request is served as without a key.
    StoreUnavailable,
}

/// A claim that this request holds until it is concluded; dropped before that, it is released.
pub(crate) struct KeyClaimGuard {
    /// The id of the task that the request becomes if it is queued.
    pub(crate) task_id: TaskId,
    /// False if an earlier holder of the claim has enqueued the task already.
    pub(crate) is_new_task: bool,
    conclusion_sender: oneshot::Sender<ClaimConclusion>,
}

/// What became of a request with an idempotency key.
#[derive(Clone, Copy)]
pub(crate) enum IdempotencyOutcome {
    /// The request holds its key.
    Claimed,
    /// The key was used for another request.
    Mismatch,
    /// The key is in use, or its response was too large to be stored.
    Conflict,
    /// The request is served without its key.
    Unclaimed,
    /// The request got the response of an earlier one.
    Replayed,
}

// === impl IdempotencyOutcome ===

impl IdempotencyOutcome {
    /// The `outcome` label.
    fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Mismatch => "mismatch",
            Self::Conflict => "conflict",
            Self::Unclaimed => "unclaimed",
            Self::Replayed => "replayed",
        }
    }
}

/// The idempotency key of a request. None for an upgrade: a tunnel cannot be repeated.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let key = headers.get(KEY_HEADER)?;
    (!key.is_empty() && !headers.contains_key(header::UPGRADE)).then(|| key.clone())
}

/// Counts what became of a request with an idempotency key.
pub(crate) fn count_key_outcome(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    outcome: IdempotencyOutcome,
) {
    context.services().metrics.count_idempotent_request(&route.name, outcome.as_str());
}

/// Counts and marks a response that an earlier request with the same key got before.
pub(crate) fn mark_replayed(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    count_key_outcome(context, route, IdempotencyOutcome::Replayed);
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

/// Claims `key` for a request; waits for up to `wait`, and not longer than the server's drain,
/// while another request holds the key. `replaced_task` is a task under this key that failed or is
/// unknown, and may be replaced.
pub(crate) async fn claim_key(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    key: &HeaderValue,
    head: &Parts,
    body: &Bytes,
    replaced_task: Option<TaskId>,
    wait: Duration,
) -> KeyClaimOutcome {
    let mut claim = IdempotencyClaim {
        scope_digest: claim_scope(&head.headers, route, key),
        request_digest: fingerprint_request(head, body),
        holder_id: format!("{:032x}", rand::random::<u128>()),
        task_id: TaskId::new(UnixMs::from(jiff::Timestamp::now()), rand::random()),
        replaced_task_id: replaced_task,
        conclusion_ttl: context.snapshot.config.results.ttl,
    };
    let (deadline, answer_waiting) = (Instant::now() + wait, &context.thread().answer_waiting);
    let mut retry_delay = CLAIM_BACKOFF.first_delay();
    loop {
        match request_claim(context, &mut claim).await {
            Ok(ClaimResult::Granted { task_id, is_new_task }) => {
                count_key_outcome(context, route, IdempotencyOutcome::Claimed);
                return KeyClaimOutcome::Acquired(KeyClaimGuard::new(
                    context.services(),
                    claim,
                    task_id,
                    is_new_task,
                ));
            }
            Ok(ClaimResult::Concluded(conclusion)) => {
                return KeyClaimOutcome::AlreadyServed(conclusion);
            }
            Ok(ClaimResult::DifferentRequest) => {
                count_key_outcome(context, route, IdempotencyOutcome::Mismatch);
                return KeyClaimOutcome::Refused(ProxyProblem::IdempotencyKeyReused);
            }
            Ok(ClaimResult::InProgress)
                if Instant::now() + retry_delay > deadline || answer_waiting.is_cancelled() =>
            {
                count_key_outcome(context, route, IdempotencyOutcome::Conflict);
                return KeyClaimOutcome::Refused(ProxyProblem::IdempotencyKeyInUse);
            }
            Ok(ClaimResult::InProgress) => {
                let _ = answer_waiting.run_until_cancelled(sleep(retry_delay)).await;
            }
            Err(error) => {
                count_key_outcome(context, route, IdempotencyOutcome::Unclaimed);
                let route = &route.name;
                tracing::debug!(%error, route, "a request is served without its idempotency key");
                return KeyClaimOutcome::StoreUnavailable;
            }
        }
        retry_delay = CLAIM_BACKOFF.next_delay(retry_delay);
    }
}

/// Claims the key in the store. If an earlier claim names a task that failed, was cancelled, or is
/// unknown because it was never enqueued, claims once more with this claim's task in its place.
async fn request_claim(
    context: &RequestContext<'_>,
    claim: &mut IdempotencyClaim,
) -> Result<ClaimResult, StoreError> {
    let circuit = &context.services().circuit;
    let result = circuit.call(circuit.store().claim_idempotency_key(claim)).await?;
    let ClaimResult::Granted { task_id: task, is_new_task: false } = &result else {
        return Ok(result);
    };
    let record = circuit.call(circuit.store().get_task(task)).await?;
    if record
        .is_some_and(|record| !matches!(record.status, TaskStatus::Failed | TaskStatus::Cancelled))
    {
        return Ok(result);
    }
    claim.replaced_task_id = Some(task.clone());
    circuit.call(circuit.store().claim_idempotency_key(claim)).await
}

// === impl KeyClaimGuard ===

impl KeyClaimGuard {
    fn new(
        services: &ProxyServices,
        claim: IdempotencyClaim,
        task_id: TaskId,
        is_new_task: bool,
    ) -> Self {
        let (conclusion_sender, conclusion) = oneshot::channel();
        tokio::task::spawn_local(maintain_claim(services.clone(), claim, conclusion));
        Self { task_id, is_new_task, conclusion_sender }
    }

    /// Records how the request was served; a repeat with the same key gets the same.
    pub(crate) fn conclude(self, conclusion: ClaimConclusion) {
        // The receiver is gone only if the thread is ending; the claim then expires.
        let _ = self.conclusion_sender.send(conclusion);
    }
}

/// Renews a claim until its guard is concluded, and stores the conclusion. Releases the claim if
/// the guard is dropped without one.
async fn maintain_claim(
    services: ProxyServices,
    claim: IdempotencyClaim,
    mut conclusion_receiver: oneshot::Receiver<ClaimConclusion>,
) {
    let (circuit, store) = (&services.circuit, services.circuit.store());
    let conclusion = loop {
        tokio::select! {
            conclusion = &mut conclusion_receiver => break conclusion.ok(),
            () = sleep(LEASE_DURATION / 3) => {
                drop(circuit.call(store.claim_idempotency_key(&claim)).await);
            }
        }
    };
    let result = match &conclusion {
        Some(conclusion) => circuit.call(store.conclude_claim(&claim, conclusion)).await,
        None => circuit.call(store.release_claim(&claim)).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a claim on an idempotency key is left to expire");
    }
}
