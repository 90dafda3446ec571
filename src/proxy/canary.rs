//! The async path of a legacy call: captured, made durable, waited for, and answered as the legacy
//! endpoint would have. Whatever stands in the way of that, the upstream serves it: fail open.
//!
//! A request whose task is durable keeps to it. Where `wait` ends while the store is gone, its client gets the
//! same 202 and is counted as `deferred`: the task runs, and can be polled, once the store is back.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use super::body::{Outgoing, Reply};
use super::capture::{Captured, Sent, capture};
use super::collect::{Collected, collect};
use super::idempotency::{self, Held};
use super::pass;
use super::respond::{self, Problem};
use super::service::Context;
use crate::config::{HandlerConfig, OnUnknown, OnWaitTimeout, Route};
use crate::metrics::{Fallback, Path, TaskOutcome};
use crate::route::{BadBody, Parsed, Prefer, ineligible, parse_body};
use crate::snapshot::LiveRoute;
use crate::store::{Conclusion, Refusal, StoreError, Waiter};
use crate::task::{Status, TaskId};

/// What came of queueing a request.
enum Queued {
    /// Its task is durable.
    Yes(Durable),
    /// It is served sync.
    No(Fallback),
    /// It is refused.
    Refused(Problem),
}

/// A task that a request has become.
struct Durable {
    id: TaskId,
    waiter: Waiter,
    /// Whether the gates hear of it.
    counts: bool,
}

/// Serves a request of the async cohort, and says which path it took in the end.
pub(super) async fn serve(
    context: &Context<'_>,
    live: &LiveRoute,
    request: Request<Incoming>,
) -> (Path, Response<Reply>) {
    let route = context.snapshot.route(live);
    let length = request.body().size_hint().exact();
    if let Some(reason) = unfit(context, route, request.method(), request.headers(), length) {
        return fall_back(context, route, reason, request.map(Outgoing::stream)).await;
    }
    let (head, body) = request.into_parts();
    let mut share = context.connection.thread.hoard.hold();
    let body = match collect(body, context.snapshot.config.proxy.max_body, &mut share).await {
        Collected::Whole(body) => body,
        Collected::Outgrown(body) | Collected::Crowded(body) => {
            return fall_back(context, route, Fallback::Ineligible, Request::from_parts(head, body)).await;
        }
        Collected::Faulty(fault) => return refuse(context, route, Problem::Request(fault)),
    };
    serve_read(context, live, head, body, None).await
}

/// Serves a request of the async cohort that was read whole, and whose key may be held.
pub(super) async fn serve_whole(
    context: &Context<'_>,
    live: &LiveRoute,
    head: Parts,
    body: Bytes,
    mine: Option<Held>,
) -> (Path, Response<Reply>) {
    let route = context.snapshot.route(live);
    if let Some(reason) = unfit(context, route, &head.method, &head.headers, Some(body.len() as u64)) {
        let (path, response) =
            fall_back(context, route, reason, Request::from_parts(head, Outgoing::whole(body))).await;
        return (path, idempotency::keep(context, mine, response));
    }
    serve_read(context, live, head, body, mine).await
}

async fn serve_read(
    context: &Context<'_>,
    live: &LiveRoute,
    head: Parts,
    body: Bytes,
    mine: Option<Held>,
) -> (Path, Response<Reply>) {
    let route = context.snapshot.route(live);
    match queue(context, live, &head, &body, mine.as_ref().map(|mine| &mine.task)).await {
        Queued::Yes(durable) => {
            if let Some(mine) = mine {
                mine.conclude(Conclusion::Task(durable.id.clone()));
            }
            wait(context, route, durable, head, body).await
        }
        Queued::No(reason) => {
            let request = Request::from_parts(head, Outgoing::whole(body));
            let (path, response) = fall_back(context, route, reason, request).await;
            (path, idempotency::keep(context, mine, response))
        }
        Queued::Refused(problem) => refuse(context, route, problem),
    }
}

/// Answers a canaried request itself, where the sync path would have had the upstream's answer: a failure of the canary,
/// or with a 4xx a client error.
fn refuse(context: &Context<'_>, route: &Route, problem: Problem) -> (Path, Response<Reply>) {
    let response = problem.into_response();
    let rejected = response.status().is_client_error();
    let outcome = if rejected { TaskOutcome::Rejected } else { TaskOutcome::Refused };
    turned_away(context, route, outcome, response.status());
    (Path::Async, response)
}

/// Counts a canaried request that came to no task.
fn turned_away(context: &Context<'_>, route: &Route, outcome: TaskOutcome, status: StatusCode) {
    let metrics = &context.parts().metrics;
    metrics.task_outcome(&route.name, outcome);
    let (cells, thread) = (metrics.requests.route(&route.name), context.connection.thread.index);
    cells.blame(thread, Path::Async, status.as_u16(), context.clients.get());
}

/// Answers with the task that the request became before, as it ends or as far as it is; none where that came to
/// nothing: it failed, was cancelled, or is not known any more.
pub(super) async fn attend(context: &Context<'_>, route: &Route, id: &TaskId, head: &Parts) -> Option<Response<Reply>> {
    let (circuit, prefer) = (&context.parts().circuit, Prefer::of(&head.headers));
    let waiter = circuit.store().waiters().register(id);
    let record = match circuit.call(circuit.store().get(id)).await {
        Ok(Some(record)) if record.status.is_final() => Some(Arc::new(record)),
        Ok(Some(_)) => {
            let Ok(ended) = timeout(prefer.wait().unwrap_or(route.wait), waiter).await else {
                let accepted = respond::accepted(id, &context.snapshot.config.proxy.task_path);
                return Some(applied(prefer, accepted));
            };
            ended
        }
        Ok(None) | Err(_) => None,
    };
    let record = record.filter(|record| record.status == Status::Completed)?;
    Some(applied(prefer, respond::outcome(&record)))
}

/// Why a request is not captured, seen from its head and the store's state.
pub(super) fn unfit(
    context: &Context<'_>,
    route: &Route,
    method: &Method,
    headers: &HeaderMap,
    length: Option<u64>,
) -> Option<Fallback> {
    let config = &context.snapshot.config;
    let topic = config.topics.get(&route.topic)?;
    let judged = ineligible(method, headers, &topic.handler, length, config.proxy.max_body);
    if judged.is_some() {
        return Some(Fallback::Ineligible);
    }
    context.parts().circuit.is_open().then_some(Fallback::StoreUnavailable)
}

async fn fall_back(
    context: &Context<'_>,
    route: &Route,
    reason: Fallback,
    request: Request<Outgoing>,
) -> (Path, Response<Reply>) {
    context.parts().metrics.fell_back(&route.name, reason);
    (Path::Sync, pass::serve(context, request).await)
}

/// Makes the request a durable task, if it can be one: that of `id`, where one is given.
async fn queue(context: &Context<'_>, live: &LiveRoute, head: &Parts, body: &Bytes, id: Option<&TaskId>) -> Queued {
    let route = context.snapshot.route(live);
    let topics = &context.snapshot.config.topics;
    let Some(handler) = topics.get(&route.topic).map(|topic| &topic.handler) else {
        return Queued::No(Fallback::Ineligible);
    };
    let parsed = match parse_body(body) {
        Ok(parsed) => parsed,
        // What the upstream would have made of it, it still decides.
        Err(BadBody::NotJson(_) | BadBody::DuplicateKey(_)) if *handler == HandlerConfig::Upstream => opaque(body),
        Err(_) => return Queued::No(Fallback::Ineligible),
    };
    let target = head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let sent = Sent { route, head, method: head.method.clone(), target, body: body.clone(), parsed };
    match capture(context, sent, Some(live.epoch)) {
        Ok(mut captured) => {
            if let Some(id) = id {
                captured.task.id = id.clone();
            }
            enqueue(context, route, captured).await
        }
        Err(bad) => Queued::Refused(Problem::Order(bad)),
    }
}

/// A body that is not JSON, as a payload: a string of it.
fn opaque(body: &Bytes) -> Parsed {
    Parsed { payload: crate::store::json_of(body), ..Parsed::default() }
}

async fn enqueue(context: &Context<'_>, route: &Route, captured: Captured<'_>) -> Queued {
    let Captured { task, queue, .. } = captured;
    let (circuit, metrics) = (&context.parts().circuit, &context.parts().metrics);
    let waiter = circuit.store().waiters().register(&task.id);
    let counts = task.epoch.is_some();
    let refused = |reason| {
        if counts {
            turned_away(context, route, TaskOutcome::Refused, StatusCode::SERVICE_UNAVAILABLE);
        }
        Queued::No(reason)
    };
    match circuit.enqueue(&task, &queue).await {
        Ok(()) => {}
        Err(StoreError::Unreachable(_)) => return Queued::No(Fallback::StoreUnavailable),
        Err(StoreError::Unknown(_)) => {
            if let Some(unresolved) = resolve(context, route, &task.id).await {
                return unresolved;
            }
        }
        Err(StoreError::Refused(Refusal::Backlog { .. })) => return refused(Fallback::Backpressure),
        Err(error) => {
            tracing::warn!(%error, route = route.name, "the store refused a task");
            return refused(Fallback::StoreRefused);
        }
    }
    metrics.task_received(task.topic.as_str());
    Queued::Yes(Durable { id: task.id, waiter, counts })
}

/// Asks for a task whose enqueue was never answered; none when it is there. Otherwise it stays to be cancelled as
/// soon as the store is back, in case it was only late: the one window in which a request can run twice.
async fn resolve(context: &Context<'_>, route: &Route, id: &TaskId) -> Option<Queued> {
    let circuit = &context.parts().circuit;
    if let Ok(Some(_)) = circuit.attempt(circuit.store().get(id)).await
        && circuit.keep(id)
    {
        return None;
    }
    Some(match give_up(context, route) {
        OnUnknown::Sync => Queued::No(Fallback::Unknown),
        OnUnknown::Refuse => Queued::Refused(Problem::Store(StoreError::Unknown("the store died".into()))),
    })
}

fn give_up(context: &Context<'_>, route: &Route) -> OnUnknown {
    context.parts().metrics.unknown_enqueue(&route.name);
    route.on_unknown
}

/// Waits for the task's end as long as the client or the route says.
async fn wait(
    context: &Context<'_>,
    route: &Route,
    durable: Durable,
    head: Parts,
    body: Bytes,
) -> (Path, Response<Reply>) {
    let Durable { id, waiter, counts } = durable;
    let prefer = Prefer::of(&head.headers);
    let mut waiter = std::pin::pin!(waiter);
    let ended = match timeout(prefer.wait().unwrap_or(route.wait), waiter.as_mut()).await {
        Ok(ended) => ended,
        Err(_) if route.on_wait_timeout == OnWaitTimeout::Hold && prefer.wait().is_none() => waiter.await,
        Err(_) => {
            if counts && prefer.wait().is_none() {
                context.parts().metrics.task_outcome(&route.name, TaskOutcome::Deferred);
            }
            let accepted = respond::accepted(&id, &context.snapshot.config.proxy.task_path);
            return (Path::Async, applied(prefer, accepted));
        }
    };
    if let Some(record) = ended {
        return (Path::Async, applied(prefer, respond::outcome(&record)));
    }
    // The store lost it, in a crash that its persistence did not cover.
    context.parts().circuit.cancel_later(id);
    match give_up(context, route) {
        OnUnknown::Sync => {
            let request = Request::from_parts(head, Outgoing::whole(body));
            fall_back(context, route, Fallback::Unknown, request).await
        }
        OnUnknown::Refuse => {
            let lost = StoreError::Unknown("the store lost the task".into());
            refuse(context, route, Problem::Store(lost))
        }
    }
}

fn applied(prefer: Prefer, mut response: Response<Reply>) -> Response<Reply> {
    if let Some(value) = prefer.applied().and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert("preference-applied", value);
    }
    response
}
