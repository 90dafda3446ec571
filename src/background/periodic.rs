//! The loop that all background work shares.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Runs `work` now and then every `period`, until `shutdown`. A round that takes longer delays the
/// next one. Shutdown is only observed between rounds.
pub(super) async fn every<Work: Future<Output = ()>>(
    period: Duration,
    shutdown: CancellationToken,
    mut work: impl FnMut() -> Work,
) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        work().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_runs_at_once_then_every_period_and_ends_with_the_token() {
        let (shutdown, start) = (CancellationToken::new(), tokio::time::Instant::now());
        let mut rounds = Vec::new();
        every(Duration::from_secs(2), shutdown.clone(), || {
            rounds.push(start.elapsed().as_secs());
            if rounds.len() == 3 {
                shutdown.cancel();
            }
            std::future::ready(())
        })
        .await;
        assert_eq!(rounds, [0, 2, 4]);
    }
}
