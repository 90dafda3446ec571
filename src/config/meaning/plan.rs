//! What a rollout's plan has to do with its route and topic: gates that cannot pass, or cannot fail, and steps that wait
//! longer than they say. Warnings, of plans that are climbed.

use std::time::Duration;

use super::checks::place;
use crate::config::problem::{Origin, Problem, Report};
use crate::config::yaml::{Node, Value};
use crate::config::{Config, GateKind, Latency, OnWaitTimeout, Rollout, RolloutMode, Route, TopicConfig, deadline};

/// Adds what deserves a second look to `report`.
pub(super) fn check(config: &Config, root: &Node, report: &mut Report) {
    for route in config.routes.iter().filter(|route| route.rollout.mode == RolloutMode::Gated) {
        if let Some(topic) = config.topics.get(&route.topic) {
            soaks(route, topic, root, report);
        }
        waits(route, root, report);
    }
}

/// Only soaks that somebody wrote: a default that warns teaches nobody.
fn soaks(route: &Route, topic: &TopicConfig, root: &Node, report: &mut Report) {
    let deadline = deadline(topic, route.retry_canaried);
    for (field, soak, origin) in written(route, root) {
        if soak < deadline {
            let longest = humantime::format_duration(deadline);
            let message = format!("is shorter than the {longest} that a task of `{}` may take", route.topic);
            let hint =
                format!("write {longest} or more, or a shorter `timeout` there: the step waits for its tasks anyway");
            report.warnings.push(Problem::new(message, hint).of(field).at(Some(origin)));
        }
    }
}

/// The soaks of the file, each with its field and place.
fn written<'n>(route: &Route, root: &'n Node) -> Vec<(String, Duration, &'n Origin)> {
    let rollout = ["routes", &route.name, "rollout"];
    let Some(section) = root.find(&rollout) else { return Vec::new() };
    let mut found: Vec<_> = section
        .get("soak")
        .map(|node| (format!("{}.soak", rollout.join(".")), route.rollout.soak, &node.origin))
        .into_iter()
        .collect();
    if let Some(Node { value: Value::List(items), .. }) = section.get("steps") {
        for ((at, item), step) in items.iter().enumerate().zip(&route.rollout.steps) {
            if let (Some(soak), Some(node)) = (step.soak, item.get("soak")) {
                found.push((format!("{}.steps[{at}].soak", rollout.join(".")), soak, &node.origin));
            }
        }
    }
    found
}

/// What is told to poll, and what that makes of gates.
fn waits(route: &Route, root: &Node, report: &mut Report) {
    if route.on_wait_timeout != OnWaitTimeout::Accepted {
        return;
    }
    let mut warn = |path: &[&str], message: String, hint: &str| {
        let path = [&["routes", route.name.as_str()][..], path].concat();
        report.warnings.push(Problem::new(message, hint).of(path.join(".")).at(place(root, &path)));
    };
    let gate = |is: fn(&GateKind, Duration) -> bool| named(&route.rollout, |kind| is(kind, route.wait));
    if let Some(name) = gate(|kind, wait| wait.is_zero() && matches!(kind, GateKind::DeferredRatio(_))) {
        let message = format!("tells every client to poll, so that the gate `{name}` cannot pass");
        warn(&["wait"], message, "raise it, write `on_wait_timeout: hold`, or leave that gate out of `rollout.gates`");
    }
    if let Some(name) = gate(never_exceeded) {
        let wait = humantime::format_duration(route.wait);
        let message = format!("`{name}` always holds: no client waits longer for its answer than `wait`, {wait}");
        warn(&["rollout", "gates"], message, "write a lower `threshold`, or `of: end_to_end`");
    }
}

/// Whether a client would have its answer, or a 202, before that.
fn never_exceeded(kind: &GateKind, wait: Duration) -> bool {
    match kind {
        GateKind::SlowRatio { threshold, of: Latency::Acknowledgement, .. } => *threshold > wait,
        _ => false,
    }
}

fn named(rollout: &Rollout, is: impl Fn(&GateKind) -> bool) -> Option<&str> {
    rollout.gates.iter().find(|gate| is(&gate.kind)).map(|gate| gate.name.as_str())
}
