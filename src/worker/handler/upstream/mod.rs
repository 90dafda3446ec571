//! The `upstream` handler: replays the captured request to the legacy upstream, and returns the
//! answer unchanged.
//!
//! The upstream gets what it would have got on the sync path (method, target, end-to-end headers,
//! body), and in addition an idempotency key and the number of the attempt. A task without a
//! captured request is posted to the path of its route.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use super::Handler;
use super::attempt::{ATTEMPT_HEADER, IDEMPOTENCY_KEY_HEADER, TaskAttempt};
use super::http_answer::{end_to_end_headers, read_answer};
use super::http_client::{ExchangeError, HandlerHttpClient, send_request};
use crate::config::UpstreamUrl;
use crate::task::{FailureKind, TaskAnswer, TaskFailure};

/// The `upstream` handler of one attempt.
pub(super) struct UpstreamHandler {
    pub(super) client: HandlerHttpClient,
    /// The servers in the order in which they are tried.
    pub(super) urls: Vec<UpstreamUrl>,
    /// The longest wait for the first byte of an answer.
    pub(super) first_byte_timeout: Option<Duration>,
    /// The largest answer that is read, bytes; one over `results.max_result` is not stored.
    pub(super) max_answer: usize,
    /// The path of a task without a captured request.
    pub(super) default_path: DefaultPath,
}

/// The path to which tasks of a topic without a captured request are posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DefaultPath {
    /// One path.
    Single(String),
    /// The route has a pattern with named segments, so that no single path is known.
    Pattern(String),
}

/// The request to be sent, independent of the server.
struct ReplayRequest<'a> {
    method: Method,
    target: &'a str,
    headers: HeaderMap,
    body: Bytes,
}

// === impl UpstreamHandler ===

#[async_trait]
impl Handler for UpstreamHandler {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        let replay = self.build_replay(attempt)?;
        attempt.run_until_interrupted(self.send_replay(&replay)).await
    }
}

impl UpstreamHandler {
    fn build_replay<'a>(
        &'a self,
        attempt: &'a TaskAttempt,
    ) -> Result<ReplayRequest<'a>, TaskFailure> {
        let json = HeaderValue::from_static("application/json");
        let mut replay = match (&attempt.task.request, &self.default_path) {
            (Some(request), _) => ReplayRequest {
                method: request.method.clone(),
                target: &request.target,
                headers: end_to_end_headers(&request.headers),
                body: request.body.clone(),
            },
            (None, DefaultPath::Single(path)) => ReplayRequest {
                method: Method::POST,
                target: path,
                headers: HeaderMap::from_iter([(header::CONTENT_TYPE, json)]),
                body: attempt.task.payload.clone(),
            },
            (None, DefaultPath::Pattern(pattern)) => {
                return Err(no_single_path_failure(attempt, pattern));
            }
        };
        if !replay.body.is_empty() || replay.method == Method::POST {
            replay.headers.insert(header::CONTENT_LENGTH, replay.body.len().into());
        }
        replay.headers.insert(IDEMPOTENCY_KEY_HEADER, attempt.idempotency_key());
        replay.headers.insert(ATTEMPT_HEADER, attempt.number.into());
        Ok(replay)
    }

    /// Sends the request to each server in turn until one is reached.
    async fn send_replay(&self, replay: &ReplayRequest<'_>) -> Result<TaskAnswer, TaskFailure> {
        let mut unreached = Vec::new();
        for url in &self.urls {
            let request = replay.build_request_for(url)?;
            match send_request(&self.client, request, self.first_byte_timeout).await {
                Ok(response) => {
                    return read_answer(response, self.max_answer, verbatim_answer)
                        .await
                        .map_err(|failure| attribute_failure(url, failure));
                }
                Err(ExchangeError::Failed(failure)) => return Err(attribute_failure(url, failure)),
                Err(ExchangeError::NotSent(reason)) => {
                    tracing::debug!(%url, reason, "upstream not reached");
                    unreached.push(format!("{url}: {reason}"));
                }
            }
        }
        Err(TaskFailure::new(
            FailureKind::Unreachable,
            format!("cannot reach the upstream {}", unreached.join(", ")),
        ))
    }
}

fn no_single_path_failure(attempt: &TaskAttempt, pattern: &str) -> TaskFailure {
    let topic = &attempt.task.topic;
    let message = format!(
        "a task of {topic} without a captured request has no single path to be posted to, since \
         its route's path is {pattern}: give the topic a route without {{segments}}, or an http \
         handler"
    );
    TaskFailure::new(FailureKind::Malformed, message)
}

/// Prefixes the message of a failure with the server. Messages that are shown to clients unchanged
/// are left as they are, and the server is logged.
fn attribute_failure(url: &UpstreamUrl, failure: TaskFailure) -> TaskFailure {
    if matches!(failure.kind, FailureKind::Deadline | FailureKind::UnusableResult) {
        tracing::info!(%url, error = failure.message, "no usable answer from the upstream");
        return failure;
    }
    TaskFailure { message: format!("upstream {url}: {}", failure.message), ..failure }
}

fn verbatim_answer(head: &http::response::Parts, body: Bytes) -> TaskAnswer {
    TaskAnswer {
        status: Some(head.status),
        headers: end_to_end_headers(&head.headers),
        body,
        verbatim: true,
    }
}

// === impl ReplayRequest ===

impl ReplayRequest<'_> {
    /// The request for one server. It keeps the client's `Host`, as on the sync path.
    fn build_request_for(&self, url: &UpstreamUrl) -> Result<Request<Full<Bytes>>, TaskFailure> {
        let unsendable = |error: http::Error| {
            TaskFailure::new(
                FailureKind::Malformed,
                format!("{} is not a request target: {error}", self.target),
            )
        };
        let uri = Uri::builder()
            .scheme(if url.tls { "https" } else { "http" })
            .authority(url.authority())
            .path_and_query(self.target)
            .build()
            .map_err(unsendable)?;
        let mut request = Request::builder()
            .method(&self.method)
            .uri(uri)
            .body(Full::new(self.body.clone()))
            .map_err(unsendable)?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

#[cfg(test)]
mod tests;
