//! Guardrails of the queue and of Prometheus, and the breaker.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fixture::{USUAL_MIN_SAMPLES, make_evaluation, make_evidence, named_gate};
use crate::config::{BreakerConfig, EmptyResultPolicy, GateConfig, GateKind};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::{
    Evaluation, GateMemory, PrometheusSample, Verdict, evaluate_gate, trips_breaker,
};

#[test]
fn guardrails_read_the_queue_and_an_unknown_value_is_an_error() {
    let old = named_gate("lag", GateKind::QueueOldest { max: Duration::from_secs(30) });
    let deep = named_gate("pending", GateKind::QueueDepth { max: 1_000 });
    let (seen, samples) = (make_evidence((0, 1_000), (0, 0)), BTreeMap::new());
    let read = |gate: &GateConfig, queue_depth, oldest: Option<u64>| {
        let queue_oldest = oldest.map(Duration::from_secs);
        let evaluation =
            Evaluation { queue_depth, queue_oldest, ..make_evaluation(&seen, &seen, &samples) };
        evaluate_gate(gate, USUAL_MIN_SAMPLES, &mut GateMemory::default(), &evaluation)
    };
    assert_eq!(
        read(&old, Some(3), Some(31)).explanation,
        "lag: the oldest waiting task is 31 s old > 30 s"
    );
    let verdicts = [
        (read(&old, Some(3), Some(31)), Verdict::Fail),
        (read(&old, Some(3), Some(30)), Verdict::Pass),
        (read(&old, Some(0), None), Verdict::Pass),
        (read(&old, Some(3), None), Verdict::Error),
        (read(&old, None, None), Verdict::Error),
        (read(&deep, Some(1_001), None), Verdict::Fail),
        (read(&deep, Some(1_000), None), Verdict::Pass),
        (read(&deep, None, None), Verdict::Error),
    ];
    for (report, verdict) in verdicts {
        assert_eq!(report.verdict, verdict, "{}", report.explanation);
    }
}

#[test]
fn a_query_without_data_is_neither_pass_nor_fail() {
    let seen = make_evidence((0, 1_000), (0, 0));
    let asked = |sample: Option<PrometheusSample>, on_empty| {
        let (min, max) = (Some(1.0), Some(30.0));
        let gate = named_gate(
            "lag",
            GateKind::PrometheusQuery { query: "lag".into(), min, max, on_empty_result: on_empty },
        );
        let samples = sample.map(|sample| ("lag".to_owned(), sample)).into_iter().collect();
        evaluate_gate(
            &gate,
            USUAL_MIN_SAMPLES,
            &mut GateMemory::default(),
            &make_evaluation(&seen, &seen, &samples),
        )
    };
    let holds = EmptyResultPolicy::Inconclusive;
    assert_eq!(asked(Some(PrometheusSample::Value(31.5)), holds).explanation, "lag: 31.5 > 30");
    assert_eq!(asked(Some(PrometheusSample::Value(2.5)), holds).explanation, "lag: 1 ≤ 2.5 ≤ 30");
    let verdicts = [
        (Some(PrometheusSample::Value(31.5)), holds, Verdict::Fail),
        (Some(PrometheusSample::Value(0.5)), holds, Verdict::Fail),
        (Some(PrometheusSample::Value(30.0)), holds, Verdict::Pass),
        (Some(PrometheusSample::Value(f64::NAN)), holds, Verdict::Inconclusive),
        (Some(PrometheusSample::NotANumber), EmptyResultPolicy::Pass, Verdict::Inconclusive),
        (Some(PrometheusSample::Empty), holds, Verdict::Inconclusive),
        (Some(PrometheusSample::Empty), EmptyResultPolicy::Pass, Verdict::Pass),
        (
            Some(PrometheusSample::Unavailable("connection refused".into())),
            EmptyResultPolicy::Pass,
            Verdict::Error,
        ),
        (None, EmptyResultPolicy::Pass, Verdict::Error),
    ];
    for (sample, on_empty, verdict) in verdicts {
        assert_eq!(asked(sample.clone(), on_empty).verdict, verdict, "{sample:?}");
    }
}

#[test]
fn the_breaker_counts_open_requests_as_well() {
    let breaker =
        BreakerConfig { window: Duration::from_secs(30), min_requests: 20, max_error_ratio: 0.5 };
    let window = |failed, total, accepted| RolloutEvidence {
        accepted_tasks: accepted,
        ..make_evidence((failed, total), (0, 0))
    };
    assert!(trips_breaker(&breaker, &window(10, 20, 20)));
    assert!(!trips_breaker(&breaker, &window(9, 20, 20)));
    assert!(!trips_breaker(&breaker, &window(19, 19, 19)), "too few");
    assert!(!trips_breaker(&breaker, &window(20, 20, 1_000)), "20 failed at once, 980 are open");
    assert!(trips_breaker(&breaker, &window(20, 20, 0)), "late failures of earlier requests");
    let refused = RolloutEvidence { refused_requests: 30, ..window(30, 30, 0) };
    assert!(trips_breaker(&breaker, &refused));
}
