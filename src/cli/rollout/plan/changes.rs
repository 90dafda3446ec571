//! The differences between a running rollout and the plan of a file.

use std::time::Duration;

use crate::admin::views::{
    GatePlanDocument, MinSamplesDocument, PlanDocument, RolloutDocument, StepDocument,
};
use crate::cli::format::format_decimal;
use crate::cohort_hash::Weight;
use crate::config::{RolloutMode, RouteConfig};
use crate::rollout::format::format_span;
use crate::rollout::preview::{RunningRollout, preview_edit};

/// The changes that the file would make to a route, a sentence for each; never empty.
pub(super) fn describe_changes(
    route: &RouteConfig,
    running: Option<&RolloutDocument>,
) -> Vec<String> {
    let Some(document) = running else {
        let percent = route.rollout.percent;
        return vec![format!("is new: percent {percent}, mode {}", route.rollout.mode.as_str())];
    };
    let running = running_rollout(route, document);
    let mut changes = preview_edit(&running, &route.rollout);
    changes.extend(describe_plan_changes(&document.plan, &PlanDocument::from(&route.rollout)));
    let (old, new) = (&document.summary.deprecation, route.deprecation.mode.as_str());
    if old != new {
        changes.push(format!("deprecation {old} → {new}"));
    }
    if changes.is_empty() {
        changes.push(format!(
            "nothing changes (percent {}, weight {})",
            running.percent, running.weight
        ));
    }
    changes
}

fn running_rollout<'a>(
    route: &'a RouteConfig,
    document: &'a RolloutDocument,
) -> RunningRollout<'a> {
    let summary = &document.summary;
    let weight = |percent: f64| Weight::from_percent(percent).unwrap_or_default();
    let is_manual = summary.mode == RolloutMode::Manual.as_str();
    RunningRollout {
        route: &route.name,
        percent: weight(summary.percent),
        mode: if is_manual { RolloutMode::Manual } else { RolloutMode::Gated },
        weight: summary.desired.map(weight).unwrap_or_default(),
        phase: summary.phase.as_deref().unwrap_or_default(),
        manual_hold: document.details.as_ref().is_some_and(|details| details.held),
    }
}

/// The changes of the plan other than those of percent and mode.
fn describe_plan_changes(old: &PlanDocument, new: &PlanDocument) -> Vec<String> {
    let mut changes = Vec::new();
    if old.steps != new.steps {
        let (old, new) = (format_steps(&old.steps), format_steps(&new.steps));
        changes.push(format!("the steps change: {old} → {new}"));
    }
    if old.gates != new.gates {
        let gates = format_gate_changes(&old.gates, &new.gates);
        changes.push(format!("the gates change ({gates}): the present soak begins anew"));
    }
    if old.min_samples != new.min_samples {
        let (old, new) =
            (format_min_samples(&old.min_samples), format_min_samples(&new.min_samples));
        changes.push(format!("min_samples changes: {old} → {new}: the present soak begins anew"));
    }
    if old.max_wait != new.max_wait {
        changes.push(format!("max_wait changes: {} → {}", old.max_wait, new.max_wait));
    }
    if old.on_fail != new.on_fail {
        changes.push(format!("on_fail changes: {} → {}", old.on_fail, new.on_fail));
    }
    if old.shadow.total_cmp(&new.shadow).is_ne() {
        let (old, new) = (format_decimal(old.shadow), format_decimal(new.shadow));
        changes.push(format!("shadow.percent changes: {old} → {new}"));
    }
    changes
}

/// `10 % (30 min), 25 % (2 h, approval)`
fn format_steps(steps: &[StepDocument]) -> String {
    let step = |step: &StepDocument| {
        let soak = format_span(Duration::from_secs(step.soak));
        let approval = if step.approval { ", approval" } else { "" };
        format!("{} % ({soak}{approval})", format_decimal(step.weight))
    };
    steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

/// `300 async, 300 sync`
fn format_min_samples(samples: &MinSamplesDocument) -> String {
    format!("{} async, {} sync", samples.async_requests, samples.sync_requests)
}

/// `errors edited, + lag, - e2e`
fn format_gate_changes(old: &[GatePlanDocument], new: &[GatePlanDocument]) -> String {
    let find =
        |gates: &'_ [GatePlanDocument], name: &str| gates.iter().position(|gate| gate.gate == name);
    let present = new.iter().filter_map(|gate| match find(old, &gate.gate) {
        None => Some(format!("+ {}", gate.gate)),
        Some(index) if old[index] != *gate => Some(format!("{} edited", gate.gate)),
        Some(_) => None,
    });
    let removed = old.iter().filter(|gate| find(new, &gate.gate).is_none());
    let removed = removed.map(|gate| format!("- {}", gate.gate));
    let changes: Vec<String> = present.chain(removed).collect();
    if changes.is_empty() { "their order".to_owned() } else { changes.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn gates_that_come_go_or_change_are_named() {
        let read = |gates: Value| from_value::<Vec<GatePlanDocument>>(gates).expect("gates");
        let old = read(json!([{"gate": "errors", "max": 0.01}, {"gate": "e2e", "max": 1}]));
        let new = read(json!([{"gate": "errors", "max": 0.02}, {"gate": "lag"}]));
        assert_eq!(format_gate_changes(&old, &new), "errors edited, + lag, - e2e");
        let reversed: Vec<GatePlanDocument> = old.iter().rev().cloned().collect();
        assert_eq!(format_gate_changes(&old, &reversed), "their order");
    }

    #[test]
    fn an_equal_plan_has_no_changes_and_each_other_field_has_one() {
        let plan: PlanDocument = from_value(json!({
            "steps": [{"weight": 10.0, "soak": 1800, "approval": true}],
            "min_samples": {"async": 300, "sync": 300}, "max_wait": 60, "on_fail": "pause",
        }))
        .expect("a plan");
        assert!(describe_plan_changes(&plan, &plan).is_empty());
        let edited = PlanDocument { max_wait: 61, shadow: 5.0, steps: Vec::new(), ..plan.clone() };
        let expected = [
            "the steps change: 10 % (30 min, approval) → ",
            "max_wait changes: 60 → 61",
            "shadow.percent changes: 0 → 5",
        ];
        assert_eq!(describe_plan_changes(&plan, &edited), expected);
    }
}
