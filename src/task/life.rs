//! A task's life: every attempt, and what became of it.

use super::{FailureKind, TaskRecord, UnixMs};

/// One attempt, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptSummary {
    /// Which attempt it was, from 1.
    pub number: u32,
    /// The process that ran it.
    pub worker: Option<String>,
    /// When it began.
    pub started: Option<UnixMs>,
    /// When it ended; none while it runs.
    pub ended: Option<UnixMs>,
    /// Why it failed, in short.
    pub failure: Option<(FailureKind, String)>,
}

/// All that is known of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDetails {
    /// How it stands.
    pub record: TaskRecord,
    /// Its attempts in their order.
    pub attempts: Vec<AttemptSummary>,
    /// The caller's own id for it.
    pub correlation_id: Option<String>,
    /// The trace that it is part of.
    pub trace_id: Option<String>,
    /// The route it was canaried on.
    pub route: Option<String>,
    /// When the next attempt begins, while it waits for one.
    pub next_attempt_at: Option<UnixMs>,
}

// === impl Life ===

impl TaskDetails {
    /// A life of which `runs` have failed so far; the last one is made of the record, where it is
    /// not among them.
    #[must_use]
    pub fn new(
        record: TaskRecord,
        mut attempts: Vec<AttemptSummary>,
        worker: Option<String>,
        began: Option<UnixMs>,
    ) -> Self {
        let last = attempts.last().map_or(0, |run| run.number);
        if record.attempts > last {
            let final_failure =
                record.failure.as_ref().filter(|_| record.status == super::TaskStatus::Failed);
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
