//! The meeting of the replicas, in the store: once a second each says what it runs and what it
//! counted, and learns who leads and how the rollouts stand. One round trip, made beside the loop,
//! so that an order never waits for a store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::view::ReplicaView;
use super::{Controller, build_plan, counts, stored, task_deadline_for};
use crate::cohort::Weight;
use crate::config::RouteConfig;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::{self, RolloutInput};
use crate::snapshot::RouteRunState;
use crate::store::{ReplicaReport, ReplicaSync, RolloutRecord, StoreError};

/// What a meeting brought.
pub(super) struct SyncOutcome {
    asked_routes: Vec<String>,
    sync_result: Result<ReplicaSync, StoreError>,
    /// By route, for a leader: the epochs that were asked for, and what is known of them.
    pub(super) evidence_by_route: BTreeMap<String, (Vec<u64>, Vec<RolloutEvidence>)>,
}

/// What a replica says of itself.
#[derive(Serialize, Deserialize)]
struct ReplicaStatus {
    /// A digest of the rollouts in its file.
    config: String,
    routes: BTreeMap<String, ReplicaRouteStatus>,
}

#[derive(Serialize, Deserialize)]
struct ReplicaRouteStatus {
    weight_bp: u16,
    epoch: u64,
    /// A digest of this rollout in its file.
    plan: String,
}

// === impl Controller ===

impl Controller {
    /// Goes to the meeting.
    pub(super) fn start_replica_sync(&mut self) {
        let presence = self.build_replica_report();
        let routes: Vec<String> =
            self.config.routes.iter().map(|route| route.name.clone()).collect();
        let leads = self.leader_term.is_some();
        let mut asked = Vec::new();
        for route in &routes {
            if let Some(rollout) = self.rollouts.get(route) {
                asked.push((route.clone(), rollout.state.evidence_epochs()));
            }
        }
        self.last_sync_at = Some(Instant::now());
        let (circuit, done) = (self.circuit.clone(), self.inbox.sync_done.clone());
        tokio::spawn(async move {
            let store = circuit.store();
            let meeting = circuit.call(store.sync_replica(&presence, &routes)).await;
            let mut evidence = BTreeMap::new();
            if leads && meeting.as_ref().is_ok_and(|meeting| meeting.term.is_some()) {
                for (route, epochs) in asked {
                    if let Ok(stored) = circuit.call(store.load_evidence(&route, &epochs)).await {
                        let counted = stored.iter().map(counts::combine_evidence).collect();
                        evidence.insert(route, (epochs, counted));
                    }
                }
            }
            let _ = done
                .send(SyncOutcome {
                    asked_routes: routes,
                    sync_result: meeting,
                    evidence_by_route: evidence,
                })
                .await; // the loop has ended
        });
    }

    fn build_replica_report(&mut self) -> ReplicaReport {
        let is_gone = self.circuit.is_open();
        let mut about = ReplicaStatus { config: String::new(), routes: BTreeMap::new() };
        let mut counts = Vec::new();
        let mut plans = String::new();
        let running = self.last_published.as_ref().map_or(&[][..], |(_, weights)| weights);
        for (route, RouteRunState { weight, epoch, .. }) in self.config.routes.iter().zip(running) {
            let plan = digest_text(&format!("{:?}", route.rollout));
            plans.push_str(&plan);
            about.routes.insert(
                route.name.clone(),
                ReplicaRouteStatus { weight_bp: weight.basis_points(), epoch: *epoch, plan },
            );
            if let Some(rollout) = self.rollouts.get_mut(&route.name) {
                let (epoch, text) =
                    rollout.process_counts.report_counts(&route.name, &self.metrics, is_gone);
                counts.push((route.name.clone(), epoch, text));
            }
        }
        about.config = digest_text(&plans);
        let about = serde_json::to_string(&about).unwrap_or_default();
        ReplicaReport {
            process: self.process_name.to_string(),
            description_json: about,
            wants_lead: true,
            epoch_counts: counts,
        }
    }

    pub(super) async fn apply_replica_sync(&mut self, round: SyncOutcome) {
        let SyncOutcome { asked_routes: routes, sync_result: meeting, evidence_by_route: evidence } =
            round;
        let meeting = match meeting {
            Ok(meeting) => meeting,
            Err(error) => {
                if self.leader_term.is_some() {
                    tracing::warn!(%error, "the store is gone: rollouts stand still");
                }
                self.step_down();
                (self.leader_process, self.store_reachable) = (None, false);
                return;
            }
        };
        self.store_reachable = true;
        self.store_clock.update_offset(meeting.clock_ahead_ms);
        if meeting.term != self.leader_term {
            self.step_down();
        }
        for (route, record) in routes.iter().zip(meeting.rollout_records) {
            self.adopt_record(route, record).await;
        }
        let (replicas, plans) = parse_replicas(&meeting.replicas);
        self.replicas = replicas;
        if meeting.leader != self.leader_process {
            tracing::info!(
                leader = meeting.leader.as_deref().unwrap_or("nobody"),
                "the rollouts are led"
            );
        }
        self.leader_process = meeting.leader;
        let began = meeting.term.is_some() && meeting.term != self.leader_term;
        self.leader_term = meeting.term;
        if began {
            for rollout in self.rollouts.values_mut() {
                rollout.leader_watch.reset_watch();
                rollout.config_pending = true;
            }
        }
        let leads = self.leader_term.is_some();
        if leads {
            self.apply_config_to_routes().await;
        }
        self.update_lagging_replicas(&plans);
        if leads {
            self.run_leader_tick(evidence).await;
        }
    }

    /// Whoever is asked knows who lags, the leader or not.
    fn update_lagging_replicas(&mut self, plans: &PlanDigests) {
        for route in &self.config.clone().routes {
            let laggards = self.find_lagging_replicas(route, plans);
            if let Some(rollout) = self.rollouts.get_mut(&route.name) {
                rollout.leader_watch.lagging_replicas = laggards;
            }
        }
    }

    /// Leads no more: what was decided and not saved is not to be, but an abort.
    fn step_down(&mut self) {
        self.leader_term = None;
        for rollout in self
            .rollouts
            .values_mut()
            .filter(|rollout| rollout.is_unsaved && rollout.pending_abort.is_none())
        {
            rollout.stored_version = None;
        }
    }

    /// Takes over what is stored of a route, unless it is what is known already, or older: a store
    /// that came back without its last writes is told what they were.
    async fn adopt_record(&mut self, name: &str, record: Option<RolloutRecord>) {
        let Some(rollout) = self.rollouts.get_mut(name) else { return };
        let Some(record) = record else {
            // the store was flushed, or nobody has decided anything yet
            let known = rollout.stored_version.replace(0).is_some_and(|version| version > 0);
            rollout.lost_by_store |= known && rollout.state.epoch > 0;
            if rollout.pending_abort.is_some() {
                self.save_route(name).await;
            }
            return;
        };
        let is_older = rollout.stored_version.is_some_and(|version| version > record.version);
        if is_older {
            tracing::warn!(
                route = name,
                "the store came back with an older rollout, and is told what it lost"
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
            Ok(stored) => {
                rollout.adopt_stored_state(stored, record.version);
            }
            Err(error) => {
                rollout.stored_version = None; // nothing is decided on it
                return tracing::error!(route = name, %error, "the stored rollout cannot be acted on");
            }
        }
        self.reapply_abort(name).await;
    }

    /// An abort that was ordered while the store was gone wins over what others decided meanwhile.
    async fn reapply_abort(&mut self, name: &str) {
        let config = self.config.clone();
        let Some(route) = config.routes.iter().find(|route| route.name == name) else { return };
        let Some(rollout) = self.rollouts.get_mut(name) else { return };
        let Some(verb) = rollout.pending_abort.clone() else { return };
        let plan = build_plan(route, task_deadline_for(&config, route));
        if let Ok(decision) = rollout::decide(
            &rollout.state,
            plan,
            RolloutInput::Command(&verb),
            self.store_clock.now(),
        ) {
            rollout.apply_decision(route, decision);
            let saved = rollout.save_state(name, &self.circuit, None).await;
            tracing::info!(
                route = name,
                saved = matches!(saved, Ok(true)),
                "the abort is told to the store"
            );
        }
    }

    /// Live replicas that do not run what the leader decided, by name and why.
    fn find_lagging_replicas(&self, route: &RouteConfig, plans: &PlanDigests) -> Vec<String> {
        let Some(rollout) = self.rollouts.get(&route.name) else { return Vec::new() };
        // what the leader's file says is what is decided by
        let leader = self.leader_process.as_ref().filter(|_| self.leader_term.is_none());
        let theirs =
            leader.and_then(|leader| plans.get(&(leader.clone(), route.name.clone())).cloned());
        let own = theirs.unwrap_or_else(|| digest_text(&format!("{:?}", route.rollout)));
        let epoch = rollout.state.epoch;
        let stopped = rollout.state.weight == Weight::ZERO;
        let lags = |replica: &ReplicaView| {
            if stopped {
                // whatever their files say: they have to be at 0
                let theirs = replica
                    .weights_by_route
                    .get(&route.name)
                    .map_or(Weight::ZERO, |(weight, _)| *weight);
                return (theirs > Weight::ZERO)
                    .then(|| "it has not taken the weight up yet".to_owned());
            }
            let plan = plans.get(&(replica.process_name.clone(), route.name.clone()));
            match replica.weights_by_route.get(&route.name) {
                None => Some("it has no such route".to_owned()),
                Some(_) if plan.is_some_and(|plan| *plan != own) => {
                    Some("its file differs".to_owned())
                }
                Some((_, theirs)) if *theirs != epoch => {
                    Some("it has not taken the weight up yet".to_owned())
                }
                Some(_) => None,
            }
        };
        self.replicas
            .iter()
            .filter_map(|replica| {
                lags(replica).map(|why| format!("{} ({why})", replica.process_name))
            })
            .collect()
    }
}

/// Digests of the rollouts in replicas' files, by process and route.
type PlanDigests = BTreeMap<(String, String), String>;

fn parse_replicas(replicas: &[(String, String)]) -> (Vec<ReplicaView>, PlanDigests) {
    let (mut views, mut plans) = (Vec::new(), PlanDigests::new());
    for (process, text) in replicas {
        let process = process.clone();
        let Ok(about) = serde_json::from_str::<ReplicaStatus>(text) else {
            views.push(ReplicaView { process_name: process, ..ReplicaView::default() }); // of another release
            continue;
        };
        let mut weights = BTreeMap::new();
        for (route, ReplicaRouteStatus { weight_bp, epoch, plan }) in about.routes {
            weights.insert(route.clone(), (Weight::from_basis_points(weight_bp), epoch));
            plans.insert((process.clone(), route), plan);
        }
        views.push(ReplicaView {
            process_name: process,
            config_digest: about.config,
            weights_by_route: weights,
        });
    }
    (views, plans)
}

fn digest_text(text: &str) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}
