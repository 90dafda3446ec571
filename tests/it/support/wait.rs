//! Waiting for what must happen: polls until it has, and fails after a deadline that a loaded
//! machine keeps too.

use std::time::{Duration, Instant};

/// How long anything that must happen may take on a loaded machine.
pub const TEST_DEADLINE: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(15);

/// Polls until `probe` says true.
///
/// # Panics
/// When it has not within `deadline`; `what` names it: "the queue drains".
pub async fn wait_until(deadline: Duration, what: &str, mut probe: impl AsyncFnMut() -> bool) {
    wait_for_some(deadline, what, async || probe().await.then_some(())).await;
}

/// Polls until `probe` finds something, and returns that.
///
/// # Panics
/// When it has not within `deadline`, as a probe that hangs has not.
pub async fn wait_for_some<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    let mut tries = 0_u32;
    let polling = async {
        loop {
            tries += 1;
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let found = tokio::time::timeout(deadline, polling).await;
    found.unwrap_or_else(|_| panic!("not within {:.1?}, in {tries} tries: {what}", start.elapsed()))
}
