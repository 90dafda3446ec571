//! A history line as JSON: stored, shown by the API, and sent to the webhooks of `rollout.notify`.

use serde_json::{Value, json};

use super::gate_report::StoredGateReport;
use crate::rollout::RolloutEvent;

/// The history line of `event` for `route`.
pub(in crate::control) fn event_to_json(route: &str, event: &RolloutEvent) -> Value {
    let gates: Vec<_> = event.gate_reports.iter().map(StoredGateReport::from).collect();
    json!({
        "route": route,
        "at_ms": event.at.0,
        "event": event.kind.as_str(),
        "by": event.actor.name(),
        "reason": event.reason,
        "from": event.from_weight.percent(),
        "to": event.to_weight.percent(),
        "epoch": event.epoch,
        "phase": event.phase.as_str(),
        "gates": gates,
    })
}
