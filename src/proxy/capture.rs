//! From a request to a task.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use sha2::{Digest as _, Sha256};

use super::headers;
use super::service::RequestContext;
use crate::config::{RouteConfig, TopicConfig};
use crate::route::{ParsedBody, TaskRequestError, build_task};
use crate::store::TopicQueue;
use crate::task::{CapturedRequest, Task, TaskId, TaskOwner, UnixMs};

/// A task and the queue it goes to.
pub(super) struct CapturedTask<'c> {
    pub(super) task: Task,
    pub(super) queue: TopicQueue,
    /// How its topic is configured.
    pub(super) topic_config: &'c TopicConfig,
}

/// What the client has sent, and how it is to be run.
pub(super) struct CaptureInput<'r> {
    pub(super) route: &'r RouteConfig,
    pub(super) request_head: &'r Parts,
    /// Method, path and query of the replayed request.
    pub(super) replay_method: Method,
    pub(super) replay_target: String,
    /// The body of the replayed request.
    pub(super) replay_body: Bytes,
    pub(super) parsed_body: ParsedBody,
}

/// Makes a task of a request. One that is `canaried`, in an epoch of its route's rollout, is a
/// legacy call, which is tried once unless its route says otherwise. Gates judge it by when its
/// route's topic should have ended it, so one that its envelope sends to another topic, or puts
/// off, is in no epoch.
pub(super) fn capture_request<'c>(
    context: &'c RequestContext<'_>,
    sent: CaptureInput<'_>,
    canaried: Option<u64>,
) -> Result<CapturedTask<'c>, TaskRequestError> {
    let now = UnixMs::from(jiff::Timestamp::now());
    let id = TaskId::new(now, rand::random());
    let (task, config) =
        build_task(sent.parsed_body, Some(&sent.route.topic), &context.snapshot.config, id, now)?;
    let owner = owner_from_headers(&sent.request_head.headers);
    let mut headers = sent.request_head.headers.clone();
    context.forwarding().apply_to(&mut headers, &context.request_id, context.is_trusted);
    for name in &sent.route.drop_headers {
        headers.remove(name);
    }
    headers.remove(&headers::PATH_HEADER);
    headers.remove(header::CONTENT_LENGTH); // the replay frames its own body
    headers.remove(header::ACCEPT_ENCODING); // a compressed result could not be read by polling
    let is_usual = task.topic == sent.route.topic && task.due.is_none_or(|due| due <= now);
    let request = CapturedRequest {
        method: sent.replay_method,
        target: sent.replay_target,
        headers,
        body: sent.replay_body,
    };
    let task = Task {
        request: Some(request),
        route: canaried.map(|_| sent.route.name.clone()),
        epoch: canaried.filter(|_| is_usual),
        client_group: context.client_group.get(),
        owner,
        retries: if canaried.is_some() && !sent.route.retry_canaried { 0 } else { task.retries },
        ..task
    };
    Ok(CapturedTask { queue: TopicQueue::new(&task.topic, config), task, topic_config: config })
}

/// The digest of the API key that a request carries: `Authorization`, else `X-API-Key`.
pub(super) fn owner_from_headers(headers: &HeaderMap) -> Option<TaskOwner> {
    let key = headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key"))?;
    let digest = Sha256::digest(key.as_bytes());
    Some(TaskOwner::from_digest(&BASE64.encode(&digest[..16])))
}
