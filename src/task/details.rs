//! The full history of a task: its record and every attempt.

use super::outcome::FailureKind;
use super::record::{TaskRecord, TaskStatus};
use super::time::UnixMs;

/// One attempt of a task, as far as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptSummary {
    /// The attempt's number, from 1.
    pub number: u32,
    /// The process that ran the attempt.
    pub worker: Option<String>,
    /// When the attempt began.
    pub started: Option<UnixMs>,
    /// When the attempt ended; `None` while it runs.
    pub ended: Option<UnixMs>,
    /// The kind and the message of the failure, for a failed attempt.
    pub failure: Option<(FailureKind, String)>,
}

/// A task's record with every known attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDetails {
    /// The current state.
    pub record: TaskRecord,
    /// The attempts in their order.
    pub attempts: Vec<AttemptSummary>,
    /// The caller's own id for the task.
    pub correlation_id: Option<String>,
    /// The trace that the task belongs to.
    pub trace_id: Option<String>,
    /// The route that canaried the task.
    pub route: Option<String>,
    /// When the next attempt begins, while the task waits for a retry.
    pub next_attempt_at: Option<UnixMs>,
}

// === impl TaskDetails ===

impl TaskDetails {
    /// The details of `record` with the stored `attempts`. The store keeps failed attempts alone:
    /// where the last attempt is not among them, it is added from the record, with the process
    /// `worker` that runs it or ran it and its start `began`.
    #[must_use]
    pub fn new(
        record: TaskRecord,
        mut attempts: Vec<AttemptSummary>,
        worker: Option<String>,
        began: Option<UnixMs>,
    ) -> Self {
        let last = attempts.last().map_or(0, |attempt| attempt.number);
        if record.attempts > last {
            let final_failure =
                record.failure.as_ref().filter(|_| record.status == TaskStatus::Failed);
            attempts.push(AttemptSummary {
                number: record.attempts,
                worker,
                started: began,
                ended: record.finished,
                failure: final_failure.map(|failure| (failure.kind, failure.message.clone())),
            });
        }
        Self {
            record,
            attempts,
            correlation_id: None,
            trace_id: None,
            route: None,
            next_attempt_at: None,
        }
    }
}
