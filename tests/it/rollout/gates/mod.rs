//! Gates on simulated traffic: how often they are wrong over all looks, and how soon they are
//! right. Seeds are fixed, so the counts are; `cargo run --example gates` asks the same of more
//! runs, for the table in `docs/gates.md`.

mod clients;
pub(crate) mod simulation;

use std::collections::BTreeMap;

use omnidaemon::config::{GateConfig, GateKind, MinSamples, RatioLimits, min_samples_to_certify};
use omnidaemon::rollout::evidence::RolloutEvidence;
use omnidaemon::rollout::gate::{Evaluation, GateMemory, Verdict, evaluate_gate};
use omnidaemon::rollout::statistics::{
    FALSE_PASS_CHANCE, Z_95_ONE_SIDED, clean_events_needed, restarted_threshold, wilson_interval,
};
use simulation::{
    EVALUATIONS_PER_HOUR, SimulatedTraffic, StepOutcome, TrafficModel, run_detectors, run_step,
};

const MIN_SAMPLES: MinSamples = MinSamples { async_requests: 300, sync_requests: 300 };
/// Looks of 30 days.
const EVALUATIONS_PER_MONTH: usize = 24 * 30 * EVALUATIONS_PER_HOUR;

fn error_gate(max: Option<f64>, margin: Option<f64>) -> GateConfig {
    let limits = RatioLimits { max, margin, ..RatioLimits::default() };
    GateConfig { name: "errors".into(), kind: GateKind::ErrorRatio(limits) }
}

/// How many of `runs` are rolled back within an hour.
fn count_rollbacks(truth: TrafficModel, runs: u64) -> usize {
    let gate = error_gate(None, Some(0.005));
    let run = |seed| {
        run_step(
            &gate,
            MIN_SAMPLES,
            &mut SimulatedTraffic::new(truth, seed),
            EVALUATIONS_PER_HOUR,
            |step| step.rolled_back_at.is_some(),
        )
    };
    (0..runs).filter(|seed| run(*seed).rolled_back_at.is_some()).count()
}

#[test]
fn a_healthy_canary_is_not_rolled_back_however_often_it_is_looked_at() {
    for weight in [0.1, 0.5] {
        assert!(count_rollbacks(TrafficModel::healthy(200, weight, 0.01), 40) <= 1, "at {weight}");
    }
}

#[test]
fn failures_that_end_earlier_or_later_than_successes_roll_no_healthy_canary_back() {
    let at_once =
        TrafficModel { evaluations_until_success: 10, ..TrafficModel::healthy(200, 0.1, 0.01) };
    let retried =
        TrafficModel { evaluations_until_failure: 10, ..TrafficModel::healthy(200, 0.1, 0.01) };
    for truth in [at_once, retried] {
        assert!(count_rollbacks(truth, 20) <= 1, "{truth:?}");
        let gate = error_gate(Some(0.02), None);
        let run = |seed| {
            run_step(
                &gate,
                MIN_SAMPLES,
                &mut SimulatedTraffic::new(truth, seed),
                EVALUATIONS_PER_HOUR,
                |_| false,
            )
            .rolled_back_at
        };
        assert_eq!((0..10).filter_map(run).count(), 0, "{truth:?}");
    }
}

#[test]
fn a_worse_canary_is_rolled_back() {
    let healthy = TrafficModel::healthy(200, 0.1, 0.01);
    for (times, least) in [(3.0, 28), (5.0, 30), (20.0, 30)] {
        let caught = count_rollbacks(healthy.with_failures_times(times), 30);
        assert!(caught >= least, "{times} times as many failures: {caught} of 30");
    }
}

#[test]
fn a_canary_that_fails_exactly_as_often_as_max_allows_is_seldom_promoted() {
    let truth = TrafficModel::healthy(400, 0.5, 0.01);
    let gate = error_gate(Some(0.01), None);
    let run = |seed| {
        run_step(
            &gate,
            MIN_SAMPLES,
            &mut SimulatedTraffic::new(truth, seed),
            60,
            |step: &StepOutcome| step.passed_at.is_some(),
        )
    };
    let promoted = (0..200).filter(|seed| run(*seed).passed_at.is_some()).count();
    assert!(promoted <= 10, "{promoted} of 200");

    let one_look_each = |seed| {
        let (mut world, mut failed, mut total) = (SimulatedTraffic::new(truth, seed), 0, 0);
        (0..60).any(|_| {
            let news = world.next_evidence();
            (failed, total) = (failed + news.async_counts.failed, total + news.async_counts.total);
            total >= 300 && wilson_interval(failed, total, Z_95_ONE_SIDED).1 <= 0.01
        })
    };
    let by_wilson = (0..200).filter(|seed| one_look_each(*seed)).count();
    assert!(by_wilson > 30, "what the bounds over all looks are for: {by_wilson} of 200");
}

#[test]
fn a_healthy_month_raises_no_alarm() {
    for (requests, weight) in [(20, 0.1), (20, 0.9)] {
        let watched = run_detectors(
            &mut SimulatedTraffic::new(TrafficModel::healthy(requests, weight, 0.005), 7),
            0.01,
            EVALUATIONS_PER_MONTH,
        );
        assert_eq!(
            watched.alarm_at, None,
            "{requests} requests a look at {weight}: {}",
            watched.highest_log_e
        );
    }
}

#[test]
fn a_million_healthy_requests_do_not_blind_it() {
    let healthy = TrafficModel::healthy(2_000, 0.5, 0.01);
    let (gate, samples) = (error_gate(None, Some(0.005)), BTreeMap::new());
    let (mut world, mut memory, mut hour) =
        (SimulatedTraffic::new(healthy, 3), GateMemory::default(), RolloutEvidence::default());
    let mut look = |world: &mut SimulatedTraffic| {
        let news = world.next_evidence();
        hour.add(&news);
        let (baseline, queue_depth, queue_oldest) = (None, Some(0), None);
        let look = Evaluation {
            late_evidence: &[],
            cohort_evidence: &hour,
            step_evidence: &hour,
            new_evidence: &news,
            frozen_baseline: baseline,
            latency_threshold: None,
            min_p95_requests: 300,
            is_mature: true,
            is_healthy: true,
            is_full_weight: false,
            prometheus_samples: &samples,
            queue_depth,
            queue_oldest,
        };
        evaluate_gate(&gate, MIN_SAMPLES, &mut memory, &look).verdict
    };
    for at in 0..500 {
        assert_ne!(look(&mut world), Verdict::Fail, "look {at}");
    }
    world.model = healthy.with_failures_times(3.0);
    let caught = (1..=20).find(|_| look(&mut world) == Verdict::Fail);
    assert!(caught.is_some_and(|looks| looks <= 10), "{caught:?}");
}

#[test]
fn the_numbers_in_the_document_are_those_of_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gates.md");
    let text = std::fs::read_to_string(path).expect("it is there");
    let told = |number: u64| match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    };
    for (max, percent) in [(0.05, "5 %"), (0.01, "1 %"), (0.005, "0.5 %"), (0.001, "0.1 %")] {
        let all_looks = clean_events_needed(max, 0, 0, FALSE_PASS_CHANCE).expect("a limit over 0");
        let row =
            format!("| {percent} | {} | {} |", told(min_samples_to_certify(max)), told(all_looks));
        assert!(text.contains(&row), "docs/gates.md has no {row}");
    }
    let threshold = format!("ln(1/`alpha`) + {:.1}", restarted_threshold(1.0));
    assert!(text.contains(&threshold), "docs/gates.md does not say {threshold}");
    let clean = RolloutEvidence { accepted_tasks: 143, ..RolloutEvidence::default() };
    let mut seen = clean;
    seen.async_counts.total = 143;
    let few = MinSamples { async_requests: 100, sync_requests: 0 };
    let report = simulation::evaluate_without_late_evidence(
        &error_gate(Some(0.01), None),
        few,
        &mut GateMemory::default(),
        &seen,
        &clean,
    );
    assert!(
        text.contains(&report.explanation),
        "docs/gates.md does not explain: {}",
        report.explanation
    );
}
