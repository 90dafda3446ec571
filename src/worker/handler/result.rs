//! The results of handlers that return JSON, and the failure of a result that is too large.

use bytes::Bytes;

use crate::task::{FailureKind, TaskFailure};

/// The failure of a result over `max_result` bytes.
pub(super) fn oversized_result_failure(max_result: usize) -> TaskFailure {
    let message =
        format!("the result is over {max_result} bytes: raise results.max_result, or return less");
    TaskFailure::new(FailureKind::UnusableResult, message)
}

/// The body as JSON: unchanged if it is JSON, null if it is blank, otherwise as a JSON string.
pub(super) fn to_json_body(body: &Bytes) -> Bytes {
    let text = body.trim_ascii();
    if text.is_empty() {
        return Bytes::from_static(b"null");
    }
    if serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok() {
        return body.slice_ref(text);
    }
    let text = String::from_utf8_lossy(body);
    serde_json::to_vec(text.trim_end_matches(['\r', '\n']))
        .map_or_else(|_| Bytes::from_static(b"null"), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_json_and_json_keeps_its_spelling() {
        for (given, kept) in [
            ("{\"a\": 1.0e2}\n", "{\"a\": 1.0e2}"),
            ("", "null"),
            (" \n", "null"),
            ("plain text\n", "\"plain text\""),
            ("{\"half\":", "\"{\\\"half\\\":\""),
        ] {
            assert_eq!(to_json_body(&Bytes::from(given)), Bytes::from(kept), "{given:?}");
        }
        assert_eq!(to_json_body(&Bytes::from_static(b"\xff")), Bytes::from("\"\u{fffd}\""));
    }
}
