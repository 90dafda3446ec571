//! The ordered end of a process: requests, then workers, then the services beside them.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::proxy::ProxyShutdown;

/// The longest that the services may take to end.
const SERVICE_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long requests get to end once their connections are cut.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends the services that run beside requests and tasks. An admin connection that does not end in
/// time is left open.
pub(super) async fn stop_services(services: &CancellationToken, tasks: &TaskTracker) {
    services.cancel();
    tasks.close();
    if timeout(SERVICE_SHUTDOWN_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::debug!("an admin connection was still open");
    }
}

/// Drains requests first, while workers still run the tasks that requests wait for, and then the
/// workers. Requests that still run at the deadline are cut off.
pub(super) async fn drain_process(
    config: &Config,
    proxy_shutdown: &ProxyShutdown,
    threads: Vec<JoinHandle<()>>,
    stop_workers: &CancellationToken,
    workers: tokio::task::JoinHandle<()>,
) {
    let deadline = Instant::now() + config.proxy.drain_timeout;
    let for_workers = config.workers.drain_timeout.min(config.proxy.drain_timeout.mul_f64(0.75));
    proxy_shutdown.drain.cancel();
    let mut served = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread panicked");
            }
        }
    });
    let requests_ended = timeout_at(deadline - for_workers, &mut served).await.is_ok();
    stop_workers.cancel();
    if timeout_at(deadline, workers).await.is_err() {
        tracing::warn!("workers did not end in time: their leases expire");
    }
    if !requests_ended && timeout_at(deadline, &mut served).await.is_err() {
        tracing::warn!("requests that did not end in time are cut off");
        proxy_shutdown.abort.cancel();
        let _ = timeout_at(deadline + ABORT_TIMEOUT, served).await;
    }
}
