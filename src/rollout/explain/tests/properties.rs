//! Properties of every explanation, on random states.

use std::time::Duration;

use proptest::prelude::*;

use super::fixture::{EDIT_PERCENT, ExplainFixture, NO_ACTION};
use crate::cohort_hash::Weight;
use crate::config::RolloutMode;
use crate::rollout::gate::Verdict;
use crate::rollout::{BlockedReason, PausablePhase, PauseReason, RolloutPhase};

fn arb_phase() -> impl Strategy<Value = RolloutPhase> {
    let then = [
        PausablePhase::Shifting,
        PausablePhase::Soaking,
        PausablePhase::Gating,
        PausablePhase::Healthy,
    ];
    let paused = (0..PauseReason::ALL.len(), 0..then.len()).prop_map(move |(why, at)| {
        RolloutPhase::Paused { reason: PauseReason::ALL[why], resume_to: then[at] }
    });
    prop_oneof![
        (0..RolloutPhase::UNPAUSED.len()).prop_map(|at| RolloutPhase::UNPAUSED[at].clone()),
        paused
    ]
}

fn arb_verdict() -> impl Strategy<Value = Verdict> {
    let all = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive, Verdict::Error];
    (0..all.len()).prop_map(move |at| all[at])
}

proptest! {
    #[test]
    fn every_state_is_explained_and_ends_with_what_to_do(
        phase in arb_phase(), weight in 0u16..=10_000, percent in 0u16..=10_000,
        held: bool, blocked: bool, store: bool, leads: bool, manual: bool,
        lags in 0usize..8, accepted in 0u64..1000, total in 0u64..1000, soaked in 0u64..4000,
        passes in 0u32..4, verdict in arb_verdict(), needs in proptest::option::of(0u64..1000),
        per_minute in proptest::option::of(0.0f64..1e6),
    ) {
        let mut case = ExplainFixture::in_phase(phase).with_report(verdict, "errors: so", needs);
        case.state.weight = Weight::from_basis_points(weight);
        case.config.percent = Weight::from_basis_points(percent);
        case.config.mode = if manual { RolloutMode::Manual } else { RolloutMode::Gated };
        case.state.manual_hold = held;
        let reasons = [
            BlockedReason::PercentZero,
            BlockedReason::Saturated { calls: accepted, assigned: total },
            BlockedReason::NoWorker { calls: accepted, assigned: total },
            BlockedReason::SampleRatio {
                mismatched: accepted % 2,
                async_random: accepted,
                random_requests: total,
            },
        ];
        case.state.blocked_reason = blocked.then(|| reasons[lags % 4].clone());
        case.store_reachable = store;
        case.requests_per_minute = per_minute;
        case.state.pass_streak = passes;
        case.is_leader = leads;
        case.lagging_replicas = (0..lags).map(|n| format!("r{n}")).collect();
        case.evidence.accepted_tasks = accepted;
        case.evidence.async_counts.total = total;
        case.state.soak_elapsed = Duration::from_secs(soaked);
        let explanation = case.explanation();
        let (text, next) = (&explanation.text, &explanation.next_action);
        prop_assert!(text.starts_with("invoke is at "), "{text}");
        prop_assert!(text.ends_with(&format!(". Next: {next}")), "{text}");
        let is_action = next == NO_ACTION
            || next == EDIT_PERCENT
            || next.ends_with("(docs/sizing.md)")
            || next.starts_with("omnidaemon rollout ");
        prop_assert!(is_action, "{next}");
        let is_readable = ["NaN", "inf ", "\n"].iter().all(|part| !text.contains(part));
        prop_assert!(is_readable, "{text}");
    }
}
