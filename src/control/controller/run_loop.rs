//! The controller's loop: waits for input, starts a replica sync each second, and publishes after
//! every input.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Controller;
use crate::config::Config;

/// Without an answer for this long at start, the store is declared unreachable.
const STARTUP_STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between replica syncs.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between replica syncs until the stored state is loaded.
const STARTUP_SYNC_INTERVAL: Duration = Duration::from_millis(100);

// === impl Controller ===

impl Controller {
    /// Runs until `shutdown`, then gives up the lead.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.register_routes();
        self.publish();
        if !self.serves_clients {
            self.state_loaded.send_replace(true);
        }
        let started_at = Instant::now();
        let (mut ticks, mut startup_ticks) =
            (delayed_interval(SYNC_INTERVAL), delayed_interval(STARTUP_SYNC_INTERVAL));
        let mut is_syncing = false;
        loop {
            let is_loaded = *self.state_loaded.borrow();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some((config, published)) = self.inbox.config_updates.recv() => {
                    self.receive_config(config, published).await;
                }
                Some(command) = self.inbox.commands.recv() => self.handle_command(command).await,
                Some(outcome) = self.inbox.sync_outcomes.recv() => {
                    is_syncing = false;
                    self.apply_replica_sync(outcome).await;
                    self.announce_loaded(started_at);
                }
                Some(samples) = self.inbox.sample_results.recv() => {
                    self.apply_samples(samples).await;
                }
                _ = startup_ticks.tick(), if !is_loaded => {}
                _ = ticks.tick() => {}
            }
            if self.serves_clients && !is_syncing && self.is_sync_due() {
                is_syncing = true;
                self.start_replica_sync();
            }
            self.publish();
            self.publish_view();
        }
        if self.serves_clients {
            let _ =
                self.circuit.call(self.circuit.store().remove_replica(&self.process_name)).await;
        }
    }

    /// Whether a replica sync is due: every second, and more often until the state is loaded. A
    /// tenth less, since a tick may come a little early.
    fn is_sync_due(&self) -> bool {
        let pause = if *self.state_loaded.borrow() { SYNC_INTERVAL } else { STARTUP_SYNC_INTERVAL };
        self.last_sync_at.is_none_or(|last| last.elapsed() >= pause.mul_f64(0.9))
    }

    /// Announces once that the stored weights are loaded, or that the store is unreachable.
    fn announce_loaded(&mut self, started_at: Instant) {
        if *self.state_loaded.borrow()
            || !(self.store_reachable || started_at.elapsed() >= STARTUP_STORE_TIMEOUT)
        {
            return;
        }
        self.publish();
        if self.store_reachable {
            for (route, rollout) in &self.rollouts {
                let (weight, phase) = (rollout.state.weight, rollout.state.phase.as_str());
                tracing::info!(route, %weight, phase, "weight loaded");
            }
        } else {
            tracing::warn!("starting without the stored rollout state");
        }
        self.state_loaded.send_replace(true);
    }

    async fn receive_config(&mut self, config: Arc<Config>, published: oneshot::Sender<()>) {
        self.config = config;
        self.register_routes();
        for rollout in self.rollouts.values_mut() {
            rollout.config_pending = true;
        }
        self.publish();
        if self.leader_term.is_some() {
            self.apply_config_to_routes().await;
        }
        let _ = published.send(()); // the sender may have stopped waiting
    }
}

fn delayed_interval(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
