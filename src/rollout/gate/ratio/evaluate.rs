//! Evaluates one ratio gate: scores, then FAIL, then PASS, then the report.

use super::evaluation::RatioEvaluation;
use crate::config::{GateConfig, MinSamples, RatioLimits};
use crate::rollout::gate::input::{Evaluation, GateMemory};
use crate::rollout::gate::report::{GateReport, Verdict};

pub(in crate::rollout::gate) fn evaluate_ratio(
    gate: &GateConfig,
    limits: &RatioLimits,
    min_samples: MinSamples,
    memory: &mut GateMemory,
    evaluation: &Evaluation<'_>,
) -> GateReport {
    let ratio = RatioEvaluation::new(gate, limits, min_samples, evaluation);
    ratio.update_memory(memory);
    let violations = ratio.find_violations(memory);
    let conditions = ratio.check_pass_conditions();
    let verdict = match () {
        () if !violations.is_empty() => Verdict::Fail,
        () if conditions.iter().all(|condition| condition.is_met) => Verdict::Pass,
        () => Verdict::Inconclusive,
    };
    let needed = conditions.iter().filter_map(|condition| condition.needed_outcomes).max();
    let needed = needed.filter(|needed| *needed > 0 && verdict == Verdict::Inconclusive);
    let noisy = ratio.find_noisy_group().map(|noisy| noisy.to_string());
    let findings: Vec<String> = if violations.is_empty() {
        conditions.into_iter().map(|condition| condition.text).collect()
    } else {
        violations
    };
    let findings = noisy.into_iter().chain(findings).collect();
    ratio.build_report(verdict, needed, findings)
}
