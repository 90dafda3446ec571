//! Compares the sync path's response with that of the copy.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;

use crate::metrics::ShadowOutcome;
use crate::proxy::answer::response::respond_with_outcome;
use crate::route::{ResponseDifference, compare_responses};
use crate::task::{TaskId, TaskRecord};

/// The longest JSON pointer that is logged, characters.
const MAX_LOGGED_POINTER: usize = 200;

/// Compares the sync path's status and body with the response that a client of the canary would get
/// for `record`. Large bodies take a while, so this runs off the threads that serve clients, and
/// takes one of the thread's `comparison_slots`.
pub(crate) async fn compare_with_original(
    route: &str,
    record: &TaskRecord,
    (status, body): (StatusCode, Bytes),
    ignored_pointers: Vec<String>,
    comparison_slots: &Semaphore,
) -> ShadowOutcome {
    let _permit = comparison_slots.acquire().await;
    let (copy_head, copy_body) = respond_with_outcome(record).into_parts();
    let copy_body =
        copy_body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let comparison = tokio::task::spawn_blocking(move || {
        compare_responses((status, &body), (copy_head.status, &copy_body), &ignored_pointers)
    });
    match comparison.await {
        Ok(None) => return ShadowOutcome::Match,
        Ok(Some(ResponseDifference::Status)) => {
            log_difference(route, &record.id, "status", Some((status, copy_head.status)));
        }
        Ok(Some(ResponseDifference::Body(pointer))) => {
            log_difference(route, &record.id, &pointer, None);
        }
        Err(_) => return ShadowOutcome::CopyLost, // the process is ending
    }
    ShadowOutcome::Mismatch
}

/// Logs where the answers differ: a JSON pointer or both statuses, and no value of a body.
pub(crate) fn log_difference(
    route: &str,
    task_id: &TaskId,
    at: &str,
    statuses: Option<(StatusCode, StatusCode)>,
) {
    let at: String = at.chars().take(MAX_LOGGED_POINTER).collect();
    let (sync, copy) = statuses.map(|(sync, copy)| (sync.as_u16(), copy.as_u16())).unzip();
    tracing::info!(route, %task_id, at, sync, copy, "the copy of a request was answered otherwise");
}
