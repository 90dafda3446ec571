//! Writes the progress that a running attempt reports to the store.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::config::{Config, HandlerConfig};
use crate::store::{Lease, LeaseHolder};
use crate::task::TaskProgress;
use crate::worker::context::WorkerContext;

/// The shortest interval between two writes for one attempt.
const PROGRESS_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Writes the reports of an attempt, at most once per [`PROGRESS_WRITE_INTERVAL`] and then the last
/// one. An attempt that reports nothing causes no work.
pub(super) async fn write_progress_reports(
    context: &WorkerContext,
    lease: &Lease,
    mut reports: watch::Receiver<Option<TaskProgress>>,
) -> Infallible {
    let (circuit, holder) = (&context.circuit, LeaseHolder::from_lease(lease));
    while reports.changed().await.is_ok() {
        let Some(progress) = reports.borrow_and_update().clone() else { continue };
        match circuit
            .call(circuit.store().report_progress(&lease.task.id, &holder, &progress))
            .await
        {
            Ok(true) => {}
            // The lease is lost: the renewals cancel the attempt, and later reports do not count.
            Ok(false) => break,
            Err(error) => {
                tracing::debug!(task_id = %lease.task.id, %error, "progress was not written");
            }
        }
        sleep(PROGRESS_WRITE_INTERVAL).await;
    }
    pending().await
}

/// The URL to which the server of an `http` handler can post progress; `None` for other handlers,
/// and without `proxy.public_url`, from which it is built.
pub(super) async fn build_progress_url(
    context: &WorkerContext,
    config: &Config,
    lease: &Lease,
) -> Option<String> {
    let (id, base) = (&lease.task.id, config.proxy.public_url.as_ref()?);
    let topic = config.topics.get(&lease.task.topic)?;
    if !matches!(topic.handler, HandlerConfig::Http(_)) {
        return None;
    }
    let secret = context.circuit.call(context.circuit.store().load_shared_secret()).await.ok()?;
    let token = LeaseHolder::from_lease(lease).issue_token(id, &secret);
    Some(format!("{base}{}/{id}/progress?token={token}", config.proxy.task_path))
}
