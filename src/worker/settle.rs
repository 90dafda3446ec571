//! Ends a lease, once: repeated while the store is gone or full, since repeating an applied settlement is harmless.
//!
//! The lease stays held meanwhile, so it is renewed as soon as the store is back; where it ran out, the
//! store fences the settlement.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::store::{Circuit, Lease, Settled, Settlement, StoreError};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Settles a lease; none when `give_up` came first, or when the store cannot read what it has: the lease then
/// runs out, and the task runs again.
pub(super) async fn settle(
    circuit: &Circuit,
    lease: Lease,
    settlement: Settlement,
    give_up: &CancellationToken,
) -> Option<Settled> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match circuit.call(circuit.store().settle(&lease, &settlement)).await {
            Ok(settled) => return Some(settled),
            Err(error) => error,
        };
        let may_pass = error.is_outage() || matches!(error, StoreError::Refused(_));
        if !may_pass || give_up.is_cancelled() {
            tracing::error!(task_id = %lease.task.id, attempt = lease.attempt, %error, "attempt not settled: it will run again");
            return None;
        }
        tracing::debug!(task_id = %lease.task.id, attempt = lease.attempt, %error, "settlement put off");
        let _ = give_up.run_until_cancelled(sleep(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
