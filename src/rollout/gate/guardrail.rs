//! Guardrails: gates on a measured value, of the task queue or of a Prometheus query.

use std::time::Duration;

use super::format;
use super::input::{Evaluation, PrometheusSample};
use super::report::Verdict;
use crate::config::EmptyResultPolicy;
use crate::rollout::format::format_exact_span;
use crate::rollout::statistics::count_as_float;

/// A verdict, its explanation and the measured value.
pub(super) type GateReading = (Verdict, String, Option<f64>);

pub(super) fn read_queue_oldest(max: Duration, evaluation: &Evaluation<'_>) -> GateReading {
    let oldest = match (evaluation.queue_depth, evaluation.queue_oldest) {
        (Some(0), None) => Duration::ZERO,
        (_, Some(oldest)) => oldest,
        (_, None) => {
            return (Verdict::Error, "the age of the oldest waiting task is unknown".into(), None);
        }
    };
    let (verdict, sign) = verdict_at_most(oldest <= max);
    let why = format!(
        "the oldest waiting task is {} old {sign} {}",
        format_exact_span(oldest),
        format_exact_span(max)
    );
    (verdict, why, Some(oldest.as_secs_f64()))
}

pub(super) fn read_queue_depth(max: u64, evaluation: &Evaluation<'_>) -> GateReading {
    let Some(depth) = evaluation.queue_depth else {
        return (Verdict::Error, "the number of waiting tasks is unknown".into(), None);
    };
    let (verdict, sign) = verdict_at_most(depth <= max);
    let why =
        format!("{} tasks wait {sign} {}", format::format_count(depth), format::format_count(max));
    (verdict, why, Some(count_as_float(depth)))
}

pub(super) fn read_prometheus_sample(
    sample: Option<&PrometheusSample>,
    min: Option<f64>,
    max: Option<f64>,
    on_empty_result: EmptyResultPolicy,
) -> GateReading {
    let value = match sample {
        Some(PrometheusSample::Value(value)) if value.is_finite() => *value,
        Some(PrometheusSample::Value(_) | PrometheusSample::NotANumber) => {
            return (Verdict::Inconclusive, "the query's value is not a number".into(), None);
        }
        Some(PrometheusSample::Empty) => return read_empty_sample(on_empty_result),
        Some(PrometheusSample::Unavailable(why)) => return (Verdict::Error, why.clone(), None),
        None => return (Verdict::Error, "the query has not run yet".into(), None),
    };
    let too_low = min.filter(|min| value < *min).map(|min| format!("{value} < {min}"));
    let too_high = max.filter(|max| value > *max).map(|max| format!("{value} > {max}"));
    match too_low.or(too_high) {
        Some(broken) => (Verdict::Fail, broken, Some(value)),
        None => (Verdict::Pass, format::format_range(value, min, max), Some(value)),
    }
}

fn read_empty_sample(on_empty_result: EmptyResultPolicy) -> GateReading {
    let why = "the query gave no value";
    match on_empty_result {
        EmptyResultPolicy::Inconclusive => (Verdict::Inconclusive, why.into(), None),
        EmptyResultPolicy::Pass => (Verdict::Pass, format!("{why}, which passes (on_empty)"), None),
    }
}

fn verdict_at_most(holds: bool) -> (Verdict, &'static str) {
    if holds { (Verdict::Pass, "≤") } else { (Verdict::Fail, ">") }
}
