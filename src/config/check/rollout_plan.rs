//! Checks a gated rollout against its route and topic.
//!
//! Warns of gates that cannot pass or cannot fail, and of soaks that are shorter than the tasks of
//! the topic may take, so that the step lasts longer than its soak. Rollouts with `mode: manual`
//! climb no steps and are not checked.

use std::time::Duration;

use crate::config::check::position::find_origin;
use crate::config::diagnostics::{ConfigDiagnostics, ConfigProblem, ValueOrigin};
use crate::config::yaml::{YamlNode, YamlValue};
use crate::config::{
    Config, GateKind, LatencyMeasure, RolloutConfig, RolloutMode, RouteConfig, TopicConfig,
    WaitTimeoutAction, max_task_duration,
};

/// Adds a warning to `report` for each likely mistake in a gated rollout.
pub(crate) fn check_rollout_plans(
    config: &Config,
    root: &YamlNode,
    report: &mut ConfigDiagnostics,
) {
    for route in config.routes.iter().filter(|route| route.rollout.mode == RolloutMode::Gated) {
        if let Some(topic) = config.topics.get(&route.topic) {
            check_soaks(route, topic, root, report);
        }
        check_client_waits(route, root, report);
    }
}

/// Warns of soaks that are shorter than a task may take. Only soaks that the file sets are checked:
/// a warning about a default would name a key that the operator did not write.
fn check_soaks(
    route: &RouteConfig,
    topic: &TopicConfig,
    root: &YamlNode,
    report: &mut ConfigDiagnostics,
) {
    let deadline = max_task_duration(topic, route.retry_canaried);
    for (field, soak, origin) in find_written_soaks(route, root) {
        if soak < deadline {
            let longest = humantime::format_duration(deadline);
            let message =
                format!("is shorter than the {longest} that a task of `{}` may take", route.topic);
            let hint = format!(
                "write {longest} or more, or a shorter `timeout` there: the step waits for its \
                    tasks anyway"
            );
            report.warnings.push(
                ConfigProblem::new(message, hint).with_field(field).with_origin(Some(origin)),
            );
        }
    }
}

/// The soaks that the file sets, each with its field and position.
fn find_written_soaks<'n>(
    route: &RouteConfig,
    root: &'n YamlNode,
) -> Vec<(String, Duration, &'n ValueOrigin)> {
    let rollout = ["routes", &route.name, "rollout"];
    let Some(section) = root.find_path(&rollout) else { return Vec::new() };
    let mut found: Vec<_> = section
        .get("soak")
        .map(|node| (format!("{}.soak", rollout.join(".")), route.rollout.soak, &node.origin))
        .into_iter()
        .collect();
    if let Some(YamlNode { value: YamlValue::List(items), .. }) = section.get("steps") {
        for ((at, item), step) in items.iter().enumerate().zip(&route.rollout.steps) {
            if let (Some(soak), Some(node)) = (step.soak, item.get("soak")) {
                found.push((format!("{}.steps[{at}].soak", rollout.join(".")), soak, &node.origin));
            }
        }
    }
    found
}

/// Warns where `wait` of a route decides a gate: clients get 202 after `wait`, so a `wait` of 0
/// fails each gate on deferred requests, and no acknowledgement takes longer than `wait`.
fn check_client_waits(route: &RouteConfig, root: &YamlNode, report: &mut ConfigDiagnostics) {
    if route.on_wait_timeout == WaitTimeoutAction::KeepWaiting {
        return;
    }
    let mut warn = |path: &[&str], message: String, hint: &str| {
        let path = [&["routes", route.name.as_str()][..], path].concat();
        report.warnings.push(
            ConfigProblem::new(message, hint)
                .with_field(path.join("."))
                .with_origin(find_origin(root, &path)),
        );
    };
    let gate = |is: fn(&GateKind, Duration) -> bool| {
        find_gate_name(&route.rollout, |kind| is(kind, route.client_wait))
    };
    if let Some(name) =
        gate(|kind, wait| wait.is_zero() && matches!(kind, GateKind::DeferredRatio(_)))
    {
        let message = format!("tells every client to poll, so that the gate `{name}` cannot pass");
        warn(
            &["wait"],
            message,
            "raise it, write `on_wait_timeout: hold`, or leave that gate out of `rollout.gates`",
        );
    }
    if let Some(name) = gate(is_never_exceeded) {
        let wait = humantime::format_duration(route.client_wait);
        let message = format!(
            "`{name}` always holds: no client waits longer for its answer than `wait`, {wait}"
        );
        warn(&["rollout", "gates"], message, "write a lower `threshold`, or `of: end_to_end`");
    }
}

/// Whether the gate measures acknowledgements against a threshold over `wait`: every client has its
/// answer or a 202 before that.
fn is_never_exceeded(kind: &GateKind, wait: Duration) -> bool {
    match kind {
        GateKind::SlowRatio { threshold, measure: LatencyMeasure::Acknowledgement, .. } => {
            *threshold > wait
        }
        _ => false,
    }
}

/// The name of the first gate that `is` selects.
fn find_gate_name(rollout: &RolloutConfig, is: impl Fn(&GateKind) -> bool) -> Option<&str> {
    rollout.gates.iter().find(|gate| is(&gate.kind)).map(|gate| gate.name.as_str())
}
