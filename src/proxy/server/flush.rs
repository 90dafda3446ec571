//! Writes the counted callers of deprecated routes to the store.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use crate::proxy::context::ProxyThread;

/// How often the counts of a thread are written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Writes a thread's counts every [`FLUSH_INTERVAL`], and a last time when the thread drains.
/// Counts that cannot be written are kept for the next time.
pub(crate) async fn flush_callers(thread: Rc<ProxyThread>) {
    let mut is_last = false;
    while !is_last {
        is_last = thread.draining.run_until_cancelled(sleep(FLUSH_INTERVAL)).await.is_none();
        let circuit = &thread.services.circuit;
        for (route, callers) in thread.deprecated_callers.take_all() {
            if let Err(error) =
                circuit.call(circuit.store().record_deprecated_calls(&route, &callers)).await
            {
                tracing::debug!(%error, route, "callers of a deprecated route are not stored yet");
                thread.deprecated_callers.put_back(&route, callers);
            }
        }
    }
}
