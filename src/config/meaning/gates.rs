//! `rollout.gates`, and what judges beside them: `breaker` and `prometheus`.
//!
//! Each type of gate has its keys; one of another type is refused by name, since a limit that nobody looks at is worse
//! than none.

use std::time::Duration;

use super::addresses::secret_url;
use super::section::{Section, meant};
use super::values::{Wrong, between, count, duration, name, number, share, text, word};
use crate::config::problem::shown;
use crate::config::{Breaker, Gate, GateKind, Latency, Limits, OnEmpty, Prometheus, Secret};
use crate::task::DURATION_BUCKETS;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A type of gates.
struct Kind {
    /// `type`
    word: &'static str,
    /// Its keys beside `name` and `type`.
    keys: &'static [&'static str],
    /// Reads them.
    read: fn(&mut Section<'_>) -> Option<GateKind>,
}

static KINDS: [Kind; 7] = [
    Kind {
        word: "error_ratio",
        keys: &["max", "margin", "tolerated_ratio", "alpha"],
        read: |gate| Some(GateKind::ErrorRatio(limits(gate))),
    },
    Kind {
        word: "client_error_ratio",
        keys: &["max", "margin", "tolerated_ratio", "alpha"],
        read: |gate| Some(GateKind::ClientErrorRatio(limits(gate))),
    },
    Kind { word: "deferred_ratio", keys: &["max"], read: deferred },
    Kind { word: "slow_ratio", keys: &["threshold", "of", "max", "margin", "tolerated_ratio", "alpha"], read: slow },
    Kind { word: "queue_oldest", keys: &["max"], read: queue_oldest },
    Kind { word: "queue_depth", keys: &["max"], read: queue_depth },
    Kind { word: "prometheus", keys: &["query", "min", "max", "on_empty"], read: query },
];

/// The gates of the file; none where it has none.
pub(super) fn gates(rollout: &mut Section<'_>) -> Option<Vec<Gate>> {
    let mut gates: Vec<Gate> = Vec::new();
    for mut section in rollout.sections("gates") {
        let Some(gate) = gate(&mut section) else { continue };
        if gates.iter().any(|other| other.name == gate.name) {
            let message = format!("{} is the name of an earlier gate", shown(&gate.name));
            section.problem("name", message, "write another `name`");
        }
        gates.push(gate);
    }
    if rollout.is_empty("gates") {
        rollout.problem("gates", "is empty", "write what must hold, or delete the line for the default gates");
    }
    rollout.has("gates").then_some(gates)
}

fn gate(gate: &mut Section<'_>) -> Option<Gate> {
    let hint = format!("write one of {}", words(&KINDS.each_ref()));
    let kind = gate.require("type", &hint, kind);
    let named = gate.optional("name", name);
    let Some(kind) = kind else {
        // Nobody can tell which of the other keys are right.
        for key in KINDS.iter().flat_map(|kind| kind.keys).copied() {
            gate.node(key);
        }
        return None;
    };
    refuse_others(gate, kind);
    let read = (kind.read)(gate);
    let name = named.unwrap_or_else(|| kind.word.to_owned());
    read.map(|kind| Gate { name, kind })
}

fn kind(text: &str) -> Result<&'static Kind, Wrong> {
    let known = KINDS.each_ref().map(|kind| kind.word);
    let wrong = || Wrong::new(format!("{} is not a type of gates", shown(text)), meant(text, &known));
    KINDS.iter().find(|kind| kind.word == text).ok_or_else(wrong)
}

/// Reports keys that gates of another type have.
fn refuse_others(gate: &mut Section<'_>, kind: &Kind) {
    let mut others: Vec<&'static str> = KINDS.iter().flat_map(|other| other.keys).copied().collect();
    others.retain(|key| !kind.keys.contains(key));
    others.sort_unstable();
    others.dedup();
    for key in others {
        let of: Vec<&Kind> = KINDS.iter().filter(|other| other.keys.contains(&key)).collect();
        let message = format!("is of {}, not of `{}`", words(&of), kind.word);
        gate.refuse(&[key], &message, "delete it, or write another `type`");
    }
}

fn words(kinds: &[&Kind]) -> String {
    kinds.iter().map(|kind| format!("`{}`", kind.word)).collect::<Vec<_>>().join(", ")
}

fn limits(gate: &mut Section<'_>) -> Limits {
    let default = Limits::default();
    if !gate.has("max") && !gate.has("margin") {
        let hint = "write the highest share, such as `max: 1%`, or by how much it may exceed the sync path's, such as \
                    `margin: 0.5%`";
        gate.fault(Wrong::new("has neither `max` nor `margin`", hint));
    }
    Limits {
        max: gate.optional("max", share(1.0)),
        margin: gate.optional("margin", share(1.0)),
        // The alternatives that are tested against it begin at 2.
        tolerated_ratio: gate.read("tolerated_ratio", default.tolerated_ratio, between(1.0, 1.9)),
        alpha: gate.read("alpha", default.alpha, share(0.1)),
    }
}

fn deferred(gate: &mut Section<'_>) -> Option<GateKind> {
    let max = gate.require("max", "write the highest share, such as `max: 1%`", share(1.0));
    max.map(|max| GateKind::DeferredRatio(Limits { max: Some(max), ..Limits::default() }))
}

fn slow(gate: &mut Section<'_>) -> Option<GateKind> {
    let threshold = gate.require("threshold", "write what is slow, such as `threshold: 2s`", bucket_bound);
    let of = word(&[("end_to_end", Latency::EndToEnd), ("acknowledgement", Latency::Acknowledgement)]);
    let (of, limits) = (gate.read("of", Latency::EndToEnd, of), limits(gate));
    threshold.map(|threshold| GateKind::SlowRatio { threshold, of, limits })
}

/// A duration that requests can be told to have exceeded: they are counted in buckets.
fn bucket_bound(text: &str) -> Result<Duration, Wrong> {
    let asked = duration(1, DAY)(text)?;
    let bounds = DURATION_BUCKETS.map(Duration::from_secs_f64);
    if bounds.contains(&asked) {
        return Ok(asked);
    }
    let above = bounds.partition_point(|bound| *bound < asked);
    let near = bounds[above.saturating_sub(1)..].iter().take(if above == 0 { 1 } else { 2 });
    let near: Vec<String> = near.map(|bound| format!("`{}`", humantime::format_duration(*bound))).collect();
    let message = format!("{} is no bound of the buckets that durations are counted in", shown(text));
    Err(Wrong::new(message, format!("write {}", near.join(" or "))))
}

fn queue_oldest(gate: &mut Section<'_>) -> Option<GateKind> {
    let max = gate.require("max", "write the highest age, such as `max: 30s`", duration(1, 365 * DAY));
    max.map(|max| GateKind::QueueOldest { max })
}

fn queue_depth(gate: &mut Section<'_>) -> Option<GateKind> {
    let max =
        gate.require("max", "write the most tasks that may wait, such as `max: 100`", count(0, 1_000_000_000_000));
    max.map(|max| GateKind::QueueDepth { max })
}

fn query(gate: &mut Section<'_>) -> Option<GateKind> {
    let query = gate.require("query", "write PromQL that gives one value", text);
    let (min, max) = (gate.optional("min", number), gate.optional("max", number));
    if !gate.has("min") && !gate.has("max") {
        gate.fault(Wrong::new("has neither `min` nor `max`", "write the highest value that passes, such as `max: 30`"));
    }
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        gate.problem("min", format!("{min} is over `max`, {max}: nothing passes"), "write a lower one");
    }
    let on_empty = word(&[("inconclusive", OnEmpty::Inconclusive), ("pass", OnEmpty::Pass)]);
    let on_empty = gate.read("on_empty", OnEmpty::Inconclusive, on_empty);
    query.map(|query| GateKind::Prometheus { query, min, max, on_empty })
}

pub(super) fn breaker(mut breaker: Section<'_>, default: Breaker) -> Breaker {
    Breaker {
        window: breaker.read("window", default.window, duration(1000, HOUR)),
        min_requests: breaker.read("min_requests", default.min_requests, count(1, 1_000_000_000)),
        max_error_ratio: breaker.read("max_error_ratio", default.max_error_ratio, share(1.0)),
    }
}

pub(super) fn prometheus(rollout: &mut Section<'_>) -> Option<Prometheus> {
    let mut section = rollout.section("prometheus");
    if !rollout.has("prometheus") {
        return None;
    }
    let url = section.require("url", "write its address, such as `url: http://127.0.0.1:9090`", base_url);
    let timeout = section.read("timeout", Duration::from_secs(5), duration(10, 60));
    let max_staleness = section.read("max_staleness", Duration::from_mins(1), duration(1000, DAY));
    let grace = section.read("grace", Duration::from_mins(10), duration(0, 30 * DAY));
    url.map(|url| Prometheus { url, timeout, max_staleness, grace })
}

/// A URL that paths are put behind.
fn base_url(text: &str) -> Result<Secret, Wrong> {
    let hint = "write its address, such as `http://127.0.0.1:9090`";
    if text.contains(['?', '#']) {
        return Err(Wrong::new("has a query or fragment", hint));
    }
    secret_url(text.trim_end_matches('/')).map_err(|wrong| Wrong { hint: hint.into(), ..wrong })
}
