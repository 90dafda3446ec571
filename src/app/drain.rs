//! The ordered end of a process: requests, then workers, then the services beside them.
//!
//! Within `proxy.drain`, requests may run until the end; those that wait for a task are answered
//! with 202 shortly before it, and the workers stop early enough for their tasks to be given back.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::ProxyShutdown;
use crate::worker::WorkerDrain;

/// The longest that the services may take to end.
const SERVICE_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);
/// The time that is set aside to answer requests that wait for a task; at most a quarter of the
/// drain.
const ANSWER_TIME: Duration = Duration::from_secs(2);
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
    metrics: &Metrics,
    proxy_shutdown: &ProxyShutdown,
    threads: Vec<JoinHandle<()>>,
    stop_workers: &CancellationToken,
    workers: tokio::task::JoinHandle<()>,
) {
    let drain = config.proxy.drain_timeout;
    let deadline = Instant::now() + drain;
    proxy_shutdown.drain.cancel();
    let requests_ended = CancellationToken::new();
    let ended = requests_ended.clone();
    tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread panicked");
            }
        }
        ended.cancel();
    });
    let workers_drained = async {
        let stop_at = deadline - WorkerDrain::within_proxy_drain(config).total();
        let _ = timeout_at(stop_at, requests_ended.cancelled()).await;
        stop_workers.cancel();
        if timeout_at(deadline, workers).await.is_err() {
            tracing::warn!("workers did not end in time: their leases expire");
        }
    };
    tokio::join!(workers_drained, end_requests(drain, deadline, proxy_shutdown, &requests_ended));
    let cut = metrics.request_counters.total_cut_by_drain();
    if cut > 0 {
        tracing::warn!(
            requests = cut,
            ?drain,
            "requests that had not ended within proxy.drain were cut off: raise proxy.drain if \
             requests take longer"
        );
    }
}

/// Waits for requests to end until `deadline`, when `drain` is over. Those that wait for a task are
/// answered shortly before, and the rest is cut off then.
async fn end_requests(
    drain: Duration,
    deadline: Instant,
    shutdown: &ProxyShutdown,
    ended: &CancellationToken,
) {
    let answer_at = deadline - ANSWER_TIME.min(drain / 4);
    for (until, signal) in [(answer_at, &shutdown.answer_waiting), (deadline, &shutdown.abort)] {
        if timeout_at(until, ended.cancelled()).await.is_ok() {
            return;
        }
        signal.cancel();
    }
    let _ = timeout(ABORT_TIMEOUT, ended.cancelled()).await;
}
