//! What the configuration file says about a rollout: a part of its document, and what `rollout
//! plan` compares.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{
    GateConfig, GateFailureAction, GateKind, RatioLimits, RolloutConfig, StepConfig,
};

/// The plan of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanDocument {
    /// The share that the operator allows, percent.
    pub percent: f64,
    /// `gated` or `manual`.
    pub mode: String,
    /// The steps on the way to `percent`.
    pub steps: Vec<StepDocument>,
    /// Requests that a step needs before its gates can pass.
    pub min_samples: MinSamplesDocument,
    /// How long a step may stay undecided before the rollout pauses, seconds.
    pub max_wait: u64,
    /// Time between two evaluations of the gates, seconds.
    pub interval: f64,
    /// What a failed gate does: `rollback` or `pause`.
    pub on_fail: String,
    /// The gates.
    pub gates: Vec<GatePlanDocument>,
    /// The share of sync requests that is copied to the async path, percent.
    pub shadow: f64,
}

/// A step of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepDocument {
    /// Its weight, percent.
    pub weight: f64,
    /// Its soak, seconds.
    pub soak: u64,
    /// Whether an operator must approve leaving it.
    pub approval: bool,
}

/// Requests that a step needs, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MinSamplesDocument {
    /// Canaried requests with an outcome.
    #[serde(rename = "async")]
    pub async_requests: u64,
    /// Requests of the sync path.
    #[serde(rename = "sync")]
    pub sync_requests: u64,
}

/// A gate of a plan.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GatePlanDocument {
    /// Its limits by name, such as `max`; which there are depends on the type. Kept as they came,
    /// so that a comparison also sees a limit that this version does not know.
    #[serde(flatten)]
    pub limits: Map<String, Value>,
    /// Its name.
    pub gate: String,
    /// Its type, such as `error_ratio`.
    #[serde(rename = "type")]
    pub kind: String,
}

impl PartialEq for GatePlanDocument {
    /// Compares numbers by value: 10 equals 10.0.
    fn eq(&self, other: &Self) -> bool {
        let is_same = |one: &Value, other: &Value| match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => one.total_cmp(&other).is_eq(),
            _ => one == other,
        };
        self.gate == other.gate
            && self.kind == other.kind
            && self.limits.len() == other.limits.len()
            && self.limits.iter().all(|(name, limit)| {
                other.limits.get(name).is_some_and(|other| is_same(limit, other))
            })
    }
}

impl From<&RolloutConfig> for PlanDocument {
    fn from(rollout: &RolloutConfig) -> Self {
        let step = |step: &StepConfig| StepDocument {
            weight: step.weight.percent(),
            soak: rollout.soak_at(step.weight).as_secs(),
            approval: step.needs_approval,
        };
        let on_fail = match rollout.on_fail {
            GateFailureAction::Rollback => "rollback",
            GateFailureAction::Pause => "pause",
        };
        Self {
            percent: rollout.percent.percent(),
            mode: rollout.mode.as_str().to_owned(),
            steps: rollout.steps.iter().map(step).collect(),
            min_samples: MinSamplesDocument {
                async_requests: rollout.min_samples.async_requests,
                sync_requests: rollout.min_samples.sync_requests,
            },
            max_wait: rollout.max_step_wait.as_secs(),
            interval: rollout.evaluation_interval.as_secs_f64(),
            on_fail: on_fail.to_owned(),
            gates: rollout.gates.iter().map(GatePlanDocument::from).collect(),
            shadow: rollout.shadow.as_ref().map_or(0.0, |shadow| shadow.percent.percent()),
        }
    }
}

impl From<&GateConfig> for GatePlanDocument {
    fn from(gate: &GateConfig) -> Self {
        Self {
            limits: describe_limits(&gate.kind),
            gate: gate.name.clone(),
            kind: gate.kind.as_str().to_owned(),
        }
    }
}

fn describe_limits(kind: &GateKind) -> Map<String, Value> {
    let limits = match kind {
        GateKind::ErrorRatio(limits)
        | GateKind::ClientErrorRatio(limits)
        | GateKind::DeferredRatio(limits)
        | GateKind::ShadowMismatch(limits) => describe_ratio_limits(limits),
        GateKind::SlowRatio { threshold, limits, .. } => {
            let mut described = describe_ratio_limits(limits);
            described["threshold"] = threshold.as_secs_f64().into();
            described
        }
        GateKind::SlowerThanSync(limits) => {
            let mut described = describe_ratio_limits(limits);
            described["threshold"] = "sync_p95".into();
            described
        }
        GateKind::QueueOldest { max } => json!({"max": max.as_secs_f64()}),
        GateKind::QueueDepth { max } => json!({"max": max}),
        GateKind::PrometheusQuery { query, min, max, .. } => {
            json!({"query": query, "min": min, "max": max})
        }
    };
    match limits {
        Value::Object(limits) => limits,
        _ => Map::new(),
    }
}

fn describe_ratio_limits(limits: &RatioLimits) -> Value {
    json!({
        "max": limits.max,
        "margin": limits.margin,
        "tolerated_ratio": limits.tolerated_ratio,
        "alpha": limits.alpha,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    #[test]
    fn gates_are_equal_when_their_numbers_are_and_a_further_limit_is_a_difference() {
        let read = |gate: Value| from_value::<GatePlanDocument>(gate).expect("a gate");
        let one = read(json!({"max": 10, "gate": "depth", "type": "queue_depth"}));
        assert_eq!(one, read(json!({"type": "queue_depth", "gate": "depth", "max": 10.0})));
        assert_ne!(one, read(json!({"max": 11, "gate": "depth", "type": "queue_depth"})));
        assert_ne!(one, read(json!({"max": 10, "new": 1, "gate": "depth", "type": "queue_depth"})));
    }
}
