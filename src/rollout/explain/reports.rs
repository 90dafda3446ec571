//! Gate reports and arrival times in explanations.

use std::time::Duration;

use super::input::ExplanationInput;
use crate::cohort_hash::Weight;
use crate::rollout::format::format_span;
use crate::rollout::gate::{ClientBasis, GateReport, NoisyGroup};
use crate::rollout::served_share::describe_served_share;

// === impl ExplanationInput ===

impl ExplanationInput<'_> {
    /// The reports of gates that the file has.
    pub(super) fn configured_reports(&self) -> impl Iterator<Item = &GateReport> {
        let gates = &self.config.gates;
        let is_configured =
            |report: &&GateReport| gates.iter().any(|gate| gate.name == report.gate_name);
        self.state.gate_reports.iter().filter(is_configured)
    }

    /// What else to know of the evidence, unless `text` says it already: a client whose failures do
    /// not count, why failures are counted by request, and what of the async cohort was served
    /// sync.
    pub(super) fn format_evidence_notes(&self, text: &str) -> String {
        let evidence = self.cohort_evidence.filter(|evidence| evidence.assigned_to_async() > 0);
        let Some(evidence) = evidence.filter(|_| self.state.weight > Weight::ZERO) else {
            return String::new();
        };
        let noisy = NoisyGroup::from_evidence(evidence)
            .map(|noisy| format!("failures: {noisy}"))
            .filter(|_| !text.contains(NoisyGroup::CONSEQUENCE));
        let basis = ClientBasis::from_evidence(evidence)
            .explain()
            .filter(|_| evidence.canaried_requests() > 0);
        let basis = basis.map(|why| format!("failures count by request, since {why}"));
        let served = describe_served_share(evidence);
        let notes: Vec<String> = noisy.into_iter().chain(basis).chain(served).collect();
        if notes.is_empty() { String::new() } else { format!("; {}", notes.join("; ")) }
    }

    /// The explanations of the reports that `filter` picks, with the time until the outcomes that
    /// they need.
    pub(super) fn format_reports(&self, filter: impl Fn(&GateReport) -> bool) -> String {
        let describe = |report: &GateReport| {
            let needed = report.needed_outcomes.filter(|needed| *needed > 0);
            match needed.and_then(|needed| self.estimate_arrival_time(needed)) {
                Some(time) => {
                    format!("{}, about {} at this rate", report.explanation, format_span(time))
                }
                None => report.explanation.clone(),
            }
        };
        let picked = self.configured_reports().filter(|report| filter(report));
        picked.map(describe).collect::<Vec<_>>().join("; ")
    }

    /// `needs 125 more, about 6 min at this rate`
    pub(super) fn format_needed_requests(&self, needed: u64) -> String {
        match (self.estimate_arrival_time(needed), self.requests_per_minute) {
            (Some(time), _) => {
                format!("needs {needed} more, about {} at this rate", format_span(time))
            }
            (None, Some(_)) => {
                format!("needs {needed} more, and no canaried request came recently")
            }
            (None, None) => format!("needs {needed} more"),
        }
    }

    /// The time until so many canaried requests have come at the current rate; none where the rate
    /// is 0 or unknown.
    pub(super) fn estimate_arrival_time(&self, requests: u64) -> Option<Duration> {
        let rate = self.requests_per_minute.filter(|rate| *rate > 0.0)?;
        #[allow(clippy::cast_precision_loss)] // an estimate
        let minutes = requests as f64 / rate;
        Duration::try_from_secs_f64(minutes * 60.0).ok()
    }
}
