//! The report of a ratio gate.

use super::counts::RatioCounts;
use super::evaluation::{RatioBaseline, RatioEvaluation};
use crate::config::{GateKind, LatencyMeasure};
use crate::rollout::format::format_exact_span;
use crate::rollout::gate::format::format_count;
use crate::rollout::gate::report::{GateReport, Verdict};
use crate::rollout::statistics::{FALSE_PASS_CHANCE, lower_bound, share_of, upper_bound};

// === impl RatioEvaluation ===

impl RatioEvaluation<'_> {
    pub(super) fn build_report(
        &self,
        verdict: Verdict,
        needed: Option<u64>,
        findings: Vec<String>,
    ) -> GateReport {
        let RatioCounts { async_bad, async_ended, async_expected, .. } = self.counts;
        let sync = match self.baseline {
            RatioBaseline::LiveSync(bad, total) | RatioBaseline::FrozenSync(bad, total) => {
                Some((bad, total))
            }
            RatioBaseline::NotCompared | RatioBaseline::NoBaseline => None,
        };
        let interval = (
            lower_bound(async_bad, async_expected, self.limits.alpha),
            upper_bound(async_bad, async_ended, FALSE_PASS_CHANCE),
        );
        GateReport {
            gate_name: self.gate.name.clone(),
            gate_kind: self.gate.kind.gate_type().into(),
            verdict,
            explanation: self.explain(sync, findings, needed),
            // the gate of shadow traffic needs copies: no step waits for as many canaried requests
            needed_outcomes: needed.filter(|_| !self.is_shadow_gate()),
            async_bad_of_total: Some((async_bad, async_ended)),
            sync_bad_of_total: sync,
            value: (async_ended > 0).then(|| share_of(async_bad, async_ended)),
            interval: Some(interval),
        }
    }

    /// `errors: 0 of 143 async failed, 0 of 900 sync, upper bound 2.4 % > 1 %, needs 204 more`
    fn explain(
        &self,
        sync: Option<(u64, u64)>,
        findings: Vec<String>,
        needed: Option<u64>,
    ) -> String {
        let counted = format!(
            "{} of {} {} {}",
            format_count(self.counts.async_bad),
            format_count(self.counts.async_ended),
            if self.is_shadow_gate() { "copies" } else { "async" },
            describe_bad_outcome(&self.gate.kind)
        );
        let is_frozen = matches!(self.baseline, RatioBaseline::FrozenSync(..));
        let compared = sync.map(|(bad, total)| {
            let when = if is_frozen { " before" } else { "" };
            format!("{} of {} sync{when}", format_count(bad), format_count(total))
        });
        let missing = needed.map(|needed| format!("needs {} more", format_count(needed)));
        let parts: Vec<String> =
            [counted].into_iter().chain(compared).chain(findings).chain(missing).collect();
        format!("{}: {}", self.gate.name, parts.join(", "))
    }
}

fn describe_bad_outcome(kind: &GateKind) -> String {
    match kind {
        GateKind::ClientErrorRatio(_) => "got a 4xx".into(),
        GateKind::DeferredRatio(_) => "were deferred".into(),
        GateKind::ShadowMismatch(_) => "were answered differently".into(),
        GateKind::SlowRatio { threshold, measure: LatencyMeasure::EndToEnd, .. } => {
            format!("took over {}", format_exact_span(*threshold))
        }
        GateKind::SlowRatio { threshold, measure: LatencyMeasure::Acknowledgement, .. } => {
            format!("were answered after {}", format_exact_span(*threshold))
        }
        _ => "failed".into(),
    }
}
