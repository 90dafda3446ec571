//! Parses `rollout.gates`, `rollout.breaker` and `rollout.prometheus`.
//!
//! Each type of gate has its own keys. A key of another type is refused with the names of the types
//! that have it; without an error, the operator would rely on a limit that has no effect.

use std::time::Duration;

use crate::config::diagnostics::quote_for_message;
use crate::config::parse::addresses::parse_secret_url;
use crate::config::parse::field_error::FieldError;
use crate::config::parse::field_error::suggest;
use crate::config::parse::scalars::{
    count_between, duration_between, number_between, one_of_words, parse_name, parse_number,
    parse_text, share_up_to,
};
use crate::config::parse::section::ConfigSection;
use crate::config::{
    BreakerConfig, EmptyResultPolicy, GateConfig, GateKind, LatencyMeasure, PrometheusConfig,
    RatioLimits, Secret,
};
use crate::task::DURATION_BUCKET_BOUNDS;

/// `threshold` of a `slow_ratio` that is compared with the sync path's own p95.
const SYNC_P95: &str = "sync_p95";

const HOUR_SECS: u64 = 3600;
const DAY_SECS: u64 = 24 * HOUR_SECS;

/// A type of gates, with its keys and their parser.
struct GateSchema {
    /// The value of `type`.
    type_name: &'static str,
    /// The keys beside `name` and `type`.
    keys: &'static [&'static str],
    /// Parses these keys.
    parse_keys: fn(&mut ConfigSection<'_>) -> Option<GateKind>,
}

static GATE_SCHEMAS: [GateSchema; 7] = [
    GateSchema {
        type_name: "error_ratio",
        keys: &["max", "margin", "tolerated_ratio", "alpha"],
        parse_keys: |gate| Some(GateKind::ErrorRatio(parse_ratio_limits(gate))),
    },
    GateSchema {
        type_name: "client_error_ratio",
        keys: &["max", "margin", "tolerated_ratio", "alpha"],
        parse_keys: |gate| Some(GateKind::ClientErrorRatio(parse_ratio_limits(gate))),
    },
    GateSchema { type_name: "deferred_ratio", keys: &["max"], parse_keys: parse_deferred_ratio },
    GateSchema {
        type_name: "slow_ratio",
        keys: &["threshold", "of", "max", "margin", "tolerated_ratio", "alpha"],
        parse_keys: parse_slow_ratio,
    },
    GateSchema { type_name: "queue_oldest", keys: &["max"], parse_keys: parse_queue_oldest },
    GateSchema { type_name: "queue_depth", keys: &["max"], parse_keys: parse_queue_depth },
    GateSchema {
        type_name: "prometheus",
        keys: &["query", "min", "max", "on_empty"],
        parse_keys: parse_prometheus_query,
    },
];

/// The gates of the file; none when it does not have the key `gates`.
pub(crate) fn parse_gates(rollout: &mut ConfigSection<'_>) -> Option<Vec<GateConfig>> {
    let mut gates: Vec<GateConfig> = Vec::new();
    for mut section in rollout.read_sections("gates") {
        let Some(gate) = parse_gate(&mut section) else { continue };
        if gates.iter().any(|other| other.name == gate.name) {
            let message =
                format!("{} is the name of an earlier gate", quote_for_message(&gate.name));
            section.add_problem("name", message, "write another `name`");
        }
        gates.push(gate);
    }
    if rollout.is_empty_list("gates") {
        rollout.add_problem(
            "gates",
            "is empty",
            "write at least one gate, or delete the line for the default gates",
        );
    }
    rollout.has_key("gates").then_some(gates)
}

fn parse_gate(gate: &mut ConfigSection<'_>) -> Option<GateConfig> {
    let hint = format!("write one of {}", list_type_names(&GATE_SCHEMAS.each_ref()));
    let schema = gate.read_required("type", &hint, parse_gate_type);
    let name = gate.read_optional("name", parse_name);
    let Some(schema) = schema else {
        // Without a type it is not known which keys are valid, so none is reported as unknown.
        for key in GATE_SCHEMAS.iter().flat_map(|kind| kind.keys).copied() {
            gate.find_node(key);
        }
        return None;
    };
    refuse_foreign_keys(gate, schema);
    let kind = (schema.parse_keys)(gate);
    let name = name.unwrap_or_else(|| schema.type_name.to_owned());
    kind.map(|kind| GateConfig { name, kind })
}

fn parse_gate_type(text: &str) -> Result<&'static GateSchema, FieldError> {
    let known = GATE_SCHEMAS.each_ref().map(|kind| kind.type_name);
    let wrong = || {
        FieldError::new(
            format!("{} is not a type of gates", quote_for_message(text)),
            suggest(text, &known),
        )
    };
    GATE_SCHEMAS.iter().find(|kind| kind.type_name == text).ok_or_else(wrong)
}

/// Reports keys that belong to gates of another type.
fn refuse_foreign_keys(gate: &mut ConfigSection<'_>, kind: &GateSchema) {
    let mut others: Vec<&'static str> =
        GATE_SCHEMAS.iter().flat_map(|other| other.keys).copied().collect();
    others.retain(|key| !kind.keys.contains(key));
    others.sort_unstable();
    others.dedup();
    for key in others {
        let owners: Vec<&GateSchema> =
            GATE_SCHEMAS.iter().filter(|other| other.keys.contains(&key)).collect();
        let message =
            format!("is a key of {}, not of `{}`", list_type_names(&owners), kind.type_name);
        gate.refuse_keys(&[key], &message, "delete it, or write another `type`");
    }
}

fn list_type_names(kinds: &[&GateSchema]) -> String {
    kinds.iter().map(|kind| format!("`{}`", kind.type_name)).collect::<Vec<_>>().join(", ")
}

fn parse_ratio_limits(gate: &mut ConfigSection<'_>) -> RatioLimits {
    let default = RatioLimits::default();
    if !gate.has_key("max") && !gate.has_key("margin") {
        let hint = "write the highest share, such as `max: 1%`, or by how much it may exceed the \
            sync path's, such as \
                    `margin: 0.5%`";
        gate.add_section_problem(FieldError::new("has neither `max` nor `margin`", hint));
    }
    RatioLimits {
        max: gate.read_optional("max", share_up_to(1.0)),
        margin: gate.read_optional("margin", share_up_to(1.0)),
        // Below 2, the smallest ratio that the gates' tests take as the alternative hypothesis.
        tolerated_ratio: gate.read_or_default(
            "tolerated_ratio",
            default.tolerated_ratio,
            number_between(1.0, 1.9),
        ),
        alpha: gate.read_or_default("alpha", default.alpha, share_up_to(0.1)),
    }
}

fn parse_deferred_ratio(gate: &mut ConfigSection<'_>) -> Option<GateKind> {
    let max =
        gate.read_required("max", "write the highest share, such as `max: 1%`", share_up_to(1.0));
    max.map(|max| GateKind::DeferredRatio(RatioLimits { max: Some(max), ..RatioLimits::default() }))
}

fn parse_slow_ratio(gate: &mut ConfigSection<'_>) -> Option<GateKind> {
    let threshold = gate.read_required(
        "threshold",
        "write the duration above which a request is slow, such as `threshold: 2s`",
        parse_slow_threshold,
    );
    if threshold == Some(None) {
        let message = "is not a key of `threshold: sync_p95`";
        gate.refuse_keys(&["of", "tolerated_ratio"], message, "delete it");
        let RatioLimits { max, margin, .. } = RatioLimits::SYNC_P95;
        return Some(GateKind::SlowerThanSync(RatioLimits {
            max: gate.read_optional("max", share_up_to(1.0)).or(max),
            margin: gate.read_optional("margin", share_up_to(1.0)).or(margin),
            alpha: gate.read_or_default("alpha", RatioLimits::SYNC_P95.alpha, share_up_to(0.1)),
            ..RatioLimits::SYNC_P95
        }));
    }
    let measures = one_of_words(&[
        ("end_to_end", LatencyMeasure::EndToEnd),
        ("acknowledgement", LatencyMeasure::Acknowledgement),
    ]);
    let measure = gate.read_or_default("of", LatencyMeasure::EndToEnd, measures);
    let limits = parse_ratio_limits(gate);
    threshold.flatten().map(|threshold| GateKind::SlowRatio { threshold, measure, limits })
}

/// Parses a bucket bound, or `sync_p95`, which is none: the sync path's own p95.
fn parse_slow_threshold(text: &str) -> Result<Option<Duration>, FieldError> {
    if text == SYNC_P95 { Ok(None) } else { parse_bucket_bound(text).map(Some) }
}

/// Parses a duration that is a bound of the histogram buckets: the number of requests that took
/// longer is known only for these durations.
fn parse_bucket_bound(text: &str) -> Result<Duration, FieldError> {
    let duration = duration_between(1, DAY_SECS)(text)?;
    let bounds = DURATION_BUCKET_BOUNDS.map(Duration::from_secs_f64);
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let above = bounds.partition_point(|bound| *bound < duration);
    let nearest = bounds[above.saturating_sub(1)..].iter().take(if above == 0 { 1 } else { 2 });
    let nearest: Vec<String> =
        nearest.map(|bound| format!("`{}`", humantime::format_duration(*bound))).collect();
    let message = format!(
        "{} is not a bound of the buckets in which durations are counted",
        quote_for_message(text)
    );
    Err(FieldError::new(message, format!("write {}", nearest.join(" or "))))
}

fn parse_queue_oldest(gate: &mut ConfigSection<'_>) -> Option<GateKind> {
    let max = gate.read_required(
        "max",
        "write the highest age, such as `max: 30s`",
        duration_between(1, 365 * DAY_SECS),
    );
    max.map(|max| GateKind::QueueOldest { max })
}

fn parse_queue_depth(gate: &mut ConfigSection<'_>) -> Option<GateKind> {
    let max = gate.read_required(
        "max",
        "write the most tasks that may wait, such as `max: 100`",
        count_between(0, 1_000_000_000_000),
    );
    max.map(|max| GateKind::QueueDepth { max })
}

fn parse_prometheus_query(gate: &mut ConfigSection<'_>) -> Option<GateKind> {
    let query = gate.read_required("query", "write PromQL that gives one value", parse_text);
    let (min, max) =
        (gate.read_optional("min", parse_number), gate.read_optional("max", parse_number));
    if !gate.has_key("min") && !gate.has_key("max") {
        gate.add_section_problem(FieldError::new(
            "has neither `min` nor `max`",
            "write the highest value that passes, such as `max: 30`",
        ));
    }
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        gate.add_problem(
            "min",
            format!("{min} is over `max`, {max}: no value passes"),
            "write a lower one",
        );
    }
    let on_empty = one_of_words(&[
        ("inconclusive", EmptyResultPolicy::Inconclusive),
        ("pass", EmptyResultPolicy::Pass),
    ]);
    let on_empty = gate.read_or_default("on_empty", EmptyResultPolicy::Inconclusive, on_empty);
    query.map(|query| GateKind::PrometheusQuery { query, min, max, on_empty_result: on_empty })
}

pub(crate) fn parse_breaker(
    mut breaker: ConfigSection<'_>,
    default: BreakerConfig,
) -> BreakerConfig {
    BreakerConfig {
        window: breaker.read_or_default(
            "window",
            default.window,
            duration_between(1000, HOUR_SECS),
        ),
        min_requests: breaker.read_or_default(
            "min_requests",
            default.min_requests,
            count_between(1, 1_000_000_000),
        ),
        max_error_ratio: breaker.read_or_default(
            "max_error_ratio",
            default.max_error_ratio,
            share_up_to(1.0),
        ),
    }
}

/// Parses the section `rollout.prometheus`; none when it is absent or its `url` is invalid.
pub(crate) fn parse_prometheus(rollout: &mut ConfigSection<'_>) -> Option<PrometheusConfig> {
    let mut section = rollout.subsection("prometheus");
    if !rollout.has_key("prometheus") {
        return None;
    }
    let url = section.read_required(
        "url",
        "write its address, such as `url: http://127.0.0.1:9090`",
        parse_base_url,
    );
    let timeout =
        section.read_or_default("timeout", Duration::from_secs(5), duration_between(10, 60));
    let max_staleness = section.read_or_default(
        "max_staleness",
        Duration::from_mins(1),
        duration_between(1000, DAY_SECS),
    );
    let grace = section.read_or_default(
        "grace",
        Duration::from_mins(10),
        duration_between(0, 30 * DAY_SECS),
    );
    url.map(|url| PrometheusConfig {
        url,
        query_timeout: timeout,
        max_sample_age: max_staleness,
        unavailable_grace: grace,
    })
}

/// Parses a base URL, without query and fragment, since paths are appended to it.
fn parse_base_url(text: &str) -> Result<Secret, FieldError> {
    let hint = "write its address, such as `http://127.0.0.1:9090`";
    if text.contains(['?', '#']) {
        return Err(FieldError::new("has a query or fragment", hint));
    }
    parse_secret_url(text.trim_end_matches('/'))
        .map_err(|wrong| FieldError { hint: hint.into(), ..wrong })
}
