//! Decisions on one route: applies a rollout input, saves the new state, and notifies.

use super::Controller;
use crate::config::RouteConfig;
use crate::control::notify;
use crate::control::route_rollout::{RouteRollout, build_plan};
use crate::rollout::{self, RolloutInput};

// === impl Controller ===

impl Controller {
    /// Adds a rollout for every configured route. The rollout of a route that is no longer
    /// configured is kept, in case the route comes back.
    pub(super) fn register_routes(&mut self) {
        let now = self.store_clock.now();
        for route in &self.config.routes {
            self.rollouts.entry(route.name.clone()).or_insert_with(|| RouteRollout::new(now));
            self.metrics.declare_route(&route.name);
        }
        let routes = self.config.routes.iter();
        let gates = routes.flat_map(|route| {
            route.rollout.gates.iter().map(|gate| (route.name.as_str(), gate.name.as_str()))
        });
        self.metrics.declare_gates(gates);
        for topic in self.config.topics.keys() {
            self.metrics.declare_topic(topic.as_str());
        }
    }

    /// Applies the leader's configuration file to every route whose stored state is known.
    pub(super) async fn apply_config_to_routes(&mut self) {
        let config = self.config.clone();
        for route in &config.routes {
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { continue };
            if rollout.stored_version.is_none() {
                continue;
            }
            let was_lost = std::mem::take(&mut rollout.lost_by_store);
            if std::mem::take(&mut rollout.config_pending) {
                self.decide_route(route, RolloutInput::ConfigLoaded).await;
            }
            if was_lost {
                self.decide_route(route, RolloutInput::StoreLost).await;
            }
        }
    }

    /// Decides on a route and saves what that changed. Changes by the configuration file, and
    /// every lower weight, are published before they are saved; a weight that the evidence raises
    /// is published only after. Webhooks are notified once the change is saved.
    pub(super) async fn decide_route(&mut self, route: &RouteConfig, input: RolloutInput<'_>) {
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let weight_before = rollout.state.weight;
        let is_config = matches!(input, RolloutInput::ConfigLoaded);
        let (plan, now) = (build_plan(&self.config, route), self.store_clock.now());
        let Ok(decision) = rollout::decide(&rollout.state, plan, input, now) else { return };
        let Some(events) = rollout.apply_decision(route, decision) else { return };
        if is_config || rollout.state.weight < weight_before {
            self.publish();
        }
        if self.save_route(&route.name).await {
            notify::notify_webhooks(route, &events);
        }
    }

    /// Saves a route's state under the present term; false where that failed. If another writer
    /// changed the record meanwhile, the next replica sync loads that record, which then counts.
    pub(super) async fn save_route(&mut self, route: &str) -> bool {
        let Some(rollout) = self.rollouts.get_mut(route) else { return false };
        match rollout.save_state(route, &self.circuit, self.leader_term).await {
            Ok(true) => return true,
            Ok(false) => tracing::info!(route, "another process changed the rollout first"),
            Err(error) => tracing::debug!(%error, route, "rollout state is not saved yet"),
        }
        false
    }
}
