//! How failed attempts are written down: a line of JSON each, in a record that is written anyway.

use serde::{Deserialize, Serialize};

use crate::task::{AttemptSummary, FailureKind, Task, UnixMs};

/// Characters of an error that are kept of an attempt; the last one's is kept whole elsewhere.
const MAX_ERROR_CHARS: usize = 500;

/// Over this, bytes, no further attempt is written down.
pub(super) const MAX_HISTORY_BYTES: usize = 16_000;

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

/// A run as one line.
pub(super) fn encode_run(run: &AttemptSummary) -> String {
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

/// As much of an error as is kept.
pub(super) fn truncate_error(message: &str) -> String {
    message.chars().take(MAX_ERROR_CHARS).collect()
}

/// The runs of such lines; what cannot be read is left out.
pub(super) fn parse_runs(history: Option<&str>) -> Vec<AttemptSummary> {
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

/// The trace id of a task that came with a `traceparent` (W3C Trace Context).
pub(super) fn find_trace_id(task: &Task) -> Option<String> {
    parse_trace_id(task.request.as_ref()?.headers.get("traceparent")?.to_str().ok()?)
}

/// The trace id in a `traceparent`.
pub(super) fn parse_trace_id(parent: &str) -> Option<String> {
    let trace = parent.split('-').nth(1)?;
    (trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| trace.to_owned())
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
