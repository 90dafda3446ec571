//! An operator's order: followed by whichever replica gets it, by compare-and-set on what all see.

use super::view::{ActError, Acted, Order};
use super::{Controller, deadline_of, notify, plan_of, state};
use crate::rollout::{self, Action, Event};
use crate::store::StoreError;

/// How often the state may have been changed by others in between.
const TRIES: usize = 5;

// === impl Controller ===

impl Controller {
    pub(super) async fn follow(&mut self, order: Order) {
        let answer = self.act(&order).await;
        self.publish();
        self.show();
        let _ = order.reply.send(answer); // whoever asked may have left
    }

    async fn act(&mut self, order: &Order) -> Result<Acted, ActError> {
        let config = self.config.clone();
        let no_route = || ActError::NoRoute(order.route.clone());
        let route = config.routes.iter().find(|route| route.name == order.route).ok_or_else(no_route)?;
        let plan = plan_of(route, deadline_of(&config, route));
        let is_abort = order.verb.action == Action::Abort;
        for attempt in 0..TRIES {
            if self.rollouts.get(&route.name).is_some_and(|rollout| rollout.version.is_none()) {
                let known = self.reload(&route.name).await;
                // an abort does not wait for what is stored
                known.or_else(|error| if is_abort { Ok(()) } else { Err(ActError::NoStore(error.to_string())) })?;
            }
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { return Err(no_route()) };
            let before = (rollout.state.clone(), rollout.unsaved, rollout.events.clone());
            let decision = rollout::decide(&rollout.state, plan, Event::Ordered(&order.verb), self.clock.now())?;
            let Some(happened) = rollout.apply(route, decision) else {
                return Ok(Acted { state: before.0, saved: !before.1 });
            };
            if is_abort {
                rollout.abort = Some(order.verb.clone());
                self.publish(); // before anybody is asked
            }
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { return Err(no_route()) };
            match rollout.save(&route.name, &self.circuit, None).await {
                Ok(true) => {
                    let state = rollout.state.clone();
                    notify::tell(route, &happened);
                    return Ok(Acted { state, saved: true });
                }
                Err(error) if is_abort => {
                    tracing::warn!(route = route.name, %error, "the abort holds here, and is saved when the store is back");
                    notify::tell(route, &happened);
                    return Ok(Acted { state: rollout.state.clone(), saved: false });
                }
                Err(error) => {
                    (rollout.state, rollout.unsaved, rollout.events) = before;
                    return Err(ActError::NoStore(error.to_string()));
                }
                // kept here, and done again on what the others decided
                Ok(false) if is_abort && attempt + 1 == TRIES => {
                    notify::tell(route, &happened);
                    return Ok(Acted { state: rollout.state.clone(), saved: false });
                }
                Ok(false) => {
                    let aborted = rollout.state.clone();
                    (rollout.state, rollout.unsaved, rollout.events) = before;
                    if let Err(error) = self.reload(&route.name).await {
                        let Some(rollout) = self.rollouts.get_mut(&route.name).filter(|_| is_abort) else {
                            return Err(ActError::NoStore(error.to_string()));
                        };
                        (rollout.state, rollout.unsaved) = (aborted.clone(), true);
                        notify::tell(route, &happened);
                        return Ok(Acted { state: aborted, saved: false });
                    }
                }
            }
        }
        Err(ActError::Contended)
    }

    /// Learns what another writer has saved.
    async fn reload(&mut self, name: &str) -> Result<(), StoreError> {
        let record = self.circuit.call(self.circuit.store().load_rollout(name)).await?;
        let Some(rollout) = self.rollouts.get_mut(name) else { return Ok(()) };
        match record {
            Some(record) => {
                let stored = state::read(&record.state)?;
                rollout.take(stored, record.version);
            }
            None => rollout.version = Some(0),
        }
        Ok(())
    }
}
