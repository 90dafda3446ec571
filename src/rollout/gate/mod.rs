//! Gates: conditions on the async path, and the verdict that the evidence gives.
//!
//! [`evaluate_gate`] is pure: evidence and the gate's memory go in, a report comes out. It may be
//! called any number of times: PASS and FAIL rest on bounds that hold over all evaluations
//! (`statistics/sequential_bounds.rs`). Two things make a gate fail, evidence from a fixed start (a
//! step's cohort) and scores that restart (recent evidence); a healthy rollout has no start, so
//! that only the restarting scores count. PASS always needs `min_samples` and a mature cohort.

mod breaker;
mod client_basis;
mod evaluate;
mod format;
mod guardrail;
mod input;
mod latency;
mod latency_threshold;
mod ratio;
mod report;
#[cfg(test)]
mod tests;

pub use self::breaker::trips_breaker;
pub use self::client_basis::{ClientBasis, NoisyGroup, RequestBasisReason};
pub use self::evaluate::evaluate_gate;
pub use self::input::{Evaluation, GateMemory, LateEvidence, PrometheusSample};
pub use self::latency_threshold::LatencyThreshold;
pub use self::report::{GateReport, ReportedGateKind, UnreadGateReport, Verdict};
