//! What the puller does when a pull meets an outage: confirm the leases, or check the store.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::store::{Lease, StoreError};
use crate::worker::context::WorkerContext;

/// The pause of the puller while no slot is free or the store is not available.
pub(super) const PULL_RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// The leases of `leases` whose tasks may run.
///
/// Cancellations that clients asked for during an outage are sent to the store when it is back. A
/// pull that was in flight at that moment can return tasks that are about to be cancelled: then
/// this waits until the cancellations are sent, and renews the leases to find out which still hold.
pub(super) async fn confirm_leases(
    context: &WorkerContext,
    mut leases: Vec<Lease>,
    shutdown: &CancellationToken,
) -> Vec<Lease> {
    let (circuit, store) = (&context.circuit, context.circuit.store());
    let mut confirmed = leases.is_empty() || circuit.is_clear_to_run();
    while !confirmed
        && shutdown.run_until_cancelled(circuit.wait_until_clear_to_run()).await.is_some()
    {
        match circuit.call(store.renew(&context.process_name, &leases)).await {
            Ok(lost) => {
                leases.retain(|lease| !lost.contains(&lease.task.id));
                confirmed = circuit.is_clear_to_run();
            }
            Err(error) if error.is_outage() => {}
            Err(error) => {
                tracing::warn!(
                    %error,
                    "leases could not be confirmed: they expire and their tasks run later"
                );
                return Vec::new();
            }
        }
    }
    leases
}

/// Handles a failed pull. Since a pull waits for tasks, it is not under the deadline of the
/// circuit; after an outage a ping under that deadline lets the circuit notice whether the store is
/// gone.
pub(super) async fn handle_pull_failure(
    context: &WorkerContext,
    error: &StoreError,
    shutdown: &CancellationToken,
) {
    tracing::warn!(%error, "no tasks could be leased");
    if error.is_outage() {
        let _ = context.circuit.call_even_if_open(context.circuit.store().ping()).await;
    }
    let _ = shutdown.run_until_cancelled(sleep(PULL_RETRY_INTERVAL)).await;
}
