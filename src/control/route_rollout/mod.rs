//! One route's rollout in this process: its state, what of it is not saved yet, and what the
//! leader observes of it.

mod watch;

use std::time::Duration;

pub(super) use self::watch::LeaderWatch;
use super::counts::ProcessCounts;
use super::stored;
use super::views::RouteRolloutView;
use crate::config::{Config, RouteConfig, max_task_duration};
use crate::rollout::{
    BlockedReason, OperatorCommand, RolloutDecision, RolloutEvent, RolloutPlan, RolloutState,
    running_weight,
};
use crate::store::{Circuit, RolloutCommit, RolloutRecord, StoreError};
use crate::task::UnixMs;

/// A route's rollout, as this process runs it.
pub(super) struct RouteRollout {
    pub(super) state: RolloutState,
    /// The version of the stored record that `state` follows from; none while it is not known.
    pub(super) stored_version: Option<u64>,
    /// History lines that are not saved yet.
    unsaved_events: Vec<String>,
    /// Whether `state` was decided here and is not saved yet.
    pub(super) is_unsaved: bool,
    /// Whether the configuration file is still to be applied, once the stored state is known.
    pub(super) config_pending: bool,
    /// Whether the store lost the record that it had.
    pub(super) lost_by_store: bool,
    /// An abort that is not saved yet.
    pub(super) pending_abort: Option<OperatorCommand>,
    pub(super) process_counts: ProcessCounts,
    pub(super) leader_watch: LeaderWatch,
}

/// What [`RouteRollout::undo_decision`] restores: state, whether it was unsaved, unsaved events.
pub(super) struct DecisionUndo(RolloutState, bool, Vec<String>);

// === impl RouteRollout ===

impl RouteRollout {
    pub(super) fn new(now: UnixMs) -> Self {
        Self {
            state: RolloutState::new(now),
            stored_version: None,
            unsaved_events: Vec::new(),
            is_unsaved: false,
            config_pending: true,
            lost_by_store: false,
            pending_abort: None,
            process_counts: ProcessCounts::default(),
            leader_watch: LeaderWatch::default(),
        }
    }

    /// Applies a decision and returns its events; none where the decision changes nothing.
    pub(super) fn apply_decision(
        &mut self,
        route: &RouteConfig,
        decision: RolloutDecision,
    ) -> Option<Vec<RolloutEvent>> {
        let RolloutDecision { state, events } = decision;
        if state == self.state {
            return None;
        }
        for event in &events {
            let (from, to, by) = (event.from_weight, event.to_weight, &event.actor);
            let (route_name, reason) = (&route.name, &event.reason);
            tracing::info!(
                route = route_name, event = event.kind.as_str(), %from, %to, by = by.name(),
                reason, "rollout"
            );
            self.unsaved_events.push(stored::event_to_json(route_name, event).to_string());
        }
        log_changed_block(&route.name, &self.state, &state);
        if state.weight_changed_at != self.state.weight_changed_at {
            self.leader_watch.clear_recent_evidence();
        }
        self.state = state;
        self.is_unsaved = true;
        Some(events)
    }

    /// The state before a decision that may have to be undone.
    pub(super) fn undo_point(&self) -> DecisionUndo {
        DecisionUndo(self.state.clone(), self.is_unsaved, self.unsaved_events.clone())
    }

    /// Undoes every decision since `undo` was taken.
    pub(super) fn undo_decision(&mut self, undo: DecisionUndo) {
        DecisionUndo(self.state, self.is_unsaved, self.unsaved_events) = undo;
    }

    /// Replaces the state by the stored one; decisions of this process that are not saved are
    /// dropped.
    pub(super) fn adopt_stored_state(&mut self, stored: RolloutState, version: u64) {
        if stored.weight_changed_at != self.state.weight_changed_at {
            self.leader_watch.clear_recent_evidence();
        }
        (self.state, self.stored_version) = (stored, Some(version));
        (self.is_unsaved, self.lost_by_store) = (false, false);
        self.unsaved_events.clear();
    }

    /// Saves the state by compare-and-set. False where another writer was first, another process
    /// leads now, or the stored version is not known.
    pub(super) async fn save_state(
        &mut self,
        name: &str,
        circuit: &Circuit,
        term: Option<u64>,
    ) -> Result<bool, StoreError> {
        let store = circuit.store();
        let Some(version) = self.stored_version else { return Ok(false) };
        let record = RolloutRecord {
            version: version + 1,
            state_json: stored::serialize_state(&self.state),
        };
        let commit =
            RolloutCommit { required_term: term, history_events: self.unsaved_events.clone() };
        let is_saved = circuit.call(store.save_rollout(name, &record, &commit)).await?;
        self.stored_version = is_saved.then_some(record.version);
        if is_saved {
            (self.is_unsaved, self.pending_abort) = (false, None);
            self.unsaved_events.clear();
        }
        Ok(is_saved)
    }

    pub(super) fn build_view(&self, route: &RouteConfig) -> RouteRolloutView {
        RouteRolloutView {
            state: self.state.clone(),
            is_saved: !self.is_unsaved,
            running_weight: running_weight(&self.state, route.rollout.percent),
            next_weight: route.rollout.next_weight_after(self.state.weight),
            lagging_replicas: self.leader_watch.lagging_replicas.clone(),
            judged_evidence: self.leader_watch.judged_evidence,
            requests_per_minute: self.leader_watch.requests_per_minute(),
        }
    }
}

/// Logs that soak time and gates stand still for another reason than before, or go on.
fn log_changed_block(route: &str, before: &RolloutState, after: &RolloutState) {
    let code = |state: &RolloutState| state.blocked_reason.as_ref().map(BlockedReason::code);
    if code(before) == code(after) {
        return;
    }
    if let (Some(code), Some(why)) = (code(after), after.blocked_text()) {
        tracing::warn!(route, code, why, "the rollout is blocked: soak and gates stand still");
    } else {
        tracing::info!(route, was = code(before), "the rollout is no longer blocked");
    }
}

/// The plan of a route, with the longest time that one of its tasks may take.
pub(super) fn build_plan<'a>(config: &Config, route: &'a RouteConfig) -> RolloutPlan<'a> {
    let task_deadline = config
        .topics
        .get(&route.topic)
        .map_or(Duration::ZERO, |topic| max_task_duration(topic, route.retry_canaried));
    RolloutPlan { route: &route.name, config: &route.rollout, task_deadline }
}
