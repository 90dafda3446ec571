//! `Idempotency-Key`: a request that comes again is not run again.
//!
//! The key is claimed in the store before either path is taken, for whoever's API key it is, and
//! for the route. A repeat that comes meanwhile waits; one that comes later gets what the first
//! got: the answer that the sync path gave, or that of the task. What failed (5xx, 408, 425, 429)
//! was not served: its key is free again. Without the store a request is served as without a key,
//! and counted. A claim is renewed while its request goes on; dropped, it is given up.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use super::body::{self, RequestBody, ResponseBody};
use super::capture::owner_from_headers;
use super::collect::{CollectedBody, collect_body};
use super::respond::{self, ProxyProblem};
use super::service::RequestContext;
use super::{ProxyServices as Plane, canary, pass};
use crate::backoff::BackoffPolicy;
use crate::cohort::RequestPath;
use crate::config::RouteConfig;
use crate::metrics::FallbackReason;
use crate::route::{ClientPreferences, is_retryable_status};
use crate::snapshot::SnapshotRoute;
use crate::store::{ClaimConclusion, ClaimResult, IdempotencyClaim, LEASE_DURATION, StoreError};
use crate::task::{TaskAnswer, TaskId, TaskStatus, UnixMs};

const KEY_HEADER: &str = "idempotency-key";
/// The delays between tries to claim a key while another request holds it.
const CLAIM_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(1));

/// What a claim came to.
pub(super) enum KeyClaimOutcome {
    /// The request is this one's to serve.
    Acquired(KeyClaimGuard),
    /// It was served already.
    AlreadyServed(ClaimConclusion),
    /// It cannot be.
    Refused(ProxyProblem),
    /// The store is not there: it is served as without a key.
    StoreUnavailable,
}

/// A claim that is this request's, until it is said what came of it; dropped before, it is given
/// up.
pub(super) struct KeyClaimGuard {
    /// The task that it may become.
    pub(super) task_id: TaskId,
    /// Whether nobody can have begun with it; else its task is there.
    pub(super) is_fresh: bool,
    conclusion_sender: oneshot::Sender<ClaimConclusion>,
}

/// Copies an answer's body as it goes by, to be kept once it is whole.
struct StoredResponseRecorder {
    claim_guard: KeyClaimGuard,
    answer: TaskAnswer,
    copied_body: BytesMut,
    /// The largest body that is kept.
    max_body: usize,
}

/// The key that a request carries, where it counts: a tunnel is not repeated.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let key = headers.get(KEY_HEADER)?;
    (!key.is_empty() && !headers.contains_key(header::UPGRADE)).then(|| key.clone())
}

/// Serves a legacy call under its key, and says which path it took.
pub(super) async fn serve_idempotent(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    side: RequestPath,
    key: &HeaderValue,
    request: Request<Incoming>,
) -> (RequestPath, Response<ResponseBody>) {
    let route = context.snapshot.route_config(live);
    let (head, body) = request.into_parts();
    let mut share = context.connection.thread.body_budget.new_permit();
    let body = match collect_body(body, context.snapshot.config.proxy.max_body_bytes, &mut share)
        .await
    {
        CollectedBody::Complete(body) => body,
        CollectedBody::TooLarge(rest) | CollectedBody::OverBudget(rest) => {
            count_outcome(context, route, "unclaimed"); // what was not read whole cannot be told from another
            if side == RequestPath::Async {
                context.services().metrics.count_fallback(&route.name, FallbackReason::Ineligible);
            }
            return (
                RequestPath::Sync,
                pass::serve_sync(context, Request::from_parts(head, rest)).await,
            );
        }
        CollectedBody::Failed(fault) => {
            return (RequestPath::Sync, ProxyProblem::RequestBody(fault).into_response());
        }
    };
    let mut instead_of = None;
    loop {
        let wait = ClientPreferences::from_headers(&head.headers)
            .preferred_wait()
            .unwrap_or(route.client_wait);
        match claim_key(context, route, key, &head, &body, instead_of.take(), wait).await {
            // Whoever claimed it before queued it before they died.
            KeyClaimOutcome::Acquired(mine) if !mine.is_fresh => {
                let before = mine.task_id.clone();
                if let Some(response) =
                    canary::await_existing_task(context, route, &before, &head).await
                {
                    mine.conclude(ClaimConclusion::Task(before));
                    return (RequestPath::Async, mark_replayed(context, route, response));
                } // else it came to nothing meanwhile, and the claim is given up
            }
            KeyClaimOutcome::Acquired(mine) => {
                return serve_claimed(context, live, side, head, body, Some(mine)).await;
            }
            KeyClaimOutcome::StoreUnavailable => {
                return serve_claimed(context, live, side, head, body, None).await;
            }
            KeyClaimOutcome::Refused(problem) => {
                return (RequestPath::Sync, problem.into_response());
            }
            KeyClaimOutcome::AlreadyServed(ClaimConclusion::Answer(answer)) => {
                return (
                    RequestPath::Sync,
                    mark_replayed(context, route, respond::respond_with_answer(&answer)),
                );
            }
            KeyClaimOutcome::AlreadyServed(ClaimConclusion::AnswerNotStored) => {
                count_outcome(context, route, "conflict");
                return (RequestPath::Sync, ProxyProblem::AnswerNotStored.into_response());
            }
            KeyClaimOutcome::AlreadyServed(ClaimConclusion::Task(id)) => {
                match canary::await_existing_task(context, route, &id, &head).await {
                    Some(response) => {
                        return (RequestPath::Async, mark_replayed(context, route, response));
                    }
                    None => instead_of = Some(id), // it came to nothing
                }
            }
        }
    }
}

async fn serve_claimed(
    context: &RequestContext<'_>,
    live: &SnapshotRoute,
    side: RequestPath,
    head: Parts,
    body: Bytes,
    mine: Option<KeyClaimGuard>,
) -> (RequestPath, Response<ResponseBody>) {
    match side {
        RequestPath::Sync => {
            let response =
                pass::serve_sync(context, Request::from_parts(head, RequestBody::from_bytes(body)))
                    .await;
            (RequestPath::Sync, record_response(context, mine, response))
        }
        RequestPath::Async => canary::serve_collected(context, live, head, body, mine).await,
    }
}

/// Claims `key` for a request; waits for up to `wait` while another is served under it.
pub(super) async fn claim_key(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    key: &HeaderValue,
    head: &Parts,
    body: &Bytes,
    instead_of: Option<TaskId>,
    wait: Duration,
) -> KeyClaimOutcome {
    let mut claim = IdempotencyClaim {
        scope_digest: claim_scope(&head.headers, route, key),
        request_digest: fingerprint_request(head, body),
        holder_id: format!("{:032x}", rand::random::<u128>()),
        task_id: TaskId::new(UnixMs::from(jiff::Timestamp::now()), rand::random()),
        replaced_task_id: instead_of,
        conclusion_ttl: context.snapshot.config.results.ttl,
    };
    let until = Instant::now() + wait;
    let mut pause = CLAIM_BACKOFF.first_delay();
    loop {
        match request_claim(context, &mut claim).await {
            Ok(ClaimResult::Granted { task_id: task, is_new_task: fresh }) => {
                count_outcome(context, route, "claimed");
                return KeyClaimOutcome::Acquired(KeyClaimGuard::new(
                    context.services(),
                    claim,
                    task,
                    fresh,
                ));
            }
            Ok(ClaimResult::Concluded(conclusion)) => {
                return KeyClaimOutcome::AlreadyServed(conclusion);
            }
            Ok(ClaimResult::DifferentRequest) => {
                count_outcome(context, route, "mismatch");
                return KeyClaimOutcome::Refused(ProxyProblem::IdempotencyKeyReused);
            }
            Ok(ClaimResult::InProgress) if Instant::now() + pause > until => {
                count_outcome(context, route, "conflict");
                return KeyClaimOutcome::Refused(ProxyProblem::IdempotencyKeyInUse);
            }
            Ok(ClaimResult::InProgress) => sleep(pause).await,
            Err(error) => {
                tracing::debug!(%error, route = route.name, "a request is served without its idempotency key");
                count_outcome(context, route, "unclaimed");
                return KeyClaimOutcome::StoreUnavailable;
            }
        }
        pause = CLAIM_BACKOFF.next_delay(pause);
    }
}

/// Makes a claim. Where one before named a task that came to nothing, its own takes that one's
/// place: it failed, was cancelled, or is not known, since its enqueue never came, or was cancelled
/// ahead.
async fn request_claim(
    context: &RequestContext<'_>,
    claim: &mut IdempotencyClaim,
) -> Result<ClaimResult, StoreError> {
    let circuit = &context.services().circuit;
    let claimed = circuit.call(circuit.store().claim_idempotency_key(claim)).await?;
    let ClaimResult::Granted { task_id: task, is_new_task: false } = &claimed else {
        return Ok(claimed);
    };
    let record = circuit.call(circuit.store().get_task(task)).await?;
    if record
        .is_some_and(|record| !matches!(record.status, TaskStatus::Failed | TaskStatus::Cancelled))
    {
        return Ok(claimed);
    }
    claim.replaced_task_id = Some(task.clone());
    circuit.call(circuit.store().claim_idempotency_key(claim)).await
}

/// Has an answer kept as it goes by, where it says that the request was served.
pub(super) fn record_response(
    context: &RequestContext<'_>,
    mine: Option<KeyClaimGuard>,
    response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    let Some(held) = mine.filter(|_| is_served_status(response.status())) else { return response };
    let mut headers = response.headers().clone();
    headers.remove(header::CONTENT_LENGTH); // whoever sends it again frames it
    let answer =
        TaskAnswer { status: Some(response.status()), headers, body: Bytes::new(), verbatim: true };
    let most = context.snapshot.config.results.max_result_bytes;
    response.map(|body| {
        body.with_observer(Box::new(StoredResponseRecorder {
            claim_guard: held,
            answer,
            copied_body: BytesMut::new(),
            max_body: most,
        }))
    })
}

/// Marks an answer as one that was given before.
pub(super) fn mark_replayed(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    count_outcome(context, route, "replayed");
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

/// The statuses after which a client does right to try again are none of a served request.
pub(super) fn is_served_status(status: StatusCode) -> bool {
    !is_retryable_status(status)
}

fn count_outcome(context: &RequestContext<'_>, route: &RouteConfig, outcome: &'static str) {
    context.services().metrics.count_idempotent_request(&route.name, outcome);
}

/// Whose key it is, and for what: the key itself is stored nowhere.
fn claim_scope(headers: &HeaderMap, route: &RouteConfig, key: &HeaderValue) -> String {
    let owner = owner_from_headers(headers);
    let owner = owner.as_ref().map_or("", |owner| owner.digest());
    digest_parts(&[owner.as_bytes(), route.name.as_bytes(), key.as_bytes()])
}

/// What is asked: the same key with another is a mistake.
fn fingerprint_request(head: &Parts, body: &[u8]) -> String {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    digest_parts(&[head.method.as_str().as_bytes(), target.as_bytes(), body])
}

/// Each part with its length before it, so that no two lists of parts are one text.
fn digest_parts(parts: &[&[u8]]) -> String {
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // a String takes everything
        hex
    })
}

// === impl Held ===

impl KeyClaimGuard {
    fn new(plane: &Plane, claim: IdempotencyClaim, task_id: TaskId, is_fresh: bool) -> Self {
        let (conclusion_sender, concluded) = oneshot::channel();
        tokio::task::spawn_local(maintain_claim(plane.clone(), claim, concluded));
        Self { task_id, is_fresh, conclusion_sender }
    }

    /// Says what came of it.
    pub(super) fn conclude(self, conclusion: ClaimConclusion) {
        let _ = self.conclusion_sender.send(conclusion); // an error: the thread ends, and the claim runs out
    }
}

/// Renews a claim until it is said what came of it; gives it up where nobody will.
async fn maintain_claim(
    plane: Plane,
    claim: IdempotencyClaim,
    mut concluded: oneshot::Receiver<ClaimConclusion>,
) {
    let (circuit, store) = (&plane.circuit, plane.circuit.store());
    let conclusion = loop {
        tokio::select! {
            conclusion = &mut concluded => break conclusion.ok(),
            () = sleep(LEASE_DURATION / 3) => drop(circuit.call(store.claim_idempotency_key(&claim)).await),
        }
    };
    let said = match &conclusion {
        Some(conclusion) => circuit.call(store.conclude_claim(&claim, conclusion)).await,
        None => circuit.call(store.release_claim(&claim)).await,
    };
    if let Err(error) = said {
        tracing::debug!(%error, "a claim on an idempotency key runs out by itself");
    }
}

// === impl Tap ===

impl body::ResponseObserver for StoredResponseRecorder {
    /// False when it has become too large to be kept.
    fn observe_chunk(&mut self, data: &[u8]) -> bool {
        let fits = self.copied_body.len() + data.len() <= self.max_body;
        if fits {
            self.copied_body.extend_from_slice(data);
        }
        fits
    }

    fn finish_body(self: Box<Self>) {
        self.claim_guard.conclude(ClaimConclusion::Answer(TaskAnswer {
            body: self.copied_body.freeze(),
            ..self.answer
        }));
    }

    /// The request was served, and its answer cannot be kept.
    fn stop_early(self: Box<Self>) {
        self.claim_guard.conclude(ClaimConclusion::AnswerNotStored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_other_parts_have_another_digest() {
        let lists: [&[&[u8]]; 4] = [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"ab", b"c", b""]];
        let mut digests: Vec<String> = lists.iter().map(|parts| digest_parts(parts)).collect();
        assert!(digests.iter().all(|digest| digest.len() == 64));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), lists.len());
    }

    #[test]
    fn what_failed_was_not_served() {
        for (code, served) in [
            (200, true),
            (302, true),
            (404, true),
            (422, true),
            (408, false),
            (429, false),
            (500, false),
        ] {
            assert_eq!(
                is_served_status(StatusCode::from_u16(code).expect("a status")),
                served,
                "{code}"
            );
        }
    }
}
