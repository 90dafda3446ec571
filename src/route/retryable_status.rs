//! The HTTP statuses after which the same request may succeed later.
//!
//! One list decides whether an answer completes a task, whether a webhook delivery is tried again,
//! and whether an idempotency key is free for another request.

use http::StatusCode;

/// Whether a request that was answered with `status` may succeed when it is sent again: 408, 425,
/// 429, and 500 or above.
#[must_use]
pub fn is_retryable_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_limits_and_server_errors_are_retryable() {
        let retryable = |code| is_retryable_status(StatusCode::from_u16(code).expect("a status"));
        assert!([408, 425, 429, 500, 503, 599].into_iter().all(retryable));
        assert!(![200, 204, 301, 307, 400, 404, 409, 410, 422, 499].into_iter().any(retryable));
    }
}
