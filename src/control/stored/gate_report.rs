//! A gate's report and memory in the stored form.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rollout::gate::{GateMemory, GateReport, ReportedGateKind, UnreadGateReport, Verdict};
use crate::rollout::statistics::SequentialScores;

#[derive(Serialize, Deserialize)]
pub(super) struct StoredGateReport {
    gate: String,
    kind: String,
    verdict: String,
    why: String,
    needs: Option<u64>,
    asynchronous: Option<(u64, u64)>,
    sync: Option<(u64, u64)>,
    value: Option<f64>,
    interval: Option<(f64, f64)>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredGateMemory {
    since_start: SequentialScores,
    since_worst: SequentialScores,
    over_limit: SequentialScores,
}

/// All reports of a state: those that were read, and those that were kept unread.
pub(super) fn reports_to_stored(read: &[GateReport], unread: &[UnreadGateReport]) -> Vec<Value> {
    let read =
        read.iter().filter_map(|report| serde_json::to_value(StoredGateReport::from(report)).ok());
    let unread = unread.iter().filter_map(|report| serde_json::from_str(&report.stored_json).ok());
    read.chain(unread).collect()
}

/// The reports of a stored state. One whose verdict this release does not know is kept unread: it
/// is doubt wherever reports decide, and is written back as it was. A kind that it does not know
/// is kept as its word.
pub(super) fn reports_from_stored(stored: Vec<Value>) -> (Vec<GateReport>, Vec<UnreadGateReport>) {
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for value in stored {
        match read_report(&value) {
            Some(report) => read.push(report),
            None => unread.push(keep_unread(&value)),
        }
    }
    (read, unread)
}

fn read_report(value: &Value) -> Option<GateReport> {
    let stored: StoredGateReport = serde_json::from_value(value.clone()).ok()?;
    Some(GateReport {
        verdict: Verdict::parse(&stored.verdict)?,
        gate_name: stored.gate,
        gate_kind: ReportedGateKind::from_word(&stored.kind),
        explanation: stored.why,
        needed_outcomes: stored.needs,
        async_bad_of_total: stored.asynchronous,
        sync_bad_of_total: stored.sync,
        value: stored.value,
        interval: stored.interval,
    })
}

fn keep_unread(value: &Value) -> UnreadGateReport {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    UnreadGateReport {
        gate_name: text("gate"),
        verdict: text("verdict"),
        explanation: text("why"),
        stored_json: value.to_string(),
    }
}

// === impl StoredGateReport ===

impl From<&GateReport> for StoredGateReport {
    fn from(report: &GateReport) -> Self {
        Self {
            gate: report.gate_name.clone(),
            kind: report.gate_kind.as_str().to_owned(),
            verdict: report.verdict.as_str().to_owned(),
            why: report.explanation.clone(),
            needs: report.needed_outcomes,
            asynchronous: report.async_bad_of_total,
            sync: report.sync_bad_of_total,
            value: report.value,
            interval: report.interval,
        }
    }
}

// === impl StoredGateMemory ===

impl From<&GateMemory> for StoredGateMemory {
    fn from(memory: &GateMemory) -> Self {
        Self {
            since_start: memory.scores_from_start,
            since_worst: memory.restarting_scores,
            over_limit: memory.ceiling_scores,
        }
    }
}

impl From<StoredGateMemory> for GateMemory {
    fn from(stored: StoredGateMemory) -> Self {
        Self {
            scores_from_start: stored.since_start,
            restarting_scores: stored.since_worst,
            ceiling_scores: stored.over_limit,
        }
    }
}
