//! Captures a request as a task: its payload, and the request that a worker is to replay.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, header};

use crate::config::{RouteConfig, TopicConfig};
use crate::proxy::context::RequestContext;
use crate::proxy::http::api_key::owner_from_headers;
use crate::proxy::http::headers::PATH_HEADER;
use crate::proxy::http::validate::request_target;
use crate::route::{ParsedBody, TaskRequestError, build_task};
use crate::store::TopicQueue;
use crate::task::{CapturedRequest, Task, TaskId, UnixMs};

/// A captured request: its task, and the queue that the task goes to.
pub(crate) struct CapturedTask<'c> {
    pub(crate) task: Task,
    pub(crate) queue: TopicQueue,
    /// The configuration of the task's topic.
    pub(crate) topic_config: &'c TopicConfig,
}

/// What the client sent, and the request that is to be replayed.
pub(crate) struct CaptureInput<'r> {
    pub(crate) route: &'r RouteConfig,
    pub(crate) request_head: &'r Parts,
    pub(crate) replay_method: Method,
    /// Path and query of the replayed request.
    pub(crate) replay_target: String,
    pub(crate) replay_body: Bytes,
    /// The payload, and what an envelope asks for.
    pub(crate) parsed_body: ParsedBody,
}

// === impl CaptureInput ===

impl<'r> CaptureInput<'r> {
    /// A legacy call, replayed with the method, target and body that the client sent.
    pub(crate) fn legacy_call(
        route: &'r RouteConfig,
        request_head: &'r Parts,
        body: &Bytes,
        parsed_body: ParsedBody,
    ) -> Self {
        Self {
            route,
            request_head,
            replay_method: request_head.method.clone(),
            replay_target: request_target(&request_head.uri).to_owned(),
            replay_body: body.clone(),
            parsed_body,
        }
    }
}

/// Captures a request as a task. `canary_epoch` is the epoch of the route's rollout for a canaried
/// legacy call, which is tried once unless its route sets `retry_canaried`. Gates expect the tasks
/// of an epoch to end as fast as the route's topic allows, so a task that its envelope sends to
/// another topic, or delays, is assigned no epoch.
pub(crate) fn capture_request<'c>(
    context: &'c RequestContext<'_>,
    input: CaptureInput<'_>,
    canary_epoch: Option<u64>,
) -> Result<CapturedTask<'c>, TaskRequestError> {
    let now = UnixMs::from(jiff::Timestamp::now());
    let id = TaskId::new(now, rand::random());
    let (task, config) =
        build_task(input.parsed_body, Some(&input.route.topic), &context.snapshot.config, id, now)?;
    let owner = owner_from_headers(&input.request_head.headers);
    let mut headers = input.request_head.headers.clone();
    context.forwarding().apply_to(&mut headers, &context.request_id, context.is_trusted);
    for name in &input.route.drop_headers {
        headers.remove(name);
    }
    headers.remove(&PATH_HEADER);
    // The replay sets its own length.
    headers.remove(header::CONTENT_LENGTH);
    // A client that polls could not read a compressed result.
    headers.remove(header::ACCEPT_ENCODING);
    let is_comparable = task.topic == input.route.topic && task.due.is_none_or(|due| due <= now);
    let request = CapturedRequest {
        method: input.replay_method,
        target: input.replay_target,
        headers,
        body: input.replay_body,
    };
    let task = Task {
        request: Some(request),
        route: canary_epoch.map(|_| input.route.name.clone()),
        epoch: canary_epoch.filter(|_| is_comparable),
        client_group: context.client_group.get(),
        owner,
        retries: if canary_epoch.is_some() && !input.route.retry_canaried {
            0
        } else {
            task.retries
        },
        ..task
    };
    Ok(CapturedTask { queue: TopicQueue::new(&task.topic, config), task, topic_config: config })
}
