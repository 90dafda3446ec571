//! From a request to a task.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use sha2::{Digest as _, Sha256};

use super::headers;
use super::service::Context;
use crate::config::{Route, TopicConfig};
use crate::route::{BadOrder, Parsed, order};
use crate::store::Queue;
use crate::task::{CapturedRequest, Owner, Task, TaskId, UnixMs};

/// A task and the queue it goes to.
pub(super) struct Captured<'c> {
    pub(super) task: Task,
    pub(super) queue: Queue,
    /// How its topic is configured.
    pub(super) config: &'c TopicConfig,
}

/// What the client has sent, and how it is to be run.
pub(super) struct Sent<'r> {
    pub(super) route: &'r Route,
    pub(super) head: &'r Parts,
    /// Method, path and query of the replayed request.
    pub(super) method: Method,
    pub(super) target: String,
    /// The body of the replayed request.
    pub(super) body: Bytes,
    pub(super) parsed: Parsed,
}

/// Makes a task of a request. One that is `canaried`, in an epoch of its route's rollout, is a legacy call, which is
/// tried once unless its route says otherwise. Gates judge it by when its route's topic should have ended it, so one that
/// its envelope sends to another topic, or puts off, is in no epoch.
pub(super) fn capture<'c>(
    context: &'c Context<'_>,
    sent: Sent<'_>,
    canaried: Option<u64>,
) -> Result<Captured<'c>, BadOrder> {
    let now = UnixMs::from(jiff::Timestamp::now());
    let id = TaskId::new(now, rand::random());
    let (task, config) = order(sent.parsed, Some(&sent.route.topic), &context.snapshot.config, id, now)?;
    let owner = owner(&sent.head.headers);
    let mut headers = sent.head.headers.clone();
    context.forwarding().apply(&mut headers, &context.request_id, context.trusted);
    for name in &sent.route.drop_headers {
        headers.remove(name);
    }
    headers.remove(&headers::PATH);
    headers.remove(header::CONTENT_LENGTH); // the replay frames its own body
    headers.remove(header::ACCEPT_ENCODING); // a compressed result could not be read by polling
    let is_usual = task.topic == sent.route.topic && task.due.is_none_or(|due| due <= now);
    let request = CapturedRequest { method: sent.method, target: sent.target, headers, body: sent.body };
    let task = Task {
        request: Some(request),
        route: canaried.map(|_| sent.route.name.clone()),
        epoch: canaried.filter(|_| is_usual),
        clients: context.clients.get(),
        owner,
        retries: if canaried.is_some() && !sent.route.retry_canaried { 0 } else { task.retries },
        ..task
    };
    Ok(Captured { queue: Queue::new(&task.topic, config), task, config })
}

/// The digest of the API key that a request carries: `Authorization`, else `X-API-Key`.
pub(super) fn owner(headers: &HeaderMap) -> Option<Owner> {
    let key = headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key"))?;
    let digest = Sha256::digest(key.as_bytes());
    Some(Owner::from_digest(&BASE64.encode(&digest[..16])))
}
