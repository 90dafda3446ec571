//! Reads `Retry-After` (RFC 9110 §10.2.3) of an answer: a number of seconds, or a date.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// How long an answer asks to wait before the next request; `None` if it does not, or names no
/// time. A date is compared with the answer's own `Date`, if there is one, since the clocks of the
/// two servers can differ; `now` is used otherwise. A date in the past is no wait.
pub(super) fn parse_retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX))); // fails if too large
    }
    let date = |name: HeaderName| {
        DateTimeParser::new().parse_timestamp(headers.get(name)?.as_bytes()).ok()
    };
    let wait = date(header::RETRY_AFTER)?.duration_since(date(header::DATE).unwrap_or(now));
    Some(wait.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_anything_else_is_no_wait() {
        let now: Timestamp = "1994-11-06T08:49:37Z".parse().expect("a time");
        let wait = |retry_after: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, retry_after.parse().expect("a header value"));
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().expect("a header value"));
            }
            parse_retry_after(&headers, now)
        };
        let seconds = |count| Some(Duration::from_secs(count));
        assert_eq!(wait("6", None), seconds(6));
        assert_eq!(wait(" 0 ", None), seconds(0));
        assert_eq!(wait("99999999999999999999999", None), seconds(u64::MAX));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT", None), seconds(60));
        assert_eq!(wait("Sun, 06 Nov 1994 08:00:00 GMT", None), seconds(0));
        let other_clock = Some("Sun, 06 Nov 1994 10:00:00 GMT");
        assert_eq!(wait("Sun, 06 Nov 1994 10:00:06 GMT", other_clock), seconds(6));
        for text in ["", "-1", "1.5", "soon", "6s"] {
            assert_eq!(wait(text, None), None, "{text:?}");
        }
        assert_eq!(parse_retry_after(&HeaderMap::new(), now), None);
    }
}
