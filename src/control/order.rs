//! An operator's order: followed by whichever replica gets it, by compare-and-set on what all see.

use super::view::{PendingCommand, RolloutCommandError, RolloutCommandOutcome};
use super::{Controller, build_plan, notify, stored, task_deadline_for};
use crate::rollout::{self, OperatorAction, RolloutInput};
use crate::store::StoreError;

/// How often the state may have been changed by others in between.
const MAX_ATTEMPTS: usize = 5;

// === impl Controller ===

impl Controller {
    pub(super) async fn handle_command(&mut self, order: PendingCommand) {
        let answer = self.execute_command(&order).await;
        self.publish();
        self.publish_view();
        let _ = order.reply_sender.send(answer); // whoever asked may have left
    }

    async fn execute_command(
        &mut self,
        order: &PendingCommand,
    ) -> Result<RolloutCommandOutcome, RolloutCommandError> {
        let config = self.config.clone();
        let no_route = || RolloutCommandError::UnknownRoute(order.route.clone());
        let route =
            config.routes.iter().find(|route| route.name == order.route).ok_or_else(no_route)?;
        let plan = build_plan(route, task_deadline_for(&config, route));
        let is_abort = order.command.action == OperatorAction::Abort;
        for attempt in 0..MAX_ATTEMPTS {
            if self
                .rollouts
                .get(&route.name)
                .is_some_and(|rollout| rollout.stored_version.is_none())
            {
                let known = self.reload_stored_state(&route.name).await;
                // an abort does not wait for what is stored
                known.or_else(|error| {
                    if is_abort {
                        Ok(())
                    } else {
                        Err(RolloutCommandError::StoreUnavailable(error.to_string()))
                    }
                })?;
            }
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { return Err(no_route()) };
            let before =
                (rollout.state.clone(), rollout.is_unsaved, rollout.unsaved_events.clone());
            let decision = rollout::decide(
                &rollout.state,
                plan,
                RolloutInput::Command(&order.command),
                self.store_clock.now(),
            )?;
            let Some(happened) = rollout.apply_decision(route, decision) else {
                return Ok(RolloutCommandOutcome { state: before.0, is_saved: !before.1 });
            };
            if is_abort {
                rollout.pending_abort = Some(order.command.clone());
                self.publish(); // before anybody is asked
            }
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { return Err(no_route()) };
            match rollout.save_state(&route.name, &self.circuit, None).await {
                Ok(true) => {
                    let state = rollout.state.clone();
                    notify::notify_webhooks(route, &happened);
                    return Ok(RolloutCommandOutcome { state, is_saved: true });
                }
                Err(error) if is_abort => {
                    tracing::warn!(route = route.name, %error, "the abort holds here, and is saved when the store is back");
                    notify::notify_webhooks(route, &happened);
                    return Ok(RolloutCommandOutcome {
                        state: rollout.state.clone(),
                        is_saved: false,
                    });
                }
                Err(error) => {
                    (rollout.state, rollout.is_unsaved, rollout.unsaved_events) = before;
                    return Err(RolloutCommandError::StoreUnavailable(error.to_string()));
                }
                // kept here, and done again on what the others decided
                Ok(false) if is_abort && attempt + 1 == MAX_ATTEMPTS => {
                    notify::notify_webhooks(route, &happened);
                    return Ok(RolloutCommandOutcome {
                        state: rollout.state.clone(),
                        is_saved: false,
                    });
                }
                Ok(false) => {
                    let aborted = rollout.state.clone();
                    (rollout.state, rollout.is_unsaved, rollout.unsaved_events) = before;
                    if let Err(error) = self.reload_stored_state(&route.name).await {
                        let Some(rollout) = self.rollouts.get_mut(&route.name).filter(|_| is_abort)
                        else {
                            return Err(RolloutCommandError::StoreUnavailable(error.to_string()));
                        };
                        (rollout.state, rollout.is_unsaved) = (aborted.clone(), true);
                        notify::notify_webhooks(route, &happened);
                        return Ok(RolloutCommandOutcome { state: aborted, is_saved: false });
                    }
                }
            }
        }
        Err(RolloutCommandError::ConcurrentChange)
    }

    /// Learns what another writer has saved.
    async fn reload_stored_state(&mut self, name: &str) -> Result<(), StoreError> {
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
