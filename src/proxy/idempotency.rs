//! `Idempotency-Key`: a request that comes again is not run again.
//!
//! The key is claimed in the store before either path is taken, for whoever's API key it is, and for the route. A repeat
//! that comes meanwhile waits; one that comes later gets what the first got: the answer that the sync path gave, or
//! that of the task. What failed (5xx, 408, 425, 429) was not served: its key is free again. Without the store a request is served as
//! without a key, and counted. A claim is renewed while its request goes on; dropped, it is given up.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use super::body::{self, Outgoing, Reply};
use super::capture::owner;
use super::collect::{Collected, collect};
use super::respond::{self, Problem};
use super::service::Context;
use super::{Parts as Plane, canary, pass};
use crate::config::Route;
use crate::metrics::{Fallback, Path};
use crate::route::{Assigned, Prefer};
use crate::snapshot::LiveRoute;
use crate::store::{Claim, Claimed, Conclusion, LEASE, StoreError};
use crate::task::{Answer, Status, TaskId, UnixMs};

const KEY: &str = "idempotency-key";
/// How often whoever waits for another's request looks, at first and at last.
const LOOKS: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// What a claim came to.
pub(super) enum Ticket {
    /// The request is this one's to serve.
    Mine(Held),
    /// It was served already.
    Served(Conclusion),
    /// It cannot be.
    Refused(Problem),
    /// The store is not there: it is served as without a key.
    Unclaimed,
}

/// A claim that is this request's, until it is said what came of it; dropped before, it is given up.
pub(super) struct Held {
    /// The task that it may become.
    pub(super) task: TaskId,
    /// Whether nobody can have begun with it; else its task is there.
    pub(super) fresh: bool,
    conclude: oneshot::Sender<Conclusion>,
}

/// Copies an answer's body as it goes by, to be kept once it is whole.
struct Tap {
    held: Held,
    answer: Answer,
    copied: BytesMut,
    /// The largest body that is kept.
    most: usize,
}

/// The key that a request carries, where it counts: a tunnel is not repeated.
pub(super) fn key(headers: &HeaderMap) -> Option<HeaderValue> {
    let key = headers.get(KEY)?;
    (!key.is_empty() && !headers.contains_key(header::UPGRADE)).then(|| key.clone())
}

/// Serves a legacy call under its key, and says which path it took.
pub(super) async fn serve(
    context: &Context<'_>,
    live: &LiveRoute,
    side: Assigned,
    key: &HeaderValue,
    request: Request<Incoming>,
) -> (Path, Response<Reply>) {
    let route = context.snapshot.route(live);
    let (head, body) = request.into_parts();
    let mut share = context.connection.thread.hoard.hold();
    let body = match collect(body, context.snapshot.config.proxy.max_body, &mut share).await {
        Collected::Whole(body) => body,
        Collected::Outgrown(rest) | Collected::Crowded(rest) => {
            note(context, route, "unclaimed"); // what was not read whole cannot be told from another
            if side == Assigned::Async {
                context.parts().metrics.fell_back(&route.name, Fallback::Ineligible);
            }
            return (Path::Sync, pass::serve(context, Request::from_parts(head, rest)).await);
        }
        Collected::Faulty(fault) => return (Path::Sync, Problem::Request(fault).into_response()),
    };
    let mut instead_of = None;
    loop {
        let wait = Prefer::of(&head.headers).wait().unwrap_or(route.wait);
        match claim(context, route, key, &head, &body, instead_of.take(), wait).await {
            // Whoever claimed it before queued it before they died.
            Ticket::Mine(mine) if !mine.fresh => {
                let before = mine.task.clone();
                if let Some(response) = canary::attend(context, route, &before, &head).await {
                    mine.conclude(Conclusion::Task(before));
                    return (Path::Async, replayed(context, route, response));
                } // else it came to nothing meanwhile, and the claim is given up
            }
            Ticket::Mine(mine) => return run(context, live, side, head, body, Some(mine)).await,
            Ticket::Unclaimed => return run(context, live, side, head, body, None).await,
            Ticket::Refused(problem) => return (Path::Sync, problem.into_response()),
            Ticket::Served(Conclusion::Answer(answer)) => {
                return (Path::Sync, replayed(context, route, respond::given(&answer)));
            }
            Ticket::Served(Conclusion::Unkept) => {
                note(context, route, "conflict");
                return (Path::Sync, Problem::AnswerNotKept.into_response());
            }
            Ticket::Served(Conclusion::Task(id)) => match canary::attend(context, route, &id, &head).await {
                Some(response) => return (Path::Async, replayed(context, route, response)),
                None => instead_of = Some(id), // it came to nothing
            },
        }
    }
}

async fn run(
    context: &Context<'_>,
    live: &LiveRoute,
    side: Assigned,
    head: Parts,
    body: Bytes,
    mine: Option<Held>,
) -> (Path, Response<Reply>) {
    match side {
        Assigned::Sync => {
            let response = pass::serve(context, Request::from_parts(head, Outgoing::whole(body))).await;
            (Path::Sync, keep(context, mine, response))
        }
        Assigned::Async => canary::serve_whole(context, live, head, body, mine).await,
    }
}

/// Claims `key` for a request; waits for up to `wait` while another is served under it.
pub(super) async fn claim(
    context: &Context<'_>,
    route: &Route,
    key: &HeaderValue,
    head: &Parts,
    body: &Bytes,
    instead_of: Option<TaskId>,
    wait: Duration,
) -> Ticket {
    let mut claim = Claim {
        scope: scope(&head.headers, route, key),
        request: fingerprint(head, body),
        holder: format!("{:032x}", rand::random::<u128>()),
        task: TaskId::new(UnixMs::from(jiff::Timestamp::now()), rand::random()),
        instead_of,
        ttl: context.snapshot.config.results.ttl,
    };
    let until = Instant::now() + wait;
    let [mut pause, longest] = LOOKS;
    loop {
        match ask(context, &mut claim).await {
            Ok(Claimed::Mine { task, fresh }) => {
                note(context, route, "claimed");
                return Ticket::Mine(Held::new(context.parts(), claim, task, fresh));
            }
            Ok(Claimed::Done(conclusion)) => return Ticket::Served(conclusion),
            Ok(Claimed::Other) => {
                note(context, route, "mismatch");
                return Ticket::Refused(Problem::KeyReused);
            }
            Ok(Claimed::Busy) if Instant::now() + pause > until => {
                note(context, route, "conflict");
                return Ticket::Refused(Problem::KeyInUse);
            }
            Ok(Claimed::Busy) => sleep(pause).await,
            Err(error) => {
                tracing::debug!(%error, route = route.name, "a request is served without its idempotency key");
                note(context, route, "unclaimed");
                return Ticket::Unclaimed;
            }
        }
        pause = (pause * 2).min(longest);
    }
}

/// Makes a claim. Where one before named a task that came to nothing, its own takes that one's place: it failed, was
/// cancelled, or is not known, since its enqueue never came, or was cancelled ahead.
async fn ask(context: &Context<'_>, claim: &mut Claim) -> Result<Claimed, StoreError> {
    let circuit = &context.parts().circuit;
    let claimed = circuit.call(circuit.store().claim(claim)).await?;
    let Claimed::Mine { task, fresh: false } = &claimed else { return Ok(claimed) };
    let record = circuit.call(circuit.store().get(task)).await?;
    if record.is_some_and(|record| !matches!(record.status, Status::Failed | Status::Cancelled)) {
        return Ok(claimed);
    }
    claim.instead_of = Some(task.clone());
    circuit.call(circuit.store().claim(claim)).await
}

/// Has an answer kept as it goes by, where it says that the request was served.
pub(super) fn keep(context: &Context<'_>, mine: Option<Held>, response: Response<Reply>) -> Response<Reply> {
    let Some(held) = mine.filter(|_| was_served(response.status())) else { return response };
    let mut headers = response.headers().clone();
    headers.remove(header::CONTENT_LENGTH); // whoever sends it again frames it
    let answer = Answer { status: Some(response.status()), headers, body: Bytes::new(), verbatim: true };
    let most = context.snapshot.config.results.max_result;
    response.map(|body| body.tapped(Box::new(Tap { held, answer, copied: BytesMut::new(), most })))
}

/// Marks an answer as one that was given before.
pub(super) fn replayed(context: &Context<'_>, route: &Route, mut response: Response<Reply>) -> Response<Reply> {
    note(context, route, "replayed");
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

/// The statuses after which a client does right to try again are none of a served request.
pub(super) fn was_served(status: StatusCode) -> bool {
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    !status.is_server_error() && !again.contains(&status)
}

fn note(context: &Context<'_>, route: &Route, outcome: &'static str) {
    context.parts().metrics.idempotent(&route.name, outcome);
}

/// Whose key it is, and for what: the key itself is stored nowhere.
fn scope(headers: &HeaderMap, route: &Route, key: &HeaderValue) -> String {
    let owner = owner(headers);
    let owner = owner.as_ref().map_or("", |owner| owner.digest());
    digest(&[owner.as_bytes(), route.name.as_bytes(), key.as_bytes()])
}

/// What is asked: the same key with another is a mistake.
fn fingerprint(head: &Parts, body: &[u8]) -> String {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    digest(&[head.method.as_str().as_bytes(), target.as_bytes(), body])
}

/// Each part with its length before it, so that no two lists of parts are one text.
fn digest(parts: &[&[u8]]) -> String {
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

impl Held {
    fn new(plane: &Plane, claim: Claim, task: TaskId, fresh: bool) -> Self {
        let (conclude, concluded) = oneshot::channel();
        tokio::task::spawn_local(keeper(plane.clone(), claim, concluded));
        Self { task, fresh, conclude }
    }

    /// Says what came of it.
    pub(super) fn conclude(self, conclusion: Conclusion) {
        let _ = self.conclude.send(conclusion); // an error: the thread ends, and the claim runs out
    }
}

/// Renews a claim until it is said what came of it; gives it up where nobody will.
async fn keeper(plane: Plane, claim: Claim, mut concluded: oneshot::Receiver<Conclusion>) {
    let (circuit, store) = (&plane.circuit, plane.circuit.store());
    let conclusion = loop {
        tokio::select! {
            conclusion = &mut concluded => break conclusion.ok(),
            () = sleep(LEASE / 3) => drop(circuit.call(store.claim(&claim)).await),
        }
    };
    let said = match &conclusion {
        Some(conclusion) => circuit.call(store.conclude(&claim, conclusion)).await,
        None => circuit.call(store.abandon(&claim)).await,
    };
    if let Err(error) = said {
        tracing::debug!(%error, "a claim on an idempotency key runs out by itself");
    }
}

// === impl Tap ===

impl body::Tap for Tap {
    /// False when it has become too large to be kept.
    fn copy(&mut self, data: &[u8]) -> bool {
        let fits = self.copied.len() + data.len() <= self.most;
        if fits {
            self.copied.extend_from_slice(data);
        }
        fits
    }

    fn end(self: Box<Self>) {
        self.held.conclude(Conclusion::Answer(Answer { body: self.copied.freeze(), ..self.answer }));
    }

    /// The request was served, and its answer cannot be kept.
    fn give_up(self: Box<Self>) {
        self.held.conclude(Conclusion::Unkept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_other_parts_have_another_digest() {
        let lists: [&[&[u8]]; 4] = [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"ab", b"c", b""]];
        let mut digests: Vec<String> = lists.iter().map(|parts| digest(parts)).collect();
        assert!(digests.iter().all(|digest| digest.len() == 64));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), lists.len());
    }

    #[test]
    fn what_failed_was_not_served() {
        for (code, served) in
            [(200, true), (302, true), (404, true), (422, true), (408, false), (429, false), (500, false)]
        {
            assert_eq!(was_served(StatusCode::from_u16(code).expect("a status")), served, "{code}");
        }
    }
}
