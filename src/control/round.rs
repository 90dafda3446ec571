//! The meeting of the replicas, in the store: once a second each says what it runs and what it counted, and learns who leads
//! and how the rollouts stand. One round trip, made beside the loop, so that an order never waits for a store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::view::ReplicaView;
use super::{Controller, counts, deadline_of, plan_of, state};
use crate::cohort::Weight;
use crate::config::Route;
use crate::rollout::evidence::Evidence;
use crate::rollout::{self, Event};
use crate::snapshot::Running;
use crate::store::{Meeting, Presence, RolloutRecord, StoreError};

/// What a meeting brought.
pub(super) struct Round {
    routes: Vec<String>,
    meeting: Result<Meeting, StoreError>,
    /// By route, for a leader: the epochs that were asked for, and what is known of them.
    pub(super) evidence: BTreeMap<String, (Vec<u64>, Vec<Evidence>)>,
}

/// What a replica says of itself.
#[derive(Serialize, Deserialize)]
struct About {
    /// A digest of the rollouts in its file.
    config: String,
    routes: BTreeMap<String, AboutRoute>,
}

#[derive(Serialize, Deserialize)]
struct AboutRoute {
    weight_bp: u16,
    epoch: u64,
    /// A digest of this rollout in its file.
    plan: String,
}

// === impl Controller ===

impl Controller {
    /// Goes to the meeting.
    pub(super) fn begin_round(&mut self) {
        let presence = self.presence();
        let routes: Vec<String> = self.config.routes.iter().map(|route| route.name.clone()).collect();
        let leads = self.term.is_some();
        let mut asked = Vec::new();
        for route in &routes {
            if let Some(rollout) = self.rollouts.get(route) {
                asked.push((route.clone(), rollout.state.epochs()));
            }
        }
        self.last_round = Some(Instant::now());
        let (circuit, done) = (self.circuit.clone(), self.inbox.round_done.clone());
        tokio::spawn(async move {
            let store = circuit.store();
            let meeting = circuit.call(store.meet(&presence, &routes)).await;
            let mut evidence = BTreeMap::new();
            if leads && meeting.as_ref().is_ok_and(|meeting| meeting.term.is_some()) {
                for (route, epochs) in asked {
                    if let Ok(stored) = circuit.call(store.evidence(&route, &epochs)).await {
                        let counted = stored.iter().map(counts::evidence).collect();
                        evidence.insert(route, (epochs, counted));
                    }
                }
            }
            let _ = done.send(Round { routes, meeting, evidence }).await; // the loop has ended
        });
    }

    fn presence(&mut self) -> Presence {
        let is_gone = self.circuit.is_open();
        let mut about = About { config: String::new(), routes: BTreeMap::new() };
        let mut counts = Vec::new();
        let mut plans = String::new();
        let running = self.published.as_ref().map_or(&[][..], |(_, weights)| weights);
        for (route, Running { weight, epoch, .. }) in self.config.routes.iter().zip(running) {
            let plan = digest(&format!("{:?}", route.rollout));
            plans.push_str(&plan);
            about
                .routes
                .insert(route.name.clone(), AboutRoute { weight_bp: weight.basis_points(), epoch: *epoch, plan });
            if let Some(rollout) = self.rollouts.get_mut(&route.name) {
                let (epoch, text) = rollout.own.send(&route.name, &self.metrics, is_gone);
                counts.push((route.name.clone(), epoch, text));
            }
        }
        about.config = digest(&plans);
        let about = serde_json::to_string(&about).unwrap_or_default();
        Presence { process: self.process.to_string(), about, candidate: true, counts }
    }

    pub(super) async fn take_round(&mut self, round: Round) {
        let Round { routes, meeting, evidence } = round;
        let meeting = match meeting {
            Ok(meeting) => meeting,
            Err(error) => {
                if self.term.is_some() {
                    tracing::warn!(%error, "the store is gone: rollouts stand still");
                }
                self.follow_from_now();
                (self.leader, self.store) = (None, false);
                return;
            }
        };
        self.store = true;
        self.clock.learn(meeting.ahead);
        if meeting.term != self.term {
            self.follow_from_now();
        }
        for (route, record) in routes.iter().zip(meeting.records) {
            self.adopt(route, record).await;
        }
        let (replicas, plans) = read_replicas(&meeting.replicas);
        self.replicas = replicas;
        if meeting.leader != self.leader {
            tracing::info!(leader = meeting.leader.as_deref().unwrap_or("nobody"), "the rollouts are led");
        }
        self.leader = meeting.leader;
        let began = meeting.term.is_some() && meeting.term != self.term;
        self.term = meeting.term;
        if began {
            for rollout in self.rollouts.values_mut() {
                rollout.watch.begin();
                rollout.to_plan = true;
            }
        }
        let leads = self.term.is_some();
        if leads {
            self.plan().await;
        }
        self.note_laggards(&plans);
        if leads {
            self.lead(evidence).await;
        }
    }

    /// Whoever is asked knows who lags, the leader or not.
    fn note_laggards(&mut self, plans: &Plans) {
        for route in &self.config.clone().routes {
            let laggards = self.laggards(route, plans);
            if let Some(rollout) = self.rollouts.get_mut(&route.name) {
                rollout.watch.laggards = laggards;
            }
        }
    }

    /// Leads no more: what was decided and not saved is not to be, but an abort.
    fn follow_from_now(&mut self) {
        self.term = None;
        for rollout in self.rollouts.values_mut().filter(|rollout| rollout.unsaved && rollout.abort.is_none()) {
            rollout.version = None;
        }
    }

    /// Takes over what is stored of a route, unless it is what is known already, or older: a store that came back
    /// without its last writes is told what they were.
    async fn adopt(&mut self, name: &str, record: Option<RolloutRecord>) {
        let Some(rollout) = self.rollouts.get_mut(name) else { return };
        let Some(record) = record else {
            // the store was flushed, or nobody has decided anything yet
            let known = rollout.version.replace(0).is_some_and(|version| version > 0);
            rollout.lost |= known && rollout.state.epoch > 0;
            if rollout.abort.is_some() {
                self.save(name).await;
            }
            return;
        };
        let is_older = rollout.version.is_some_and(|version| version > record.version);
        if is_older {
            tracing::warn!(route = name, "the store came back with an older rollout, and is told what it lost");
            rollout.version = Some(record.version);
            rollout.unsaved = true;
        }
        if rollout.version == Some(record.version) {
            if rollout.unsaved {
                self.save(name).await;
            }
            return;
        }
        match state::read(&record.state) {
            Ok(stored) => {
                rollout.take(stored, record.version);
            }
            Err(error) => {
                rollout.version = None; // nothing is decided on it
                return tracing::error!(route = name, %error, "the stored rollout cannot be acted on");
            }
        }
        self.abort_again(name).await;
    }

    /// An abort that was ordered while the store was gone wins over what others decided meanwhile.
    async fn abort_again(&mut self, name: &str) {
        let config = self.config.clone();
        let Some(route) = config.routes.iter().find(|route| route.name == name) else { return };
        let Some(rollout) = self.rollouts.get_mut(name) else { return };
        let Some(verb) = rollout.abort.clone() else { return };
        let plan = plan_of(route, deadline_of(&config, route));
        if let Ok(decision) = rollout::decide(&rollout.state, plan, Event::Ordered(&verb), self.clock.now()) {
            rollout.apply(route, decision);
            let saved = rollout.save(name, &self.circuit, None).await;
            tracing::info!(route = name, saved = matches!(saved, Ok(true)), "the abort is told to the store");
        }
    }

    /// Live replicas that do not run what the leader decided, by name and why.
    fn laggards(&self, route: &Route, plans: &Plans) -> Vec<String> {
        let Some(rollout) = self.rollouts.get(&route.name) else { return Vec::new() };
        // what the leader's file says is what is decided by
        let leader = self.leader.as_ref().filter(|_| self.term.is_none());
        let theirs = leader.and_then(|leader| plans.get(&(leader.clone(), route.name.clone())).cloned());
        let own = theirs.unwrap_or_else(|| digest(&format!("{:?}", route.rollout)));
        let epoch = rollout.state.epoch;
        let stopped = rollout.state.weight == Weight::ZERO;
        let lags = |replica: &ReplicaView| {
            if stopped {
                // whatever their files say: they have to be at 0
                let theirs = replica.weights.get(&route.name).map_or(Weight::ZERO, |(weight, _)| *weight);
                return (theirs > Weight::ZERO).then(|| "it has not taken the weight up yet".to_owned());
            }
            let plan = plans.get(&(replica.process.clone(), route.name.clone()));
            match replica.weights.get(&route.name) {
                None => Some("it has no such route".to_owned()),
                Some(_) if plan.is_some_and(|plan| *plan != own) => Some("its file differs".to_owned()),
                Some((_, theirs)) if *theirs != epoch => Some("it has not taken the weight up yet".to_owned()),
                Some(_) => None,
            }
        };
        self.replicas
            .iter()
            .filter_map(|replica| lags(replica).map(|why| format!("{} ({why})", replica.process)))
            .collect()
    }
}

/// Digests of the rollouts in replicas' files, by process and route.
type Plans = BTreeMap<(String, String), String>;

fn read_replicas(replicas: &[(String, String)]) -> (Vec<ReplicaView>, Plans) {
    let (mut views, mut plans) = (Vec::new(), Plans::new());
    for (process, text) in replicas {
        let process = process.clone();
        let Ok(about) = serde_json::from_str::<About>(text) else {
            views.push(ReplicaView { process, ..ReplicaView::default() }); // of another release
            continue;
        };
        let mut weights = BTreeMap::new();
        for (route, AboutRoute { weight_bp, epoch, plan }) in about.routes {
            weights.insert(route.clone(), (Weight::from_basis_points(weight_bp), epoch));
            plans.insert((process.clone(), route), plan);
        }
        views.push(ReplicaView { process, config: about.config, weights });
    }
    (views, plans)
}

fn digest(text: &str) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}
