//! Lagging replicas: live replicas that do not run what the leader decided on a route, or whose
//! plan differs from the leader's.
//!
//! Plans are compared field by field. A field that only one build knows is absent on both sides
//! while it is unset, and then equal. A build that sends no plan fields is compared by its epoch
//! and by its weight, which shows a lower `percent`.

use super::status::{ReplicaRouteStatus, ReplicaStatuses};
use crate::cohort_hash::Weight;
use crate::config::PlanFieldHashes;

/// What the leader runs on a route.
pub(crate) struct LeaderPlan {
    pub(crate) epoch: u64,
    /// The decided weight, before the leader's `percent` limits it.
    pub(crate) weight: Weight,
    pub(crate) running_weight: Weight,
    /// The leader's plan; none where its build sends no plan fields.
    pub(crate) fields: Option<PlanFieldHashes>,
}

// === impl LeaderPlan ===

impl LeaderPlan {
    /// The plan of a leader that is another process, from its status. Epoch and weight are those
    /// of the stored rollout.
    pub(crate) fn of_leader(status: &ReplicaRouteStatus, epoch: u64, weight: Weight) -> Self {
        Self { epoch, weight, running_weight: status.weight(), fields: status.plan_fields() }
    }
}

/// The replicas that lag on a route, each as its process name with the cause in parentheses.
pub(crate) fn find_lagging_replicas(
    route: &str,
    leader: &LeaderPlan,
    statuses: &ReplicaStatuses,
) -> Vec<String> {
    let lagging = statuses.views.iter().filter_map(|replica| {
        let process = &replica.process_name;
        let cause = lag_cause(leader, statuses.route_status(process, route))?;
        Some(format!("{process} ({cause})"))
    });
    lagging.collect()
}

fn lag_cause(leader: &LeaderPlan, status: Option<&ReplicaRouteStatus>) -> Option<String> {
    const WEIGHT_NOT_APPLIED: &str = "it does not run the new weight yet";
    if leader.weight == Weight::ZERO {
        // a stopped rollout only needs every replica at weight 0, whatever their plans
        let is_running = status.is_some_and(|status| status.weight() > Weight::ZERO);
        return is_running.then(|| WEIGHT_NOT_APPLIED.to_owned());
    }
    let Some(status) = status else { return Some("it has no such route".to_owned()) };
    let comparable = leader.fields.as_ref().zip(status.plan_fields());
    if let Some((expected, fields)) = &comparable {
        let differing = expected.differing_keys(fields);
        if !differing.is_empty() {
            return Some(format!("its file differs in {}", differing.join(", ")));
        }
    }
    if status.epoch() != leader.epoch {
        return Some(WEIGHT_NOT_APPLIED.to_owned());
    }
    let runs_other_weight = comparable.is_none() && status.weight() != leader.running_weight;
    runs_other_weight.then(|| {
        let (weight, expected) = (status.weight(), leader.running_weight);
        format!("its file differs: it runs {weight}, not {expected}")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::{RolloutConfig, RolloutMode};
    use crate::control::replicas::ReplicaStatus;

    fn quarter() -> Weight {
        Weight::from_basis_points(2_500)
    }

    fn gated_rollout() -> RolloutConfig {
        RolloutConfig::new("invoke", Weight::from_basis_points(5_000), RolloutMode::Gated)
    }

    fn leader_of(rollout: &RolloutConfig) -> LeaderPlan {
        LeaderPlan {
            epoch: 3,
            weight: quarter(),
            running_weight: quarter(),
            fields: Some(PlanFieldHashes::new(rollout)),
        }
    }

    /// The status of a replica in epoch 3 at 25 %, as JSON that a test may edit.
    fn status_of(rollout: &RolloutConfig) -> Value {
        let route = ReplicaRouteStatus::new(quarter(), 3, rollout);
        let status = ReplicaStatus::new([("invoke".to_owned(), route)].into());
        serde_json::from_str(&status.to_json()).expect("JSON")
    }

    fn lagging(leader: &LeaderPlan, status: &Value) -> Vec<String> {
        let statuses = ReplicaStatuses::parse(&[("web.2".to_owned(), status.to_string())]);
        find_lagging_replicas("invoke", leader, &statuses)
    }

    #[test]
    fn two_builds_that_differ_in_a_field_are_not_laggards_to_each_other() {
        let rollout = gated_rollout();
        let (leader, status) = (leader_of(&rollout), status_of(&rollout));
        // the other build has a field that this one lacks, and reports things of its own
        let mut newer = status.clone();
        newer["later"] = json!(1);
        newer["routes"]["invoke"]["later"] = json!("x");
        assert_eq!(lagging(&leader, &newer), Vec::<String>::new());
        // once the field is set there, the plans differ in that field
        newer["routes"]["invoke"]["plan_fields"]["new_field"] = json!("1f");
        assert_eq!(lagging(&leader, &newer), ["web.2 (its file differs in new_field)"]);
        let mut fields = leader_of(&rollout).fields.expect("fields");
        fields.0.insert("new_field".into(), "1f".into());
        let newer_leader = LeaderPlan { fields: Some(fields), ..leader };
        let cause = ["web.2 (its file differs in new_field)"];
        assert_eq!(lagging(&newer_leader, &status), cause);
    }

    #[test]
    fn a_replica_of_the_build_before_plan_fields_is_compared_by_epoch_and_weight() {
        let rollout = gated_rollout();
        let (leader, mut status) = (leader_of(&rollout), status_of(&rollout));
        let route = &mut status["routes"]["invoke"];
        route.as_object_mut().expect("an object").remove("plan_fields");
        route["plan"] = json!("a hash of another form");
        assert_eq!(lagging(&leader, &status), Vec::<String>::new());
        status["routes"]["invoke"]["weight_bp"] = json!(500);
        let cause = ["web.2 (its file differs: it runs 5 %, not 25 %)"];
        assert_eq!(lagging(&leader, &status), cause);
        status["routes"]["invoke"]["epoch"] = json!(2);
        assert_eq!(lagging(&leader, &status), ["web.2 (it does not run the new weight yet)"]);
        let old_leader = LeaderPlan { fields: None, ..leader };
        assert_eq!(lagging(&old_leader, &status_of(&rollout)), Vec::<String>::new());
    }

    #[test]
    fn a_lagging_replica_is_shown_with_the_fields_that_differ() {
        let rollout = gated_rollout();
        let edited = RolloutConfig { soak: Duration::ZERO, steps: vec![], ..gated_rollout() };
        let cause = ["web.2 (its file differs in soak, steps)"];
        assert_eq!(lagging(&leader_of(&rollout), &status_of(&edited)), cause);
    }

    #[test]
    fn of_a_stopped_rollout_only_a_replica_that_still_runs_it_lags() {
        let rollout = gated_rollout();
        let stopped = LeaderPlan { weight: Weight::ZERO, epoch: 4, ..leader_of(&rollout) };
        let cause = ["web.2 (it does not run the new weight yet)"];
        assert_eq!(lagging(&stopped, &status_of(&rollout)), cause);
        assert_eq!(lagging(&stopped, &json!({"config": "", "routes": {}})), Vec::<String>::new());
        let other_route = json!({"config": "", "routes": {}});
        let cause = ["web.2 (it has no such route)"];
        assert_eq!(lagging(&leader_of(&rollout), &other_route), cause);
    }
}
