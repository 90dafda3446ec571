//! Properties of every gate on random evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::fixture::{
    SMALL_MIN_SAMPLES, evaluate_fresh, make_evaluation, make_evidence, named_gate,
};
use crate::config::{GateConfig, GateKind, LatencyMeasure, MinSamples, RatioLimits};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::{Evaluation, GateMemory, Verdict, evaluate_gate};
use crate::task::DURATION_BUCKET_COUNT;

fn arb_gate() -> impl Strategy<Value = GateConfig> {
    let limits = (prop::option::of(0.0005f64..0.2), prop::option::of(0.0005f64..0.1));
    (0usize..5, limits).prop_map(|(kind, (max, margin))| {
        let limits = RatioLimits {
            max: max.or(margin.is_none().then_some(0.01)),
            margin,
            ..RatioLimits::default()
        };
        let threshold = Duration::from_secs(2);
        named_gate(
            "gate",
            match kind {
                0 => GateKind::ErrorRatio(limits),
                1 => GateKind::ClientErrorRatio(limits),
                2 => GateKind::DeferredRatio(limits),
                3 => GateKind::SlowRatio { threshold, measure: LatencyMeasure::EndToEnd, limits },
                _ => GateKind::SlowRatio {
                    threshold,
                    measure: LatencyMeasure::Acknowledgement,
                    limits,
                },
            },
        )
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts below 2^53"
)]
fn part_of(of: u64, share: f64) -> u64 {
    (of as f64 * share) as u64
}

prop_compose! {
    fn any_evidence()(
        accepted in 0u64..3_000, ended in 0.0f64..=1.0, failed in 0.0f64..=1.0,
        rejected in 0.0f64..=1.0,
        slow in 0.0f64..=1.0, rare in prop::bool::ANY, sync in (0u64..30_000, 0.0f64..0.2),
    ) -> RolloutEvidence {
        let part = |of: u64, share: f64| {
            part_of(of, if rare { share * share * share * share } else { share })
        };
        let total = if rare { accepted } else { part(accepted, ended) };
        let failed = part(total, failed);
        let sync_failed = part(sync.0, sync.1);
        let mut evidence = RolloutEvidence {
            accepted_tasks: accepted,
            ..make_evidence((failed, total), (sync_failed, sync.0))
        };
        evidence.async_counts.client_errors = part(total - failed, rejected);
        evidence.deferred_requests = part(accepted, slow);
        let slow = part(total, slow);
        evidence.async_counts.durations[0] = total - slow;
        evidence.async_counts.durations[DURATION_BUCKET_COUNT - 1] = slow;
        evidence.acknowledgement_times = evidence.async_counts.durations;
        evidence.sync_counts.durations[0] = sync.0;
        evidence
    }
}

/// The same requests, where one more is failed, slow and deferred.
fn with_one_more_failure(evidence: &RolloutEvidence) -> Option<RolloutEvidence> {
    let mut worse = *evidence;
    let counts = &mut worse.async_counts;
    if counts.failed + counts.client_errors >= counts.total
        || counts.durations[0] == 0
        || worse.deferred_requests >= worse.accepted_tasks
    {
        return None;
    }
    counts.failed += 1;
    for took in [&mut counts.durations, &mut worse.acknowledgement_times] {
        took[0] -= 1;
        took[DURATION_BUCKET_COUNT - 1] += 1;
    }
    worse.deferred_requests += 1;
    Some(worse)
}

proptest! {
    #[test]
    fn a_gate_never_passes_below_min_samples_or_before_the_cohort_is_mature(
        gate in arb_gate(), seen in any_evidence(), asynchronous in 0u64..3_000,
        mature in prop::bool::ANY,
    ) {
        let min = MinSamples { async_requests: asynchronous, sync_requests: 0 };
        let samples = BTreeMap::new();
        let evaluation =
            Evaluation { is_mature: mature, ..make_evaluation(&seen, &seen, &samples) };
        let report = evaluate_gate(&gate, min, &mut GateMemory::default(), &evaluation);
        if report.verdict == Verdict::Pass {
            prop_assert!(mature, "{}", report.explanation);
            let ended = report.async_bad_of_total.map(|(_, ended)| ended);
            prop_assert!(ended >= Some(asynchronous), "{}", report.explanation);
        }
    }

    #[test]
    fn more_failures_never_improve_a_verdict(
        gate in arb_gate(), seen in any_evidence(), scores in prop::array::uniform3(-50.0f64..20.0),
    ) {
        let memory = GateMemory {
            scores_from_start: scores,
            restarting_scores: scores,
            ceiling_scores: scores,
        };
        let samples = BTreeMap::new();
        let verdict = |seen: &RolloutEvidence| {
            let evaluation = make_evaluation(seen, seen, &samples);
            evaluate_gate(&gate, SMALL_MIN_SAMPLES, &mut memory.clone(), &evaluation).verdict
        };
        let Some(worse) = with_one_more_failure(&seen) else { return Ok(()) };
        let (before, after) = (verdict(&seen), verdict(&worse));
        let changed = format!("{before:?}, then {after:?}");
        prop_assert!(before == Verdict::Pass || after != Verdict::Pass, "{changed}");
        prop_assert!(before != Verdict::Fail || after == Verdict::Fail, "{changed}");
    }

    #[test]
    fn the_needed_outcomes_are_exactly_those_that_decide(
        gate in arb_gate(), seen in any_evidence(),
    ) {
        let sync_requests = u64::from(seen.sync_counts.total > 0);
        let min = MinSamples { async_requests: 100, sync_requests };
        let report = evaluate_fresh(&gate, min, &seen);
        let needed = report.needed_outcomes.filter(|needed| *needed > 0);
        let Some(needed) = needed else { return Ok(()) };
        let more = |count: u64| {
            let mut more = seen;
            more.accepted_tasks += count;
            more.async_counts.total += count;
            for took in [&mut more.async_counts.durations, &mut more.acknowledgement_times] {
                took[0] += count;
            }
            evaluate_fresh(&gate, min, &more)
        };
        let why = report.explanation;
        prop_assert_ne!(more(needed).verdict, Verdict::Inconclusive, "{}", why);
        prop_assert_ne!(more(needed - 1).verdict, Verdict::Pass, "{}", why);
    }
}
