//! The replica sync: once a second each replica reports its status and its counts to the store,
//! and reads the leader, the reports of the other replicas and the stored rollouts.
//!
//! A sync is one store call, and for the leader one more per route. The calls run in a task of
//! their own, so that commands to the controller do not wait for them.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Controller;
use super::inbox::{EvidenceByRoute, SyncOutcome};
use crate::config::{PlanFieldHashes, RouteConfig};
use crate::control::replicas::{
    LeaderPlan, ReplicaRouteStatus, ReplicaStatus, ReplicaStatuses, find_lagging_replicas,
};
use crate::control::route_rollout::build_plan;
use crate::control::{counts, stored};
use crate::rollout::{self, RolloutInput, running_weight};
use crate::snapshot::RouteRunState;
use crate::store::{Circuit, ReplicaReport, ReplicaSync, RolloutRecord, StoreError};

// === impl Controller ===

impl Controller {
    /// Starts a replica sync; its outcome arrives in the inbox.
    pub(super) fn start_replica_sync(&mut self) {
        let report = self.build_replica_report();
        let requested_routes: Vec<String> =
            self.config.routes.iter().map(|route| route.name.clone()).collect();
        let is_leader = self.leader_term.is_some();
        let epochs: Vec<(String, Vec<u64>)> = requested_routes
            .iter()
            .filter_map(|route| {
                let rollout = self.rollouts.get(route)?;
                Some((route.clone(), rollout.state.evidence_epochs()))
            })
            .collect();
        self.last_sync_at = Some(Instant::now());
        let (circuit, done) = (self.circuit.clone(), self.inbox.sync_done.clone());
        tokio::spawn(async move {
            let store = circuit.store();
            let sync_result = circuit.call(store.sync_replica(&report, &requested_routes)).await;
            let still_leads = sync_result.as_ref().is_ok_and(|sync| sync.term.is_some());
            let evidence_by_route = if is_leader && still_leads {
                load_evidence(&circuit, epochs).await
            } else {
                EvidenceByRoute::new()
            };
            let outcome = SyncOutcome { requested_routes, sync_result, evidence_by_route };
            // an error means that the controller's loop has ended
            let _ = done.send(outcome).await;
        });
    }

    fn build_replica_report(&mut self) -> ReplicaReport {
        let is_store_gone = self.circuit.is_open();
        let (mut routes, mut epoch_counts) = (BTreeMap::new(), Vec::new());
        let running = self.last_published.as_ref().map_or(&[][..], |(_, states)| states);
        for (route, RouteRunState { weight, epoch, .. }) in self.config.routes.iter().zip(running) {
            let status = ReplicaRouteStatus::new(*weight, *epoch, &route.rollout);
            routes.insert(route.name.clone(), status);
            if let Some(rollout) = self.rollouts.get_mut(&route.name) {
                let counts = &mut rollout.process_counts;
                let (epoch, text) = counts.report_counts(&route.name, &self.metrics, is_store_gone);
                epoch_counts.push((route.name.clone(), epoch, text));
            }
        }
        ReplicaReport {
            process: self.process_name.to_string(),
            description_json: ReplicaStatus::new(routes).to_json(),
            wants_lead: true,
            epoch_counts,
        }
    }

    /// Applies the outcome of a replica sync: store clock, records, replicas and leadership, and
    /// for the leader one tick.
    pub(super) async fn apply_replica_sync(&mut self, outcome: SyncOutcome) {
        let sync = match outcome.sync_result {
            Ok(sync) => sync,
            Err(error) => return self.lose_store(&error),
        };
        self.store_reachable = true;
        self.store_clock.update_offset(sync.clock_ahead_ms);
        if sync.term != self.leader_term {
            self.step_down();
        }
        let ReplicaSync { rollout_records, replicas, leader, term, .. } = sync;
        for (route, record) in outcome.requested_routes.iter().zip(rollout_records) {
            self.adopt_record(route, record).await;
        }
        let statuses = ReplicaStatuses::parse(&replicas);
        self.log_replicas_without_plan_fields(&statuses);
        self.replicas.clone_from(&statuses.views);
        self.set_leader(leader, term);
        let is_leader = self.leader_term.is_some();
        if is_leader {
            self.apply_config_to_routes().await;
        }
        self.update_lagging_replicas(&statuses);
        if is_leader {
            self.run_leader_tick(outcome.evidence_by_route).await;
        }
    }

    fn lose_store(&mut self, error: &StoreError) {
        if self.leader_term.is_some() {
            tracing::warn!(%error, "the store is unreachable: rollouts do not change");
        }
        self.step_down();
        (self.leader_process, self.store_reachable) = (None, false);
    }

    /// Sets the leader, and the term if this process leads. When this process begins a term, it
    /// discards its earlier observations, and applies its configuration file to all routes.
    fn set_leader(&mut self, leader: Option<String>, term: Option<u64>) {
        if leader != self.leader_process {
            let name = leader.as_deref().unwrap_or("none");
            tracing::info!(leader = name, "the leader of the rollouts changed");
        }
        self.leader_process = leader;
        let is_new_term = term.is_some() && term != self.leader_term;
        self.leader_term = term;
        if is_new_term {
            for rollout in self.rollouts.values_mut() {
                rollout.leader_watch.reset_watch();
                rollout.config_pending = true;
            }
        }
    }

    /// Ends the leadership of this process. Its unsaved decisions are discarded, except an abort.
    fn step_down(&mut self) {
        self.leader_term = None;
        for rollout in self.rollouts.values_mut() {
            if rollout.is_unsaved && rollout.pending_abort.is_none() {
                rollout.stored_version = None;
            }
        }
    }

    /// Adopts the stored record of a route if its version is newer than the known one. If it is
    /// older, the store has lost writes, and the state of this process is saved again.
    async fn adopt_record(&mut self, name: &str, record: Option<RolloutRecord>) {
        let Some(rollout) = self.rollouts.get_mut(name) else { return };
        let Some(record) = record else {
            // the store was flushed, or no state of the route was ever saved
            let had_record = rollout.stored_version.replace(0).is_some_and(|version| version > 0);
            rollout.lost_by_store |= had_record && rollout.state.epoch > 0;
            if rollout.pending_abort.is_some() {
                self.save_route(name).await;
            }
            return;
        };
        if rollout.stored_version.is_some_and(|version| version > record.version) {
            tracing::warn!(
                route = name,
                "the store has lost the last state of the rollout: it is saved again"
            );
            rollout.stored_version = Some(record.version);
            rollout.is_unsaved = true;
        }
        if rollout.stored_version == Some(record.version) {
            if rollout.is_unsaved {
                self.save_route(name).await;
            }
            return;
        }
        match stored::parse_state(&record.state_json) {
            Ok(stored) => rollout.adopt_stored_state(stored, record.version),
            Err(error) => {
                // no decision is made on the route until its record can be read
                rollout.stored_version = None;
                return tracing::error!(
                    route = name, %error, "the stored rollout cannot be read: no decision is made"
                );
            }
        }
        self.reapply_abort(name).await;
    }

    /// Repeats an abort that is not saved yet on a newer state that another process has saved.
    async fn reapply_abort(&mut self, name: &str) {
        let config = self.config.clone();
        let Some(route) = config.routes.iter().find(|route| route.name == name) else { return };
        let Some(rollout) = self.rollouts.get_mut(name) else { return };
        let Some(abort) = rollout.pending_abort.clone() else { return };
        let (plan, now) = (build_plan(&config, route), self.store_clock.now());
        let input = RolloutInput::Command(&abort);
        if let Ok(decision) = rollout::decide(&rollout.state, plan, input, now) {
            rollout.apply_decision(route, decision);
            let saved = rollout.save_state(name, &self.circuit, None).await;
            let saved = matches!(saved, Ok(true));
            tracing::info!(route = name, saved, "the abort is repeated on the stored state");
        }
    }

    /// Logs each replica that sends no plan fields, once: its plan cannot be compared.
    fn log_replicas_without_plan_fields(&mut self, statuses: &ReplicaStatuses) {
        let without = &statuses.without_plan_fields;
        for process in without.difference(&self.replicas_without_plan_fields) {
            tracing::info!(
                process,
                "this replica runs an earlier build: its rollout configuration is compared by \
                 epoch and weight only"
            );
        }
        self.replicas_without_plan_fields.clone_from(without);
    }

    /// Finds the lagging replicas of each route. Replicas that do not lead do so too, to show them.
    fn update_lagging_replicas(&mut self, statuses: &ReplicaStatuses) {
        let config = self.config.clone();
        for route in &config.routes {
            let Some(leader_plan) = self.leader_plan(route, statuses) else { continue };
            let lagging = find_lagging_replicas(&route.name, &leader_plan, statuses);
            if let Some(rollout) = self.rollouts.get_mut(&route.name) {
                rollout.leader_watch.lagging_replicas = lagging;
            }
        }
    }

    /// The plan that the leader decides with, which replicas are compared to: the leader's, if
    /// another process leads and has reported it, or else the plan of this process.
    fn leader_plan(&self, route: &RouteConfig, statuses: &ReplicaStatuses) -> Option<LeaderPlan> {
        let state = &self.rollouts.get(&route.name)?.state;
        let (epoch, weight) = (state.epoch, state.weight);
        let leader = self.leader_process.as_deref().filter(|_| self.leader_term.is_none());
        let status = leader.and_then(|leader| statuses.route_status(leader, &route.name));
        Some(match status {
            Some(status) => LeaderPlan::of_leader(status, epoch, weight),
            None => LeaderPlan {
                epoch,
                weight,
                running_weight: running_weight(state, route.rollout.percent),
                fields: Some(PlanFieldHashes::new(&route.rollout)),
            },
        })
    }
}

async fn load_evidence(circuit: &Circuit, epochs: Vec<(String, Vec<u64>)>) -> EvidenceByRoute {
    let mut evidence_by_route = EvidenceByRoute::new();
    for (route, epochs) in epochs {
        if let Ok(stored) = circuit.call(circuit.store().load_evidence(&route, &epochs)).await {
            let evidence = stored.iter().map(counts::combine_evidence).collect();
            evidence_by_route.insert(route, (epochs, evidence));
        }
    }
    evidence_by_route
}
