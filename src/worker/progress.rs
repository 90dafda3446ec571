//! Passes on what attempts say of how far they have come.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::pool::WorkerContext;
use crate::config::{Config, HandlerConfig};
use crate::store::{Lease, LeaseHolder};
use crate::task::TaskProgress;

/// The least time between two writes of one attempt.
const PROGRESS_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Writes what an attempt says, the last of it once a second; an attempt that says nothing costs
/// nothing.
pub(super) async fn write_progress_reports(
    shared: &WorkerContext,
    lease: &Lease,
    mut said: watch::Receiver<Option<TaskProgress>>,
) -> Infallible {
    let (circuit, holder) = (&shared.circuit, LeaseHolder::from_lease(lease));
    while said.changed().await.is_ok() {
        let Some(progress) = said.borrow_and_update().clone() else { continue };
        match circuit
            .call(circuit.store().report_progress(&lease.task.id, &holder, &progress))
            .await
        {
            Ok(true) => {}
            // The renewals tell the attempt; what it says interests nobody any more.
            Ok(false) => break,
            Err(error) => {
                tracing::debug!(task_id = %lease.task.id, %error, "progress was not written");
            }
        }
        sleep(PROGRESS_WRITE_INTERVAL).await;
    }
    pending().await
}

/// Where an `http` handler can say how far it has come, if the configuration says where this is
/// reached.
pub(super) async fn build_progress_url(
    shared: &WorkerContext,
    config: &Config,
    lease: &Lease,
) -> Option<String> {
    let (id, base) = (&lease.task.id, config.proxy.public_url.as_ref()?);
    let topic = config.topics.get(&lease.task.topic)?;
    if !matches!(topic.handler, HandlerConfig::Http(_)) {
        return None;
    }
    let secret = shared.circuit.call(shared.circuit.store().load_shared_secret()).await.ok()?;
    let token = LeaseHolder::from_lease(lease).issue_token(id, &secret);
    Some(format!("{base}{}/{id}/progress?token={token}", config.proxy.task_path))
}
