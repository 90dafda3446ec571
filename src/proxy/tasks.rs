//! The own endpoints: `POST <route>/async`, and `/task/<id>` with what stands below it (`wait.rs`, `events.rs`,
//! `progress.rs`).

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::{Body, Incoming};

use super::body::Reply;
use super::capture::{Sent, capture, owner};
use super::collect::{Collected, collect, discard};
use super::idempotency::{self, Ticket};
use super::respond::{self, Problem};
use super::service::{Context, allow_origin, is_preflight};
use super::{events, progress, wait};
use crate::config::HandlerConfig;
use crate::route::{is_json, parse_body};
use crate::snapshot::LiveRoute;
use crate::store::{Cancelled, Conclusion};
use crate::task::{TaskId, TaskRecord};

/// `POST <route>/async`: 202 once the task is durable.
pub(super) async fn submit(context: &Context<'_>, live: &LiveRoute, request: Request<Incoming>) -> Response<Reply> {
    let asked = request.headers().clone();
    let mut response = if is_preflight(&request) {
        respond::preflight()
    } else {
        try_submit(context, live, request).await.unwrap_or_else(Problem::into_response)
    };
    allow_origin(&context.snapshot, &asked, response.headers_mut());
    response
}

async fn try_submit(
    context: &Context<'_>,
    live: &LiveRoute,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Problem> {
    let (head, body) = request.into_parts();
    let config = &context.snapshot.config;
    let limit = config.proxy.max_body;
    if let Err(problem) = check_head(&head, &body, limit) {
        turn_away(&head, body);
        return Err(problem);
    }
    let mut share = context.connection.thread.hoard.hold();
    let body = match collect(body, limit, &mut share).await {
        Collected::Whole(body) => body,
        Collected::Outgrown(rest) => {
            turn_away(&head, rest);
            return Err(Problem::TooLarge { limit });
        }
        Collected::Crowded(rest) => {
            turn_away(&head, rest);
            return Err(Problem::Busy);
        }
        Collected::Faulty(fault) => return Err(Problem::Request(fault)),
    };
    let parsed = parse_body(&body).map_err(Problem::Body)?;
    let route = context.snapshot.route(live);
    let path = head.uri.path();
    let mut target = path.strip_suffix("/async").unwrap_or(path).to_owned();
    if let Some(query) = head.uri.query() {
        target = format!("{target}?{query}");
    }
    let (whole, body) = (body, parsed.payload.clone());
    let sent = Sent { route, head: &head, method: Method::POST, target, body, parsed };
    let mut captured = capture(context, sent, None).map_err(Problem::Order)?;
    if captured.config.handler != HandlerConfig::Upstream {
        captured.task.request = None; // nobody would replay it
    }
    let mut mine = None;
    if let Some(key) = idempotency::key(&head.headers) {
        match idempotency::claim(context, route, &key, &head, &whole, None, route.wait).await {
            Ticket::Mine(claim) => {
                captured.task.id = claim.task.clone();
                mine = Some(claim);
            }
            Ticket::Unclaimed => {}
            Ticket::Served(Conclusion::Task(id)) => {
                let accepted = respond::accepted(&id, &config.proxy.task_path);
                return Ok(idempotency::replayed(context, route, accepted));
            }
            Ticket::Served(_) => return Err(Problem::KeyReused),
            Ticket::Refused(problem) => return Err(problem),
        }
    }
    let circuit = &context.parts().circuit;
    // One whose fate is unknown is cancelled: no 202 was given for it.
    circuit.enqueue(&captured.task, &captured.queue).await.map_err(Problem::Store)?;
    if let Some(claim) = mine {
        claim.conclude(Conclusion::Task(captured.task.id.clone()));
    }
    context.parts().metrics.task_received(captured.task.topic.as_str());
    Ok(respond::accepted(&captured.task.id, &config.proxy.task_path))
}

fn check_head(head: &Parts, body: &Incoming, limit: usize) -> Result<(), Problem> {
    if head.method != Method::POST {
        return Err(Problem::MethodNotAllowed("POST"));
    }
    if !is_json(&head.headers) {
        return Err(Problem::NotJson);
    }
    if body.size_hint().lower() > limit as u64 { Err(Problem::TooLarge { limit }) } else { Ok(()) }
}

/// Lets a client whose body is not wanted finish sending, unless it waits to be told to begin.
pub(super) fn turn_away(head: &Parts, body: impl Body<Data = Bytes> + Unpin + 'static) {
    if !head.headers.contains_key(header::EXPECT) {
        discard(body);
    }
}

/// `/task/<id>`, and what stands below it.
pub(super) async fn task(context: &Context<'_>, request: Request<Incoming>, rest: &str) -> Response<Reply> {
    let asked = request.headers().clone();
    let mut response = if is_preflight(&request) {
        respond::preflight()
    } else {
        try_task(context, request, rest).await.unwrap_or_else(Problem::into_response)
    };
    allow_origin(&context.snapshot, &asked, response.headers_mut());
    response
}

async fn try_task(context: &Context<'_>, request: Request<Incoming>, rest: &str) -> Result<Response<Reply>, Problem> {
    let (id, view) = rest.split_once('/').map_or((rest, None), |(id, view)| (id, Some(view)));
    let id = TaskId::parse(id).map_err(|_| Problem::NoSuchTask)?;
    match view {
        None => {}
        Some("events") => return events::open(context, &request, id).await,
        Some("progress") => return progress::take(context, request, id).await,
        Some(_) => return Err(Problem::NoSuchTask),
    }
    match *request.method() {
        Method::GET | Method::HEAD => wait::ended(context, &request, &id).await.map(|record| respond::task(&record)),
        Method::DELETE => cancel(context, &request, &id).await,
        _ => Err(Problem::MethodNotAllowed("GET, HEAD, DELETE")),
    }
}

/// The task, if it is there and its caller's: unknown, expired and another key's are the same.
pub(super) async fn find(context: &Context<'_>, headers: &HeaderMap, id: &TaskId) -> Result<TaskRecord, Problem> {
    let circuit = &context.parts().circuit;
    let record = circuit.call(circuit.store().get(id)).await.map_err(Problem::Store)?;
    let mine = |record: &TaskRecord| record.owner.is_none() || record.owner == owner(headers);
    record.filter(mine).ok_or(Problem::NoSuchTask)
}

async fn cancel(context: &Context<'_>, request: &Request<Incoming>, id: &TaskId) -> Result<Response<Reply>, Problem> {
    find(context, request.headers(), id).await?;
    let circuit = &context.parts().circuit;
    let ttl = context.snapshot.config.results.ttl;
    match circuit.call(circuit.store().cancel(id, ttl)).await.map_err(Problem::Store)? {
        Cancelled::Done | Cancelled::Running => Ok(respond::cancelled(id)),
        Cancelled::Ended(status) => Err(Problem::AlreadyEnded(status)),
        Cancelled::Unknown => Err(Problem::NoSuchTask),
    }
}
