//! Reads the answers of the `upstream` and `http` handlers, up to a limit.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::result::oversized_result_failure;
use super::retry_after::parse_retry_after;
use crate::outbound::strip_hop_by_hop;
use crate::route::is_retryable_status;
use crate::task::{FailureKind, TaskAnswer, TaskFailure};

/// How much of the body of a failed answer the failure's message quotes, characters.
const MAX_QUOTED_CHARS: usize = 200;

/// Reads the body of an answer of at most `limit` bytes.
async fn read_body(mut body: Incoming, limit: usize) -> Result<Bytes, TaskFailure> {
    let oversized = || Err(oversized_result_failure(limit));
    if body.size_hint().lower() > limit as u64 {
        return oversized();
    }
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            TaskFailure::new(
                FailureKind::BrokenExchange,
                format!("the connection broke within the answer: {error}"),
            )
        })?;
        let Ok(data) = frame.into_data() else { continue }; // trailers
        if read.len() + data.len() > limit {
            return oversized();
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// Reads a response of at most `limit` bytes. `to_answer` makes the answer of head and body; with a
/// retryable status the result is a failure that carries the answer and its `Retry-After`.
pub(super) async fn read_answer(
    response: Response<Incoming>,
    limit: usize,
    to_answer: impl FnOnce(&http::response::Parts, Bytes) -> TaskAnswer,
) -> Result<TaskAnswer, TaskFailure> {
    let (head, body) = response.into_parts();
    let status = head.status;
    let body = read_body(body, limit).await;
    if !is_retryable_status(status) {
        return Ok(to_answer(&head, body?));
    }
    let mut message = format!("answered {status}");
    if let Some(quoted) = body.as_ref().ok().and_then(|body| quote_body(body)) {
        message = format!("{message}: {quoted}");
    }
    let answer = body.ok().map(|body| to_answer(&head, body));
    let retry_after = parse_retry_after(&head.headers, jiff::Timestamp::now());
    let failure = TaskFailure::new(FailureKind::FailedStatus, message);
    Err(TaskFailure { answer, retry_after, ..failure })
}

/// The beginning of a text body on one line; `None` for a blank or binary body.
fn quote_body(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().filter(|c| !c.is_control()).take(MAX_QUOTED_CHARS).collect();
    (!short.is_empty()).then_some(short)
}

/// The end-to-end headers of `headers`, without those that a new message frames itself.
pub(super) fn end_to_end_headers(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    strip_hop_by_hop(&mut kept);
    kept.remove(header::EXPECT);
    kept.remove(header::CONTENT_LENGTH);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_end_to_end_headers_are_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "12"),
            ("x-kept", "a"),
            ("x-kept", "b"),
        ] {
            headers.append(name, value.parse().expect("a header value"));
        }
        let kept = end_to_end_headers(&headers);
        assert_eq!(kept.len(), 2, "{kept:?}");
        assert_eq!(kept.get_all("x-kept").iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn text_bodies_are_quoted_on_one_short_line() {
        assert_eq!(
            quote_body(b"{\n  \"detail\": \"no\"\n}").as_deref(),
            Some("{ \"detail\": \"no\" }")
        );
        assert_eq!(
            quote_body("x".repeat(1000).as_bytes()).map(|quoted| quoted.len()),
            Some(MAX_QUOTED_CHARS)
        );
        assert_eq!((quote_body(b""), quote_body(b"\xff\xfe")), (None, None));
    }
}
