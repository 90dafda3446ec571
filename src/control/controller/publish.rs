//! Publishes what the controller decided: the snapshot that requests load, the rollout gauges, and
//! the view that the admin API shows.

use std::sync::Arc;

use super::{Controller, PublishedWeights};
use crate::config::RouteConfig;
use crate::control::views::RolloutsView;
use crate::rollout::{RolloutState, is_shadow_allowed, running_weight};
use crate::snapshot::{RouteRunState, Snapshot};

// === impl Controller ===

impl Controller {
    /// Publishes a new snapshot if a weight, an epoch or the configuration changed.
    pub(super) fn publish(&mut self) {
        let run_states: Vec<RouteRunState> =
            self.config.routes.iter().map(|route| self.route_run_state(route)).collect();
        let config = self.config.clone();
        for (route, run_state) in config.routes.iter().zip(&run_states) {
            self.update_route_gauges(route, run_state);
        }
        let is_same = |(last_config, last_states): &PublishedWeights| {
            Arc::ptr_eq(last_config, &config) && *last_states == run_states
        };
        if !self.last_published.as_ref().is_some_and(is_same) {
            let generation = self.snapshots.load().generation + 1;
            let next = Snapshot::new(generation, config.clone(), &run_states, &self.metrics);
            self.snapshots.publish(next);
            self.last_published = Some((config, run_states));
        }
    }

    fn route_run_state(&self, route: &RouteConfig) -> RouteRunState {
        let run_state = |state: &RolloutState| RouteRunState {
            weight: running_weight(state, route.rollout.percent),
            desired_weight: state.weight,
            epoch: state.epoch,
            copies_requests: is_shadow_allowed(state),
        };
        let rollout = self.rollouts.get(&route.name);
        rollout.map(|rollout| run_state(&rollout.state)).unwrap_or_default()
    }

    fn update_route_gauges(&mut self, route: &RouteConfig, run_state: &RouteRunState) {
        let (weight, percent) = (run_state.weight.percent(), route.rollout.percent.percent());
        self.metrics.set_rollout_gauges(&route.name, weight, percent);
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        rollout.process_counts.start_epoch(run_state.epoch, &route.name, &self.metrics);
        for report in &rollout.state.gate_reports {
            let is_configured =
                route.rollout.gates.iter().any(|gate| gate.name == report.gate_name);
            if is_configured {
                let verdict = report.verdict.as_metric();
                self.metrics.set_gate_verdict(&route.name, &report.gate_name, verdict);
            }
        }
    }

    /// Publishes the view of all rollouts if it changed.
    pub(super) fn publish_view(&mut self) {
        let route_view = |route: &RouteConfig| {
            let rollout = self.rollouts.get(&route.name)?;
            Some((route.name.clone(), rollout.build_view(route)))
        };
        let view = RolloutsView {
            routes: self.config.routes.iter().filter_map(route_view).collect(),
            leader_process: self.leader_process.clone(),
            own_process: self.process_name.to_string(),
            replicas: self.replicas.clone(),
            store_reachable: self.store_reachable,
            store_clock: self.store_clock,
        };
        self.view_sender.send_if_modified(|old| {
            let changed = **old != view;
            if changed {
                *old = Arc::new(view);
            }
            changed
        });
    }
}
