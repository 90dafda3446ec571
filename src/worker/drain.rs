//! How a worker pool spends the time of a drain. Pure.

use std::time::Duration;

use super::handler::INTERRUPT_GRACE;
use crate::config::Config;

/// How long failed settlements are repeated after the last attempt was dropped.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// The phases of a pool's drain, each with its longest duration. They follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerDrain {
    /// Running attempts may go on.
    pub run: Duration,
    /// Attempts are interrupted; a handler that goes on is dropped at the end.
    pub interrupt: Duration,
    /// The leases of attempts that have ended are given back to the store.
    pub settle: Duration,
}

// === impl WorkerDrain ===

impl WorkerDrain {
    /// The drain of a process that runs nothing but workers: `workers.drain`, and then as long as
    /// it takes to give the tasks back.
    #[must_use]
    pub fn of_worker_process(config: &Config) -> Self {
        let run = config.workers.drain_timeout;
        Self { run, interrupt: INTERRUPT_GRACE, settle: SETTLE_TIME }
    }

    /// The drain of workers beside a proxy, which fits into `proxy.drain`. The time to interrupt
    /// attempts and to give their tasks back is set aside first, up to half of it, since a lease
    /// that is not given back spends an attempt.
    #[must_use]
    pub fn within_proxy_drain(config: &Config) -> Self {
        let (total, whole) = (config.proxy.drain_timeout, INTERRUPT_GRACE + SETTLE_TIME);
        let reserve = whole.min(total / 2);
        let settle = SETTLE_TIME.min(reserve / 4);
        let run = config.workers.drain_timeout.min(total.saturating_sub(reserve));
        Self { run, interrupt: reserve.saturating_sub(settle), settle }
    }

    /// The longest that all phases take.
    #[must_use]
    pub fn total(self) -> Duration {
        self.run + self.interrupt + self.settle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    #[test]
    fn tasks_can_be_given_back_before_the_proxys_drain_is_over() {
        for (proxy, workers, run, interrupt, settle) in [
            (30_000, 10_000, 10_000, 3_000, 1_000),
            (30_000, 60_000, 26_000, 3_000, 1_000),
            (2_000, 10_000, 1_000, 750, 250),
            (0, 10_000, 0, 0, 0),
        ] {
            let mut config = testing::test_config(&[]);
            config.proxy.drain_timeout = Duration::from_millis(proxy);
            config.workers.drain_timeout = Duration::from_millis(workers);
            let drain = WorkerDrain::within_proxy_drain(&config);
            let [run, interrupt, settle] = [run, interrupt, settle].map(Duration::from_millis);
            assert_eq!(drain, WorkerDrain { run, interrupt, settle });
            assert!(drain.total() <= config.proxy.drain_timeout);
        }
    }
}
