//! Operator commands: executed by the replica that receives them, by compare-and-set on the state
//! that all replicas share.
//!
//! A command fails without the store, except an abort: it takes effect in this process at once,
//! and is saved when the store is back.

use super::Controller;
use crate::config::RouteConfig;
use crate::control::handle::{PendingCommand, RolloutCommandError, RolloutCommandOutcome};
use crate::control::route_rollout::{DecisionUndo, RouteRollout, build_plan};
use crate::control::{notify, stored};
use crate::rollout::{self, OperatorAction, OperatorCommand, RolloutEvent, RolloutInput};
use crate::store::StoreError;

/// How often a command is decided anew because another writer changed the state in between.
const MAX_ATTEMPTS: usize = 5;

/// The outcome of one attempt; none where another writer was first and the command is to be
/// decided again on its state.
type CommandAttempt = Result<Option<RolloutCommandOutcome>, RolloutCommandError>;

// === impl Controller ===

impl Controller {
    pub(super) async fn handle_command(&mut self, pending: PendingCommand) {
        let outcome = self.execute_command(&pending).await;
        self.publish();
        self.publish_view();
        let _ = pending.reply_sender.send(outcome); // the caller may have stopped waiting
    }

    async fn execute_command(
        &mut self,
        pending: &PendingCommand,
    ) -> Result<RolloutCommandOutcome, RolloutCommandError> {
        let config = self.config.clone();
        let route = config.routes.iter().find(|route| route.name == pending.route);
        let route =
            route.ok_or_else(|| RolloutCommandError::UnknownRoute(pending.route.clone()))?;
        for attempt in 1..=MAX_ATTEMPTS {
            let is_last = attempt == MAX_ATTEMPTS;
            if let Some(outcome) = self.try_command(route, &pending.command, is_last).await? {
                return Ok(outcome);
            }
        }
        Err(RolloutCommandError::ConcurrentChange)
    }

    async fn try_command(
        &mut self,
        route: &RouteConfig,
        command: &OperatorCommand,
        is_last: bool,
    ) -> CommandAttempt {
        let is_abort = command.action == OperatorAction::Abort;
        self.ensure_stored_state(&route.name, is_abort).await?;
        let (plan, now) = (build_plan(&self.config, route), self.store_clock.now());
        let rollout = find_rollout(self.rollouts.get_mut(&route.name), route)?;
        let undo = rollout.undo_point();
        let decision = rollout::decide(&rollout.state, plan, RolloutInput::Command(command), now)?;
        let Some(events) = rollout.apply_decision(route, decision) else {
            let (state, is_saved) = (rollout.state.clone(), !rollout.is_unsaved);
            return Ok(Some(RolloutCommandOutcome { state, is_saved }));
        };
        if is_abort {
            rollout.pending_abort = Some(command.clone());
            self.publish(); // an abort takes effect before the store answers
        }
        let rollout = find_rollout(self.rollouts.get_mut(&route.name), route)?;
        match rollout.save_state(&route.name, &self.circuit, None).await {
            Ok(true) => Ok(Some(report_outcome(route, rollout, &events, true))),
            Err(error) if is_abort => {
                tracing::warn!(
                    route = route.name, %error,
                    "the abort holds in this process, and is saved when the store is back"
                );
                Ok(Some(report_outcome(route, rollout, &events, false)))
            }
            Err(error) => {
                rollout.undo_decision(undo);
                Err(RolloutCommandError::StoreUnavailable(error.to_string()))
            }
            // the abort stays in force here, and is repeated on the state that others saved
            Ok(false) if is_abort && is_last => {
                Ok(Some(report_outcome(route, rollout, &events, false)))
            }
            Ok(false) => self.load_other_writers_state(route, undo, &events, is_abort).await,
        }
    }

    /// Loads the stored state if it is not known. An abort does not depend on it.
    async fn ensure_stored_state(
        &mut self,
        name: &str,
        is_abort: bool,
    ) -> Result<(), RolloutCommandError> {
        let is_known =
            self.rollouts.get(name).is_none_or(|rollout| rollout.stored_version.is_some());
        if is_known {
            return Ok(());
        }
        match self.load_stored_state(name).await {
            Err(error) if !is_abort => {
                Err(RolloutCommandError::StoreUnavailable(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Another writer saved first: undoes the decision and loads the other writer's state. An
    /// abort stays in force where that cannot be loaded.
    async fn load_other_writers_state(
        &mut self,
        route: &RouteConfig,
        undo: DecisionUndo,
        events: &[RolloutEvent],
        is_abort: bool,
    ) -> CommandAttempt {
        let rollout = find_rollout(self.rollouts.get_mut(&route.name), route)?;
        let decided_state = rollout.state.clone();
        rollout.undo_decision(undo);
        let Err(error) = self.load_stored_state(&route.name).await else { return Ok(None) };
        if !is_abort {
            return Err(RolloutCommandError::StoreUnavailable(error.to_string()));
        }
        let rollout = find_rollout(self.rollouts.get_mut(&route.name), route)?;
        (rollout.state, rollout.is_unsaved) = (decided_state, true);
        Ok(Some(report_outcome(route, rollout, events, false)))
    }

    /// Takes over the stored state of a route.
    async fn load_stored_state(&mut self, name: &str) -> Result<(), StoreError> {
        let record = self.circuit.call(self.circuit.store().load_rollout(name)).await?;
        let Some(rollout) = self.rollouts.get_mut(name) else { return Ok(()) };
        match record {
            Some(record) => {
                let stored = stored::parse_state(&record.state_json)?;
                rollout.adopt_stored_state(stored, record.version);
            }
            None => rollout.stored_version = Some(0),
        }
        Ok(())
    }
}

fn find_rollout<'a>(
    rollout: Option<&'a mut RouteRollout>,
    route: &RouteConfig,
) -> Result<&'a mut RouteRollout, RolloutCommandError> {
    rollout.ok_or_else(|| RolloutCommandError::UnknownRoute(route.name.clone()))
}

/// Notifies webhooks of an executed command, and reports its outcome.
fn report_outcome(
    route: &RouteConfig,
    rollout: &RouteRollout,
    events: &[RolloutEvent],
    is_saved: bool,
) -> RolloutCommandOutcome {
    notify::notify_webhooks(route, events);
    RolloutCommandOutcome { state: rollout.state.clone(), is_saved }
}
