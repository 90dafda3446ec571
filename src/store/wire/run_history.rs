//! The stored history of a task's failed attempts: one line of JSON per attempt, in the task's
//! record.
//!
//! SQLite writes the same lines in SQL (`append_run_history_sql!`); a test compares the two.

use serde::{Deserialize, Serialize};

use crate::task::{AttemptSummary, FailureKind, Task, UnixMs};

/// The most characters of an attempt's error in the history. The error of the last attempt is also
/// stored in full, in the failure.
const MAX_ERROR_CHARS: usize = 500;

/// A history longer than this, in bytes, is not extended.
pub(crate) const MAX_HISTORY_BYTES: usize = 16_000;

#[derive(Serialize, Deserialize)]
struct StoredRun {
    n: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    began: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The line of an attempt.
pub(crate) fn encode_run(run: &AttemptSummary) -> String {
    let stored = StoredRun {
        n: run.number,
        worker: run.worker.clone(),
        began: run.started.map(|at| at.0),
        ended: run.ended.map(|at| at.0),
        kind: run.failure.as_ref().map(|(kind, _)| kind.as_str().to_owned()),
        error: run.failure.as_ref().map(|(_, message)| truncate_error(message)),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// The part of an error that the history stores.
pub(crate) fn truncate_error(message: &str) -> String {
    message.chars().take(MAX_ERROR_CHARS).collect()
}

/// The attempts of a history; lines that cannot be read are left out.
pub(crate) fn parse_runs(history: Option<&str>) -> Vec<AttemptSummary> {
    let run = |stored: StoredRun| AttemptSummary {
        number: stored.n,
        worker: stored.worker,
        started: stored.began.map(UnixMs),
        ended: stored.ended.map(UnixMs),
        failure: stored.error.map(|error| {
            (
                stored.kind.as_deref().map_or(FailureKind::HandlerError, FailureKind::from_word),
                error,
            )
        }),
    };
    history
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| serde_json::from_str(line).ok().map(run))
        .collect()
}

/// The trace id of a task whose captured request has a `traceparent` header (W3C Trace Context).
pub(crate) fn find_trace_id(task: &Task) -> Option<String> {
    parse_trace_id(task.request.as_ref()?.headers.get("traceparent")?.to_str().ok()?)
}

/// The trace id in the value of a `traceparent` header.
pub(crate) fn parse_trace_id(traceparent: &str) -> Option<String> {
    let trace_id = traceparent.split('-').nth(1)?;
    (trace_id.len() == 32 && trace_id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| trace_id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_back_from_their_lines_and_long_errors_are_cut() {
        let run = |number, error: &str| AttemptSummary {
            number,
            worker: Some("h.1.b".into()),
            started: Some(UnixMs(5)),
            ended: Some(UnixMs(7)),
            failure: Some((FailureKind::FailedStatus, error.into())),
        };
        let runs = [run(1, "on two\nlines"), run(2, "\"")];
        let lines = runs.iter().map(encode_run).collect::<Vec<_>>().join("\n");
        assert_eq!(parse_runs(Some(&lines)), runs);
        assert_eq!(parse_runs(Some(&format!("garbage\n{}", encode_run(&runs[0])))), runs[..1]);
        assert!(encode_run(&run(1, &"x".repeat(9000))).len() < MAX_ERROR_CHARS + 200);
    }
}
